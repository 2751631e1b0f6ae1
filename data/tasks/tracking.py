"""Tracking: one object's box in every frame that is asked for.

Target: a list of boxes `[x1, y1, x2, y2]` in `target_space`, null where the object is absent. `meta.given_frames` says
which of them the prompt gives away: how many from the first on, or a list of frame numbers from 0. `meta.timestamps`
are the seconds of the frames; without them they are evenly spread over the clip. Just these frames are shown, one for
each box, whatever `data.video` says.
"""

from __future__ import annotations

import itertools
from typing import Any

from vlrft.data.boxes import is_finite
from vlrft.data.problems import SampleError
from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.media_fields import ONE_VIDEO
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.data.tasks.targets import check_boxes
from vlrft.data.video import VideoInfo, even_times
from vlrft.data.video.times import frame_range
from vlrft.types import MediaRef, Sample


class Tracking(RowTask):
    """The task `tracking`."""

    name = "tracking"
    rewards = ("track.mean_iou", FORMAT)
    metric = "track.mean_iou"
    media = ONE_VIDEO
    thought = "I follow the object from frame to frame and read off its edges each time."

    def read_target(self, fields: Fields) -> Any:
        track = fields.answer(decode=True)
        if not isinstance(track, list | tuple) or not track:
            raise fields.error(
                f"`answer` is {track!r:.200}; list one box [x1, y1, x2, y2] per frame, null where absent"
            )
        present = [i for i, box in enumerate(track) if box is not None]
        boxes = check_boxes([track[i] for i in present], space=fields.space, image_size=fields.size, where=fields.where)
        if not boxes:
            raise fields.error("the object is absent from every frame; drop the row")
        checked: list[list[float] | None] = [None] * len(track)
        for i, box in zip(present, boxes, strict=True):
            checked[i] = box
        ref = fields.media.refs[0]
        if ref.frames and len(ref.frames) < len(checked):
            raise fields.error(_too_few(ref, len(ref.frames), len(checked)))
        _check_given(fields, checked)
        _check_timestamps(fields, len(checked))
        return checked

    def shown_times(self, sample: Sample, info: VideoInfo) -> tuple[float, ...]:
        """The frames that boxes are asked for. Raises SampleError where the clip has fewer."""
        ref, boxes = sample.media[0], len(sample.target)
        first, last = frame_range(info, ref.start, ref.end)
        times = even_times(info, boxes, ref.start, ref.end)
        if times is None:
            raise SampleError(f"sample {sample.id!r}", _too_few(ref, last - first + 1, boxes))
        stated = sample.meta.get("timestamps")
        return times if stated is None else tuple(float(second) for second in stated)

    def variables(self, sample: Sample, canvas: Canvas) -> dict[str, Any]:
        first = sample.meta.get("first_frame") or 0
        given = [(i + first, sample.target[i]) for i in _given(sample.meta.get("given_frames") or 0)]
        return {
            "frames": len(sample.target),
            "times": [f"{t:.2f}" for t in sample.meta.get("timestamps") or ()],
            "given": [(i, canvas.box(sample, box)) for i, box in given if box is not None],
        }

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        boxes = ("null" if box is None else canvas.box(sample, box) for box in sample.target)
        return f"[{', '.join(boxes)}]"


def _too_few(ref: MediaRef, frames: int, boxes: int) -> str:
    return f"`answer` has {boxes} boxes, but {ref.name()} has {frames} frames; give one box per frame at most"


def _given(frames: Any) -> list[int]:
    return list(range(frames)) if isinstance(frames, int) else list(frames)


def _check_given(fields: Fields, track: list[list[float] | None]) -> None:
    given = fields.meta.get("given_frames")
    if given is None:
        return
    listed = isinstance(given, list | tuple) and all(_is_whole(i) for i in given)
    if not listed and not _is_whole(given):
        raise fields.error(f"meta.given_frames is {given!r:.200}; write how many frames, or list their numbers from 0")
    if _is_whole(given) and not 0 <= given < len(track):
        raise fields.error(
            f"meta.given_frames is {given!r:.200}, and `answer` has {len(track)} frames; leave at least one to be found"
        )
    frames = _given(given)
    if len(set(frames)) >= len(track) or any(not 0 <= i < len(track) for i in frames):
        raise fields.error(
            f"meta.given_frames is {given!r:.200}, and `answer` has {len(track)} frames; leave at least one to be found"
        )


def _check_timestamps(fields: Fields, frames: int) -> None:
    times = fields.meta.get("timestamps")
    if times is None:
        return
    listed = isinstance(times, list | tuple) and len(times) == frames
    if not listed or not all(map(is_finite, times)):
        raise fields.error(
            f"meta.timestamps is {times!r:.200}; write one number of seconds for each of {frames} frames"
        )
    if not all(a < b for a, b in itertools.pairwise(times)) or times[0] < 0:
        raise fields.error("meta.timestamps have to rise from 0 or more; sort them with the boxes")
    if times[-1] > fields.meta["duration"]:
        raise fields.error(
            f"meta.timestamps end at {times[-1]:g} s, and the video lasts {fields.meta['duration']:g} s; are they "
            "seconds?"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
