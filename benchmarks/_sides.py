"""Running one side of a benchmark in a process of its own, and reading the JSON line that it prints."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NotRequired, TypedDict

from _workloads import Workload

OURS = "_vlrft_side.py"
TRL = "_trl_side.py"

FIGURES = ("step_seconds", "generation_seconds", "training_seconds", "peak_memory_mib")
"""The numbers of a SideResult that are compared."""


class SideResult(TypedDict):
    """What a side prints."""

    side: str
    micro_batch: NotRequired[int]
    """TRL: completions per forward."""
    step_seconds: list[float]
    """One per timed step, as are the two parts of it."""
    generation_seconds: list[float]
    training_seconds: list[float]
    peak_memory_mib: float
    parameters: int
    prompt_tokens: list[int]
    """The different lengths of prompts and of completions that the model saw."""
    completion_tokens: list[int]
    forwarded: NotRequired[dict[str, int]]
    """vlrft: what one step put through the model (see `_forwarded.py`)."""
    versions: dict[str, str]


def run_side(script: str, workload: Workload) -> SideResult:
    """Run `script` on `workload` and return what it printed.

    Raises RuntimeError with the end of its error output when it fails.
    """
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), "--workload", json.dumps(workload)],
        # Large pages are what `vlrft` asks for by itself; TRL's side gets them too.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "THP_MEM_ALLOC_ENABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        raise RuntimeError(
            f"{script} was killed, most likely for want of memory: give it a machine with more, or TRL smaller "
            "micro-batches (--trl-micro-batches 4)"
        )
    if done.returncode != 0:
        raise RuntimeError(f"{script} ended with status {done.returncode}:\n{done.stderr[-4000:]}")
    result: SideResult = json.loads(done.stdout.splitlines()[-1])
    return result


def warn_when_busy(threads: int) -> None:
    """Say on stderr when other work would spoil the timing: two processes of two threads on two cores both crawl."""
    idle = len(os.sched_getaffinity(0)) - os.getloadavg()[0]
    if idle < threads - 0.5:
        print(
            f"warning: about {max(0.0, idle):.1f} cores are idle and the benchmark uses {threads}; "
            "times will be wrong, wait until the machine is quiet",
            file=sys.stderr,
        )


def figure(result: SideResult, name: str) -> float:
    """One of FIGURES: the median over the timed steps, or the peak of the process."""
    match name:
        case "step_seconds":
            return statistics.median(result["step_seconds"])
        case "generation_seconds":
            return statistics.median(result["generation_seconds"])
        case "training_seconds":
            return statistics.median(result["training_seconds"])
        case "peak_memory_mib":
            return result["peak_memory_mib"]
    raise ValueError(f"no figure {name!r}; there are {', '.join(FIGURES)}")


def describe(result: SideResult) -> str:
    """The figures of one process in one line."""
    step, generation, training, memory = (figure(result, name) for name in FIGURES)
    return f"{step:.2f} s per step ({generation:.2f} rollout + {training:.2f} training), peak {memory:.0f} MiB"


def check_same_work(ours: SideResult, theirs: SideResult) -> None:
    """Raise RuntimeError when the two sides did not train the same model on prompts and completions of equal length."""
    for what in ("parameters", "prompt_tokens", "completion_tokens"):
        if ours[what] != theirs[what]:
            raise RuntimeError(f"the sides did different work: {what} {ours[what]} for vlrft, {theirs[what]} for TRL")
