"""Temporary folders that do not outlive their process for long, however it ends.

Weights in shared memory are memory: a run that is killed, or that its watchdog ends, cannot remove them, and after some
restarts none would be left. So a folder is held by a lock of the system on a file in it; whoever makes the next folder
removes those that nobody holds. Locks, unlike process ids, mean the same in all containers that share /dev/shm.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

HELD = ".held"
_YOUNG = 60.0
"""Seconds for which a folder may not be locked yet."""


def held_folder(prefix: str, parent: str | Path | None) -> tuple[Path, Callable[[], None]]:
    """A new folder, and what removes it. parent: None = the system's folder for temporary files."""
    place = Path(parent if parent is not None else tempfile.gettempdir())
    remove_left_behind(prefix, place)
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    descriptor = os.open(path / HELD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return path, functools.partial(_remove, path, descriptor)


def remove_left_behind(prefix: str, place: Path) -> list[Path]:
    """Remove the folders of processes that are gone; returns which."""
    return [path for path in sorted(place.glob(f"{prefix}*")) if _remove_unless_held(path)]


def _remove_unless_held(path: Path) -> bool:
    try:
        descriptor = os.open(path / HELD, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # not one of these folders, or somebody else's, or just removed
        return False
    try:
        is_young = time.time() - os.fstat(descriptor).st_mtime < _YOUNG
        if is_young or not _is_free(descriptor):
            return False
        logger.info("%s was left by a process that is gone: removed", path)
        shutil.rmtree(path, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path, descriptor: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(descriptor)
