"""`vlrft demo`: the main job on a CPU, offline, within minutes: build a tiny VLM, warm it up, let RL teach it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import vlrft
from vlrft.runfolder import read_metrics, write_whole
from vlrft.runlock import RunLock

RECIPE = "demo/shapes"
METRIC = "eval/box.iou"


def run(out: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the demo recipe into `out` and return what `out/summary.json` says.

    An earlier run in `out` is moved aside, never overwritten.
    """
    console = Console(soft_wrap=True)
    _move_aside(out, console)
    console.print(
        "A vision-language model of 1.4 M parameters learns to point out shapes: "
        "first from examples (SFT), then from the IoU of its own answers (GRPO).\n"
    )
    done = vlrft.train(RECIPE, f"train.output_dir={out}", f"data.root={out}-data", *overrides)
    summary = {**done.summary, **headline(done.path)}
    write_whole(done.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    _tell(console, done.path, summary)
    return summary


def headline(run_dir: Path) -> dict[str, Any]:
    """Held-out IoU at the start and after each stage, training reward at both ends of RL, and where the time went."""
    rows = read_metrics(run_dir)
    evaluations = {(r["stage"], r["step"]): r[METRIC] for r in rows if r["kind"] == "eval"}
    last = {stage: value for (stage, step), value in sorted(evaluations.items(), key=lambda item: item[0][1]) if step}
    rewards = [r["reward/mean"] for r in rows if r["stage"] == "grpo" and r["kind"] == "train"]
    seconds: dict[str, float] = {}
    for row in rows:
        name, key = ("eval", "time/eval") if row["kind"] == "eval" else (row["stage"], "time/step")
        seconds[name] = round(seconds.get(name, 0.0) + row[key], 2)
    return {
        "iou_start": evaluations[("sft", 0)],
        "iou_after_sft": last["sft"],
        "iou_after_rl": last["grpo"],
        "reward_first10": statistics.fmean(rewards[:10]),
        "reward_last10": statistics.fmean(rewards[-10:]),
        "held_out": int(next(r["eval/n"] for r in rows if r["kind"] == "eval")),
        "seconds": {**seconds, "total": json.loads((run_dir / "summary.json").read_text())["seconds"]},
    }


def _move_aside(out: Path, console: Console) -> None:
    if not out.exists():
        return
    RunLock(out.resolve()).check_free()
    number = 1
    while (aside := out.with_name(f"{out.name}-{number}")).exists():
        number += 1
    out.rename(aside)
    goes_on = "" if (aside / "summary.json").is_file() else f" Go on with it by: vlrft train --resume {aside}"
    console.print(f"An earlier run is now in {aside}.{goes_on}")


def _tell(console: Console, run_dir: Path, summary: dict[str, Any]) -> None:
    console.print(
        f"\nIoU on {summary['held_out']} held-out scenes:  start {summary['iou_start']:.3f}   "
        f"after SFT {summary['iou_after_sft']:.3f}   after RL [bold green]{summary['iou_after_rl']:.3f}[/]"
        f"   ({summary['seconds']['total']:.0f} s)"
    )
    console.print(f"\nLook at   {run_dir / 'report.html'}   (curves, and every answer drawn on its image)")
    console.print(f"Numbers   {run_dir / 'summary.json'}")
    console.print("\nNext      vlrft recipes ls                      recipes you can run, copy and change")
    console.print("          vlrft recipes cp demo/shapes my.yaml  make this one yours")
    console.print("          vlrft train my.yaml train.output_dir=runs/mine engine.num_generations=16")
