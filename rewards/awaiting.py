"""Awaiting `async def` rewards from code that is not asynchronous."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine, Sequence
from typing import Any


class Loop:
    """One event loop in a thread of its own, kept for as long as its owner.

    Clients that a reward keeps between calls stay usable, and it makes no odds whether the caller runs in a loop.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def gather(self, coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Results in order, all awaited at once. Blocks until all are in; raises what one of them raises."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            thread = threading.Thread(target=self._loop.run_forever, name="async rewards", daemon=True)
            thread.start()
            weakref.finalize(self, _stop, self._loop, thread)
        future = asyncio.run_coroutine_threadsafe(_all(coroutines), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


async def _all(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    return await asyncio.gather(*coroutines)


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
