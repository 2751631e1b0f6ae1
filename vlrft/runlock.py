"""One process at a time writes into a run's folder.

The lock is the system's, on the file `.lock` with the process id in it. It ends with the process however that ends, so
that a file which a killed run has left blocks nobody. It is a record lock, which forked children do not share: a worker
that outlives its run does not hold it. Where there are none (Windows, some network file systems) nothing is locked.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from pathlib import Path

from vlrft.log import UserError

logger = logging.getLogger(__name__)

LOCK = ".lock"

_held: set[Path] = set()
"""Locks of this process, which the system would give it twice and take away with the first file that it closes."""
_guard = threading.Lock()


class FolderInUseError(UserError):
    """A run folder into which another process writes."""


class RunLock:
    """The lock of one run folder.

    lock = RunLock(folder)
    lock.acquire()
    try: ...
    finally: lock.release()
    """

    def __init__(self, folder: Path) -> None:
        """`folder`: absolute, without links; it need not exist yet."""
        self.path = folder / LOCK
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, once. Raises FolderInUseError that names the process that has it."""
        if self._descriptor is not None or os.name != "posix":
            return
        with _guard:
            if self.path in _held:
                raise self._in_use(f"{os.getpid()} {socket.gethostname()}")
            self._descriptor = self._locked()
            if self._descriptor is not None:
                _held.add(self.path)
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)

    def check_free(self) -> None:
        """Raise FolderInUseError if another process, or another run of this one, has the lock."""
        if self._descriptor is None and self.path.exists():
            self.acquire()
            self.release()

    def release(self) -> None:
        """Give the lock back; harmless without it."""
        if self._descriptor is None:
            return
        with _guard:
            # First the name, then the lock: whoever gets the lock of a file without name tries again.
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self.path)

    def _locked(self) -> int | None:
        """Descriptor of the locked file; None where the file system cannot lock."""
        import fcntl

        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise UserError(
                    f"{self.path.parent}: a run has to write there, and cannot: {error.strerror}"
                ) from error
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace")
                os.close(descriptor)
                raise self._in_use(holder) from error
            except OSError as error:
                os.close(descriptor)
                self.path.unlink(missing_ok=True)
                logger.warning("%s cannot be locked (%s): start no second run in it", self.path.parent, error.strerror)
                return None
            if self._is_named(descriptor):
                return descriptor
            os.close(descriptor)

    def _is_named(self, descriptor: int) -> bool:
        """Whether the file is still the one in the folder: the run before removes it when it ends."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _in_use(self, holder: str) -> FolderInUseError:
        number, _, host = holder.strip().partition(" ")
        who = f"process {number} on {host}" if number and host else "another process"
        return FolderInUseError(
            f"{self.path.parent} is in use by {who}, whose run writes there; wait for it or stop it, or give this run "
            "its own place: train.output_dir=..."
        )
