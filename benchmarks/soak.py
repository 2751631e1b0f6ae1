"""A long run of tiny steps with vLLM in-process: does memory, or the number of files and threads, grow with the steps?

    python benchmarks/soak.py --steps 300 --json runs/soak.json

GRPO on generated scenes with a model of 0.2 M parameters, evaluation and checkpoint every 25 steps, so that weights are
pushed to the engine at every step. Twice a second the process is looked at: resident memory, open files, threads, child
processes, and what stands in shared memory. The slope is a least-squares line over the second half of the steps; what
starting cost is behind them by then. Exit status 1 where the engine leaves files or processes behind.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _results import machine, markdown_table, row, write_results

import vlrft
from vlrft.engines.weights import SHARED_MEMORY
from vlrft.memory import resident_mb
from vlrft.testing import tiny_recipe

EVERY = 25
"""Steps between evaluations and checkpoints."""


@dataclass(frozen=True)
class Look:
    """The process at one moment."""

    steps: int
    resident_mb: float
    files: int
    threads: int
    children: int
    shared: int
    """Folders of weights in shared memory."""


def look(metrics: Path) -> Look:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    steps = metrics.read_text().count('"kind": "train"') if metrics.exists() else 0
    children = 0
    for task in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            children += len(Path(f"/proc/self/task/{task}/children").read_text().split())
    held = resident_mb()
    assert held is not None, "memory is read from /proc"
    return Look(
        steps=steps,
        resident_mb=held,
        files=len(os.listdir("/proc/self/fd")),
        threads=int(status["Threads"]),
        children=children,
        shared=len(list(SHARED_MEMORY.glob("vlrft-weights-*"))),
    )


class Watch(threading.Thread):
    """Looks twice a second until `stop`."""

    def __init__(self, metrics: Path) -> None:
        super().__init__(daemon=True)
        self.metrics, self.looks, self._over = metrics, list[Look](), threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.5):
            self.looks.append(look(self.metrics))

    def stop(self) -> list[Look]:
        self._over.set()
        self.join()
        return self.looks


def recipe(steps: int, engine: str, folder: Path) -> dict[str, Any]:
    tiny = {"hidden_size": 128, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 64}
    base = tiny_recipe(folder / "scenes", folder / "run")
    made: dict[str, Any] = {
        **base,
        "model": {"tiny": {**base["model"]["tiny"], **tiny}},
        "engine": {**base["engine"], "name": engine},
        "eval": {**base["eval"], "every": EVERY},
        "train": {**base["train"], "steps": steps, "save_steps": EVERY},
    }
    if engine != "hf":
        made["engine"]["kwargs"] = {"max_model_len": 512, "enforce_eager": True, "kv_cache_memory_bytes": 2**28}
    return made


def slope(looks: Sequence[Look], name: str) -> float:
    """Growth per 100 steps over the second half of the steps."""
    half = looks[-1].steps / 2
    late = [item for item in looks if item.steps >= half]
    line = np.polyfit([item.steps for item in late], [getattr(item, name) for item in late], 1)
    return float(line[0]) * 100


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--json", type=Path, help="write the rows and the machine here")
    options = parser.parse_args(arguments)
    left_before = set(SHARED_MEMORY.glob("vlrft-weights-*"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        watch = Watch(folder / "run" / "metrics.jsonl")
        watch.start()
        start = time.perf_counter()
        vlrft.train(recipe(options.steps, options.engine, folder))
        seconds = time.perf_counter() - start
        # Between the first step and the last: not while the run starts or ends.
        looks = [item for item in watch.stop() if 0 < item.steps < options.steps]
        after = look(watch.metrics)
    names = ("resident_mb", "files", "threads", "children", "shared")
    workload = f"{options.engine}, {options.steps} steps"
    rows = [row(workload, f"{key}_per_100_steps", [slope(looks, key)]) for key in names]
    half = next(item for item in looks if item.steps >= options.steps / 2)
    lines = [
        [key, f"{getattr(looks[0], key):.0f}", f"{getattr(half, key):.0f}", f"{getattr(looks[-1], key):.0f}",
         f"{getattr(after, key):.0f}", f"{slope(looks, key):+.2f}"] for key in names
    ]  # fmt: skip
    headings = ["what", "first step", "half way", "last step", "after the run", "per 100 steps, second half"]
    print(markdown_table(headings, lines))
    print(f"\n{workload}: {seconds:.0f} s, {len(looks)} looks, {machine()}", file=sys.stderr)
    if options.json is not None:
        write_results(options.json, "soak", [*rows, *(row(workload, "look", list(astuple(x))) for x in looks[::20])])
    left = set(SHARED_MEMORY.glob("vlrft-weights-*")) - left_before
    if left or after.children:
        sys.exit(f"left behind: {sorted(map(str, left))}, {after.children} processes")


if __name__ == "__main__":
    main()
