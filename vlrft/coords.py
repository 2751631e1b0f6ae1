"""Coordinate spaces and the only conversions between them.

A coordinate is read as a fraction of the image: x / extent, where the extent is the image's width in that space. So
every conversion is x * extent(dst) / extent(src), per axis, in floats, without rounding and without clipping.

| space          | extent of an axis                          | who writes it                    |
| -------------- | ------------------------------------------ | -------------------------------- |
| `abs_original` | width, height of the stored image          | most data sets                   |
| `abs_input`    | width, height after the processor's resize | Qwen2.5-VL                       |
| `norm_1000`    | 1000                                       | Qwen2-VL, Qwen3-VL, InternVL     |
| `norm_999`     | 999                                        | GLM-4.1V                         |
| `norm_1`       | 1                                          | GUI data sets                    |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from vlrft.registry import nearest

CoordSpace = Literal["abs_original", "abs_input", "norm_1000", "norm_999", "norm_1"]
SPACES: tuple[str, ...] = get_args(CoordSpace)
"""The only names of coordinate spaces."""

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2: left, top, right, bottom."""
Size = Sequence[float]
"""Width, height in pixels."""

NORMALISED = {"norm_1000": 1000.0, "norm_999": 999.0, "norm_1": 1.0}
"""Extent of both axes in the spaces that do not depend on an image."""


class CoordError(ValueError):
    """A conversion that cannot be done: unknown space, missing or impossible size, odd number of coordinates."""


class InvalidBoxError(ValueError):
    """Four numbers that are not a box. `flag` is the name that a Score carries for it."""

    def __init__(self, message: str, flag: str) -> None:
        super().__init__(message)
        self.flag = flag


def check_space(space: str) -> str:
    """`space` itself when it is one of SPACES; raises CoordError that lists the five otherwise."""
    if space not in SPACES:
        hint = nearest(space, list(SPACES)) if isinstance(space, str) else ""
        raise CoordError(f"unknown coordinate space {space!r}{hint}; use one of {', '.join(SPACES)}")
    return space


def to_original(
    coords: Sequence[float], space: str, *, image_size: Size | None = None, input_size: Size | None = None
) -> tuple[float, ...]:
    """A point, a box or a polygon (x, y, x, y, ...) of `space` in pixels of the stored image, not clipped."""
    return convert(coords, space, "abs_original", image_size=image_size, input_size=input_size)


def convert(
    coords: Sequence[float], src: str, dst: str, *, image_size: Size | None = None, input_size: Size | None = None
) -> tuple[float, ...]:
    """x, y, x, y, ... of space `src` written in space `dst`: floats of the same length, neither rounded nor clipped.

    image_size: (width, height) of the stored image, needed when either space is `abs_original`.
    input_size: (width, height) that the vision tower sees, needed when either space is `abs_input`.
    Equal spaces need no size. Non-finite coordinates stay non-finite.

    Raises CoordError for an unknown space, a size that is missing or not positive, or an odd number of coordinates.
    """
    check_space(src)
    check_space(dst)
    if len(coords) % 2:
        raise CoordError(f"coordinates come in x, y pairs, got {len(coords)} numbers: {list(coords)!r}")
    if src == dst:
        return tuple(float(c) for c in coords)
    converted = [float(c) for c in coords]
    extents = zip(_extent(src, image_size, input_size), _extent(dst, image_size, input_size), strict=True)
    for axis, (from_extent, to_extent) in enumerate(extents):
        # Equal extents skip the arithmetic, whose rounding could move a coordinate that needs no move.
        if from_extent != to_extent:
            converted[axis::2] = [c * to_extent / from_extent for c in converted[axis::2]]
    return tuple(converted)


def _extent(space: str, image_size: Size | None, input_size: Size | None) -> tuple[float, float]:
    if space in NORMALISED:
        return NORMALISED[space], NORMALISED[space]
    name, size = ("image_size", image_size) if space == "abs_original" else ("input_size", input_size)
    if size is None:
        raise CoordError(f"space {space!r} needs {name}: give (width, height) in pixels, or state another space")
    return check_size(size, name)


def check_size(size: Size, name: str = "image_size") -> tuple[float, float]:
    """(width, height) as floats; raises CoordError unless both are finite and positive."""
    if not hasattr(size, "__len__") or len(size) != 2 or not all(math.isfinite(s) and s > 0 for s in size):
        raise CoordError(f"{name} must be (width, height) in pixels, both positive, got {size!r}")
    return float(size[0]), float(size[1])


def validate_box(box: Sequence[float], *, allow_swap: bool = False) -> Box:
    """`box` as four floats with x2 > x1 and y2 > y1, in any space.

    allow_swap: put inverted corners in order instead of refusing them; a box without area stays an error.

    Raises InvalidBoxError, flag `non_finite` for NaN or infinity, `invalid_box` for everything else.
    """
    if len(box) != 4:
        raise InvalidBoxError(f"a box is [x1, y1, x2, y2], got {len(box)} numbers: {list(box)!r}", "invalid_box")
    x1, y1, x2, y2 = (float(c) for c in box)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise InvalidBoxError(f"box {list(box)!r} holds a coordinate that is not finite", "non_finite")
    if allow_swap:
        x1, x2 = min(x1, x2), max(x1, x2)
        y1, y2 = min(y1, y2), max(y1, y2)
    if x2 <= x1 or y2 <= y1:
        raise InvalidBoxError(
            f"box {list(box)!r} is inverted or has no area: x2 must exceed x1 and y2 must exceed y1", "invalid_box"
        )
    return x1, y1, x2, y2


def clip_box(box: Box, image_size: Size) -> Box:
    """`box` (pixels of the stored image) cut at the image's edges. A box wholly outside comes back without area."""
    width, height = check_size(image_size)
    x1, y1, x2, y2 = box
    return _clamp(x1, width), _clamp(y1, height), _clamp(x2, width), _clamp(y2, height)


def _clamp(coordinate: float, upper: float) -> float:
    return min(max(coordinate, 0.0), upper)
