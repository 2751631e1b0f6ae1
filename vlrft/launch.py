"""Several processes of one command on this machine, one per rank; on each of several machines the same command.

Or start the ranks with a launcher of other make (torchrun, srun, deepspeed): a rank is any process with RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in its environment, or a task of an `srun` (vlrft/slurm.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, Self

from vlrft.log import UserError
from vlrft.ports import free_ports
from vlrft.slurm import task_of

_PATIENCE = 5.0
"""Seconds that the other ranks get to end by themselves after one has failed."""
GRACE = 600.0
"""Seconds that the ranks get to save the run after a SIGTERM."""
_USER_ERROR = 2
"""Exit status of a rank that has told its user what to correct."""
_ASKED = 143
"""Exit status of a rank that has ended for a SIGTERM or SIGUSR1 (`vlrft/preempt.py`)."""
_FINAL = (0, _USER_ERROR, 130, _ASKED)
"""Statuses that no restart mends: done, a user's error, ended by Ctrl-C or by SIGTERM."""
_PORT = 29500
"""Where ranks of several machines meet: torch's own choice."""
_SHOWN = 8000
"""Bytes of a failed rank's messages that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """The machines of a run, each with a launcher of its own."""

    count: int = 1
    rank: int = 0
    """Of this one, from 0."""
    master: tuple[str, int] | None = None
    """Host of rank 0, and a port that is free there; None: this machine, any port."""


def nodes_of(count: int | None, rank: int | None, master: str | None, *, nproc: int) -> Nodes:
    """From `--nnodes`, `--node-rank` and `--master`, or what the environment says in their place: MASTER_ADDR,
    MASTER_PORT, and SLURM where each node has one task. Raises UserError for what is missing or does not fit."""
    task = task_of(os.environ) if "RANK" not in os.environ else None
    if task is not None:
        if task.local_size > 1:
            raise UserError(
                f"srun has started {task.local_size} tasks on this node, and --nproc {nproc} would start that many "
                "more in each: use srun --ntasks-per-node=1 with --nproc, or a task per GPU without it"
            )
        count, rank = task.size if count is None else count, task.rank if rank is None else rank
        master = f"{task.host}:{task.port}" if master is None else master
    if count is None or count == 1:
        return Nodes()
    if rank is None or rank >= count:
        raise UserError(f"--nnodes {count} needs --node-rank: 0 to {count - 1}, another on each machine")
    if master is None and "MASTER_ADDR" not in os.environ:
        raise UserError(f"--nnodes {count} needs --master HOST[:PORT], the machine of --node-rank 0, on each machine")
    host, _, port = (master or os.environ["MASTER_ADDR"]).partition(":")
    port = port or os.environ.get("MASTER_PORT") or str(_PORT)
    if not host or not port.isdigit():
        raise UserError(f"--master {master}: give HOST or HOST:PORT, such as node01:29500")
    return Nodes(count=count, rank=rank, master=(host, int(port)))


def run_ranks(
    arguments: Sequence[str],
    count: int,
    *,
    nodes: Nodes = Nodes(),
    grace: float = GRACE,
    max_restarts: int = 0,
    restart_arguments: Sequence[str] | None = None,
) -> int:
    """`python -m vlrft ARGUMENTS` as `count` ranks here; returns the first one's exit status, or that of the one that
    failed.

    The first rank of a machine speaks for all of it: what another one says is shown only if that one fails by itself.
    When a rank ends with an error, the others are ended too, since they would wait for it for ever; then all are
    started again, up to `max_restarts` times, with `restart_arguments`, unless the error is one that its user has to
    correct. SIGTERM and SIGUSR1 are handed on to all ranks, which have `grace` seconds to save the run.
    """
    if max_restarts and nodes.count > 1:
        raise UserError(
            "--max-restarts starts the ranks of one machine again, and all of them have to: leave it out, and have the "
            "scheduler start the job again with --auto-resume, or use torchrun --max-restarts"
        )
    restarts = 0
    while True:
        ended = _run_once(arguments, count, nodes, grace)
        if ended.was_asked or ended.status in _FINAL or restarts == max_restarts:
            return max(1, ended.status) if ended.status else 0
        restarts += 1
        said = f"rank {ended.rank} ended with status {ended.status}"
        print(f"{said}: restart {restarts} of {max_restarts}, from what was last saved", file=sys.stderr, flush=True)
        arguments = restart_arguments if restart_arguments is not None else arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """How all ranks have ended."""

    status: int
    """Below 0: the signal that ended the rank."""
    rank: int = 0
    """Whose status it is."""
    was_asked: bool = False
    """By a signal, which a restart would ignore."""


def _run_once(arguments: Sequence[str], count: int, nodes: Nodes, grace: float) -> _Ended:
    with ExitStack() as files:
        logs = [None, *(files.enter_context(tempfile.TemporaryFile()) for _ in range(count - 1))]
        first = nodes.rank * count
        env = _environment(count, nodes)
        ranks: list[subprocess.Popen[bytes]] = []
        with _Signals(grace) as signals:
            try:
                for local, log in enumerate(logs):
                    own = {"RANK": str(first + local), "LOCAL_RANK": str(local)}
                    ranks.append(_start(arguments, env and {**env, **own}, log))
                signals.hand_to(ranks)
                return _watch(ranks, logs, signals, first)
            finally:
                _end(ranks)


class _Signals:
    """While it is entered: Ctrl-C is left to the ranks, which get it as well; SIGTERM and SIGUSR1 are handed on."""

    def __init__(self, grace: float) -> None:
        self._ranks: Sequence[subprocess.Popen[bytes]] = ()
        self._received: list[int] = []
        self.deadline: float | None = None
        """`time.monotonic()` at which ranks that have been asked to end are killed."""
        self._grace = grace
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._hand_on)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ask(self) -> None:
        """From now on the ranks are ending."""
        if self.deadline is None:
            self.deadline = time.monotonic() + self._grace

    def hand_to(self, ranks: Sequence[subprocess.Popen[bytes]]) -> None:
        """All ranks, now that they are there: they get what has come meanwhile, too."""
        self._ranks = ranks
        for number in self._received:
            self._send(number)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self.ask()
        self._received.append(number)
        self._send(number)

    def _send(self, number: int) -> None:
        for rank in self._ranks:
            rank.send_signal(number)  # does nothing to one that has ended


def _watch(
    ranks: Sequence[subprocess.Popen[bytes]], logs: Sequence[IO[bytes] | None], signals: _Signals, first_rank: int
) -> _Ended:
    first = _first_failure(ranks, signals, first_rank)
    if first is None:
        return _Ended(status=0)
    _end(ranks)
    statuses = [rank.returncode for rank in ranks]
    was_asked = signals.deadline is not None
    if was_asked and set(statuses) <= {0, _ASKED, -signal.SIGTERM, -signal.SIGUSR1}:
        return _Ended(status=_ASKED, was_asked=True)
    # What a user has to correct on one rank alone: the others may fail first, for want of an answer.
    first = statuses.index(_USER_ERROR) if _USER_ERROR in statuses else first
    # What is wrong with a recipe is wrong on all ranks, and the first one has said it.
    if not statuses[first] == statuses[0] == _USER_ERROR:
        _show(first_rank + first, statuses[first], logs[first])
    return _Ended(status=statuses[first], rank=first_rank + first, was_asked=was_asked)


def _environment(count: int, nodes: Nodes) -> dict[str, str] | None:
    """What all ranks of this machine get. None for a single process, which is started only to be watched: no rank."""
    if count * nodes.count == 1:
        return None
    host, port = nodes.master or ("127.0.0.1", free_ports(1)[0])
    about = {"WORLD_SIZE": count * nodes.count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    own = {name: str(value) for name, value in about.items()}
    return {**os.environ, **own, "MASTER_ADDR": host, "OMP_NUM_THREADS": threads}


def _start(arguments: Sequence[str], env: dict[str, str] | None, log: IO[bytes] | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vlrft", *arguments]
    return subprocess.Popen(command, env=env, stdout=log and subprocess.DEVNULL, stderr=log)


def _first_failure(ranks: Sequence[subprocess.Popen[bytes]], signals: _Signals, first_rank: int) -> int | None:
    """Which of the ranks ended with an error first; None when all have ended well.

    Ranks that were asked to end are waited for, all of them, until their time is up.
    """
    while True:
        states = [rank.poll() for rank in ranks]
        failed = next((i for i, state in enumerate(states) if state), None)
        if all(state is not None for state in states):
            return failed
        if _ASKED in states:  # the signal went past this process
            signals.ask()
        if signals.deadline is None and failed is not None:
            return failed
        if signals.deadline is not None and time.monotonic() > signals.deadline:
            running = states.index(None)
            ranks[running].kill()
            ranks[running].wait()
            print(f"rank {first_rank + running} did not end in time and was killed", file=sys.stderr, flush=True)
            return running
        time.sleep(0.05)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait a little for ranks that still run, then ask them to end, then end them."""
    _wait(ranks)
    for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
        for rank in ranks:
            end(rank)  # does nothing to one that has ended
        _wait(ranks)


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)


def _show(rank: int, status: int, log: IO[bytes] | None) -> None:
    if log is not None:
        log.seek(0, os.SEEK_END)
        log.seek(max(0, log.tell() - _SHOWN))
        print(f"rank {rank} failed with status {status}:\n{log.read().decode(errors='replace')}", file=sys.stderr)
