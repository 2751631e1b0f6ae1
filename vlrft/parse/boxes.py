"""Boxes in an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vlrft.parse.plain_boxes import BOX_KEYS, CONFIDENCE_KEYS, LABEL_KEYS, ParsedBox, plain_boxes
from vlrft.parse.text import normalise
from vlrft.parse.values import PROSE, read_values

_CORNER_KEYS = ("x1", "y1", "x2", "y2")
_POINT_KEYS = frozenset({"points", "points_1", "points_2", "point", "point_1", "point_2", "point_2d"})
_FENCE = re.compile(r"```\w*|<\|[a-z_]{1,32}\|>", re.A)
_REF = re.compile(r"(?:<ref>|<\|object_ref_start\|>)([^<]*+)(?:</ref>|<\|object_ref_end\|>)")
_HOLDERS = (dict, list)
_LONGEST_EMPTY_ANSWER = 256
_LONGEST_NUMBER = 40
_NUMBER = re.compile(r"([-+]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20}))\s?(%?)", re.A)
NO_BOX = (0.0, 0.0, 0.0, 0.0)
"""What stands for a box that is announced and is none: it has no area, so that it counts and matches nothing."""


class BoxPoints(NamedTuple):
    """A box with points in it, as one object of the text has them: in the text's own space, unchecked."""

    boxes: tuple[ParsedBox, ...]
    """In the order written; one where the answer is sound."""
    points: tuple[tuple[float, float], ...]


def parse_boxes(answer: str, *, wide: bool = True) -> list[ParsedBox]:
    """Every box in `answer`, in the order written; an empty list where there is none.

    Reads JSON and Python syntax alike (lists, tuples, objects with `bbox_2d`, `bbox`, `box`, `bounding_box`, `Position`
    or `coordinate`, or with `x1`, `y1`, `x2`, `y2`, and lists of those), fenced or not, with either quote, amid prose;
    numbers in quotes; "(x1,y1),(x2,y2)", with or without `<|box_start|>` marks; and an answer that is nothing but four
    numbers. NaN and infinity are kept. What stands under a box's key and is no box, and a corner without its partner,
    are boxes without area, so that they count. Brackets that hold anything else, or are cut off, are skipped as prose.
    Never raises.
    wide: whether objects under other keys of an object count too, after its own box, and the name in `<ref>` or
    `<|object_ref_start|>` marks is the label of the boxes between it and the next one.
    """
    plain = plain_boxes(answer)
    return general_boxes(answer, wide=wide) if plain is None else plain


def general_boxes(answer: str, *, wide: bool = True) -> list[ParsedBox]:
    """`parse_boxes` without its short cut for the usual answer."""
    if wide and "<" in answer and (named := _REF.split(answer))[1:]:
        found = general_boxes(named[0])
        for name, text in zip(named[1::2], named[2::2], strict=True):
            found += [box._replace(label=name.strip()) if box.label is None else box for box in general_boxes(text)]
        return found
    values = read_values(answer)
    if not wide:
        values = [_without_nested(value) for value in values]
    if not any(v is PROSE for v in values):
        return _boxes_in(values)
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
            boxes = _boxes_in([value])
            points = [point for key, given in value.items() if key in _POINT_KEYS for point in _points_in(given)]
            if boxes or points:
                found.append(BoxPoints(tuple(boxes), tuple(points)))
    return found or [BoxPoints((box,), ()) for box in parse_boxes(answer)]


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


def _boxes_in(values: Sequence[Any]) -> list[ParsedBox]:
    """Boxes in a sequence of values: four numbers, two points, or the items of an inner list or dict."""
    boxes: list[ParsedBox] = []
    _add_boxes(boxes, values, None, None)
    return boxes


