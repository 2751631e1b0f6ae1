"""Frames by PyAV: forward where the wanted frames are dense, by seeking to keyframes where they are sparse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlrft.data.images import MediaError
from vlrft.data.video.index import FrameIndex
from vlrft.data.video.source import opened
from vlrft.types import MediaRef

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SEEK_SAVES = 16
"""Frames that a seek must save: it empties the decoder, whose threads then start anew."""


def decode(
    ref: MediaRef, index: FrameIndex, wanted: Sequence[int], *, threads: int
) -> Iterator[tuple[float, np.ndarray]]:
    """See `Decoder`. Frames are matched by their presentation time; where the file has none they are counted."""
    with opened(ref) as (container, stream):
        stream.thread_type = "AUTO" if threads > 1 else "NONE"
        stream.thread_count = threads
        frames = _Frames(container, stream, index)
        for position in wanted:
            frame = frames.forward_to(position)
            if frame is None:
                raise MediaError(
                    ref.name(), f"lacks the frame at {index.times[position]:.2f} s; fetch it again or drop the row"
                )
            picture = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
            yield index.times[position], np.rot90(picture, round(frame.rotation / 90) % 4)


class _Frames:
    """A decoder that is moved from frame to frame, forward."""

    def __init__(self, container: InputContainer, stream: VideoStream, index: FrameIndex) -> None:
        self.container, self.stream, self.index = container, stream, index
        self._position = -1
        """Place in the index of the frame that was decoded last."""
        self._coming = container.decode(stream)
        self._seeks = index.pts is not None

    def forward_to(self, position: int) -> VideoFrame | None:
        """The frame at `position`, which is ahead of the present one; None when the video does not give it."""
        if self._seeks and (keyframe := self.index.keyframe_before(position)) - self._position > SEEK_SAVES:
            self._seek(keyframe)
        frame = self._step_to(position)
        if frame is None and self._seeks:
            # Not every frame that a file calls a keyframe is one: from here on it is decoded from the start.
            self._seeks = False
            self._seek(0)
            frame = self._step_to(position)
        return frame

    def _seek(self, keyframe: int) -> None:
        assert self.index.pts is not None, "a file without presentation times is read in order"
        self.container.seek(self.index.pts[keyframe], stream=self.stream)
        self._coming = self.container.decode(self.stream)
        self._position = keyframe - 1

    def _step_to(self, position: int) -> VideoFrame | None:
        pts = self.index.pts
        for frame in self._coming:
            if pts is None:
                self._position += 1
                if self._position == position:
                    return frame
            elif frame.pts is None or frame.pts > pts[position]:
                return None
            elif frame.pts == pts[position]:
                self._position = position
                return frame
        return None
