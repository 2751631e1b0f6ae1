"""`read_clip`: a clip from the cache or from a decoding process, whichever has it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from vlrft.config import VideoConfig
from vlrft.data.video.clips import ClipRequest
from vlrft.data.video.pool import DecodingPool
from vlrft.types import Clip, MediaRef

_pools: dict[str, DecodingPool] = {}
_lock = threading.Lock()


def read_clip(ref: MediaRef, times: Sequence[float], size: tuple[int, int], config: VideoConfig) -> Clip:
    """The frames on screen at `times` (seconds from the start of the clip, not falling), at `size` (width, height).

    They are decoded in another process, within the time and memory that `config` allows. Raises MediaError for a video
    that cannot be read so, whatever it does to its decoder, and DataError when the decoder cannot be loaded.
    """
    return submit_clip(ref, times, size, config).result()


def submit_clip(ref: MediaRef, times: Sequence[float], size: tuple[int, int], config: VideoConfig) -> Future[Clip]:
    """`read_clip` that does not wait: the future's `result` returns the Clip or raises."""
    return shared_pool(config).submit(ClipRequest(ref=ref, times=tuple(times), size=size))


def shared_pool(config: VideoConfig) -> DecodingPool:
    """This process's pool for `config`: made on first use, closed by `close_pools` or at the end of the program.

    Configs that differ only in which frames are shown share a pool. A forked process makes its own.
    """
    how = config.model_dump_json(include={"decoder", "timeout_s", "memory_mb", "workers", "cache_dir", "cache_gb"})
    key = f"{os.getpid()} {how}"
    with _lock:
        if key not in _pools:
            _pools[key] = DecodingPool(config.model_copy())
        return _pools[key]


def close_pools() -> None:
    """Stop every decoding process of this process; a later `read_clip` starts new ones."""
    with _lock:
        for pool in _pools.values():
            pool.close()
        _pools.clear()
