"""Questions about videos, answered from what is kept or by the decoding processes, within the limits of data.video."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError, image_size
from vlrft.data.video.clips import ClipRequest
from vlrft.data.video.info import VideoInfo, frames_info
from vlrft.data.video.infos import find_info, info_key, keep_info
from vlrft.data.video.pool import DecodingPool
from vlrft.data.video.source import frame_files
from vlrft.data.video.times import frame_times
from vlrft.types import Clip, MediaRef, MediaShape

_pools: dict[str, DecodingPool] = {}
_lock = threading.Lock()
_limits: ContextVar[VideoConfig | None] = ContextVar("_limits", default=None)


@contextmanager
def video_limits(config: VideoConfig) -> Iterator[None]:
    """Within the block, `probe` without a config takes this one: rows are read by tasks, which know of none."""
    token = _limits.set(config)
    try:
        yield
    finally:
        _limits.reset(token)


def probe(ref: MediaRef, config: VideoConfig | None = None) -> VideoInfo:
    """Size, length and rate of a video: a file, encoded bytes, a folder or a list of frames.

    Encoded videos are read by a decoding process, within the time and memory that `config` allows, and once only: what
    was found, or why it failed, is remembered by the file's path, size and time of change, also in `cache_dir`. Frames
    without `fps` are taken at 2 per second, as qwen-vl-utils does.

    Raises MediaError for what is missing, no video, or shorter than its header says; DataError without PyAV, and when
    the decoder cannot be loaded.
    """
    if files := frame_files(ref):
        return frames_info(ref, files)
    config = config or _limits.get() or VideoConfig()
    key = info_key(ref)
    known = find_info(key, ref, config)
    return known if known is not None else _asked(key, ref, config).result()


def probe_many(refs: Sequence[MediaRef], config: VideoConfig | None = None) -> list[VideoInfo | MediaError]:
    """`probe` of several videos by all `workers`, equal ones once. A video that cannot be read gives its error."""
    config = config or _limits.get() or VideoConfig()
    asked: dict[str, Future[VideoInfo]] = {}
    answers: list[Future[VideoInfo] | MediaError | None] = []
    for ref in refs:
        try:
            key = None if frame_files(ref) else info_key(ref)
            if key is not None and key not in asked and find_info(key, ref, config) is None:
                asked[key] = _asked(key, ref, config)
            answers.append(None if key is None else asked.get(key))
        except MediaError as error:
            answers.append(error)
    return [
        answer if isinstance(answer, MediaError) else _result(ref, answer, config)
        for ref, answer in zip(refs, answers, strict=True)
    ]


def _result(ref: MediaRef, asked: Future[VideoInfo] | None, config: VideoConfig) -> VideoInfo | MediaError:
    try:
        return probe(ref, config) if asked is None else dataclasses.replace(asked.result(), name=ref.name())
    except MediaError as error:
        return error


def _asked(key: str, ref: MediaRef, config: VideoConfig) -> Future[VideoInfo]:
    """The answer, which is remembered before anybody sees it."""
    answer: Future[VideoInfo] = Future()

    def keep(done: Future[VideoInfo]) -> None:
        if done.cancelled():
            answer.cancel()
            return
        error = done.exception()
        try:
            if error is None or isinstance(error, MediaError):
                keep_info(key, ref, config, done.result() if error is None else error)
        finally:
            if error is None:
                answer.set_result(done.result())
            else:
                answer.set_exception(error)

    shared_pool(config).inspect(ref).add_done_callback(keep)
    return answer


def media_shape(ref: MediaRef, config: VideoConfig) -> MediaShape:
    """Size, number of frames and their times, before any pixel of a shown frame is decoded; of an image its size.

    Raises MediaError for a file that is missing or not what the reference says, and for a clip outside its video.
    """
    if ref.kind == "image":
        return MediaShape(size=image_size(ref))
    info = probe(ref, config)
    times = frame_times(info, config, ref.start, ref.end)
    return MediaShape(size=info.size, num_frames=len(times), timestamps=times)


def submit_clip(ref: MediaRef, times: Sequence[float], size: tuple[int, int], config: VideoConfig) -> Future[Clip]:
    """The frames on screen at `times` (seconds from the start of the clip, not falling), at `size` (width, height).

    They are decoded in another process, within the time and memory that `config` allows. The future's `result` raises
    MediaError for a video that cannot be read so, whatever it does to its decoder, and DataError when the decoder
    cannot be loaded.
    """
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
    """Stop every decoding process of this process; a later request starts new ones."""
    with _lock:
        for pool in _pools.values():
            pool.close()
        _pools.clear()
