"""The life of a decoding process: load one decoder, then fill the frames of one request after the other.

What it is lent for the frames is memory shared with the process that asks, so that no frame is copied on its way. It
imports no torch unless its decoder does.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import replace
from typing import Any

import numpy as np

from vlrft.data.images import MediaError
from vlrft.data.problems import DataError
from vlrft.data.video.clips import ClipRequest, fill_clip
from vlrft.data.video.decoders import Decoder, find_decoder
from vlrft.data.video.info import read_info
from vlrft.data.video.line import receive, send
from vlrft.types import MediaRef


def serve(descriptor: int, parent: int) -> None:
    """descriptor: this end of the line. parent: id of the process that it works for.

    The first message is (decoder, memory in MiB, threads), answered by `ready` or `data`; every other is a ClipRequest
    with a file for its frames, answered by `clip`, or a MediaRef, answered by `info`; or either by `media`, `memory` or
    `error` and what there is to say.
    """
    # Nothing that a decoder prints may look like output of the program that uses us.
    os.dup2(2, 1)
    threading.Thread(target=_outlive_nobody, args=(parent,), daemon=True).start()
    with socket.socket(fileno=descriptor) as line:
        (name, memory_mb, threads), _ = receive(line)
        try:
            decoder = find_decoder(name)
        except DataError as error:
            send(line, ("data", str(error)))
            return
        limit_memory(memory_mb)
        send(line, ("ready", None))
        while True:
            try:
                request, file = receive(line)
            except EOFError:
                return
            try:
                answer = _answer(request, file, decoder, threads)
            finally:
                if file is not None:
                    os.close(file)
            send(line, answer)


def _answer(request: ClipRequest | MediaRef, file: int | None, decoder: Decoder, threads: int) -> tuple[str, Any]:
    try:
        if isinstance(request, MediaRef):
            return "info", read_info(request)
        assert file is not None, "a request for a clip comes with a file for its frames"
        # Unmapped once no array looks at it.
        shared = mmap.mmap(file, int(np.prod(request.shape)))
        frames = np.frombuffer(shared, np.uint8).reshape(request.shape)
        return "clip", replace(fill_clip(request, decoder, frames, threads=threads), frames=None)
    except MediaError as error:
        return "media", (error.where, error.reason)
    except DataError as error:
        return "data", str(error)
    except MemoryError:
        return "memory", None
    except Exception as error:
        # A decoder may raise anything, and whatever it is costs one sample.
        traceback.print_exc()
        return "error", f"{type(error).__name__}: {error}"


def limit_memory(memory_mb: int) -> None:
    """Let this process take `memory_mb` MiB of private memory more than it has now; shared frames do not count.

    Linux only: elsewhere there is no such limit.
    """
    if not sys.platform.startswith("linux"):
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as status:
        data_pages = int(status.read().split()[5])
    limit = data_pages * resource.getpagesize() + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _outlive_nobody(parent: int) -> None:
    """A parent that was killed could not stop us, and the decoder may never return to see the line closed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)
