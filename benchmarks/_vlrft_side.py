"""Our side of the benchmark: one workload through vlrft's own training step in this process, one JSON line on stdout.

    python benchmarks/_vlrft_side.py --workload '{"model": {...}, "image_size": 448, ...}'

The line holds what `_trl_side.py` prints, with the same meaning: generation is everything up to the scored completions
(reading and processing images, sampling, reward), training is the rest of the step, optimiser included. Besides,
`forwarded` says how many vision patches and tokens one step put through the model.

The workload becomes a recipe, its images PNG files with a JSONL file, and a step is `vlrft.training.grpo_step`, which
is what `vlrft train` runs; checkpoints, evaluation, logs and report are off, as TRL's are. Every step has images of its
own, so that the cache of rendered prompts never helps.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from _forwarded import COUNTED, Forwarded
from _workloads import Workload, noise_images, one_group_budget, peak_memory_mib, print_result

from vlrft.compose import compose, stage_configs
from vlrft.runfolder import RunFolder
from vlrft.setup import prepare
from vlrft.stage import StageRun
from vlrft.stages import open_stage
from vlrft.training import grpo_step


def run(workload: Workload, folder: Path) -> dict[str, Any]:
    """Train `warmup_steps + steps` steps and return the numbers that the module docstring lists.

    Raises RuntimeError when a step did not train on every completion at the stated length.
    """
    write_rows(workload, folder)
    stage = build_stage(workload, folder)
    forwarded = Forwarded(stage.state.policy.model)
    rows: list[dict[str, float]] = []
    for _ in range(workload["warmup_steps"] + workload["steps"]):
        with stage.timers("step"):
            row = grpo_step(stage)
        stage.state.step, stage.state.global_step = stage.state.step + 1, stage.state.global_step + 1
        rows.append({**row, **stage.timers.collect(), **forwarded.collect()})
    check_work(workload, rows)
    timed = rows[workload["warmup_steps"] :]
    generation = [row["time/media"] + row["time/gen"] + row["time/score"] for row in timed]
    return {
        "side": "vlrft",
        "step_seconds": [row["time/step"] for row in timed],
        "generation_seconds": generation,
        "training_seconds": [row["time/step"] - seconds for row, seconds in zip(timed, generation, strict=True)],
        "peak_memory_mib": peak_memory_mib(),
        "parameters": stage.state.policy.model.num_parameters(),
        "prompt_tokens": sorted(forwarded.prompt_lengths),
        "completion_tokens": sorted(forwarded.completion_lengths),
        "forwarded": {name: int(timed[-1][name]) for name in COUNTED},
        "versions": {name: importlib.metadata.version(name) for name in ("vlrft", "torch", "transformers")},
    }


def write_rows(workload: Workload, folder: Path) -> None:
    """The images as PNG files, and rows.jsonl in the native layout."""
    lines = []
    for number, image in enumerate(noise_images(workload)):
        image.save(folder / f"{number}.png")
        edge = workload["image_size"]
        row = {"id": str(number), "prompt": workload["question"], "images": [f"{number}.png"]}
        lines.append(json.dumps({**row, "boxes": {"box": [0, 0, edge // 2, edge // 2], "space": "abs_original"}}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def recipe(workload: Workload, folder: Path) -> dict[str, Any]:
    """The workload as a vlrft recipe: fp32 on the CPU, no gradient checkpointing, one group per micro-batch."""
    return {
        "model": {"tiny": dict(workload["model"])},
        "data": {
            "root": str(folder),
            "train": {"format": "native", "path": "rows.jsonl"},
            # TRL's side sends the bare question, so this one adds no instruction either.
            "prompt_template": "{{ question }}",
        },
        "sampler": {"name": "sequential"},
        "engine": {
            "num_generations": workload["num_generations"],
            "max_completion_length": workload["new_tokens"],
            "ignore_eos": True,
        },
        "rewards": {"funcs": [{"func": "_workloads:reward_by_turns"}]},
        "objective": {"beta": 0.0},
        "train": {
            "output_dir": str(folder / "run"),
            "seed": workload["seed"],
            "steps": workload["warmup_steps"] + workload["steps"],
            "prompts_per_step": workload["prompts_per_step"],
            "learning_rate": workload["learning_rate"],
            "micro_batch_tokens": one_group_budget(workload),
        },
        "parallel": {"cpu": True, "num_threads": workload["threads"]},
        "log": {"tensorboard": False, "rollouts": False, "report": False, "progress": False},
    }


def build_stage(workload: Workload, folder: Path) -> StageRun:
    """Everything of a run of one stage up to its first step."""
    composed = compose(recipe(workload, folder))
    prepared = prepare(composed, stage_configs(composed.config))
    (setup,) = prepared.stages
    return open_stage(prepared, setup, None, None, RunFolder(folder / "run"))


def check_work(workload: Workload, rows: list[dict[str, float]]) -> None:
    """Raise RuntimeError unless every step sampled and trained all the tokens asked for, a group at a time."""
    expected = workload["prompts_per_step"] * workload["num_generations"] * workload["new_tokens"]
    for number, row in enumerate(rows, start=1):
        if row["tokens/trained"] != expected or row["completions/mean_length"] != workload["new_tokens"]:
            raise RuntimeError(
                f"step {number} trained on {row['tokens/trained']:.0f} tokens in completions of "
                f"{row['completions/mean_length']:.1f} on average: expected {expected} and {workload['new_tokens']}"
            )
        if row["training_forwards"] != workload["prompts_per_step"]:
            raise RuntimeError(
                f"step {number} had {row['training_forwards']:.0f} micro-batches for {workload['prompts_per_step']} "
                "groups: one_group_budget is off for this workload"
            )


if __name__ == "__main__":
    print_result(run, __doc__)
