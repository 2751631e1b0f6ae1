"""Host memory on Linux: large pages for large tensors."""

from __future__ import annotations

import os


def prefer_large_pages() -> None:
    """Ask torch to request 2 MiB pages for large CPU tensors. Takes effect only before torch allocates anything.

    A step makes and drops tensors of hundreds of MiB; mapping them in 4 KiB pages costs more than filling them.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
