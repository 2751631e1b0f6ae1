"""Where is the object in every frame: tracking one object through a video.

Target: a list with one box `[x1, y1, x2, y2]` per frame, `null` where the object is absent, in `meta["target_space"]`
(default `abs_original`).

Meta: `target_space`, `coord_space`, `image_size`, `input_size` as for box.iou; `given_frames`: what the prompt gave
away, either how many frames from the first on or a list of frame numbers from 0, neither paid nor counted;
`timestamps`: seconds of each frame, ascending; `first_frame`: the number of the first frame in answers (default 0).

Answer: a list of boxes in the frames' order, with null for absence; or objects with a box and `frame` or `timestamp`;
or `{"frame 0": box, ...}`; JSON or Python syntax, fenced or not, amid prose. A timestamp means the nearest frame, at
most half the least distance between frames away; without `timestamps` in meta such objects are taken in order. An
answer without any entry is `unparsable`. An entry that is no box, or one that is inverted, empty or not finite, is
worth 0 and flagged.

Guards: the sum is divided by the longer of answer and truth, so that neither one good frame nor a long list pays; a
second box for the same frame, or one for no frame, only adds to the length. A frame left out is worth 0 even where the
object is absent: only an explicit null says that.

Source: VideoChat-R1's tracking reward, without its fixed number of eight frames.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeGuard

from vlrft.coords import Box, CoordError, InvalidBoxError, check_size, clip_box, convert, validate_box
from vlrft.parse import Parsed
from vlrft.parse.tracks import ParsedFrame, read_track
from vlrft.rewards.base import TargetError, ordered
from vlrft.rewards.box import intersection_over_union, picture_size, target_space, true_box
from vlrft.types import Score

_NO_BOX = (math.nan,) * 4


def mean_iou(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Overlap of the predicted and the true box, averaged over the frames.

    Formula: sum of IoU over the frames / max(n entries given, m true frames); null against null is 1, against a box 0
    Range: [0, 1]

    Example: score("track.mean_iou", "<answer>[[0, 0, 4, 4], null]</answer>", [[0, 0, 4, 2], None]) -> 0.75
    """
    truths = _true_track(target, meta)
    given = _given_frames(meta, len(truths))
    times, first = _timestamps(meta, len(truths)), _first_frame(meta)
    flags = set(parsed.flags)
    found = read_track(parsed.answer) if parsed.answer is not None else []
    if not found:
        flags |= {"unparsable"} if parsed.answer is not None else set()
        return Score(value=0.0, flags=ordered(flags))
    space = meta.get("coord_space") or target_space(meta)
    pixels = _in_pixels([entry.box or _NO_BOX for entry in found], space, meta)
    entries = 0
    total = 0.0
    seen: set[int] = set(given)
    for order, entry in enumerate(found):
        frame = _place(entry, order, times, first)
        if frame in given:
            continue
        entries += 1
        if frame is None or frame in seen or frame >= len(truths):
            continue
        seen.add(frame)
        truth = truths[frame]
        if entry.box is None:
            total += 1.0 if truth is None else 0.0
            continue
        box, wrong = _checked(entry.box, pixels[order], picture_size(meta))
        flags |= wrong
        if box is not None and truth is not None:
            total += intersection_over_union(box, truth)
    return Score(value=min(1.0, total / max(entries, len(truths) - len(given))), flags=ordered(flags))


def _place(entry: ParsedFrame, order: int, times: Sequence[float], first: int) -> int | None:
    """Index of the frame that an entry speaks of, perhaps past the last one; None where there is no such frame."""
    if entry.frame is not None:
        index = entry.frame - first
        return int(index) if math.isfinite(index) and index >= 0.0 and index.is_integer() else None
    if entry.time is None or not times:
        return order
    if not math.isfinite(entry.time):
        return None
    right = bisect.bisect_left(times, entry.time)
    off, nearest = min((abs(times[i] - entry.time), i) for i in range(max(0, right - 1), min(len(times), right + 1)))
    reach = min((b - a for a, b in itertools.pairwise(times)), default=1.0) / 2.0
    return nearest if off <= reach else None


