"""One expected box: referring expressions and reasoning grounding.

Target: `[x1, y1, x2, y2]` in `meta["target_space"]` (default `abs_original`).

Meta: `target_space`; `coord_space` of the completion's boxes (default: the target's space); `image_size` [w, h] of the
stored image; `input_size` [w, h] for `abs_input`. Both boxes are compared in pixels of the stored image, and clipped
to it where its size is known; a target in `norm_1000`, `norm_999` or `norm_1` needs no size unless the completion's
boxes are in pixels.

Answer: a list or tuple of four numbers; an object with `bbox_2d`, `bbox`, `box`, `Position` or `coordinate`, or a list
of such; JSON or Python quoting, fenced or not, amid prose; "(x1,y1),(x2,y2)", with or without `<|box_start|>` or
`<box>` marks, and names in `<ref>` marks before them. No such box is `unparsable`. A first box that is inverted, empty
or not finite is worth 0.

Guards: of several boxes the first counts and its value is divided by their number, so that listing boxes never pays.
The whole image earns the share of it that the true box covers. `box.giou` is above 0.5 for every box that holds the
true one and pays the whole image half of that share and a half: where objects are small, weigh another beside it.
Corners are never put in order silently, no "+1" is added anywhere, and a box that shares one coordinate with the truth
earns nothing for that.

Source: IoU as in VLM-R1's REC reward, gIoU by Rezatofighi et al. 2019 (Visual-RFT's reasoning grounding), the step
by Vision-R1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.coords import (
    NORMALISED,
    Box,
    CoordError,
    InvalidBoxError,
    check_size,
    clip_box,
    convert,
    to_original,
    validate_box,
)
from vlrft.parse import Parsed, parse_boxes
from vlrft.rewards.base import TargetError, is_number, ordered
from vlrft.types import Score

OVERHANG = 0.01
"""Share of the image's side (but at least 1 pixel) by which an annotated box may pass the edge before it is refused."""


def iou(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Intersection over union of the predicted and the true box.

    Formula: IoU of the first box / n boxes given, in continuous coordinates (no "+1")
    Range: [0, 1]

    Example: score("box.iou", "<answer>[0, 0, 10, 5]</answer>", [0, 0, 10, 10]) -> 0.5
    """
    truth = true_box(target, meta)
    box, count, flags = predicted_box(parsed, meta)
    value = 0.0 if box is None else intersection_over_union(box, truth) / count
    return Score(value=value, flags=flags)


def giou(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, floor: float = 0.0) -> Score:
    """Generalised IoU, which tells a near miss from a far one.

    Formula: max(floor, (gIoU of the first box + 1) / 2) / n boxes given; 0 when no valid box is given
    Range: [0, 1]

    floor: least value of a valid box, however far from the truth.

    Example: score("box.giou", "<answer>[20, 0, 30, 10]</answer>", [0, 0, 10, 10], floor=0.5) -> 0.5
    """
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"box.giou: floor must lie in [0, 1], got {floor!r}")
    truth = true_box(target, meta)
    box, count, flags = predicted_box(parsed, meta)
    value = 0.0 if box is None else max(floor, (generalised_iou(box, truth) + 1.0) / 2.0) / count
    return Score(value=value, flags=flags)


def iou_step(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, lo: float = 0.5, hi: float = 0.75) -> Score:
    """IoU with a floor that pays nothing and a ceiling that pays all.

    Formula: (0 if IoU < lo, 1 if IoU > hi, else IoU) of the first box / n boxes given
    Range: [0, 1]

    lo, hi: the two thresholds; both may rise during a run (0.5 and 0.75 first, 0.75 and 0.9 later).

    Example: score("box.iou_step", "<answer>[0, 0, 10, 8]</answer>", [0, 0, 10, 10]) -> 1.0
    """
    if not 0.0 <= lo <= hi <= 1.0:
        raise ValueError(f"box.iou_step: 0 <= lo <= hi <= 1 must hold, got lo={lo!r}, hi={hi!r}")
    truth = true_box(target, meta)
    box, count, flags = predicted_box(parsed, meta)
    overlap = 0.0 if box is None else intersection_over_union(box, truth)
    value = 0.0 if overlap < lo else 1.0 if overlap > hi else overlap
    return Score(value=value / max(1, count), flags=flags)


def acc(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, t: float) -> Score:
    """Whether the IoU reaches a threshold.

    Formula: 1[IoU of the first box >= t] / n boxes given
    Range: [0, 1]

    t: the threshold, in (0, 1]; usually written behind the name.

    Example: score("box.acc@0.5", "<answer>[0, 0, 10, 5]</answer>", [0, 0, 10, 10]) -> 1.0
    """
    if not 0.0 < t <= 1.0:
        raise ValueError(f"box.acc: the threshold must lie in (0, 1], got {t!r}")
    truth = true_box(target, meta)
    box, count, flags = predicted_box(parsed, meta)
    hit = box is not None and intersection_over_union(box, truth) >= t
    return Score(value=1.0 / count if hit else 0.0, flags=flags)


def true_box(target: Any, meta: Mapping[str, Any]) -> Box:
    """The target in pixels of the stored image, clipped to it where its size is known. Raises TargetError."""
    numbers = isinstance(target, list | tuple) and all(map(is_number, target))
    if not numbers or len(target) != 4:
        raise TargetError(f"a box target is [x1, y1, x2, y2], got {target!r}; correct the row or choose another reward")
    space, image_size = target_space(meta), picture_size(meta)
    try:
        check_answer_space(meta)
        # Validated as written too: converting a huge number may overflow, and the message should show the row's own.
        validate_box(target)
        box = validate_box(to_original(target, space, image_size=image_size, input_size=meta.get("input_size")))
        return box if image_size is None else _inside(box, target, space, check_size(image_size))
    except (CoordError, InvalidBoxError, OverflowError, TypeError) as error:
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


def check_answer_space(meta: Mapping[str, Any]) -> None:
    """Raise CoordError when the completion's space is unknown or lacks a size that its conversion needs."""
    space = meta.get("coord_space") or target_space(meta)
    convert((), space, "abs_original", image_size=picture_size(meta), input_size=meta.get("input_size"))


def picture_size(meta: Mapping[str, Any]) -> Any:
    """`meta["image_size"]`; without it, for a normalised target, the extent of its space on both axes.

    So boxes that are all normalised are compared without a size: as if the image had that many pixels a side.
    """
    size = meta.get("image_size")
    if size is not None:
        return size
    extent = NORMALISED.get(target_space(meta))
    return None if extent is None or meta.get("coord_space") == "abs_original" else (extent, extent)


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
    box, wrong = box_in_pixels(found[0].box, meta)
    return box, len(found), ordered(flags | wrong)


def box_in_pixels(written: Sequence[float], meta: Mapping[str, Any]) -> tuple[Box | None, set[str]]:
    """(the completion's box in pixels of the stored image, clipped to it; None where it is not valid, flags)."""
    image_size, space = picture_size(meta), meta.get("coord_space") or target_space(meta)
    sizes = {"image_size": image_size, "input_size": meta.get("input_size")}
    try:
        validate_box(written)
        box = validate_box(convert(written, space, "abs_original", **sizes))
    except InvalidBoxError as error:
        return None, {error.flag}
    if image_size is None:
        return box, set()
    clipped = clip_box(box, image_size)
    return clipped, {"out_of_range"} if clipped != box else set()


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
