"""What a step moves and takes on 1, 8, 64 and 512 GPUs, from formulas: nothing here is measured.

    python benchmarks/layouts.py

Models have the shapes of Qwen2.5-VL 3B, 7B and 72B. A prompt is one image of 1,000 vision tokens and 200 text tokens, a
group has 8 completions of 300 tokens, a step has 16 prompts per GPU up to 2,048. Cards are H100-like; shares of peak
rates are assumptions, stated below and printed with the table. The last column names the largest part of a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from _results import markdown_table

VISION_TOKENS, TEXT_TOKENS, COMPLETION_TOKENS, GENERATIONS = 1000, 200, 300, 8
PATCH_FLOATS = 4 * 1176
"""Pixel values behind one vision token: 2x2 patches of 14x14 pixels, 3 colours, 2 frames."""
PEAK_FLOPS, HBM_BYTES, CARD_GIB = 989e12, 3.35e12, 80
TRAIN_SHARE, DECODE_SHARE = 0.4, 0.5
"""Of the card's bf16 rate in training, and of its memory bandwidth in decoding."""
NVLINK_BYTES, NETWORK_BYTES = 450e9, 50e9
"""Per card and direction, inside a node of 8 and between nodes."""
MICRO_BATCH_TOKENS = 16_384
HTTP_BYTES = 1e9
"""Per server process: prompts with their pixels go over HTTP."""


@dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool
    vision: float = 0.67e9

    @property
    def parameters(self) -> float:
        head = self.hidden // self.heads
        attention = self.hidden * head * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate
        return self.layers * layer + self.vocab * self.hidden * (1 if self.tied else 2) + self.vision

    @property
    def kv_bytes(self) -> int:
        """Of one token, in bfloat16."""
        return 2 * self.layers * self.kv_heads * (self.hidden // self.heads) * 2


SHAPES = (
    Shape("3B", 2048, 36, 16, 2, 11008, 151_936, True),
    Shape("7B", 3584, 28, 28, 4, 18944, 152_064, False),
    Shape("72B", 8192, 80, 64, 8, 29568, 152_064, False),
)


@dataclass(frozen=True)
class Layout:
    shape: Shape
    gpus: int
    train: int
    """Cards that train; all of them also sample where `serve` is 0."""
    serve: int
    tensor_parallel: int
    how: str


LAYOUTS = (
    Layout(SHAPES[0], 1, 1, 0, 1, "adamw_8bit, vllm asleep while training"),
    Layout(SHAPES[1], 1, 1, 0, 1, "LoRA, vllm asleep while training"),
    Layout(SHAPES[0], 8, 8, 0, 1, "zero2, vllm per rank"),
    Layout(SHAPES[1], 8, 8, 0, 1, "zero3, vllm per rank, asleep while training"),
    Layout(SHAPES[2], 8, 8, 0, 8, "QLoRA, vllm over all 8, asleep while training"),
    Layout(SHAPES[0], 64, 40, 24, 1, "zero2 and 24 servers, staleness 1"),
    Layout(SHAPES[1], 64, 40, 24, 1, "zero3 and 24 servers, staleness 1"),
    Layout(SHAPES[2], 64, 48, 16, 8, "zero3 and 2 servers of 8, staleness 1"),
    Layout(SHAPES[0], 512, 320, 192, 1, "zero2 and 192 servers, staleness 1"),
    Layout(SHAPES[1], 512, 320, 192, 1, "zero3 and 192 servers, staleness 1"),
    Layout(SHAPES[2], 512, 384, 128, 8, "zero3 and 16 servers of 8, staleness 1"),
)


def seconds_of(layout: Layout) -> dict[str, float]:
    """Estimated seconds of each part of a step, and the bytes that it moves under `bytes:...`."""
    shape = layout.shape
    prompts = min(16 * layout.gpus, 2048)
    rows = prompts * GENERATIONS
    samplers = (layout.serve or layout.train) / layout.tensor_parallel
    unique = prompts * (VISION_TOKENS + TEXT_TOKENS) + rows * COMPLETION_TOKENS
    # Forward, backward and one recomputation of the activations.
    train = 8 * shape.parameters * unique / (layout.train * PEAK_FLOPS * TRAIN_SHARE)
    link = NVLINK_BYTES if layout.gpus <= 8 else NETWORK_BYTES
    weights = 2 * shape.parameters
    # Gradients go round once per step; under zero3 every card also receives all weights for each forward, recomputation
    # and backward of a micro-batch.
    micro_batches = -(-unique // (layout.train * MICRO_BATCH_TOKENS))
    passes = 3 * micro_batches if layout.how.startswith("zero3") else 0
    trained = 0.02 if "LoRA" in layout.how else 1.0
    collective = (2 * trained + passes) * weights / link if layout.train > 1 else 0.0
    rows_each = rows / samplers
    room = 0.85 * CARD_GIB * 2**30 * layout.tensor_parallel - weights
    per_row = shape.kv_bytes * (COMPLETION_TOKENS + (VISION_TOKENS + TEXT_TOKENS) / GENERATIONS)
    at_once = max(1.0, min(rows_each, room / per_row))
    read = weights + at_once * per_row / 2
    step = read / (HBM_BYTES * DECODE_SHARE * layout.tensor_parallel)
    decode = step * COMPLETION_TOKENS * rows_each / at_once
    prefill = 2 * shape.parameters * (prompts / samplers) * (VISION_TOKENS + TEXT_TOKENS)
    decode += prefill / (PEAK_FLOPS * TRAIN_SHARE * layout.tensor_parallel)
    media = prompts * VISION_TOKENS * PATCH_FLOATS * 4
    moved = weights * samplers
    local = layout.serve == 0
    # A broadcast goes down a tree: every server receives all of it once, at its own link's rate.
    sync = weights / (link * (1 if local else layout.tensor_parallel))
    return {
        "decode": decode,
        "train": train,
        "collectives": collective,
        "weights": sync,
        "media": 0.0 if local else media / samplers / HTTP_BYTES,
        "bytes:rollouts": rows * COMPLETION_TOKENS * 8,
        "bytes:weights": moved,
        "bytes:media": media,
    }


def main() -> None:
    lines = []
    for layout in LAYOUTS:
        parts = seconds_of(layout)
        seconds = {name: value for name, value in parts.items() if not name.startswith("bytes:")}
        largest = max(seconds, key=lambda name: seconds[name])
        lines.append(
            [
                f"{layout.shape.name} on {layout.gpus}",
                layout.how,
                str(min(16 * layout.gpus, 2048)),
                f"{parts['bytes:rollouts'] / 2**20:,.1f}",
                f"{parts['bytes:media'] / 2**30:,.1f}",
                f"{parts['bytes:weights'] / 2**30:,.0f}",
                *(f"{seconds[name]:,.1f}" for name in ("decode", "train", "collectives", "weights", "media")),
                largest,
            ]
        )
    headings = ["model on GPUs", "layout", "prompts", "rollouts MiB", "media GiB", "weights GiB",
                "decode s", "train s", "collectives s", "weights s", "media s", "largest"]  # fmt: skip
    print(markdown_table(headings, lines))
    for shape in SHAPES:
        print(f"{shape.name}: {shape.parameters / 1e9:.2f} B parameters, {shape.kv_bytes:,} bytes of KV per token")


if __name__ == "__main__":
    main()
