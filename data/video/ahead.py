"""Clips on their way: decoded before their turn, as many as fit in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from vlrft.data.video.clips import ClipRequest
from vlrft.types import Clip

Key = TypeVar("Key")


@dataclass(slots=True)
class _Asked:
    requests: Sequence[ClipRequest]
    size: int
    """Bytes of all their frames."""
    futures: list[Future[Clip]] | None = None
    """None while they wait for room."""


class ClipsAhead(Generic[Key]):
    """Items in line, each with the clips that it needs. They are submitted in this order while the frames of all that
    are submitted and not `done` fit into `capacity` bytes; the first in line is submitted in any case, and so is one
    that is taken out of turn. Room that an item gives back goes to the next."""

    def __init__(self, submit: Callable[[ClipRequest], Future[Clip]], *, capacity: int) -> None:
        self._submit = submit
        self.capacity = capacity
        self._line: OrderedDict[Key, _Asked] = OrderedDict()
        self.bytes_submitted = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._line

    def add(self, key: Key, requests: Sequence[ClipRequest]) -> None:
        """To the end of the line."""
        size = sum(frames * height * width * 3 for frames, height, width, _ in (r.shape for r in requests))
        self._line[key] = _Asked(requests, size)
        self._fill()

    def take(self, key: Key) -> list[Future[Clip]]:
        """The clips of an item in line, which counts until it is `done`."""
        asked = self._line[key]
        return asked.futures if asked.futures is not None else self._start(asked)

    def done(self, key: Key) -> None:
        """The item's frames are not held any more, or not wanted: what has not begun is cancelled."""
        asked = self._line.pop(key)
        if asked.futures is not None:
            self.bytes_submitted -= asked.size
            for future in asked.futures:
                future.cancel()
        self._fill()

    def _fill(self) -> None:
        for asked in self._line.values():
            if asked.futures is None:
                if self.bytes_submitted and self.bytes_submitted + asked.size > self.capacity:
                    return
                self._start(asked)

    def _start(self, asked: _Asked) -> list[Future[Clip]]:
        asked.futures = [self._submit(request) for request in asked.requests]
        self.bytes_submitted += asked.size
        return asked.futures
