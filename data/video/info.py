"""What a video is, from its headers where they can be believed and from its packets where not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlrft.data.images import MediaError, image_size
from vlrft.data.video.index import even_end, read_index
from vlrft.data.video.mp4 import composition_offsets
from vlrft.data.video.rotation import rotation
from vlrft.data.video.source import opened, readable
from vlrft.types import MediaRef

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

FRAMES_FPS = 2.0
"""Frames per second of videos published as images that do not say it, as qwen-vl-utils takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """A whole video (not only the clip that its reference may ask for)."""

    name: str
    """What error messages call it."""
    size: tuple[int, int]
    """(width, height) in stored pixels, upright. Pixels count as square."""
    num_frames: int
    fps: float
    """Average: num_frames / duration."""
    duration: float
    """Seconds from the first frame to the end of the last."""
    rotation: int = 0
    """Degrees, counter-clockwise, that upright frames are turned against the stored ones: 0, 90, 180, 270."""


def read_info(ref: MediaRef) -> VideoInfo:
    """Size, length and rate of an encoded video. Decodes at most one frame. Runs in the decoding processes (`probe`).

    MP4, MOV and AVI of a constant frame rate list all their frames in a header; otherwise the packets are counted,
    which reads the whole file.

    Raises MediaError for what is missing, no video, or shorter than its header says; DataError without PyAV.
    """
    with opened(ref) as (container, stream):
        counted = _listed_frames(ref, container, stream)
        if counted is None:
            index = read_index(container, stream, ref.name())
            counted = len(index.times), index.end
        width, height = stream.codec_context.width, stream.codec_context.height
        turned = rotation(ref, container, stream)
    if not (width > 0 and height > 0):
        raise MediaError(ref.name(), "does not say how large its pictures are; fetch it again or convert it")
    number, duration = counted
    return VideoInfo(
        name=ref.name(),
        size=(height, width) if turned in (90, 270) else (width, height),
        num_frames=number,
        fps=number / duration,
        duration=duration,
        rotation=turned,
    )


def frames_info(ref: MediaRef, files: Sequence[str]) -> VideoInfo:
    """The same of a video that is published as images, from the first one's header. Without `fps` they are taken at
    FRAMES_FPS."""
    if ref.path is not None and ref.frames:
        raise MediaError(ref.name(), "has both a path and frames; correct the row")
    fps = frames_rate(ref)
    return VideoInfo(
        name=ref.name(),
        size=image_size(MediaRef(path=files[0])),
        num_frames=len(files),
        fps=fps,
        duration=len(files) / fps,
    )


def clip_seconds(ref: MediaRef, duration: float) -> float:
    """Seconds of the clip that `ref` asks for, of a video that lasts `duration`."""
    end = duration if ref.end is None else min(ref.end, duration)
    return end - (ref.start or 0.0)


def frames_rate(ref: MediaRef) -> float:
    """Frames per second of a video that is published as images."""
    fps = ref.fps if ref.fps is not None else FRAMES_FPS
    if not 0 < fps < math.inf:
        raise MediaError(ref.name(), f"has {fps} frames per second; correct the row's `fps`")
    return fps


def _listed_frames(ref: MediaRef, container: InputContainer, stream: VideoStream) -> tuple[int, float] | None:
    """(number of frames, seconds) by the file's own table of frames; None where it lists less than all of a constant
    rate. `read_index` then finds the same."""
    entries = stream.index_entries
    if stream.frames < 2 or len(entries) < stream.frames or stream.time_base is None:
        return None
    last_byte, stamps, hidden = 0, [], False
    for entry in entries:
        hidden = hidden or entry.is_discard
        last_byte = max(last_byte, entry.pos + entry.size)
        if entry.size > 0:
            stamps.append(entry.timestamp)
    if last_byte > container.size > 0:
        raise MediaError(
            ref.name(),
            f"is truncated: its header lists {len(stamps)} frames up to byte {last_byte}, and it has {container.size} "
            "bytes; fetch it again or drop the row",
        )
    # By an edit list, or by VP8: which frames are shown is not listed.
    if hidden or stream.codec_context.name == "vp8" or len(stamps) < len(entries):
        return None
    if stream.codec_context.has_b_frames and "avi" not in container.format.name.split(","):
        # Listed is when frames are decoded.
        with readable(ref) as file:
            later = composition_offsets(file, len(stamps))
        if later is None:
            return None
        stamps = sorted(stamp + int(offset) for stamp, offset in zip(stamps, later, strict=True))
    end = even_end(stamps, stream)
    return None if end is None else (len(stamps), end)
