"""Checks of annotated boxes. A box that fails here would have been learned as truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vlrft.coords import CoordError, check_space, clip_box
from vlrft.data.problems import SampleError

UPPER = {"norm_1000": 1000.0, "norm_999": 999.0, "norm_1": 1.0}
"""Largest coordinate of the spaces that do not count in pixels."""

EDGE_SLACK = 0.5
"""Pixels by which an annotated box may pass the image's edge: published files round. The excess is cut off."""


def check_box(raw: Any, *, space: str, image_size: tuple[int, int], where: str) -> list[float]:
    """`raw` as `[x1, y1, x2, y2]` floats, if it is a box of positive area that fits `space`.

    `image_size` is (width, height) in pixels of the stored image, after EXIF rotation. The upper edge of `abs_input`
    boxes cannot be known before the model's processor resizes, so only their sign and order are checked.
    Raises SampleError that names `where` and the next step.
    """
    try:
        check_space(space)
    except CoordError as error:
        raise SampleError(where, str(error)) from error
    box = _four_numbers(raw, where)
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        raise SampleError(
            where,
            f"box {box} has its corners the wrong way round; boxes are [x1, y1, x2, y2], not [x, y, width, height]",
        )
    _check_range(box, space, image_size, where)
    if space == "abs_original":
        box = list(clip_box((x1, y1, x2, y2), image_size))
    if box[2] == box[0] or box[3] == box[1]:
        raise SampleError(where, f"box {raw} has no area; correct the row or drop it")
    return box


def is_finite(value: Any) -> bool:
    """Whether `value` is a number, no bool, and finite as a float: JSON has integers that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _four_numbers(raw: Any, where: str) -> list[float]:
    numbers = isinstance(raw, list | tuple) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in raw)
    if not numbers or len(raw) != 4:
        raise SampleError(where, f"box {raw!r:.200} is not four numbers; write it as [x1, y1, x2, y2]")
    if not all(map(is_finite, raw)):
        raise SampleError(
            where, f"box {raw!r:.200} holds NaN, infinity or a number too large; correct the row or drop it"
        )
    return [float(x) for x in raw]


def _check_range(box: list[float], space: str, image_size: tuple[int, int], where: str) -> None:
    width, height = image_size
    slack = 1e-6
    if space == "abs_original":
        limits, slack = (float(width), float(height)), EDGE_SLACK
    elif space == "abs_input":
        limits = (math.inf, math.inf)
    else:
        limits = (UPPER[space], UPPER[space])
    if min(box) < -slack or box[2] > limits[0] + slack or box[3] > limits[1] + slack:
        bound = f"the {width}x{height} image" if space.startswith("abs") else f"0..{limits[0]:g}"
        raise SampleError(
            where, f"box {box} lies outside {bound} for space {space!r}; {_likely_space(box, image_size, space)}"
        )
    if space != "norm_1" and max(box) <= 1.0 and min(width, height) > 1:
        raise SampleError(
            where,
            f"box {box} covers no more than one unit of space {space!r}; if these are fractions say space 'norm_1'",
        )


def _likely_space(box: list[float], image_size: tuple[int, int], stated: str) -> str:
    """Advice: the spaces whose limits the box would keep."""
    fits = [name for name in fitting_spaces([box], image_size) if name != stated]
    if fits:
        return f"it would fit {' or '.join(fits)}: correct the space that the row states, or the row"
    return "correct the row, or check that it belongs to this image and not to a resized copy"


def fitting_spaces(boxes: Sequence[Sequence[float]], image_size: tuple[int, int]) -> list[str]:
    """The spaces whose limits all `boxes` keep, the stored image's pixels first."""
    width, height = image_size
    if any(min(box) < 0 for box in boxes):
        return []
    fits = ["abs_original"] if all(box[2] <= width and box[3] <= height for box in boxes) else []
    return fits + [name for name, top in UPPER.items() if all(max(box) <= top for box in boxes)]
