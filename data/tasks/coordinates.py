"""Coordinates and times as a model writes them, in answers and in prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.coords import convert
from vlrft.types import Sample

_FINEST = 4
"""Most decimals more than usual that a point in a very small box gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """The space in which a model writes about one sample, and the sizes that conversions need."""

    space: str
    image_size: tuple[int, int] | None = None
    """(width, height) of the stored image or video."""
    input_size: tuple[int, int] | None = None
    """(width, height) as the vision tower sees it."""

    def of(self, sample: Sample, coords: Sequence[float]) -> tuple[float, ...]:
        """x, y, x, y ... in the sample's target space, in this space. Raises CoordError for a size that is missing."""
        size = self.image_size or sample.meta.get("image_size")
        return convert(coords, sample.target_space, self.space, image_size=size, input_size=self.input_size)

    def box(self, sample: Sample, box: Sequence[float]) -> str:
        """`[x1, y1, x2, y2]`."""
        return f"[{', '.join(box_numbers(self.of(sample, box), space=self.space))}]"

    def point(self, sample: Sample, point: Sequence[float]) -> str:
        """`[x, y]`."""
        return written_point(self.of(sample, point), (), space=self.space)

    def centre(self, sample: Sample, box: Sequence[float]) -> str:
        """`[x, y]`, the middle of a box, rounded so that it stays inside."""
        x1, y1, x2, y2 = self.of(sample, box)
        return written_point(((x1 + x2) / 2, (y1 + y2) / 2), (x1, y1, x2, y2), space=self.space)


def format_box(box: Sequence[float], *, space: str, style: str) -> str:
    """The box as a model writes it in `space`: whole numbers, or 3 decimals in `norm_1`.

    Rounding never closes a box: an edge pair that would coincide is rounded outwards.
    """
    numbers = box_numbers(box, space=space)
    return " ".join(numbers) if style == "plain" else f'{{"bbox_2d": [{", ".join(numbers)}]}}'


def box_numbers(box: Sequence[float], *, space: str) -> list[str]:
    """The four coordinates of a box in `space`, rounded as `format_box` says."""
    digits = _digits(space)
    x1, x2 = _rounded_pair(box[0], box[2], 10**digits)
    y1, y2 = _rounded_pair(box[1], box[3], 10**digits)
    if digits:
        return [f"{value / 10**digits:.{digits}f}" for value in (x1, y1, x2, y2)]
    return [str(value) for value in (x1, y1, x2, y2)]


def written_point(point: Sequence[float], box: Sequence[float], *, space: str) -> str:
    """`[x, y]` with as few decimals as keep it inside `box` (() = no box): none, or 3 in `norm_1`, where possible."""
    digits = _digits(space)
    for more in range(_FINEST + 1):
        texts = [f"{value:.{digits + more}f}" for value in point]
        x, y = map(float, texts)
        if not box or (box[0] <= x <= box[2] and box[1] <= y <= box[3]):
            break
    return f"[{', '.join(texts)}]"


def _digits(space: str) -> int:
    return 3 if space == "norm_1" else 0


def _rounded_pair(low: float, high: float, scale: int) -> tuple[int, int]:
    first, second = math.floor(low * scale + 0.5), math.floor(high * scale + 0.5)
    if second > first:
        return first, second
    first = math.floor(low * scale)
    return first, max(math.ceil(high * scale), first + 1)


def format_span(span: Sequence[float], meta: Mapping[str, Any], *, style: str) -> str:
    """A span of seconds as a model writes it: two decimals, cut to `meta["duration"]`.

    style: `plain` "a to b", `json` "[a, b]", `clock` "mm:ss.ff to mm:ss.ff". With meta["unit"] "relative" the numbers
    are fractions of the duration, four decimals.
    """
    duration = meta.get("duration")
    start, end = (min(t, duration) if duration is not None else t for t in span)
    if style == "clock":
        return f"{_clock(start)} to {_clock(end)}"
    if meta.get("unit") == "relative" and duration is not None:
        first, last = (f"{t / duration:.4f}" for t in (start, end))
    else:
        # A short span must not be rounded to nothing.
        decimals = 2 if start == end or end - start >= 0.02 else 4
        first, last = (f"{t:.{decimals}f}" for t in (start, end))
    return f"[{first}, {last}]" if style == "json" else f"{first} to {last}"


def _clock(seconds: float) -> str:
    hundredths = math.floor(seconds * 100 + 0.5)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{rest // 100:02d}.{rest % 100:02d}"
    return f"{hours:02d}:{text}" if hours else text
