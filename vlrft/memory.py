"""Host memory on Linux: large pages for large tensors, and how much the process holds."""

from __future__ import annotations

import os
from pathlib import Path


def prefer_large_pages() -> None:
    """Ask torch to request 2 MiB pages for large CPU tensors. Takes effect only before torch allocates anything.

    A step makes and drops tensors of hundreds of MiB; mapping them in 4 KiB pages costs more than filling them.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def resident_mb() -> float | None:
    """Memory that this process holds, in MiB; None where the system does not say."""
    return _status_mb("VmRSS")


def peak_resident_mb() -> float | None:
    """Most memory that this process has held since it began, in MiB; None where the system does not say."""
    return _status_mb("VmHWM")


def _status_mb(field: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    held = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(f"{field}:"))
    return int(held.split()[1]) / 1024
