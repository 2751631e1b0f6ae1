"""Judging beside the engine: groups are scored while others are still being sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from types import TracebackType
from typing import Self

from vlrft.types import Completion, Group

Score = Callable[[slice, Sequence[Sequence[Completion]]], list[Group]]
"""(which of the samples, the completions of each) -> their scored groups."""


class Scoring:
    """Scores groups on a thread of its own while it is entered, each as soon as it and all before it are there.

    In their order, because rewards may keep a state; all that are there at once, because rewards that wait, for
    a process or an answer, wait side by side.
    """

    def __init__(self, score: Score, count: int) -> None:
        self._score, self._count = score, count
        self._sampled: dict[int, Sequence[Completion]] = {}
        self._change = Condition()
        self._is_over = False
        self._groups: list[Group] = []

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._work = self._pool.submit(self._run)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._change:
            self._is_over = True
            self._change.notify()
        # What is being scored right now ends first: the judge is not left in the middle of a group.
        self._pool.shutdown(wait=True)

    def put(self, index: int, completions: Sequence[Completion]) -> None:
        """The completions of sample `index` (from 0) are there."""
        with self._change:
            self._sampled[index] = completions
            self._change.notify()

    def groups(self) -> list[Group]:
        """All scored groups, once every sample was `put`. Raises what scoring has raised."""
        self._work.result()
        return self._groups

    def _run(self) -> None:
        start = 0
        while start < self._count:
            ready = self._next(start)
            if not ready:
                return
            self._groups += self._score(slice(start, start + len(ready)), ready)
            start += len(ready)

    def _next(self, start: int) -> list[Sequence[Completion]]:
        """What is there from sample `start` on, at least one; nothing when it is over."""
        ready: list[Sequence[Completion]] = []
        with self._change:
            self._change.wait_for(lambda: self._is_over or start in self._sampled)
            while not self._is_over and (index := start + len(ready)) in self._sampled:
                ready.append(self._sampled.pop(index))
        return ready
