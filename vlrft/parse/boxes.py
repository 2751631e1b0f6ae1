"""Boxes in an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from vlrft.parse.text import normalise
from vlrft.parse.values import PROSE, read_values

_BOX_KEYS = frozenset({"bbox_2d", "bbox", "box", "position", "coordinate"})
_POINT_KEYS = frozenset({"points", "points_1", "points_2", "point", "point_1", "point_2", "point_2d"})
_LABEL_KEYS = ("label", "category", "class", "name")
_CONFIDENCE_KEYS = ("confidence", "score")
_FENCE = re.compile(r"```\w*|<\|[a-z_]{1,32}\|>", re.A)
_LONGEST_EMPTY_ANSWER = 256


class ParsedBox(NamedTuple):
    """One box as the text has it: in the text's own space, unchecked, perhaps NaN or inverted."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in the order written."""
    label: str | None = None
    confidence: float | None = None


class BoxPoints(NamedTuple):
    """A box with points in it, as one object of the text has them: in the text's own space, unchecked."""

    boxes: tuple[ParsedBox, ...]
    """In the order written; one where the answer is sound."""
    points: tuple[tuple[float, float], ...]


def parse_boxes(answer: str) -> list[ParsedBox]:
    """Every box in `answer`, in the order written; an empty list where there is none.

    Reads JSON and Python syntax alike (lists, tuples, objects with `bbox_2d`, `bbox`, `box`, `Position` or
    `coordinate`, and lists of those), fenced or not, with either quote, amid prose; "(x1,y1),(x2,y2)", with or
    without `<|box_start|>` marks; and an answer that is nothing but four numbers. NaN and infinity are kept.
    Brackets that hold anything else, or are cut off, are skipped as prose. Never raises.
    """
    values = read_values(answer)
    if not any(v is PROSE for v in values):
        return list(_boxes_in(values))
    boxes: list[ParsedBox] = []
    run: list[Any] = []
    for value in [*values, PROSE]:
        if value is not PROSE:
            run.append(value)
            continue
        # Loose numbers amid prose are counts and names, not coordinates.
        boxes += _boxes_in([v for v in run if isinstance(v, list | dict)])
        run = []
    return boxes


def parse_box_points(answer: str) -> list[BoxPoints]:
    """Every object in `answer` that has a box or points under their keys, in the order written.

    Points stand under `points`, `points_1`, `points_2`, `point`, `point_1`, `point_2` or `point_2d`: [x, y], or a list
    of such. Never raises.
    """
    found: list[BoxPoints] = []
    waiting = read_values(answer)[::-1]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value[::-1]
        elif isinstance(value, dict):
            boxes = _boxes_of_object(value)
            points = [point for key, given in value.items() if key in _POINT_KEYS for point in _points_in(given)]
            if boxes or points:
                found.append(BoxPoints(tuple(boxes), tuple(points)))
    return found


def _points_in(values: Sequence[Any]) -> list[tuple[float, float]]:
    """The points among `values`, and one list deeper."""
    points = []
    for value in values:
        inner = value if isinstance(value, list) and not _is_point(value) else [value]
        points += [(item[0], item[1]) for item in inner if _is_point(item)]
    return points


def says_nothing(answer: str, empty_answers: Sequence[str]) -> bool:
    """Whether `answer`, in a fence or not, is one of `empty_answers`: texts that say that there is no object.

    Compared in normal form and without spaces. A text that merely holds one of them is not one of them.
    """
    if len(answer) > _LONGEST_EMPTY_ANSWER:
        return False
    text = normalise(_FENCE.sub(" ", answer)).replace(" ", "")
    return any(text == normalise(empty).replace(" ", "") for empty in empty_answers)


def _boxes_in(values: Sequence[Any], label: str | None = None, confidence: float | None = None) -> list[ParsedBox]:
    """Boxes in a sequence of values: four numbers, two points, or the items of an inner list or dict."""
    if len(values) == 4:
        x1, y1, x2, y2 = values
        if x1.__class__ is y1.__class__ is x2.__class__ is y2.__class__ is float:
            return [ParsedBox((x1, y1, x2, y2), label, confidence)]
    boxes: list[ParsedBox] = []
    corner: list[float] | None = None
    for value in values:
        if _is_point(value) and corner is not None:
            boxes.append(ParsedBox((corner[0], corner[1], value[0], value[1]), label, confidence))
            corner = None
            continue
        corner = value if _is_point(value) else None
        if isinstance(value, dict):
            boxes += _boxes_of_object(value)
        elif isinstance(value, list) and corner is None:
            boxes += _boxes_in(value, label, confidence)
    return boxes


def _boxes_of_object(item: dict[str, list[Any]]) -> list[ParsedBox]:
    label = _first(item, _LABEL_KEYS, str)
    confidence = _first(item, _CONFIDENCE_KEYS, float)
    boxes: list[ParsedBox] = []
    for key, given in item.items():
        if key in _BOX_KEYS:
            for value in given:
                if isinstance(value, list):
                    boxes += _boxes_in(value, label, confidence)
    return boxes


def _first(item: dict[str, list[Any]], keys: Sequence[str], kind: type) -> Any:
    for key in keys:
        if key in item:
            for value in item[key]:
                if value.__class__ is kind:
                    return value
    return None


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and type(value[0]) is float and type(value[1]) is float
