"""Boxes as several peers' rewards use them: four numbers, areas, overlaps, and the way to the stored image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlrft.coords import Box
from vlrft.rewards.base import TargetError
from vlrft.rewards.box import intersection_over_union
from vlrft.rewards.compat.actions import finite
from vlrft.rewards.matching import Floats, have_area, iou_matrix


def scale(meta: Mapping[str, Any], stored: Any = None) -> tuple[float, float]:
    """Stored pixels per pixel of the input, by axis; (1, 1) where `image_size` or `input_size` is not given.

    stored: the size of the stored image where `image_size` does not say it. Raises TargetError for a bad size.
    """
    given, seen = meta.get("image_size"), meta.get("input_size")
    stored = stored if given is None else given
    if stored is None or seen is None:
        return 1.0, 1.0
    sizes = finite(stored), finite(seen)
    if any(size is None or len(size) != 2 or min(size) <= 0.0 for size in sizes):
        raise TargetError(f"meta image_size and input_size must be [width, height], got {stored!r} and {seen!r}")
    return stored[0] / seen[0], stored[1] / seen[1]


def read_box(value: Any) -> Box | None:
    """A list of four finite numbers; None for anything else."""
    numbers = finite(value)
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if numbers is not None and len(numbers) == 4 else None


def read_upright(value: Any) -> Box | None:
    """A list of four finite numbers that is a box with an area; None for anything else."""
    box = read_box(value)
    return box if box is not None and has_area(box) else None


def has_area(box: Box) -> bool:
    """Whether x1 < x2 and y1 < y2."""
    return box[0] < box[2] and box[1] < box[3]


def overlap(a: Box, b: Box) -> float:
    """IoU; 0 where either box is inverted or empty."""
    return intersection_over_union(a, b) if has_area(a) and has_area(b) else 0.0


def overlaps(a: Sequence[Box], b: Sequence[Box]) -> Floats:
    """`overlap` of every box of `a` with every one of `b`: (len(a), len(b))."""
    rows, columns = (np.array(boxes, dtype=np.float64).reshape(-1, 4) for boxes in (a, b))
    return np.where(have_area(rows)[:, None] & have_area(columns), iou_matrix(rows, columns), 0.0)
