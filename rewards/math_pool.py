"""Warm processes for math-verify: jobs from any thread, a hard time limit, a fresh process after each accident."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_SCRIPT = Path(__file__).with_name("math_worker.py")
_FLAGS = {-signal.SIGALRM: "sandbox_timeout"}


@functools.cache
def require_math_verify() -> None:
    """Raise ImportError, naming the extra to install, where math-verify is missing."""
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError("math.verify needs the math-verify library: pip install 'vlrft[rewards]' (README, Install)")


class Worker:
    """One process of `math_worker.py`."""

    def __init__(self) -> None:
        """Start it, without waiting until it has loaded the library."""
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"import runpy; runpy.run_path({str(_SCRIPT)!r}, run_name='__main__')"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # a forked child must not write a half-sent job a second time
            env={**os.environ, "PYTHONPATH": paths},
        )
        self._ready = False

    def ask(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """The verdict on one job; None where it has ended the process. Raises RuntimeError where it cannot start."""
        assert self.process.stdin is not None
        if not self._ready and self._read() is None:
            raise RuntimeError(
                f"the math-verify process ended with code {self.stop()} while loading; "
                f"run `{sys.executable} -c 'import math_verify'` to see why"
            )
        self._ready = True
        try:
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
        except BrokenPipeError:  # it has just ended
            return None
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def stop(self) -> int:
        """End it and return its exit code (minus the signal's number where one ended it)."""
        self.forget()
        try:
            return self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def forget(self) -> None:
        """Close this side's pipes; an idle process then ends by itself."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Pool:
    """Up to `size` processes, started on demand; each serves one thread at a time."""

    def __init__(self, size: int) -> None:
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        self._started: list[Worker] = []
        for _ in range(size):
            self._idle.put(None)

    def ask(self, gold: str, answer: str, seconds: float) -> tuple[bool, str | None]:
        """(equal, None), or (False, a flag): `unparsable`, `sandbox_timeout`, `sandbox_memory`, `sandbox_crash`."""
        worker = self._idle.get()
        try:
            if worker is None or worker.process.poll() is not None:  # None yet, or one that ended while idle
                worker = self._replace(worker)
            verdict = worker.ask({"gold": gold, "answer": answer, "seconds": seconds})
            if verdict is None:
                code = worker.stop()
                worker = self._replace(worker)  # loads while the next answers are written
                return False, _FLAGS.get(code, "sandbox_crash")
        except BaseException:  # an interrupt between question and verdict would leave the verdict to the next question
            if worker is not None:
                self._drop(worker)
            worker = None
            raise
        finally:
            self._idle.put(worker)
        flag = verdict.get("flag") or (None if verdict["read"] else "unparsable")
        return verdict["equal"], flag

    def _replace(self, worker: Worker | None) -> Worker:
        if worker is not None:
            self._drop(worker)
        fresh = Worker()
        self._started.append(fresh)
        return fresh

    def _drop(self, worker: Worker) -> None:
        if worker in self._started:
            self._started.remove(worker)
        worker.stop()

    def close(self) -> None:
        """End all processes."""
        for worker in self._started:
            worker.process.kill()
            worker.stop()

    def forget(self) -> None:
        """In a forked child: the processes are the parent's, so close the copies of their pipes."""
        for worker in self._started:
            worker.forget()


_pools: dict[int, Pool] = {}
_left_to_parent: list[Pool] = []


def pool(size: int) -> Pool:
    """The pool of this process with `size` workers."""
    return _pools.setdefault(size, Pool(size))


def _after_fork() -> None:
    _left_to_parent.extend(_pools.values())
    for each in _left_to_parent:
        each.forget()
    _pools.clear()


def _close_all() -> None:
    for each in _pools.values():
        each.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_close_all)
