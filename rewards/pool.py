"""Rewards in processes of their own: slow ones run side by side, and one that hangs is killed.

Workers are fresh interpreters (nothing is forked, and the user's main script is not run again) that load the reward by
its name. They are sessions of their own, so that a time-out kills whatever the reward has started; they end when this
process does. Arguments and results travel pickled; what a reward prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from vlrft.rewards.base import RewardError, TargetError
from vlrft.rewards.finding import Named, find, name_of

START_S = 120.0
"""How long a worker may take to import its reward."""

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of one call."""


class RewardTimeoutError(RewardError):
    """A call that took longer than the recipe allows; its worker was killed."""


def left_by(error: SystemExit) -> RewardError:
    """What is said of a reward that called sys.exit, which must not end the run without a word."""
    left = RewardError(f"it called sys.exit({error.code!r}); a reward returns a number or None")
    left.__cause__ = error
    return left


class _Worker:
    """One process with one reward."""

    def __init__(self, reward: Named, kwargs: Mapping[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"from vlrft.rewards.pool import serve; serve({theirs.fileno()}, {os.getpid()})",
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
            )
        self.connection = Connection(ours.detach())
        self.connection.send((reward, dict(kwargs)))
        self.task: int | None = None
        """Index of the call that it works on."""
        self.deadline = time.monotonic() + START_S
        self.ready = False

    def begin(self, task: int, payload: bytes, timeout_s: float | None) -> None:
        self.task = task
        self.deadline = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        self.connection.send_bytes(payload)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()


class Pool:
    """`workers` processes that run `reward`. They start with the first call."""

    def __init__(self, reward: Named, kwargs: Mapping[str, Any], *, workers: int, timeout_s: float | None) -> None:
        self.reward, self.name = reward, name_of(reward)
        self.kwargs = dict(kwargs)
        self.workers = workers
        self.timeout_s = timeout_s
        self._alive: list[_Worker] = []
        weakref.finalize(self, _kill_all, self._alive)

    def close(self) -> None:
        """Kill every worker; a later call starts new ones."""
        _kill_all(self._alive)

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The result of every call in order; for one that raised, hung or died the exception itself.

        Raises RewardError when no worker can load the reward.
        """
        results: list[Any] = [None] * len(calls)
        waiting = deque(enumerate(calls))
        for worker in [w for w in self._alive if w.process.poll() is not None]:
            self._drop(worker)
        try:
            while waiting or any(worker.task is not None for worker in self._alive):
                self._hand_out(waiting, results)
                self._take_in(results)
        except BaseException:
            self.close()  # a worker that still computes would answer the next call
            raise
        return results

    def _hand_out(self, waiting: deque[tuple[int, Call]], results: list[Any]) -> None:
        busy = sum(worker.task is not None for worker in self._alive)
        while len(self._alive) < min(self.workers, busy + len(waiting)):
            self._alive.append(_Worker(self.reward, self.kwargs))
        for worker in self._alive:
            while worker.ready and worker.task is None and waiting:
                task, call = waiting.popleft()
                try:
                    payload = pickle.dumps(call)
                except Exception as error:  # pickle raises whatever the object's own methods raise
                    results[task] = RewardError(f"{self.name}: its arguments cannot be sent to a process: {error}")
                    continue
                try:
                    worker.begin(task, payload, self.timeout_s)
                except OSError:  # it died meanwhile: _take_in will find its end of the line closed
                    break

    def _take_in(self, results: list[Any]) -> None:
        """Wait for the next answer, end or time-out of a worker."""
        pending = [worker for worker in self._alive if worker.task is not None or not worker.ready]
        if not pending:
            return
        left = min(worker.deadline for worker in pending) - time.monotonic()
        heard = wait([worker.connection for worker in pending], None if left == float("inf") else max(0.0, left))
        for worker in pending:
            if worker.connection in heard:
                self._hear(worker, results)
            elif time.monotonic() >= worker.deadline:
                self._drop(worker)
                if worker.task is None:
                    raise RewardError(f"{self.name}: its process did not start within {START_S:g} s")
                results[worker.task] = RewardTimeoutError(
                    f"{self.name} took longer than timeout_s={self.timeout_s:g} and was killed"
                )

    def _hear(self, worker: _Worker, results: list[Any]) -> None:
        try:
            kind, value = pickle.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            self._drop(worker)
            ended = f"{self.name}: its process ended (exit code {worker.process.returncode})"
            if worker.task is None:
                raise RewardError(f"{ended} while it was starting") from None
            results[worker.task] = RewardError(ended)
            return
        if not worker.ready:
            if kind != "ready":
                raise RewardError(f"{self.name} cannot be loaded in a process of its own: {value}")
            worker.ready = True
            return
        assert worker.task is not None, "a worker answers only what it was asked"
        results[worker.task] = _received(kind, value)
        worker.task = None

    def _drop(self, worker: _Worker) -> None:
        self._alive.remove(worker)
        worker.kill()


def _received(kind: str, value: Any) -> Any:
    """A result, or the exception that a worker met, with its traceback as a note."""
    if kind == "target":
        return TargetError(value)
    if kind != "error":
        return value
    message, where = value
    failed = RewardError(message)
    failed.add_note(where)
    return failed


def _kill_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().kill()


def serve(descriptor: int, parent: int) -> None:
    """The whole life of a worker. descriptor: its end of the line. parent: the process that it works for."""
    # What the reward prints must not look like an answer of a program that uses us on its standard output.
    os.dup2(2, 1)
    threading.Thread(target=_outlive_nobody, args=(parent,), daemon=True).start()
    with Connection(descriptor) as connection:
        _answer_calls(connection)


def _outlive_nobody(parent: int) -> None:
    """A parent that was killed could not stop us, and the reward may never return to see the line closed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)


def _answer_calls(connection: Connection) -> None:
    """Load the reward, then answer one call after the other until the line closes."""
    reward, kwargs = connection.recv()
    try:
        function = find(reward, kwargs, asynchronous=True)
    except Exception as error:
        says_it_all = isinstance(error, ImportError | AttributeError | ValueError)
        connection.send(("failed", str(error) if says_it_all else f"{type(error).__name__}: {error}"))
        return
    connection.send(("ready", None))
    while True:
        try:
            positional, named = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(_answer(function, positional, named))


def _answer(function: Any, positional: tuple[Any, ...], named: Mapping[str, Any]) -> bytes:
    try:
        result = function(*positional, **named)
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
        return pickle.dumps(("value", result))
    except TargetError as error:
        return pickle.dumps(("target", str(error)))
    except SystemExit as error:
        return pickle.dumps(("error", (str(left_by(error)), traceback.format_exc())))
    except Exception as error:
        return pickle.dumps(("error", (f"{type(error).__name__}: {error}", traceback.format_exc())))


async def _awaited(result: Any) -> Any:
    return await result
