"""Which frames of a video are shown: times from a rate or a count, evenly spaced over the clip."""

from __future__ import annotations

import math

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.video.info import VideoInfo

FRAME_FACTOR = 2
"""Frames are shown in pairs: the temporal patch of the Qwen vision towers."""

_ROUNDING = 1e-6
"""Frames: how far a product of seconds and frames per second may miss the whole number that it stands for."""


def frame_times(
    info: VideoInfo, config: VideoConfig, start: float | None = None, end: float | None = None
) -> tuple[float, ...]:
    """Seconds, from the start of the clip, of the frames to be shown: rising, an even number of them.

    The clip holds the source frames f with start <= f / fps <= end, N in all. Shown are

        n = floor2(min(max(rate * N / fps, ceil2(min_frames)), floor2(max_frames), N))

    or with `config.num_frames` n = floor2(min(ceil2(num_frames), N)); floor2 and ceil2 go to the next even number. They
    are the source frames round(linspace(first, last, n)), which stand at f / fps. A clip of one frame shows it
    twice.

    For a constant frame rate these are the frames that `smart_nframes` and the readers of qwen-vl-utils 0.0.14 choose,
    except: clips of one frame and a `num_frames` above N are errors there; an odd `num_frames` is rounded to the nearer
    multiple of 4 there (5 -> 4) and up here (5 -> 6); and they round in float32, so that ties may fall one frame apart.
    For a variable rate `fps` is the average, and each time is then met by the frame that is on screen.

    Raises MediaError when the clip is empty, starts before 0 or after the video's end, or ends before it starts.
    """
    first, last = frame_range(info, start, end)
    total = last - first + 1
    wanted = _count(config, total, total / info.fps)
    # A single frame is shown twice.
    frames = (round(first + i * (last - first) / (wanted - 1)) for i in range(wanted))
    return tuple(max(0.0, frame / info.fps - (start or 0.0)) for frame in frames)


def even_times(
    info: VideoInfo, number: int, start: float | None = None, end: float | None = None
) -> tuple[float, ...] | None:
    """Seconds, from the start of the clip, of exactly `number` source frames, an odd number too: evenly spaced from the
    first to the last, or the first where it is one. None where the clip has fewer. Raises MediaError like
    `frame_times`."""
    first, last = frame_range(info, start, end)
    if number > last - first + 1:
        return None
    frames = (round(first + i * (last - first) / max(1, number - 1)) for i in range(number))
    return tuple(max(0.0, frame / info.fps - (start or 0.0)) for frame in frames)


def _count(config: VideoConfig, total: int, duration: float) -> int:
    if config.num_frames is not None:
        wanted = float(_ceil2(config.num_frames))
    else:
        wanted = min(max(duration * config.fps, _ceil2(config.min_frames)), _floor2(config.max_frames))
    return max(FRAME_FACTOR, _floor2(min(wanted, total)))


def _floor2(number: float) -> int:
    return math.floor(number / FRAME_FACTOR + _ROUNDING) * FRAME_FACTOR


def _ceil2(number: float) -> int:
    return math.ceil(number / FRAME_FACTOR - _ROUNDING) * FRAME_FACTOR


def frame_range(info: VideoInfo, start: float | None, end: float | None) -> tuple[int, int]:
    """First and last source frame of the clip, as if the frame rate were constant. Raises MediaError like
    `frame_times`."""
    first, last = 0, info.num_frames - 1
    clip = f"the clip from {start if start is not None else 0:g} s to {end if end is not None else info.duration:g} s"
    if start is not None:
        if not 0 <= start < info.duration:
            raise MediaError(
                info.name, f"lasts {info.duration:.2f} s, and {clip} does not start within it; correct `start`"
            )
        first = min(math.ceil(start * info.fps - _ROUNDING), last)
    if end is not None:
        if not end > (start or 0.0):
            raise MediaError(info.name, f"{clip} ends before it starts; correct `start` and `end`")
        last = min(math.floor(end * info.fps + _ROUNDING), last)
    # A clip between two source frames shows the one that is on screen meanwhile.
    return min(first, last), last
