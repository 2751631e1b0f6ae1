"""Several processes of one command on this machine, one per rank.

For more than one machine, or a scheduler's own launcher, start the ranks with `torchrun` or `srun`: a rank is any
process with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in its environment.
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

from vlrft.ports import free_ports

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
_SHOWN = 8000
"""Bytes of a failed rank's messages that are shown."""


def run_ranks(
    arguments: Sequence[str],
    count: int,
    *,
    grace: float = GRACE,
    max_restarts: int = 0,
    restart_arguments: Sequence[str] | None = None,
) -> int:
    """`python -m vlrft ARGUMENTS` as `count` ranks; returns rank 0's exit status, or that of the rank that failed.

    Rank 0 speaks for all: what another rank says is shown only if that one fails by itself. When a rank ends with an
    error, the others are ended too, since they would wait for it for ever; then all are started again, up to
    `max_restarts` times, with `restart_arguments`, unless the error is one that its user has to correct.
    SIGTERM and SIGUSR1 are handed on to all ranks, which have `grace` seconds to save the run.
    """
    restarts = 0
    while True:
        ended = _run_once(arguments, count, grace)
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


def _run_once(arguments: Sequence[str], count: int, grace: float) -> _Ended:
    with ExitStack() as files:
        logs = [None, *(files.enter_context(tempfile.TemporaryFile()) for _ in range(count - 1))]
        port = free_ports(1)[0]
        with _Signals(grace) as signals:
            ranks = [_start(arguments, rank, count, port, log) for rank, log in enumerate(logs)]
            signals.ranks = ranks
            return _watch(ranks, logs, signals)


class _Signals:
    """While it is entered: Ctrl-C is left to the ranks, which get it as well; SIGTERM and SIGUSR1 are handed on."""

    def __init__(self, grace: float) -> None:
        self.ranks: Sequence[subprocess.Popen[bytes]] = ()
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

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self.ask()
        for rank in self.ranks:
            rank.send_signal(number)  # does nothing to one that has ended


def _watch(ranks: Sequence[subprocess.Popen[bytes]], logs: Sequence[IO[bytes] | None], signals: _Signals) -> _Ended:
    try:
        first = _first_failure(ranks, signals)
        if first is None:
            return _Ended(status=0)
        _end(ranks)
        statuses = [rank.returncode for rank in ranks]
        was_asked = signals.deadline is not None
        if was_asked and set(statuses) <= {0, _ASKED, -signal.SIGTERM, -signal.SIGUSR1}:
            return _Ended(status=_ASKED, was_asked=True)
        # What a user has to correct on one rank alone: the others may fail first, for want of an answer.
        first = statuses.index(_USER_ERROR) if _USER_ERROR in statuses else first
        # What is wrong with a recipe is wrong on all ranks, and rank 0 has said it.
        if not statuses[first] == statuses[0] == _USER_ERROR:
            _show(first, statuses[first], logs[first])
        return _Ended(status=statuses[first], rank=first, was_asked=was_asked)
    finally:
        _end(ranks)


def _start(
    arguments: Sequence[str], rank: int, count: int, port: int, log: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    own = {name: str(value) for name, value in about.items()}
    # A single process is started only to be watched: it is no rank.
    env = {**os.environ, **own, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": threads} if count > 1 else None
    command = [sys.executable, "-m", "vlrft", *arguments]
    return subprocess.Popen(command, env=env, stdout=log and subprocess.DEVNULL, stderr=log)


def _first_failure(ranks: Sequence[subprocess.Popen[bytes]], signals: _Signals) -> int | None:
    """The rank that ended with an error first; None when all have ended well.

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
            print(f"rank {running} did not end in time and was killed", file=sys.stderr, flush=True)
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
