"""How the cost of a vlrft step grows: with the completions per prompt, and with the size of the image.

    python benchmarks/growth.py --json runs/growth.json

Each point is a process of its own on the CPU (`_vlrft_side.py`), with a randomly initialised model of some 17 M
parameters, fp32, 2 prompts per step, completions of 32 tokens, one group per micro-batch. Times are medians over the
timed steps, with min and max in the JSON file. Vision patches and prompt tokens are counted at the model's inputs over
a whole step: each prompt passes once in the rollout and once in training, however many completions it has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _results import Row, machine, markdown_table, row, write_results
from _sides import OURS, SideResult, figure, run_side, warn_when_busy
from _workloads import Workload, shrunken

MODEL_17M: dict[str, Any] = {
    "family": "qwen2_5_vl",
    "hidden_size": 256,
    "num_layers": 6,
    "num_heads": 8,
    "num_kv_heads": 4,
    "intermediate_size": 1024,
    "vision_hidden_size": 160,
    "vision_layers": 6,
    "vision_heads": 5,
    "vision_intermediate_size": 480,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "vocab_size": 32_768,
}

GENERATIONS = (2, 4, 8, 16)
IMAGE_SIZES = (112, 224, 448, 672)

BASE: Workload = {
    "model": MODEL_17M,
    "image_size": 448,
    "question": "Go",
    "prompts_per_step": 2,
    "num_generations": 8,
    "new_tokens": 32,
    "micro_batch": 8,
    "steps": 5,
    "warmup_steps": 1,
    "learning_rate": 1e-6,
    "seed": 0,
    "threads": 2,
}

TIMES = ("generation_seconds", "training_seconds", "step_seconds")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--steps", type=int, default=BASE["steps"], help="timed steps per point (default 5)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and image, to try the benchmark itself")
    args = parser.parse_args(argv)
    base: Workload = {**(shrunken(BASE) if args.quick else BASE), "steps": args.steps}
    warn_when_busy(base["threads"])
    by_count, by_size = sweeps(base, quick=args.quick)
    results = {name: measure(name, workload) for name, workload in {**by_count, **by_size}.items()}
    print(describe(base, next(iter(results.values()))["parameters"]))
    for title, points in (("completions per prompt", by_count), ("image edge in pixels", by_size)):
        print(f"\n{table(title, points, results)}")
    if args.json is not None:
        write_results(args.json, "growth", [r for name, result in results.items() for r in rows_of(name, result)])


def sweeps(base: Workload, *, quick: bool) -> tuple[dict[str, Workload], dict[str, Workload]]:
    """Workloads by name, over G and over the image's edge; a point that both hold has one name."""

    def point(generations: int, edge: int) -> tuple[str, Workload]:
        return f"G={generations} image={edge}", {**base, "num_generations": generations, "image_size": edge}

    counts, sizes = ((2, 16), (56, 112)) if quick else (GENERATIONS, IMAGE_SIZES)
    by_count = dict(point(generations, base["image_size"]) for generations in counts)
    return by_count, dict(point(base["num_generations"], edge) for edge in sizes)


def measure(name: str, workload: Workload) -> SideResult:
    """One point in a process of its own."""
    result = run_side(OURS, workload)
    print(f"{name}: {figure(result, 'step_seconds'):.2f} s per step", file=sys.stderr, flush=True)
    return result


def rows_of(name: str, result: SideResult) -> list[Row]:
    """Times over the timed steps, peak memory, and what one step put through the model."""
    rows = [row(name, metric, result[metric]) for metric in TIMES]  # type: ignore[literal-required]
    rows.append(row(name, "peak_memory_mib", [result["peak_memory_mib"]]))
    return rows + [row(name, f"forwarded_{what}", [count]) for what, count in result["forwarded"].items()]


def table(title: str, points: dict[str, Workload], results: dict[str, SideResult]) -> str:
    """One line per point, as Markdown."""
    key = "num_generations" if title.startswith("completions") else "image_size"
    seen_names = ["prompt tokens", "vision patches", "decoded tokens"]
    header = [title, *seen_names, "rollout s", "training s", "step s", "peak MiB"]
    lines = []
    for name, workload in points.items():
        result = results[name]
        seen = [str(result["forwarded"][what]) for what in ("prompt_tokens", "vision_patches", "decoded_tokens")]
        times = [f"{figure(result, metric):.2f}" for metric in TIMES]
        lines.append([str(workload[key]), *seen, *times, f"{result['peak_memory_mib']:.0f}"])  # type: ignore[literal-required]
    return markdown_table(header, lines)


def describe(base: Workload, parameters: int) -> str:
    """The heading: what ran, and on what."""
    where = machine()
    return (
        f"{parameters / 1e6:.1f} M parameters, fp32, {base['prompts_per_step']} prompts per step, completions of "
        f"{base['new_tokens']} tokens; G = {base['num_generations']} and {base['image_size']}x{base['image_size']} "
        f"pixels where not varied; {where['cpu']}, {base['threads']} threads, torch {where['versions']['torch']}. "
        "Tokens and patches are those of one whole step, rollout and training."
    )


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"error: {error}")
