"""Points in an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vlrft.parse.values import PROSE, read_values

ParsedPoint = tuple[float, ...]
"""x, y - or, where the text has a box, its x1, y1, x2, y2. In the text's own space, unchecked."""

POINT_KEYS = frozenset(
    {"point", "point_2d", "points", "coordinate", "coordinates", "position", "location", "center", "click_point"}
)
"""Keys of an object under which a point stands."""
BOX_KEYS = frozenset({"bbox", "bbox_2d", "box"})
"""Keys of an object under which a box stands, perhaps as two points."""

# Marks that say what the numbers inside are become the brackets that say the same.
_MARKS = {
    "<point>": "(",
    "</point>": ")",
    "<|point_start|>": "(",
    "<|point_end|>": ")",
    "<|box_start|>": '{"box": [',
    "<|box_end|>": "]}",
}
_MARK = re.compile("|".join(map(re.escape, _MARKS)))
_NUMBER = r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:e[-+]?[0-9]++)?+"
_NAMED = re.compile(
    rf"""(?<!\w)x\s{{0,9}}[=:]\s{{0,9}}["']?({_NUMBER})["']?[\s,;]{{1,9}}y\s{{0,9}}[=:]\s{{0,9}}["']?({_NUMBER})""",
    re.I | re.A,
)


def read_points(answer: str) -> list[ParsedPoint]:
    """Every point or box in `answer`, in the order written; an empty list where there is none.

    Reads JSON and Python syntax alike: "[x, y]", "(x, y)", lists of those, objects with `point`, `point_2d`, `points`,
    `coordinate`, `position`, `location`, `center` or with `x` and `y`, fenced or not, amid prose; `<point>` marks;
    "x=12, y=30"; calls like "click(12, 30)"; and an answer that is nothing but two numbers. Four numbers are a box,
    and so are two points inside `<|box_start|>` marks or under `bbox`, `bbox_2d` or `box`. Never raises.
    """
    text = _MARK.sub(lambda match: _MARKS[match.group()], answer) if "<" in answer else answer
    values = read_values(text)
    if not any(value is PROSE for value in values):
        return points_in(values)
    # Loose numbers amid prose are counts and names, not coordinates.
    points = points_in([value for value in values if isinstance(value, list | dict)])
    return points or [(float(x), float(y)) for x, y in _NAMED.findall(text)]


def points_in(values: Sequence[Any], *, boxes: bool = False) -> list[ParsedPoint]:
    """Points and boxes in a sequence of values from `read_values`. boxes: whether two points in a row are one box."""
    if len(values) in (2, 4) and all(isinstance(value, float) for value in values):
        return [tuple(values)]
    points: list[ParsedPoint] = []
    for value in values:
        if isinstance(value, dict):
            points += _points_of_object(value)
        elif isinstance(value, list):
            points += points_in(value, boxes=boxes)
    if boxes and len(points) == 2 and len(points[0]) == len(points[1]) == 2:
        return [points[0] + points[1]]
    return points


def _points_of_object(item: dict[str, list[Any]]) -> list[ParsedPoint]:
    points: list[ParsedPoint] = []
    for key, given in item.items():
        if key in POINT_KEYS or key in BOX_KEYS:
            lists = [value for value in given if isinstance(value, list | dict)]
            points += [point for value in lists for point in points_in([value], boxes=key in BOX_KEYS)]
    xs, ys = ([value for value in item.get(axis, ()) if isinstance(value, float)] for axis in "xy")
    return points + list(zip(xs, ys, strict=False))
