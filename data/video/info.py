"""What a video is, from its headers where they can be believed and from its packets where not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlrft.data.images import MediaError, image_size
from vlrft.data.video.index import read_index
from vlrft.data.video.rotation import rotation
from vlrft.data.video.source import frame_files, opened
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


def probe(ref: MediaRef) -> VideoInfo:
    """Size, length and rate of a video: a file, encoded bytes, a folder or a list of frames. Decodes at most one frame.

    MP4, MOV and AVI list all their frames in a header; for other files, and for headers without that list, the packets
    are counted, which reads the whole file. Frames without `fps` are taken at FRAMES_FPS.

    Raises MediaError for what is missing, no video, or shorter than its header says; DataError without PyAV.
    """
    if files := frame_files(ref):
        return _probe_frames(ref, files)
    with opened(ref) as (container, stream):
        counted = _listed_frames(container, stream, ref.name())
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


def _probe_frames(ref: MediaRef, files: tuple[str, ...]) -> VideoInfo:
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


def frames_rate(ref: MediaRef) -> float:
    """Frames per second of a video that is published as images."""
    fps = ref.fps if ref.fps is not None else FRAMES_FPS
    if not 0 < fps < math.inf:
        raise MediaError(ref.name(), f"has {fps} frames per second; correct the row's `fps`")
    return fps


def _listed_frames(container: InputContainer, stream: VideoStream, name: str) -> tuple[int, float] | None:
    """(number of frames, seconds) by the file's own table of frames; None where it has none that is complete."""
    entries = stream.index_entries
    if stream.frames < 2 or len(entries) < stream.frames or stream.time_base is None:
        return None
    last_byte, stamps = 0, []
    for entry in entries:
        if entry.is_discard:
            # An edit list: which frames are shown depends on presentation times, which are not listed.
            return None
        last_byte = max(last_byte, entry.pos + entry.size)
        if entry.size > 0:
            stamps.append(entry.timestamp)
    if last_byte > container.size > 0:
        raise MediaError(
            name,
            f"is truncated: its header lists {len(stamps)} frames up to byte {last_byte}, and it has {container.size} "
            "bytes; fetch it again or drop the row",
        )
    span = stamps[-1] - stamps[0] if stamps else 0
    if len(stamps) < 2 or span <= 0:
        return None
    return len(stamps), span * len(stamps) / (len(stamps) - 1) * float(stream.time_base)
