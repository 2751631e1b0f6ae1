"""What a step moves and takes on 1, 8, 64 and 512 GPUs, from formulas: nothing here is measured.

    python benchmarks/layouts.py

Models have the shapes of Qwen2.5-VL 3B, 7B and 72B. A prompt is one image of 1,000 vision tokens and 200 text tokens, a
group has 8 completions of 300 tokens, a step has 16 prompts per GPU up to 2,048. Cards are H100-like; shares of peak
rates are assumptions, stated below. "largest" names the longest part of a step. The last columns are GiB on a card:
while it trains, with checkpointed activations of one micro-batch, and while vLLM samples (beside the resting trainer,
where they share cards). CUDA's own memory and the allocator's reserve are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
ADAPTER_RANK = 16
"""On every linear layer of the language model."""
FOUR_BITS = 0.52
"""Bytes of a weight in NF4 with its scales, which are quantised too."""
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
    def layer(self) -> int:
        """Parameters of one layer."""
        head = self.hidden // self.heads
        attention = self.hidden * head * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> float:
        return self.layers * self.layer + self.vocab * self.hidden * (1 if self.tied else 2) + self.vision

    @property
    def adapters(self) -> int:
        """Parameters of adapters of ADAPTER_RANK: rank x (in + out) of each linear layer."""
        narrow = self.hidden // self.heads * self.kv_heads
        sides = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + narrow) + 3 * (self.hidden + self.intermediate)
        return self.layers * ADAPTER_RANK * sides

    @property
    def activations(self) -> float:
        """Bytes of a micro-batch in bfloat16: every layer's input, and one layer's inside (checkpointing)."""
        inside = 8 * self.hidden + 3 * self.intermediate
        return MICRO_BATCH_TOKENS * 2.0 * (self.layers * self.hidden + inside)

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
    learns: Literal["adamw_8bit", "LoRA", "QLoRA", "zero2", "zero3"]
    vllm: str

    @property
    def how(self) -> str:
        return f"{self.learns}{' and' if self.serve else ','} {self.vllm}"


LAYOUTS = (
    Layout(SHAPES[0], 1, 1, 0, 1, "adamw_8bit", "vllm asleep while training"),
    Layout(SHAPES[1], 1, 1, 0, 1, "LoRA", "vllm asleep while training"),
    Layout(SHAPES[0], 8, 8, 0, 1, "zero2", "vllm per rank"),
    Layout(SHAPES[1], 8, 8, 0, 1, "zero3", "vllm per rank, asleep while training"),
    Layout(SHAPES[2], 8, 8, 0, 8, "QLoRA", "vllm over all 8, asleep while training"),
    Layout(SHAPES[0], 64, 40, 24, 1, "zero2", "24 servers, staleness 1"),
    Layout(SHAPES[1], 64, 40, 24, 1, "zero3", "24 servers, staleness 1"),
    Layout(SHAPES[2], 64, 48, 16, 8, "zero3", "2 servers of 8, staleness 1"),
    Layout(SHAPES[0], 512, 320, 192, 1, "zero2", "192 servers, staleness 1"),
    Layout(SHAPES[1], 512, 320, 192, 1, "zero3", "192 servers, staleness 1"),
    Layout(SHAPES[2], 512, 384, 128, 8, "zero3", "16 servers of 8, staleness 1"),
)


def trainer_bytes(layout: Layout) -> float:
    """On a card that trains, without activations (docs/scaling.md)."""
    shape, ranks = layout.shape, layout.train
    if layout.learns == "zero2":
        return (4 + 16 / ranks) * shape.parameters
    if layout.learns == "zero3":
        largest = max(shape.layer, shape.vocab * shape.hidden)
        return 20 / ranks * shape.parameters + 4 * largest
    if layout.learns == "adamw_8bit":
        return (4 + 4 + 2) * shape.parameters
    layers = shape.layers * shape.layer
    base = 2 * shape.parameters if layout.learns == "LoRA" else FOUR_BITS * layers + 2 * (shape.parameters - layers)
    return base + 16 * shape.adapters


def collective_bytes(layout: Layout, micro_batches: float) -> float:
    """That a card sends in a step; an all-reduce counts twice what it sums."""
    if layout.train == 1:
        return 0.0
    parameters = layout.shape.parameters
    if layout.learns == "zero2":
        # Gradients are summed after every micro-batch, in bfloat16; new weights go round once, in float32.
        return (2 * 2 * micro_batches + 4) * parameters
    if layout.learns == "zero3":
        # Weights for each forward, recomputation and backward, and gradients once, in bfloat16.
        return (3 + 1) * 2 * micro_batches * parameters
    learning = parameters if layout.learns == "adamw_8bit" else layout.shape.adapters
    return 2 * 4 * learning  # once per step, in float32


@dataclass(frozen=True)
class Sampling:
    """What vLLM does in a step."""

    seconds: float
    card_bytes: float
    """Of weights and of the rows that are decoded at once, on each card."""


def sampling(layout: Layout, prompts: int) -> Sampling:
    shape, cards = layout.shape, layout.tensor_parallel
    samplers = (layout.serve or layout.train) / cards
    weights = 2 * shape.parameters
    rows_each = prompts * GENERATIONS / samplers
    beside = trainer_bytes(layout) if layout.serve == 0 else 0.0
    room = (0.85 * CARD_GIB * 2**30 - beside) * cards - weights
    per_row = shape.kv_bytes * (COMPLETION_TOKENS + (VISION_TOKENS + TEXT_TOKENS) / GENERATIONS)
    at_once = max(1.0, min(rows_each, room / per_row))
    read = weights + at_once * per_row / 2
    step = read / (HBM_BYTES * DECODE_SHARE * cards)
    prefill = 2 * shape.parameters * (prompts / samplers) * (VISION_TOKENS + TEXT_TOKENS)
    seconds = step * COMPLETION_TOKENS * rows_each / at_once + prefill / (PEAK_FLOPS * TRAIN_SHARE * cards)
    return Sampling(seconds=seconds, card_bytes=(weights + at_once * per_row) / cards)


def memory_of(layout: Layout, sampled: Sampling) -> tuple[float, float]:
    """Bytes on a card (while it trains, while vLLM samples)."""
    trainer = trainer_bytes(layout)
    if layout.serve:
        return trainer + layout.shape.activations, sampled.card_bytes
    awake = 0.0 if "asleep" in layout.vllm else sampled.card_bytes
    return trainer + layout.shape.activations + awake, trainer + sampled.card_bytes


def seconds_of(layout: Layout) -> dict[str, float]:
    """Estimated seconds of each part of a step, the bytes that it moves under `bytes:...`, and those that it holds on a
    card under `card:...`."""
    shape = layout.shape
    prompts = min(16 * layout.gpus, 2048)
    rows = prompts * GENERATIONS
    samplers = (layout.serve or layout.train) / layout.tensor_parallel
    unique = prompts * (VISION_TOKENS + TEXT_TOKENS) + rows * COMPLETION_TOKENS
    # Forward, backward and one recomputation of the activations.
    train = 8 * shape.parameters * unique / (layout.train * PEAK_FLOPS * TRAIN_SHARE)
    link = NVLINK_BYTES if layout.gpus <= 8 else NETWORK_BYTES
    weights = 2 * shape.parameters
    micro_batches = -(-unique // (layout.train * MICRO_BATCH_TOKENS))
    sampled = sampling(layout, prompts)
    media = prompts * VISION_TOKENS * PATCH_FLOATS * 4
    local = layout.serve == 0
    # A broadcast goes down a tree: every server receives all of it once, at its own link's rate.
    sync = weights / (link * (1 if local else layout.tensor_parallel))
    training, generating = memory_of(layout, sampled)
    return {
        "decode": sampled.seconds,
        "train": train,
        "collectives": collective_bytes(layout, micro_batches) / link,
        "weights": sync,
        "media": 0.0 if local else media / samplers / HTTP_BYTES,
        "bytes:rollouts": rows * COMPLETION_TOKENS * 8,
        "bytes:weights": weights * samplers,
        "bytes:media": media,
        "card:training": training,
        "card:sampling": generating,
    }


def main() -> None:
    lines = []
    for layout in LAYOUTS:
        parts = seconds_of(layout)
        seconds = {name: value for name, value in parts.items() if ":" not in name}
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
                *(f"{parts[f'card:{name}'] / 2**30:,.0f}" for name in ("training", "sampling")),
            ]
        )
    headings = ["model on GPUs", "layout", "prompts", "rollouts MiB", "media GiB", "weights GiB",
                "decode s", "train s", "collectives s", "weights s", "media s", "largest",
                "training GiB", "sampling GiB"]  # fmt: skip
    print(markdown_table(headings, lines))
    for shape in SHAPES:
        print(f"{shape.name}: {shape.parameters / 1e9:.2f} B parameters, {shape.kv_bytes:,} bytes of KV per token")


if __name__ == "__main__":
    main()
