"""Where on the screen: a point that an interface element is clicked at.

Target: the element's box `[x1, y1, x2, y2]` (`gui.point_in_box`, `gui.point_soft`) or a point `[x, y]`
(`gui.point_dist`), in `meta["target_space"]` (default `abs_original`).

Meta: `target_space`; `coord_space` of the completion's points (default: the target's space); `image_size` [w, h] of the
stored screenshot; `input_size` [w, h] for `abs_input`. `gui.point_dist` compares fractions of the screen, so it needs
the size of any space in pixels.

Answer: "[x, y]", "(x, y)", objects with `point`, `coordinate`, `position` and the like or with `x` and `y`, lists of
those, JSON or Python quoting, fenced or not, amid prose; "x=12, y=30"; `<point>` marks; nothing but two numbers. Four
numbers, or two points under `bbox` or in `<|box_start|>` marks, are a box, and its centre counts. None of these is
`unparsable`; a box that is inverted or empty is `invalid_box`; NaN and infinity are `non_finite`; all are worth 0.

Guards: of several points the first counts and its value is divided by their number, so that a grid of clicks never
pays. A point in the wrong space is compared as it is, never rescaled until it fits. Decimals are not cut off.

Source: GUI-R1 and UI-R1 (point in box), GUI-R1's evaluation (distance to a point). The soft form follows the idea of
GuirlVG, whose own formula is unverified.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vlrft.coords import Box, CoordError, InvalidBoxError, convert, validate_box
from vlrft.parse import Parsed
from vlrft.parse.points import ParsedPoint, read_points
from vlrft.rewards.base import TargetError, is_number, ordered
from vlrft.rewards.box import picture_size, target_space, true_box
from vlrft.types import Score

Point = tuple[float, float]
"""x, y."""

NEAR = 0.14
"""Share of the screen's width and height within which a point counts as the true one (GUI-R1's evaluation)."""
_ROUNDING = 1e-9
"""Relative slack at borders: converting between spaces must not push a point on the border outside."""


def point_in_box(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Whether the point lies in the element's box, borders included.

    Formula: 1[first point in the box] / n points given
    Range: [0, 1]

    Example: score("gui.point_in_box", "<answer>[50, 20]</answer>", [40, 10, 60, 20]) -> 1.0
    """
    box = true_box(target, meta)
    point, count, flags = predicted_point(parsed, meta)
    return Score(value=1.0 / count if point is not None and inside(point, box) else 0.0, flags=flags)


def point_soft(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, s: float = 1.0) -> Score:
    """Whether the point lies in the element's box, with credit that fades with the distance from it.

    Formula: (1 inside, else exp(-d^2 / (2 s^2))) / n points; d = distance from the box's centre / half its diagonal
    Range: [0, 1]

    s: how far the credit reaches, in half diagonals.

    Example: score("gui.point_soft", "<answer>[50, 20]</answer>", [40, 10, 60, 20]) -> 1.0
    """
    if not 0.0 < s < math.inf:
        raise ValueError(f"gui.point_soft: s must be finite and above 0, got {s!r}")
    box = true_box(target, meta)
    point, count, flags = predicted_point(parsed, meta)
    if point is None:
        return Score(value=0.0, flags=flags)
    if inside(point, box):
        return Score(value=1.0 / count, flags=flags)
    off = math.hypot(point[0] - (box[0] + box[2]) / 2.0, point[1] - (box[1] + box[3]) / 2.0)
    d = off / (math.hypot(box[2] - box[0], box[3] - box[1]) / 2.0) / s
    # Beyond 40 the exponential is 0 in floats, and the square of a huge number would overflow.
    return Score(value=math.exp(-d * d / 2.0) / count if d < 40.0 else 0.0, flags=flags)


