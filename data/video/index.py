"""The frames that a video file holds, read from its packets: nothing is decoded."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from vlrft.data.images import MediaError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

LATENESS = 0.002
"""Seconds that a frame may begin after a time that it is asked for: containers round their time stamps."""


UNEVENNESS = 0.001
"""Seconds by which time stamps of a constant rate may miss it: Matroska rounds them to milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameIndex:
    """The N frames of a video in the order in which they are shown. Every decoder chooses from these."""

    times: tuple[float, ...]
    """N seconds, not falling, from the first frame (0) on."""
    end: float
    """Second at which the last frame ends."""
    pts: tuple[int, ...] | None
    """The same in the stream's own clock; None where packets carry no presentation times, as in AVI: frames can only be
    counted then."""
    keyframes: tuple[int, ...]
    """Positions, rising, from which decoding should be able to start."""
    container: str = ""
    """FFmpeg's name of the file's format."""
    reordered: bool = False
    """Whether frames are stored in another order than they are shown in (B-frames)."""

    @property
    def interval(self) -> float:
        """Average seconds between frames."""
        return self.end / len(self.times)

    def at(self, time: float) -> int:
        """Position of the frame on screen at `time`: the last that begins by then, or at most LATENESS later."""
        return max(0, bisect.bisect_right(self.times, time + LATENESS) - 1)

    def keyframe_before(self, position: int) -> int:
        """Position of the last keyframe at or before `position` (0 if there is none)."""
        found = bisect.bisect_right(self.keyframes, position) - 1
        return self.keyframes[found] if found >= 0 else 0


def read_index(container: InputContainer, stream: VideoStream, name: str) -> FrameIndex:
    """All packets of `stream`, from where the container stands (its beginning) to the end of the file.

    Packets that show nothing do not count: those cut off by an edit list, and the hidden frames of VP8. Raises
    MediaError when none is left, and lets FFmpeg's errors through.
    """
    _drop_other_streams(container, stream)
    hidden = _is_hidden_vp8 if stream.codec_context.name == "vp8" else None
    shown: list[tuple[int, bool, int]] = []
    # AVI has no presentation times, and those that FFmpeg makes up for it are wrong where there are B-frames.
    stamped = "avi" not in container.format.name.split(",")
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard or (hidden is not None and hidden(packet)):
            continue
        stamped = stamped and packet.pts is not None
        stamp = packet.pts if stamped else packet.dts
        shown.append((stamp if stamp is not None else len(shown), packet.is_keyframe, packet.duration or 0))
    if not shown:
        raise MediaError(name, "holds no frames; fetch it again or drop the row")
    # Stable: frames that share a time stamp stay in the order of the file.
    shown.sort(key=lambda frame: frame[0])
    clock, first = _clock(stream), shown[0][0]
    stamps = tuple(stamp for stamp, _, _ in shown)
    end = even_end(stamps, stream)
    if end is None:
        end = (stamps[-1] - first + _last_duration(stamps, shown[-1][2], container, stream)) * clock
    return FrameIndex(
        times=tuple((stamp - first) * clock for stamp in stamps),
        end=end,
        pts=stamps if stamped else None,
        keyframes=tuple(i for i, (_, is_keyframe, _) in enumerate(shown) if is_keyframe),
        container=container.format.name,
        reordered=bool(stream.codec_context.has_b_frames),
    )


def _drop_other_streams(container: InputContainer, stream: VideoStream) -> None:
    """Sound and subtitles are not even read."""
    from av.stream import Discard

    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all


def _is_hidden_vp8(packet: Packet[VideoStream]) -> bool:
    """RFC 6386, 9.1: bit 4 of the frame tag is `show_frame`."""
    return not memoryview(packet)[0] & 0x10


def even_end(stamps: Sequence[int], stream: VideoStream) -> float | None:
    """Second at which the last frame ends, where the frames are evenly spaced and the stream agrees; else None.

    stamps: when they are shown, rising, in the stream's clock. Even means within UNEVENNESS or one tick. A stream that
    lasts half a frame more or less than that many frames has a last one of another length.
    """
    import numpy as np

    if len(stamps) < 2 or not stream.duration:
        return None
    clock = _clock(stream)
    step = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
    misses = np.abs(np.asarray(stamps, np.float64) - stamps[0] - step * np.arange(len(stamps)))
    if step <= 0 or misses.max() > max(1.0, UNEVENNESS / clock):
        return None
    lasts = (stamps[-1] - stamps[0]) * len(stamps) / (len(stamps) - 1)
    return lasts * clock if abs(stream.duration - lasts) <= step / 2 else None


def _last_duration(stamps: Sequence[int], stated: int, container: InputContainer, stream: VideoStream) -> float:
    """Ticks for which the last frame is shown; stated: by its packet."""
    if len(stamps) > 1 and stream.codec_context.has_b_frames and "mov" in container.format.name.split(","):
        # What MP4 and MOV state is the time to the next frame that is decoded, which is not the next one shown.
        rest = (stream.duration or 0) - (stamps[-1] - stamps[0])
        return rest if rest > 0 else median(b - a for a, b in itertools.pairwise(stamps))
    return stated or (stamps[-1] - stamps[0]) / max(1, len(stamps) - 1) or _usual_duration(stream)


def _clock(stream: VideoStream) -> float:
    return float(stream.time_base) if stream.time_base else 1.0


def _usual_duration(stream: VideoStream) -> float:
    """Ticks of one frame, for a video of a single frame that does not say how long it is shown."""
    rate = stream.average_rate or stream.guessed_rate
    return 1.0 / float(rate * stream.time_base) if rate and stream.time_base else 1.0
