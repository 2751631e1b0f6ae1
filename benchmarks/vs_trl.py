"""A GRPO step of vlrft beside the same step of TRL's GRPOTrainer, on the CPU.

    python benchmarks/vs_trl.py --json runs/vs_trl.json

Same model, images, prompts, completions per prompt, number of new tokens and optimiser; fp32, no gradient
checkpointing, no KL, one optimiser step per rollout (`_workloads.py`, `_vlrft_side.py`, `_trl_side.py`). Each side runs
in a process of its own, in turns, `--repeats` times. TRL runs once per micro-batch size in every round, and its best
figure of the round counts: for time, its two parts and memory separately. A ratio is ours over TRL's of the same round;
the table shows median, min and max over the rounds. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from _results import Row, markdown_table, row, write_results
from _sides import (
    FIGURES,
    OURS,
    TRL,
    SideResult,
    check_same_work,
    describe,
    figure,
    run_side,
    warn_when_busy,
)
from _workloads import WORKLOADS, Workload, shrunken


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One turn of both sides."""

    ours: SideResult
    theirs: Mapping[int, SideResult]
    """TRL's results by micro-batch."""

    def best(self, name: str) -> float:
        """TRL's best `name` (one of FIGURES) over its micro-batches."""
        return min(figure(result, name) for result in self.theirs.values())

    def ratio(self, name: str) -> float:
        """Ours over TRL's best; below 1 is in our favour."""
        return figure(self.ours, name) / self.best(name)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if any(importlib.util.find_spec(name) is None for name in ("trl", "datasets")):
        sys.exit("trl is not installed: run `make bench`, or install the extra with `uv pip install -e '.[bench]'`")
    names = list(WORKLOADS) if args.workload == "all" else [args.workload]
    rows: list[Row] = []
    for name in names:
        workload = WORKLOADS[name]
        if args.steps is not None:
            workload = {**workload, "steps": args.steps}
        if args.quick:
            name, workload = f"{name}-quick", shrunken(workload)
        warn_when_busy(workload["threads"])
        measured = compare(name, run_rounds(name, workload, args.trl_micro_batches, args.repeats))
        rows += measured
        print(f"\n{name}: {describe_workload(workload)}\n\n{table(measured)}\n", flush=True)
    if args.json is not None:
        write_results(args.json, "vs_trl", rows)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ends the program with a message when it cannot be run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--workload", choices=[*WORKLOADS, "all"], default="default")
    parser.add_argument("--repeats", type=positive, default=3, help="rounds of both sides (default 3)")
    parser.add_argument("--steps", type=positive, help="timed steps per process (default: the workload's)")
    parser.add_argument(
        "--trl-micro-batches",
        type=lambda text: [positive(part) for part in text.split(",")],
        default=[4, 16],
        help="completions per forward of TRL, comma-separated (default 4,16)",
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model and image, to try the benchmark itself")
    args = parser.parse_args(argv)
    for name in WORKLOADS if args.workload == "all" else [args.workload]:
        completions = WORKLOADS[name]["prompts_per_step"] * WORKLOADS[name]["num_generations"]
        for size in args.trl_micro_batches:
            if completions % size:
                parser.error(f"--trl-micro-batches: {size} does not divide the {completions} completions of {name}")
    return args


def positive(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def run_rounds(name: str, workload: Workload, micro_batches: Sequence[int], repeats: int) -> list[Round]:
    """Both sides in turns. Raises RuntimeError when a side fails or the sides did not do the same work."""
    rounds = []
    for number in range(1, repeats + 1):
        here = f"{name} {number}/{repeats}"
        ours = run_side(OURS, workload)
        print(f"{here} vlrft: {describe(ours)}", file=sys.stderr, flush=True)
        theirs = {}
        for size in micro_batches:
            theirs[size] = run_side(TRL, {**workload, "micro_batch": size})
            print(f"{here} TRL, micro-batch {size}: {describe(theirs[size])}", file=sys.stderr, flush=True)
            check_same_work(ours, theirs[size])
        rounds.append(Round(ours=ours, theirs=theirs))
    return rounds


RATIOS = {
    "step_seconds": "step_seconds_ratio",
    "generation_seconds": "generation_seconds_ratio",
    "training_seconds": "training_seconds_ratio",
    "peak_memory_mib": "peak_memory_ratio",
}


def compare(workload: str, rounds: Sequence[Round]) -> list[Row]:
    """Ratios first, then the figures of both sides, and TRL's for each micro-batch."""
    rows = [row(workload, RATIOS[name], [r.ratio(name) for r in rounds]) for name in FIGURES]
    for name in FIGURES:
        rows.append(row(workload, f"vlrft_{name}", [figure(r.ours, name) for r in rounds]))
        rows.append(row(workload, f"trl_best_{name}", [r.best(name) for r in rounds]))
        for size in rounds[0].theirs:
            rows.append(row(workload, f"trl_micro_batch_{size}_{name}", [figure(r.theirs[size], name) for r in rounds]))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows of one workload as Markdown: a line per figure, a column per process, and the ratio."""
    by_metric = {r["metric"]: r for r in rows}
    sides = [metric.removesuffix("_step_seconds") for metric in by_metric if metric.endswith("_step_seconds")]
    lines = []
    for name in FIGURES:
        values = [by_metric[f"{side}_{name}"]["value"] for side in sides]
        ratio = by_metric[RATIOS[name]]
        spread = f"{ratio['min']:.3f} to {ratio['max']:.3f}"
        shown = [f"{value:.0f}" if name.endswith("_mib") else f"{value:.2f}" for value in values]
        lines.append([name, *shown, f"{ratio['value']:.3f}", f"1/{1 / ratio['value']:.1f}", spread])
    names = [side.replace("_", " ") for side in sides]
    return markdown_table(["median", *names, "vlrft / TRL best", "", "min to max"], lines)


def describe_workload(workload: Workload) -> str:
    """The work of one step in one line."""
    edge = workload["image_size"]
    return (
        f"{workload['prompts_per_step']} prompts x {workload['num_generations']} completions of "
        f"{workload['new_tokens']} tokens, one {edge}x{edge} image per prompt, {workload['threads']} threads"
    )


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"error: {error}")
