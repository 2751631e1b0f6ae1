"""What `vlrft plan` predicts beside what a training process takes, on the CPU.

    python benchmarks/plan.py --json runs/plan.json

Four workloads that differ in what takes the memory: long completions, large images, a large vocabulary, and low-rank
adapters on a model that does not learn, with a reference policy. Predicted and measured alike is the peak of resident
memory above what the process holds after its imports. Each run is a process of its own (`_plan_side.py`): two steps,
rollout and training, with checkpoint and rollouts written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _results import Row, markdown_table, row, write_results
from _workloads import MODEL_136M
from PIL import Image

from vlrft.compose import compose
from vlrft.plan import plan

SMALL: dict[str, Any] = {**MODEL_136M, "vocab_size": 8192, "intermediate_size": 2048}
"""49 M parameters."""
EYES: dict[str, Any] = {
    **SMALL,
    "hidden_size": 384,
    "num_heads": 6,
    "num_kv_heads": 2,
    "num_layers": 6,
    "vision_hidden_size": 512,
    "vision_heads": 8,
    "vision_layers": 10,
    "vision_intermediate_size": 1536,
}
"""A tower larger than its language model: 59 M parameters."""

WORKLOADS: Mapping[str, dict[str, Any]] = {
    "long-completions": {"model": SMALL, "image": 84, "prompts": 2, "G": 8, "tokens": 384, "budget": 4096},
    "large-images": {"model": EYES, "image": 980, "prompts": 2, "G": 4, "tokens": 16, "budget": 4096},
    "large-vocabulary": {"model": MODEL_136M, "image": 224, "prompts": 4, "G": 8, "tokens": 48, "budget": 8192},
    "adapters": {
        "model": SMALL,
        "image": 224,
        "prompts": 2,
        "G": 8,
        "tokens": 192,
        "budget": 2048,
        "adapter": {"r": 16},
        "beta": 0.01,
    },
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--workload", choices=[*WORKLOADS, "all"], default="all")
    parser.add_argument("--quick", action="store_true", help="tiny models, to try the benchmark itself")
    args = parser.parse_args(argv)
    rows: list[Row] = []
    for name in WORKLOADS if args.workload == "all" else [args.workload]:
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(name, shrunken(WORKLOADS[name]) if args.quick else WORKLOADS[name], Path(folder))
    print(table(rows))
    if args.json is not None:
        write_results(args.json, "plan", rows)


def compare(name: str, workload: Mapping[str, Any], folder: Path) -> list[Row]:
    """Predicted, measured, and the first over the second."""
    path = write_recipe(workload, folder)
    made = plan(compose(str(path)), gpus=0)
    measured = run_side(path)
    predicted = made.peak / 2**20
    said = f"{name}: predicted {predicted:.0f} MiB, measured {measured['peak']:.0f}, {made.stages[0].binds} binds"
    print(said, file=sys.stderr, flush=True)
    return [
        row(name, "before_mib", [measured["before"]]),
        row(name, "predicted_mib", [predicted]),
        row(name, "measured_mib", [measured["peak"]]),
        row(name, "predicted_ratio", [predicted / measured["peak"]]),
    ]


def run_side(recipe: Path) -> dict[str, float]:
    """Raises RuntimeError with the end of its error output when the run fails."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("_plan_side.py")), str(recipe)],
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the run ended with status {done.returncode}:\n{done.stderr[-4000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def write_recipe(workload: Mapping[str, Any], folder: Path) -> Path:
    """Noise images, rows, and the recipe of two steps."""
    rng = np.random.default_rng(0)
    edge, lines = workload["image"], []
    for number in range(2 * workload["prompts"]):
        Image.fromarray(rng.integers(0, 256, (edge, edge, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(json.dumps({
            "id": str(number), "prompt": "Go", "images": [f"{number}.png"],
            "boxes": {"box": [0, 0, edge // 2, edge // 2], "space": "abs_original"},
        }))  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = {
        "model": {"tiny": dict(workload["model"]), "adapter": workload.get("adapter")},
        "data": {
            "root": str(folder),
            "train": {"format": "native", "path": "rows.jsonl"},
            "prompt_template": "{{ question }}",
        },
        "sampler": {"name": "sequential"},
        "engine": {
            "num_generations": workload["G"],
            "max_completion_length": workload["tokens"],
            "ignore_eos": True,
        },
        "objective": {"beta": workload.get("beta", 0.0)},
        "rewards": {"funcs": [{"func": f"{Path(__file__).with_name('_workloads.py')}:reward_by_turns"}]},
        "train": {
            "output_dir": str(folder / "run"),
            "steps": 2,
            "prompts_per_step": workload["prompts"],
            "micro_batch_tokens": workload["budget"],
        },
        "parallel": {"cpu": True, "num_threads": 1},
        "log": {"tensorboard": False, "report": False, "progress": False},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def shrunken(workload: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds instead of minutes; the models are too small for the prediction to mean anything."""
    small = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 128}
    tower = {"vision_hidden_size": 32, "vision_layers": 2, "vision_heads": 2, "vision_intermediate_size": 64}
    model = {**workload["model"], **small, **tower, "vocab_size": 2048}
    return {**workload, "model": model, "image": 56, "tokens": 8}


def table(rows: Sequence[Row]) -> str:
    """A line per workload."""
    names = list(dict.fromkeys(one["workload"] for one in rows))
    value = {(one["workload"], one["metric"]): one["value"] for one in rows}
    lines = []
    for name in names:
        mib = [f"{value[name, metric]:.0f}" for metric in ("before_mib", "predicted_mib", "measured_mib")]
        lines.append([name, *mib, f"{value[name, 'predicted_ratio']:.2f}"])
    header = ["MiB", "after import", "predicted above", "measured above", "predicted / measured"]
    return markdown_table(header, lines)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"error: {error}")
