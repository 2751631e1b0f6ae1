"""Wanted times to the frames of a Clip: choice, check, resize. Runs in the decoding processes."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlrft.data.images import MediaError, open_image
from vlrft.data.video.decoders import Decoder
from vlrft.data.video.index import FrameIndex, read_index
from vlrft.data.video.info import VideoInfo, clip_seconds, frames_rate
from vlrft.data.video.source import frame_files, opened
from vlrft.data.video.times import frame_range
from vlrft.types import Clip, MediaRef

if TYPE_CHECKING:
    import numpy as np

_HEADER_MISSES = 1.0
"""Seconds by which the length in a header may exceed that of the packets, where the frame rate varies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRequest:
    """What is wanted of a video."""

    ref: MediaRef
    times: tuple[float, ...]
    """T >= 1 seconds from the start of the clip, not falling."""
    size: tuple[int, int]
    """(width, height) in pixels of the frames to be given."""

    def __post_init__(self) -> None:
        rising = all(earlier <= later for earlier, later in itertools.pairwise(self.times))
        if not self.times or self.times[0] < 0 or not rising or min(self.size) < 1:
            raise ValueError(
                f"{self.ref.name()}: a clip needs times that rise from 0 or later and a positive size, "
                f"got {self.times} and {self.size}"
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the frames: [T, H, W, 3]."""
        return len(self.times), self.size[1], self.size[0], 3


def fill_clip(request: ClipRequest, decoder: Decoder, frames: np.ndarray, *, threads: int) -> Clip:
    """Decode what is wanted into `frames` (uint8 [T, H, W, 3]), which becomes the frames of the Clip.

    At each time the frame on screen is taken (`FrameIndex.at`), whoever decodes; `Clip.timestamps` says when it began,
    not before 0. A decoder must find it within half a frame. `Clip.fps` is that of qwen-vl-utils, with which the models
    were trained: frames shown, over the seconds that the source frames within the clip last. Frames are made smaller or
    larger by Pillow's bicubic filter, which smooths when it shrinks, on 8 bits. Raises MediaError for whatever cannot
    be read.
    """
    ref = request.ref
    files = frame_files(ref)
    index = _index_of_files(ref, len(files)) if files else _index_of_file(ref)
    start = ref.start or 0.0
    if request.times[-1] + start > index.end + _HEADER_MISSES:
        raise MediaError(
            ref.name(), f"ends at {index.end:.2f} s, but a frame at {request.times[-1] + start:.2f} s was expected; "
            "it is truncated or has changed: fetch it again or drop the row",
        )  # fmt: skip
    places = [index.at(start + time) for time in request.times]
    wanted = sorted(set(places))
    found = _open_files(files, wanted, index) if files else decoder(ref, index, wanted, threads=threads)
    stored_size = _fill(ref, index, places, wanted, found, frames)
    timestamps = tuple(max(0.0, index.times[place] - start) for place in places)
    rate = len(index.times) / index.end
    whole = VideoInfo(name=ref.name(), size=stored_size, num_frames=len(index.times), fps=rate, duration=index.end)
    first, last = frame_range(whole, ref.start, ref.end)
    return Clip(
        frames=frames,
        timestamps=timestamps,
        fps=len(places) / (last - first + 1) * rate,
        duration=clip_seconds(ref, index.end),
        stored_size=stored_size,
        digest=clip_digest(frames, timestamps),
    )


def clip_digest(frames: np.ndarray, timestamps: Sequence[float]) -> str:
    """SHA-256, as hexadecimal text, over shape, frames (C order) and timestamps (float64)."""
    import numpy as np

    digest = hashlib.sha256(repr(frames.shape).encode())
    digest.update(np.ascontiguousarray(frames).data)
    digest.update(np.asarray(timestamps, dtype="<f8").data)
    return digest.hexdigest()


def _fill(
    ref: MediaRef,
    index: FrameIndex,
    places: Sequence[int],
    wanted: Sequence[int],
    found: Iterator[tuple[float, np.ndarray]],
    frames: np.ndarray,
) -> tuple[int, int]:
    """Put the found frames into `frames`; returns (width, height) of the stored ones."""
    stored_size: tuple[int, int] | None = None
    row = 0
    for place in wanted:
        moment, picture = next(found, (None, None))
        if moment is None or picture is None or abs(moment - index.times[place]) > index.interval / 2:
            got = "nothing" if moment is None else f"the one at {moment:.3f} s"
            raise MediaError(
                ref.name(),
                f"should have a frame at {index.times[place]:.3f} s, and the decoder gave {got}; convert the video, "
                "or try another data.video.decoder",
            )
        if stored_size is None:
            stored_size = picture.shape[1], picture.shape[0]
        frames[row] = resized(picture, (frames.shape[2], frames.shape[1]))
        row += 1
        while row < len(places) and places[row] == place:
            frames[row] = frames[row - 1]
            row += 1
    assert stored_size is not None, "a request has at least one time"
    return stored_size


def resized(picture: np.ndarray, size: tuple[int, int]) -> Any:
    """uint8 [h, w, 3] at (width, height), by the rule of `fill_clip`."""
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    import numpy as np
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.BICUBIC))


def _index_of_file(ref: MediaRef) -> FrameIndex:
    with opened(ref) as (container, stream):
        return read_index(container, stream, ref.name())


def _index_of_files(ref: MediaRef, number: int) -> FrameIndex:
    fps = frames_rate(ref)
    return FrameIndex(
        times=tuple(i / fps for i in range(number)), end=number / fps, pts=None, keyframes=tuple(range(number))
    )


def _open_files(files: Sequence[str], wanted: Sequence[int], index: FrameIndex) -> Iterator[tuple[float, np.ndarray]]:
    import numpy as np

    first: tuple[int, int] | None = None
    for place in wanted:
        image = open_image(MediaRef(path=files[place]))
        first = first or image.size
        if image.size != first:
            raise MediaError(
                files[place], f"is {image.size[0]}x{image.size[1]}, but {os.path.basename(files[wanted[0]])} is "
                f"{first[0]}x{first[1]}; frames of one video must have one size",
            )  # fmt: skip
        yield index.times[place], np.asarray(image)
