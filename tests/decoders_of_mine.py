"""Decoders that misbehave as real ones do, by the name of the file that they are given."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from vlrft.data.video.decode_pyav import decode as decode_pyav
from vlrft.data.video.index import FrameIndex
from vlrft.types import MediaRef


def wild(
    ref: MediaRef, index: FrameIndex, wanted: Sequence[int], *, threads: int
) -> Iterator[tuple[float, np.ndarray]]:
    """PyAV, except for files called crash*, hang*, hungry*, confused*, slow*."""
    name = os.path.basename(ref.path or "")
    if name.startswith("crash"):
        print("the last words of a decoder", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("hungry"):
        yield 0.0, np.ones((1 << 29,), np.uint8)
    if name.startswith("confused"):
        raise TypeError("a bug of its own")
    if name.startswith("slow"):
        time.sleep(0.4)
    print("something on standard output")
    yield from decode_pyav(ref, index, wanted, threads=threads)


def who(ref: MediaRef, index: FrameIndex, wanted: Sequence[int], *, threads: int) -> Iterator[tuple[float, np.ndarray]]:
    """The process that decodes, and its threads, as a number that a frame can show."""
    frame = np.zeros((1, 8, 3), np.uint8)
    frame[0, :7, 0] = list(os.getpid().to_bytes(7, "little"))
    frame[0, 7, 0] = threads
    yield from ((index.times[place], frame) for place in wanted)


def swapped(
    ref: MediaRef, index: FrameIndex, wanted: Sequence[int], *, threads: int
) -> Iterator[tuple[float, np.ndarray]]:
    """PyAV; then `<file>.new` takes the place of the file, as when data are fetched again during a run."""
    found = list(decode_pyav(ref, index, wanted, threads=threads))
    if ref.path is not None and os.path.exists(f"{ref.path}.new"):
        os.replace(f"{ref.path}.new", ref.path)
    yield from found
