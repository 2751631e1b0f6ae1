"""The tasks of an `srun` as ranks: SLURM says which task this is, and how many there are, under names of its own."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

logger = logging.getLogger(__name__)

_NO_STEP = 2**31
"""Numbers from here on are no srun's: SLURM gives them to a job's script and to its interactive shell."""
_SHELLS = ("bash", "sh", "zsh", "interactive")
"""Names of jobs in which somebody types: one who starts a command there means one process."""
_PORTS = range(15_000, 30_000)
"""Below those that systems give away by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """This process as one of several tasks."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    """Tasks on this machine."""
    host: str
    """That of task 0."""
    port: int
    """On it: the same in all tasks, another in each job and step."""


def task_of(environ: Mapping[str, str]) -> Task | None:
    """The task that this process is; None outside of an `srun` of several tasks."""
    step, size = environ.get("SLURM_STEP_ID", ""), environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS")
    if not step.isdigit() or int(step) >= _NO_STEP or "SLURM_PROCID" not in environ or int(size or 1) < 2:
        return None
    if environ.get("SLURM_JOB_NAME") in _SHELLS:
        return None
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    per_node = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    return Task(
        rank=int(environ["SLURM_PROCID"]),
        size=int(size or 1),
        local_rank=int(environ.get("SLURM_LOCALID", 0)),
        local_size=per_node[min(int(environ.get("SLURM_NODEID", 0)), len(per_node) - 1)],
        host=environ.get("MASTER_ADDR") or first_host(nodes),
        port=int(environ.get("MASTER_PORT") or _PORTS[(int(environ.get("SLURM_JOB_ID", 0)) + int(step)) % len(_PORTS)]),
    )


def first_host(nodes: str) -> str:
    """`node[03-07,12],login1` -> `node03`, as `scontrol show hostnames` lists them."""
    match = re.match(r"(?:\[[^\]]*\]|[^,\[])+", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", match.group() if match else nodes)


def _tasks_per_node(said: str) -> list[int]:
    """`2(x3),1` -> [2, 2, 2, 1]"""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", said)
    return [int(tasks) for tasks, times in found for _ in range(int(times or 1))] or [1]


def take_rank(environ: MutableMapping[str, str]) -> None:
    """Add what torch and accelerate ask for: RANK, WORLD_SIZE and the like, where nobody has set them."""
    task = task_of(environ)
    if task is None or "RANK" in environ:
        return
    logger.info("SLURM: task %d of %d, task 0 at %s:%d", task.rank, task.size, task.host, task.port)
    about = {"RANK": task.rank, "WORLD_SIZE": task.size, "LOCAL_RANK": task.local_rank}
    about |= {"LOCAL_WORLD_SIZE": task.local_size, "MASTER_PORT": task.port}
    environ.update({name: str(value) for name, value in about.items()}, MASTER_ADDR=task.host)