def _checked(written: Sequence[float], box: Box, image_size: Sequence[float] | None) -> tuple[Box | None, set[str]]:
    """(`box`, which is `written` in pixels of the stored image, cut to it, or None where it is no box; flags)."""
    if _lies_inside(box, image_size) and len(written) == 4:
        return box, set()
    try:
        validate_box(written)
        box = validate_box(box)
    except InvalidBoxError as error:
        return None, {error.flag}
    clipped = box if image_size is None else clip_box(box, image_size)
    return clipped, {"out_of_range"} if clipped != box else set()


def _lies_inside(box: Box, image_size: Sequence[float] | None) -> bool:
    """Whether `box` is sound and on the image, so that nothing is left to check or to cut: the usual, fast case."""
    width, height = image_size or (math.inf, math.inf)
    least = -math.inf if image_size is None else 0.0
    inside = least <= box[0] < box[2] <= width and least <= box[1] < box[3] <= height
    return inside and (image_size is not None or all(map(math.isfinite, box)))


def _in_pixels(boxes: Sequence[Sequence[float]], space: str, meta: Mapping[str, Any]) -> list[Box]:
    """`boxes` in pixels of the stored image, all converted at once, since a track has many."""
    sizes = {"image_size": picture_size(meta), "input_size": meta.get("input_size")}
    flat = convert([c for box in boxes for c in box], space, "abs_original", **sizes)
    return list(zip(flat[0::4], flat[1::4], flat[2::4], flat[3::4], strict=True))


def _true_track(target: Any, meta: Mapping[str, Any]) -> list[Box | None]:
    """The target's boxes in pixels of the stored image. Raises TargetError."""
    if not isinstance(target, list | tuple) or not target:
        raise TargetError(f"a track target is a list of boxes, null where absent, got {target!r}; correct the row")
    try:
        _in_pixels([], meta.get("coord_space") or target_space(meta), meta)
    except (CoordError, TypeError) as error:
        raise TargetError(f"track target: the completion's coordinates cannot be converted: {error}") from error
    usual = _usual_boxes([box for box in target if box is not None], meta)
    if usual is not None:
        boxes = iter(usual)
        return [None if box is None else next(boxes) for box in target]
    odd: list[Box | None] = []
    for frame, box in enumerate(target):
        try:
            odd.append(None if box is None else true_box(box, meta))
        except TargetError as error:
            raise TargetError(f"frame {frame} of the track target: {error}") from error
    return odd


def _usual_boxes(boxes: Sequence[Any], meta: Mapping[str, Any]) -> list[Box] | None:
    """What `true_box` would make of each, in a tenth of the time; None where one is wrong or needs to be cut."""
    for box in boxes:
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(type(c) in (int, float) for c in box):
            return None
    try:
        pixels = _in_pixels(boxes, target_space(meta), meta)
        image_size = None if picture_size(meta) is None else check_size(picture_size(meta))
    except (CoordError, OverflowError, TypeError):
        return None  # true_box says what is wrong
    return pixels if all(_lies_inside(box, image_size) for box in pixels) else None


def _given_frames(meta: Mapping[str, Any], frames: int) -> Set[int]:
    """Indices of the frames that the prompt gave away."""
    given = meta.get("given_frames") or 0
    indices: Any = range(given) if _is_whole(given) and given >= 0 else given
    usable = isinstance(indices, range | list | tuple) and all(_is_whole(i) and 0 <= i < frames for i in indices)
    if not usable or len(set(indices)) >= frames:
        raise TargetError(
            "meta['given_frames'] must be a number of frames or a list of frame numbers from 0, fewer than the "
            f"{frames} frames of the target, got {given!r}"
        )
    return frozenset(indices)


def _timestamps(meta: Mapping[str, Any], frames: int) -> Sequence[float]:
    times = meta.get("timestamps")
    if times is None:
        return ()
    numbers = isinstance(times, list | tuple) and all(_is_whole(t) or isinstance(t, float) for t in times)
    if not numbers or len(times) != frames or not all(a < b for a, b in itertools.pairwise([-1e300, *times, 1e300])):
        raise TargetError(
            f"meta['timestamps'] must be one ascending number of seconds for each of the {frames} frames, got {times!r}"
        )
    return [float(t) for t in times]


def _first_frame(meta: Mapping[str, Any]) -> int:
    first = meta.get("first_frame") or 0
    if not _is_whole(first):
        raise TargetError(f"meta['first_frame'] is the number of the first frame, a whole number, got {first!r}")
    return int(first)


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
