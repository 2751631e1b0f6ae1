"""One decoding process, as seen from the process that asks: started, asked, killed."""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from typing import IO, Any

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.problems import DataError
from vlrft.data.video.clips import ClipRequest
from vlrft.data.video.info import VideoInfo
from vlrft.data.video.line import receive, send
from vlrft.types import Clip, MediaRef

log = logging.getLogger(__name__)

START_S = 120.0
"""How long a process may take to load its decoder."""
_LAST_WORDS = 300
"""Characters of a dead process's standard error that are quoted."""


class DecodingProcess:
    """A process with one decoder, which answers one request at a time.

    It is a fresh interpreter: nothing is forked, and the user's main script is not run again.
    """

    def __init__(self, config: VideoConfig) -> None:
        """Raises DataError when the decoder cannot be loaded."""
        self.config = config
        with contextlib.ExitStack() as opened:
            try:
                self._words = opened.enter_context(tempfile.TemporaryFile())
                self._line, theirs = map(opened.enter_context, socket.socketpair())
                self._process = _launched(theirs.fileno(), self._words)
            except OSError as error:
                raise DataError(
                    f"data.video.decoder={config.decoder}: no process can be started ({error}); close files or "
                    "programs, or lower data.video.workers"
                ) from error
            theirs.close()
            # From here on it is `kill` that closes them.
            opened.pop_all()
        self._start()

    def _start(self) -> None:
        self._line.settimeout(START_S)
        try:
            send(self._line, (self.config.decoder, self.config.memory_mb, decoding_threads(self.config.workers)))
            (kind, said), _ = receive(self._line)
        except TimeoutError as error:
            self.kill()
            raise DataError(f"data.video.decoder={self.config.decoder} did not start within {START_S:g} s") from error
        except (EOFError, OSError) as error:
            ended = self._ending()
            raise DataError(f"data.video.decoder={self.config.decoder} cannot be started: {ended}") from error
        if kind != "ready":
            self.kill()
            raise DataError(str(said))

    @property
    def alive(self) -> bool:
        return not self._words.closed and self._process.poll() is None

    def clip(self, request: ClipRequest) -> Clip:
        """Blocks until there is an answer or `timeout_s` is over. After a MediaError the process may be dead.

        The frames of the Clip are memory that was shared with the process, given back once nothing refers to them.
        """
        name = request.ref.name()
        size = math.prod(request.shape)
        if size > self.config.memory_mb * 2**20:
            raise MediaError(
                name,
                f"{len(request.times)} frames of {request.size[0]}x{request.size[1]} take {size >> 20} MiB, "
                f"data.video.memory_mb is {self.config.memory_mb}; show fewer or smaller frames",
            )
        import numpy as np

        with _shared_file(size) as file:
            shared = mmap.mmap(file.fileno(), size)
            try:
                clip: Clip = self._answer(name, request, lent=file.fileno())
            except BaseException:
                shared.close()
                raise
        return replace(clip, frames=np.frombuffer(shared, np.uint8).reshape(request.shape))

    def info(self, ref: MediaRef) -> VideoInfo:
        """What an encoded video is (`read_info`); the same limits hold."""
        found: VideoInfo = self._answer(ref.name(), ref)
        return found

    def _answer(self, name: str, request: ClipRequest | MediaRef, lent: int | None = None) -> Any:
        """What the process says to the request. Raises MediaError and DataError for what it cannot do."""
        self._words.seek(0)
        self._words.truncate()
        kind, said = self._ask(name, request, lent)
        if kind in ("clip", "info"):
            return said
        if kind == "media":
            raise MediaError(*said)
        if kind == "data":
            raise DataError(said)
        if kind == "memory":
            # What a library did half is not known.
            self.kill()
            raise MediaError(
                name,
                f"needs more than data.video.memory_mb={self.config.memory_mb} MiB to be decoded; make it smaller, or "
                "raise the limit",
            )
        raise MediaError(name, f"the decoder {self.config.decoder} fails on it ({said}); convert it or drop the row")

    def _ask(self, name: str, request: ClipRequest | MediaRef, lent: int | None) -> tuple[str, Any]:
        self._line.settimeout(self.config.timeout_s)
        try:
            send(self._line, request, lent=lent)
            (kind, said), _ = receive(self._line)
        except TimeoutError as error:
            self.kill()
            raise MediaError(
                name,
                f"took longer than data.video.timeout_s={self.config.timeout_s:g} to be decoded; drop the row, or "
                "raise the limit",
            ) from error
        except (EOFError, OSError) as error:
            raise MediaError(
                name, f"{self._ending()} while decoding it; convert it, or try another data.video.decoder"
            ) from error
        words = self._last_words()
        if words:
            log.debug("%s: the decoder says: %s", name, words)
        return kind, said

    def _ending(self) -> str:
        """How the process ended, in words; it is then done with."""
        # Its line may be closed a moment before its status is known.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5.0)
        status, words = self._process.poll(), self._last_words()
        self.kill()
        how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        return f"the decoding process ended with {how}" + (f" ({words})" if words else "")

    def _last_words(self) -> str:
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - 4 * _LAST_WORDS))
        return " ".join(self._words.read().decode("utf-8", "replace").split())[-_LAST_WORDS:]

    def kill(self) -> None:
        """May be called twice, and from another thread, whose request then fails."""
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._line.close()
        self._words.close()


def _launched(descriptor: int, words: IO[bytes]) -> subprocess.Popen[bytes]:
    """descriptor: the process's end of the line; words: its standard error."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from vlrft.data.video.worker import serve; serve({descriptor}, {os.getpid()})"],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        stderr=words,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
            "OMP_NUM_THREADS": "1",
        },
    )


def decoding_threads(workers: int) -> int:
    """Threads of one decoder, when `workers` of them share the machine."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, usable // workers))


def _shared_file(size: int) -> Any:
    """An open file of `size` zero bytes without a name: in memory on Linux, else in the temporary folder."""
    if hasattr(os, "memfd_create"):
        file: Any = os.fdopen(os.memfd_create("clip"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by the caller
    file.truncate(size)
    return file
