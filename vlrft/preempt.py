"""SIGTERM as schedulers mean it: save and end. A signal is only noted; the run ends at its next stop point.

Stop points are the begin and the end of a step, and the moment between its rollouts, which are on disk by then, and its
first weight update. All ranks ask there together, so that one rank's signal ends them all at the same point.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from vlrft.dist import World

_ONE_SIGNAL = 1.0
"""Seconds within which two SIGTERM are one: a scheduler signals a whole group of processes, and a launcher in it hands
the signal on."""


class StopAsked(Exception):
    """Raised on all ranks at a stop point; the message is the signal's name."""


class StopSignals:
    """Notes SIGTERM, and SIGUSR1 (`sbatch --signal=USR1@300`) where it has no other use, until it is left.

    A second SIGTERM ends the process at once, as if nobody had caught it. Handlers are set in the main thread only,
    and the former ones come back at the end.

    with StopSignals() as stops: ...; stops.check(world)
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._owner = os.getpid()
        self._first = math.inf
        """`time.monotonic()` at the first SIGTERM."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and os.name == "posix":
            for number in (signal.SIGTERM, signal.SIGUSR1):
                if number == signal.SIGTERM or signal.getsignal(number) is signal.SIG_DFL:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not set from Python, which Python cannot put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def asked(self, world: World) -> str | None:
        """The signal that any rank has received. Every rank calls this at the same point."""
        return next((name for name in world.gather(self.received) if name is not None), None)

    def check(self, world: World) -> None:
        """Raise StopAsked on all ranks when any of them has received a signal."""
        if (name := self.asked(world)) is not None:
            raise StopAsked(name)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_second = number == signal.SIGTERM and time.monotonic() > self._first + _ONE_SIGNAL
        if number == signal.SIGTERM:
            self._first = min(self._first, time.monotonic())
        # A forked child has inherited the handler, but it is no run.
        if os.getpid() != self._owner or is_second:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = signal.Signals(number).name
