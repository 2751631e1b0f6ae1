"""Several processes of one command on this machine, one per rank.

For more than one machine, or a scheduler's own launcher, start the ranks with `torchrun` or `srun`: a rank is any
process with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in its environment.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

_PATIENCE = 5.0
"""Seconds that the other ranks get to end by themselves after one has failed."""
_USER_ERROR = 2
"""Exit status of a rank that has told its user what to correct."""
_SHOWN = 8000
"""Bytes of a failed rank's messages that are shown."""


def run_ranks(arguments: Sequence[str], count: int) -> int:
    """`python -m vlrft ARGUMENTS` as `count` ranks; returns rank 0's exit status, or that of the rank that failed.

    Rank 0 speaks for all: what another rank says is shown only if that one fails by itself. When a rank ends with an
    error, the others are ended too, since they would wait for it for ever.
    """
    with ExitStack() as files:
        logs = [None, *(files.enter_context(tempfile.TemporaryFile()) for _ in range(count - 1))]
        port = _free_port()
        return _watch([_start(arguments, rank, count, port, log) for rank, log in enumerate(logs)], logs)


def _watch(ranks: Sequence[subprocess.Popen[bytes]], logs: Sequence[IO[bytes] | None]) -> int:
    # Ctrl-C reaches the ranks as well; they end the run, and this process waits for that.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        first = _first_failure(ranks)
        if first is None:
            return 0
        _end(ranks)
        status = ranks[first].returncode
        # What is wrong with a recipe is wrong on all ranks, and rank 0 has said it.
        if not status == ranks[0].returncode == _USER_ERROR:
            _show(first, status, logs[first])
        return max(1, status)
    finally:
        signal.signal(signal.SIGINT, before)
        _end(ranks)


def _start(
    arguments: Sequence[str], rank: int, count: int, port: int, log: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    own = {name: str(value) for name, value in about.items()}
    env = {**os.environ, **own, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "vlrft", *arguments]
    return subprocess.Popen(command, env=env, stdout=log and subprocess.DEVNULL, stderr=log)


def _first_failure(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The rank that ended with an error first; None when all have ended well."""
    while True:
        states = [rank.poll() for rank in ranks]
        failed = next((i for i, state in enumerate(states) if state), None)
        if failed is not None or all(state == 0 for state in states):
            return failed
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
