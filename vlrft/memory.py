"""Host memory on Linux: large pages for large tensors, and freed memory given back between phases."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable


def prefer_large_pages() -> None:
    """Ask torch to request 2 MiB pages for large CPU tensors. Takes effect only before torch allocates anything.

    A step makes and drops tensors of hundreds of MiB; mapping them in 4 KiB pages costs more than filling them.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def release_freed() -> None:
    """Give memory that was freed inside the C heap back to the system, where the C library can (glibc).

    Generation, and one micro-batch after another, leave holes of other sizes than the next phase asks for; without this
    the peak of a process grows by several hundred MiB over its first steps.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
