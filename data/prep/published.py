"""What is done with entries that break their form's own rules: a training set loses them, a benchmark keeps them.

Every form that is a benchmark has the option `keep_published`: False leaves such rows out and lists them with the
reason, True keeps every row that can be judged at all, with what is odd about it in `meta.flags`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlrft.data.boxes import EDGE_SLACK, is_finite
from vlrft.data.problems import Quarantine, SampleError
from vlrft.data.tasks.targets import PUBLISHED

UNJUDGED = "so that no answer can be judged"
"""Ends the reason for which a row is left out of a benchmark too."""


def admitted(
    row: dict[str, Any], flags: Sequence[str], *, where: str, keep_published: bool, quarantine: Quarantine
) -> dict[str, Any] | None:
    """The row, with `flags` in its meta where there are any; None when it is left out, which `quarantine` notes."""
    if not flags:
        return row
    if not keep_published:
        quarantine.published(where, "; ".join(flags))
        return None
    return {**row, "meta": {**row.get("meta", {}), PUBLISHED: list(flags)}}


def settled_box(
    box: Sequence[float], size: tuple[int, int] | None, *, slack: float = EDGE_SLACK
) -> tuple[list[float] | None, list[str]]:
    """(the box as it can be judged, what was odd about it as it was published).

    `box` is x1, y1, x2, y2 in any space; `size` is (width, height) of the picture in that space, None where it is not
    known. Sides the wrong way round are put in order, what reaches outside the picture is cut off and called odd where
    it is more than `slack`. The box is None where no area is left.
    """
    given = list(box)
    x1, y1, x2, y2 = (float(v) for v in given)
    flags = []
    if x2 < x1 or y2 < y1:
        flags.append(f"box {given} has its sides swapped")
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    if size is not None:
        width, height = size
        if x1 < -slack or y1 < -slack or x2 > width + slack or y2 > height + slack:
            flags.append(f"box {given} reaches outside the {width}x{height} picture")
        x1, x2 = (min(max(x, 0.0), float(width)) for x in (x1, x2))
        y1, y2 = (min(max(y, 0.0), float(height)) for y in (y1, y2))
    if x1 == x2 or y1 == y2:
        return None, [*flags, f"box {given} has no area"]
    return [x1, y1, x2, y2], flags


def four_numbers(raw: Any, where: str, what: str = "bbox") -> tuple[float, float, float, float]:
    """`raw` as four finite floats. Raises SampleError."""
    if not isinstance(raw, list | tuple) or len(raw) != 4 or not all(map(is_finite, raw)):
        raise SampleError(where, f"{what} {raw!r:.200} is not four finite numbers; correct the file")
    a, b, c, d = (float(v) for v in raw)
    return a, b, c, d


def corners(box: Sequence[float], written: str) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of a box that is `written` as `xywh` (corner and extent) or `xyxy` (two corners)."""
    a, b, c, d = box
    return (a, b, a + c, b + d) if written == "xywh" else (a, b, c, d)


def needed(entry: Any, keys: Sequence[str], where: str) -> None:
    """Raise SampleError unless `entry` is an object that has all of `keys`."""
    if not isinstance(entry, dict):
        raise SampleError(where, f"is a {type(entry).__name__}, not an object with {', '.join(keys)}; correct the file")
    missing = [key for key in keys if entry.get(key) is None]
    if missing:
        raise SampleError(where, f"lacks {', '.join(missing)} (it has {', '.join(map(str, entry))}); correct the file")
