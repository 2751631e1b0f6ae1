"""A training step with a shared prefix beside the plain step per sequence, on a model of Qwen2.5-VL-3B's shape.

    python benchmarks/gpu.py --json runs/gpu.json             # on a GPU
    python benchmarks/gpu.py --toy                            # a tiny model; what runs where there is no GPU

Random weights, dimensions of the published config, vocabulary 151,936. A step is forward, backward and AdamW over
`--prompts` prompts with one image and G completions of 1/2 to 1 times `--completion` tokens each. Ours passes image and
prompt once; the plain one is transformers' own model on a padded batch of G copies of a prompt (logits of completions
only, log-probs row by row, as TRL computes them). Both work on one prompt at a time and on the same weights.

First loss and gradients of all sides are compared with those of plain sdpa, or, where the card has no memory for it, of
the first side that it has memory for; a side that differs ends the program. A side that runs out of memory is a row
`out_of_memory`, and the file is written after each side. Share of the card's rate: model FLOPs of the useful tokens
(every prompt once, no padding) by seconds and peak rate; "copied" counts what the plain step really computes.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from _gpu_flops import Flops, step_flops
from _gpu_steps import SIDES, Side, Timing, disagreement, gradients, in_memory, kept, runnable, step_of, timed
from _results import Row, markdown_table, row, write_results
from torch import Tensor

from vlrft.attention import install
from vlrft.config import TinyModelConfig
from vlrft.models.base import Family
from vlrft.models.qwen2_5_vl import Qwen25VL
from vlrft.models.tiny import build_config, build_tokenizer
from vlrft.models.tiny_families import TINY_FAMILIES
from vlrft.registry import resolve
from vlrft.testing import make_group, make_prompt
from vlrft.types import Group

QWEN_3B = TinyModelConfig(
    hidden_size=2048, num_layers=36, num_heads=16, num_kv_heads=2, intermediate_size=11008,
    vision_hidden_size=1280, vision_layers=32, vision_heads=16, vision_intermediate_size=3420, vocab_size=151_936,
)  # fmt: skip
"""Qwen/Qwen2.5-VL-3B-Instruct's config.json."""
FULL_ATTENTION = [7, 15, 23, 31]
"""Vision layers without windows, in the same file."""
TOY = TinyModelConfig(hidden_size=64, num_layers=2, intermediate_size=128, vision_hidden_size=32, vision_layers=2,
                      vision_heads=2, vision_intermediate_size=64, vocab_size=512)  # fmt: skip
RATES = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bf16 TFLOP/s by what the card's name contains (data sheets of the SXM cards)."""
LARGEST_GAP = {"fp32": 1e-3, "bf16-autocast": 0.1, "bf16": 0.2}
"""Of the gradients, as a share of their norm; rounding in bfloat16 differs from kernel to kernel."""


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    toy = args.toy or device.type == "cpu"
    rate = args.tflops or next((rate for name, rate in RATES.items() if name in card(device)), None)
    rows: list[Row] = []
    lines: list[list[str]] = []
    for precision in args.precision or (["fp32"] if toy else ["bf16-autocast", "bf16"]):
        family = build(TOY if toy else QWEN_3B, device, precision)
        groups = make_groups(family, args, toy=toy)
        flops = step_flops(family, groups)
        sides = [side for side in SIDES if not said_missing(side, device, precision)]
        fitting = check(sides, family, groups, precision)
        for side in sides:
            timing = measured(side, family, groups, precision, args.steps) if side in fitting else None
            rows += rows_of(side, precision, timing, flops, rate)
            lines.append(line_of(side, precision, timing, flops, rate))
            if args.json is not None:
                write_results(args.json, f"gpu on {card(device)}{', toy' if toy else ''}: {describe(args, toy)}", rows)
        del family, groups
    header = ["", "precision", "s per step", "peak MiB", "useful share", "computed share"]
    print(f"{card(device)}, {'toy' if toy else 'Qwen2.5-VL-3B-shaped'} model, {describe(args, toy)}\n")
    print(markdown_table(header, lines))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--toy", action="store_true", help="a tiny model, as always on the CPU")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU where a GPU is at hand")
    parser.add_argument("--steps", type=int, default=3, help="timed steps (default 3), after one that warms up")
    parser.add_argument("--prompts", type=int, default=2, help="prompts of a step (default 2)")
    parser.add_argument("--generations", type=int, default=8, help="completions per prompt (default 8)")
    parser.add_argument("--completion", type=int, default=256, help="tokens of the longest completion (default 256)")
    parser.add_argument("--image", type=int, default=896, help="edge of the image in pixels (default 896)")
    parser.add_argument("--precision", action="append", choices=[*LARGEST_GAP], help="may be given several times")
    parser.add_argument("--tflops", type=float, help="the card's dense bf16 rate; known of H100, H200, A100")
    return parser.parse_args(argv)


def card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def sizes(args: argparse.Namespace, toy: bool) -> tuple[int, int]:
    """(edge of the image, tokens of the longest completion)."""
    return (min(args.image, 112), min(args.completion, 12)) if toy else (args.image, args.completion)


def describe(args: argparse.Namespace, toy: bool) -> str:
    edge, tokens = sizes(args, toy)
    return f"{args.prompts} prompts with a {edge}x{edge} image, G = {args.generations}, up to {tokens} tokens"


