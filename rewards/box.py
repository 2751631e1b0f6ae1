"""One expected box: referring expressions and reasoning grounding.

Target: `[x1, y1, x2, y2]` in `meta["target_space"]` (default `abs_original`). The completion's boxes are in
`meta["coord_space"]` (default: the target's space). Both are compared in pixels of the stored image, clipped to it
where `meta["image_size"]` is known. Of several boxes the first counts and its value is divided by their number, so
that listing boxes never pays. No box, or a first box that is inverted, empty or not finite, is worth 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vlrft.coords import (
    Box,
    CoordError,
    InvalidBoxError,
    check_size,
    check_space,
    clip_box,
    convert,
    to_original,
    validate_box,
)
from vlrft.parse import Parsed, parse_boxes
from vlrft.rewards.base import TargetError, ordered
from vlrft.types import Score

OVERHANG = 0.01
"""Share of the image's side (but at least 1 pixel) by which an annotated box may pass the edge before it is refused."""


def iou(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Intersection over union of the predicted and the true box, in [0, 1].

    Continuous coordinates (no "+1"). n boxes given: IoU of the first, divided by n.
    """
    truth = true_box(target, meta)
    box, count, flags = predicted_box(parsed, meta)
    value = 0.0 if box is None else intersection_over_union(box, truth) / count
    return Score(value=value, flags=flags)


def giou(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, floor: float = 0.0) -> Score:
    """Generalised IoU mapped to [0, 1] by (gIoU + 1) / 2; 0 when no valid box is given.

    floor: least value of a valid box, however far from the truth. n boxes given: the first one's value, divided by n.
    """
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"box.giou: floor must lie in [0, 1], got {floor!r}")
    truth = true_box(target, meta)
    box, count, flags = predicted_box(parsed, meta)
    value = 0.0 if box is None else max(floor, (generalised_iou(box, truth) + 1.0) / 2.0) / count
    return Score(value=value, flags=flags)


def acc(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, t: float) -> Score:
    """1 when the IoU of the first box reaches t, else 0; divided by the number of boxes given. Write box.acc@0.5."""
    if not 0.0 < t <= 1.0:
        raise ValueError(f"box.acc: the threshold must lie in (0, 1], got {t!r}")
    truth = true_box(target, meta)
    box, count, flags = predicted_box(parsed, meta)
    hit = box is not None and intersection_over_union(box, truth) >= t
    return Score(value=1.0 / count if hit else 0.0, flags=flags)


def true_box(target: Any, meta: Mapping[str, Any]) -> Box:
    """The target in pixels of the stored image, clipped to it where its size is known. Raises TargetError."""
    numbers = isinstance(target, list | tuple) and all(
        isinstance(c, int | float) and not isinstance(c, bool) for c in target
    )
    if not numbers or len(target) != 4:
        raise TargetError(f"a box target is [x1, y1, x2, y2], got {target!r}; correct the row or choose another reward")
    space, image_size = target_space(meta), meta.get("image_size")
    try:
        check_space(meta.get("coord_space") or space)
        # Validated as written too: converting a huge number may overflow, and the message should show the row's own.
        validate_box(target)
        box = validate_box(to_original(target, space, image_size=image_size, input_size=meta.get("input_size")))
        return box if image_size is None else _inside(box, target, space, check_size(image_size))
    except (CoordError, InvalidBoxError, OverflowError) as error:
        raise TargetError(f"box target {target!r} in space {space!r}: {error}") from error


def _inside(box: Box, target: Any, space: str, image_size: tuple[float, float]) -> Box:
    width, height = image_size
    slack = max(1.0, OVERHANG * width), max(1.0, OVERHANG * height)
    over = max(-box[0], box[2] - width) > slack[0] or max(-box[1], box[3] - height) > slack[1]
    if over:
        raise TargetError(
            f"box target {target!r} in space {space!r} reaches outside the {width:g}x{height:g} image; "
            "check target_space and that the box belongs to this image"
        )
    return validate_box(clip_box(box, image_size))


def target_space(meta: Mapping[str, Any]) -> str:
    """Space of the target: `meta["target_space"]`, `abs_original` where it says nothing."""
    return str(meta.get("target_space") or "abs_original")


def predicted_box(parsed: Parsed, meta: Mapping[str, Any]) -> tuple[Box | None, int, tuple[str, ...]]:
    """(first box in pixels of the stored image or None, how many boxes the answer gives, flags).

    The box is validated before it is clipped: one that lies wholly outside the image is valid and has IoU 0.
    """
    flags = set(parsed.flags)
    found = parse_boxes(parsed.answer) if parsed.answer is not None else []
    if not found:
        flags |= {"unparsable"} if parsed.answer is not None else set()
        return None, 0, ordered(flags)
    if len(found) > 1:
        flags.add("several_answers")
    image_size, space = meta.get("image_size"), meta.get("coord_space") or target_space(meta)
    sizes = {"image_size": image_size, "input_size": meta.get("input_size")}
    try:
        validate_box(found[0].box)
        box = validate_box(convert(found[0].box, space, "abs_original", **sizes))
    except InvalidBoxError as error:
        return None, len(found), ordered(flags | {error.flag})
    if image_size is not None:
        clipped = clip_box(box, image_size)
        flags |= {"out_of_range"} if clipped != box else set()
        box = clipped
    return box, len(found), ordered(flags)


def intersection_over_union(a: Box, b: Box) -> float:
    """IoU of two boxes in one space, in [0, 1]; 0 where the union has no area that a float can hold."""
    shared, union = _areas(a, b)
    return min(1.0, shared / union) if union > 0.0 else 0.0


def generalised_iou(a: Box, b: Box) -> float:
    """gIoU = IoU - (hull - union) / hull, in [-1, 1] (Rezatofighi et al. 2019); hull = smallest box around both."""
    shared, union = _areas(a, b)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    if not (union > 0.0 and math.isfinite(hull)):
        return -1.0
    return min(1.0, shared / union) - max(0.0, hull - union) / hull


def _areas(a: Box, b: Box) -> tuple[float, float]:
    """Areas of the intersection and of the union."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height if width > 0.0 and height > 0.0 else 0.0
    return shared, (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
