"""Host memory on Linux: large pages for large tensors, and freed memory given back between phases."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable

_WORTH_IT = 512 * 2**20
"""Free bytes inside the heap from which giving them back pays: small models would only fault the pages in again."""


def prefer_large_pages() -> None:
    """Ask torch to request 2 MiB pages for large CPU tensors. Takes effect only before torch allocates anything.

    A step makes and drops tensors of hundreds of MiB; mapping them in 4 KiB pages costs more than filling them.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def release_freed() -> None:
    """Give memory that was freed inside the C heap back to the system, where the C library can (glibc).

    Generation, and one micro-batch after another, leave holes of other sizes than the next phase asks for; without this
    the peak of a process with a large model grows by several hundred MiB over its first steps.
    """
    heap = _heap()
    if heap is not None and heap[0]().fordblks >= _WORTH_IT:
        heap[1](0)


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2; `fordblks` counts free bytes in the heap."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


@functools.cache
def _heap() -> tuple[Callable[[], _MallInfo], Callable[[int], int]] | None:
    """glibc's (mallinfo2, malloc_trim); None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallinfo2") and hasattr(library, "malloc_trim")):
        return None
    library.mallinfo2.restype = _MallInfo
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library.mallinfo2, library.malloc_trim