def build(cfg: TinyModelConfig, device: torch.device, precision: str) -> Family:
    """Random weights on the device, without a copy on the host."""
    family: Any = resolve(cfg.family, TINY_FAMILIES, kind="tiny model family")
    tokenizer = build_tokenizer(cfg.number_tokens, family.special_tokens, family.named_tokens)
    config: Any = build_config(cfg, family, tokenizer)
    if cfg is QWEN_3B:
        config.vision_config.fullatt_block_indexes = FULL_ATTENTION
    auto: Any = transformers.AutoModelForImageTextToText
    torch.manual_seed(0)
    with device:
        model = auto.from_config(config, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    made = Qwen25VL(model, family.build_processor(cfg, tokenizer))
    install(model)
    return made


def make_groups(family: Family, args: argparse.Namespace, *, toy: bool) -> list[Group]:
    """Noise images, random text, advantages of both signs."""
    edge, longest = sizes(args, toy)
    rng = random.Random(0)
    groups = []
    for number in range(args.prompts):
        lengths = [rng.randint(longest // 2, longest) for _ in range(args.generations)]
        tokens = [[rng.randrange(256) for _ in range(length)] for length in lengths]
        group = make_group(make_prompt(family, str(number), [(edge, edge)], "Where is it?"), tokens)
        groups.append(replace(group, advantages=tuple(rng.uniform(-1.0, 1.0) for _ in tokens)))
    return groups


def said_missing(side: Side, device: torch.device, precision: str) -> bool:
    why = runnable(side, device, precision)
    if why is not None:
        print(f"left out: {side.name} in {precision}: {why}", file=sys.stderr)
    return why is not None


def check(sides: Sequence[Side], family: Family, groups: Sequence[Group], precision: str) -> list[Side]:
    """The sides that the card has memory for. Raises RuntimeError where loss or gradients of one are not those of the
    first of them (plain sdpa, if it fits), to rounding."""
    found: list[Side] = []
    expected: tuple[float, dict[str, Tensor]] | None = None
    for side in sorted(sides, key=lambda side: side.attention != "sdpa"):
        outcome = in_memory(family, lambda side=side: gradients(family, step_of(side, family, groups, precision)))
        if outcome is None:
            continue
        found.append(side)
        if expected is None:
            expected = outcome[0], kept(outcome[1])
        else:
            compare(f"{side.name} in {precision}", outcome, f"{found[0].name}", expected, LARGEST_GAP[precision])
    family.model.zero_grad(set_to_none=True)
    if len(found) == 1 and len(sides) > 1:
        print(f"{found[0].name} in {precision}: compared with nothing, no other side fits", file=sys.stderr)
    return found


def compare(
    who: str, ours: tuple[float, dict[str, Tensor]], whose: str, theirs: tuple[float, dict[str, Tensor]], most: float
) -> None:
    """Raises RuntimeError where (loss, gradients) are further apart than `most`."""
    gap = disagreement(ours[1], theirs[1])
    print(f"{who}: loss {ours[0]:.6f} against {theirs[0]:.6f}, gradients apart by {gap:.1e}", file=sys.stderr)
    if gap > most or abs(ours[0] - theirs[0]) > most * max(1.0, abs(theirs[0])):
        raise RuntimeError(f"{who} does not compute what {whose} does: apart by {gap:.1e}")


def measured(side: Side, family: Family, groups: Sequence[Group], precision: str, steps: int) -> Timing | None:
    """None where the card has no memory for weights, gradients, optimiser and activations together."""
    return in_memory(family, lambda: timed(family, step_of(side, family, groups, precision), steps))


def shares(timing: Timing, flops: Flops, side: Side, rate: float | None) -> tuple[float, float] | None:
    """(useful, computed) FLOPs per second over the card's rate."""
    if rate is None:
        return None
    seconds = sorted(timing.seconds)[len(timing.seconds) // 2] * rate * 1e12
    return flops.useful / seconds, (flops.useful if side.shared else flops.copied) / seconds


def rows_of(side: Side, precision: str, timing: Timing | None, flops: Flops, rate: float | None) -> list[Row]:
    """timing: None = out of memory."""
    name = f"{side.name}, {precision}"
    if timing is None:
        return [row(name, "out_of_memory", [1.0])]
    rows = [row(name, "step_seconds", timing.seconds), row(name, "useful_tflop", [flops.useful / 1e12])]
    if timing.peak_mib is not None:
        rows.append(row(name, "peak_memory_mib", [timing.peak_mib]))
    if (known := shares(timing, flops, side, rate)) is not None:
        rows += [row(name, "useful_share", [known[0]]), row(name, "computed_share", [known[1]])]
    return rows


def line_of(side: Side, precision: str, timing: Timing | None, flops: Flops, rate: float | None) -> list[str]:
    if timing is None:
        return [side.name, precision, "out of memory", "-", "-", "-"]
    known = shares(timing, flops, side, rate)
    peak = "-" if timing.peak_mib is None else f"{timing.peak_mib:.0f}"
    seconds = sorted(timing.seconds)[len(timing.seconds) // 2]
    return [
        side.name,
        precision,
        f"{seconds:.3f}",
        peak,
        *(["-", "-"] if known is None else [f"{x:.3f}" for x in known]),
    ]


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"error: {error}")