def _add_boxes(boxes: list[ParsedBox], values: Sequence[Any], label: str | None, confidence: float | None) -> None:
    if len(values) == 4:
        x1, y1, x2, y2 = values
        if x1.__class__ is y1.__class__ is x2.__class__ is y2.__class__ is float:
            boxes.append(ParsedBox((x1, y1, x2, y2), label, confidence))
            return
        if x1.__class__ is str and (written := _written(values)) is not None:
            boxes.append(ParsedBox(written, label, confidence))
            return
    corner: list[float] | None = None
    before = len(boxes)
    for value in values:
        if value.__class__ is dict:
            _add_boxes_of_object(boxes, value)
            corner = None
        elif not _is_point(value):
            if value.__class__ is list:
                _add_boxes(boxes, value, label, confidence)
            corner = None
        elif corner is None:
            corner = value
        else:
            boxes.append(ParsedBox((corner[0], corner[1], value[0], value[1]), label, confidence))
            corner = None
    if corner is not None and len(boxes) > before:
        boxes.append(ParsedBox(NO_BOX, label, confidence))


def _add_boxes_of_object(boxes: list[ParsedBox], item: dict[str, list[Any]]) -> None:
    label = _first(item, LABEL_KEYS, str)
    confidence = _confidence(item) if "confidence" in item or "score" in item else None
    before, announced = len(boxes), False
    for key in item:
        if key in BOX_KEYS:
            announced = True
            for value in item[key]:
                if value.__class__ is list:
                    _add_boxes(boxes, value, label, confidence)
    if len(boxes) == before:
        _add_odd_box(boxes, item, announced, label, confidence)
    elif len(item.get("label", ())) > 1:
        others = {other for other in item["label"] if other.__class__ is str and other != label}
        boxes += [ParsedBox(boxes[before].box, other, confidence) for other in sorted(others)]
    for key in item:
        if key not in BOX_KEYS:
            for inner in _objects_in(item[key]):
                _add_boxes_of_object(boxes, inner)


def _objects_in(values: Sequence[Any]) -> Iterator[dict[str, list[Any]]]:
    """The outermost objects among `values` and in the lists there, in the order written."""
    for value in values:
        if value.__class__ is dict:
            yield value
        elif value.__class__ is list:
            yield from _objects_in(value)


def _without_nested(value: Any) -> Any:
    """`value` without the objects under keys of objects that are no key of a box."""
    if value.__class__ is list:
        return [_without_nested(item) for item in value]
    if value.__class__ is dict:
        return {
            key: [
                _without_nested(item) if key in BOX_KEYS or item.__class__ not in _HOLDERS else None for item in given
            ]
            for key, given in value.items()
        }
    return value


def _confidence(item: dict[str, list[Any]]) -> float | None:
    stated = _first(item, CONFIDENCE_KEYS, float)
    return _number(_first(item, CONFIDENCE_KEYS, str)) if stated is None else stated


def _add_odd_box(
    boxes: list[ParsedBox], item: dict[str, list[Any]], announced: bool, label: str | None, confidence: float | None
) -> None:
    """A box in corner keys or in a text; NO_BOX for a box's key without any box."""
    if announced:
        texts = [value for key in item if key in BOX_KEYS for value in item[key] if value.__class__ is str]
        read = [box for text in texts for box in _boxes_in([v for v in read_values(text) if isinstance(v, list)])]
        boxes += [ParsedBox(box.box, label, confidence) for box in read]
        if not read:
            boxes.append(ParsedBox(NO_BOX, label, confidence))
    elif all(key in item for key in _CORNER_KEYS):
        written = _written([item[key][0] for key in _CORNER_KEYS])
        boxes.append(ParsedBox(written or NO_BOX, label, confidence))


def _written(values: Sequence[Any]) -> tuple[float, float, float, float] | None:
    """Four numbers, some or all in quotes."""
    found = [
        number for value in values if (number := value if value.__class__ is float else _number(value)) is not None
    ]
    return (found[0], found[1], found[2], found[3]) if len(found) == 4 else None


def _number(text: Any) -> float | None:
    """A number in quotes, "0.8" or "80%"; None for anything else."""
    if text.__class__ is not str or len(text) > _LONGEST_NUMBER:
        return None
    match = _NUMBER.fullmatch(text.strip())
    return None if match is None else float(match[1]) / (100.0 if match[2] else 1.0)


def _first(item: dict[str, list[Any]], keys: Sequence[str], kind: type) -> Any:
    for key in keys:
        for value in item.get(key, ()):
            if value.__class__ is kind:
                return value
    return None


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and type(value[0]) is float and type(value[1]) is float