def point_dist(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, threshold: float = NEAR) -> Score:
    """Whether the point lies near the true point.

    Formula: 1[|dx| <= threshold * width and |dy| <= threshold * height] / n points given
    Range: [0, 1]

    threshold: share of the screen's width and height, in (0, 1].

    Example: score("gui.point_dist", "<answer>[60, 50]</answer>", [50, 50], {"image_size": [100, 100]}) -> 1.0
    """
    check_threshold("gui.point_dist", threshold)
    truth = true_point(target, meta)
    point, count, flags = predicted_point(parsed, meta, "norm_1")
    return Score(value=1.0 / count if point is not None and near(point, truth, threshold) else 0.0, flags=flags)


def check_threshold(name: str, threshold: float) -> None:
    """Raise ValueError unless `threshold` is a share of the screen."""
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"{name}: threshold must lie in (0, 1], a share of the screen's sides, got {threshold!r}")


def inside(point: Point, box: Box) -> bool:
    """Whether `point` lies in `box`, borders included; both in one space."""
    slack = _ROUNDING * max(map(abs, box))
    return box[0] - slack <= point[0] <= box[2] + slack and box[1] - slack <= point[1] <= box[3] + slack


def near(point: Point, truth: Point, threshold: float) -> bool:
    """Whether two points, in fractions of the screen, differ by at most `threshold` on either axis."""
    return all(abs(a - b) <= threshold + _ROUNDING for a, b in zip(point, truth, strict=True))


def true_point(target: Any, meta: Mapping[str, Any]) -> Point:
    """The target in fractions of the screen. Raises TargetError."""
    numbers = isinstance(target, list | tuple) and all(map(is_number, target))
    if not numbers or len(target) != 2:
        raise TargetError(f"a point target is [x, y], got {target!r}; correct the row or choose another reward")
    space = target_space(meta)
    try:
        x, y = _convert(target, space, "norm_1", meta)
        _convert((), answer_space(meta), "norm_1", meta)
    except (CoordError, OverflowError, TypeError) as error:
        raise TargetError(f"point target {target!r} in space {space!r}: {error}") from error
    if not (-_ROUNDING <= x <= 1.0 + _ROUNDING and -_ROUNDING <= y <= 1.0 + _ROUNDING):
        raise TargetError(
            f"point target {target!r} in space {space!r} is not on the screen; check target_space and that the point "
            "belongs to this image"
        )
    return x, y


def answer_space(meta: Mapping[str, Any]) -> str:
    """Space of the completion's points: `meta["coord_space"]`, the target's where it says nothing."""
    return str(meta.get("coord_space") or target_space(meta))


def predicted_point(
    parsed: Parsed, meta: Mapping[str, Any], space: str = "abs_original"
) -> tuple[Point | None, int, tuple[str, ...]]:
    """(first point in `space` or None, how many points the answer gives, flags)."""
    flags = set(parsed.flags)
    found = read_points(parsed.answer) if parsed.answer is not None else []
    if not found:
        flags |= {"unparsable"} if parsed.answer is not None else set()
        return None, 0, ordered(flags)
    if len(found) > 1:
        flags.add("several_answers")
    point, wrong = located(found[0], meta, space)
    return point, len(found), ordered(flags | wrong)


def located(found: ParsedPoint, meta: Mapping[str, Any], space: str = "abs_original") -> tuple[Point | None, set[str]]:
    """(a point as the completion has it, or the centre of its box, in `space`; None where it is no point, flags)."""
    try:
        coords = validate_box(found) if len(found) == 4 else found
    except InvalidBoxError as error:
        return None, {error.flag}
    coords = _convert(coords, answer_space(meta), space, meta)
    if len(coords) == 4:
        coords = (coords[0] / 2.0 + coords[2] / 2.0, coords[1] / 2.0 + coords[3] / 2.0)
    x, y = coords
    if not (math.isfinite(x) and math.isfinite(y)):
        return None, {"non_finite"}
    size = (1.0, 1.0) if space == "norm_1" else picture_size(meta)
    out = size is not None and not (0.0 <= x <= size[0] and 0.0 <= y <= size[1])
    return (x, y), {"out_of_range"} if out else set()


def _convert(coords: Any, src: str, dst: str, meta: Mapping[str, Any]) -> tuple[float, ...]:
    return convert(coords, src, dst, image_size=picture_size(meta), input_size=meta.get("input_size"))
