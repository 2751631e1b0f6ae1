"""Boxes in an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.parse.values import PROSE, read_values

_BOX_KEYS = frozenset({"bbox_2d", "bbox", "box", "position", "coordinate"})
_LABEL_KEYS = ("label", "category", "class", "name")
_CONFIDENCE_KEYS = ("confidence", "score")


@dataclass(frozen=True, slots=True)
class ParsedBox:
    """One box as the text has it: in the text's own space, unchecked, perhaps NaN or inverted."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in the order written."""
    label: str | None = None
    confidence: float | None = None


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


def _boxes_in(values: Sequence[Any], label: str | None = None, confidence: float | None = None) -> list[ParsedBox]:
    """Boxes in a sequence of values: four numbers, two points, or the items of an inner list or dict."""
    if len(values) == 4 and all(isinstance(v, float) for v in values):
        return [ParsedBox((values[0], values[1], values[2], values[3]), label, confidence)]
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
    label = next((v for k in _LABEL_KEYS for v in item.get(k, ()) if isinstance(v, str)), None)
    confidence = next((v for k in _CONFIDENCE_KEYS for v in item.get(k, ()) if isinstance(v, float)), None)
    holders = [value for key, given in item.items() if key in _BOX_KEYS for value in given]
    return [box for value in holders if isinstance(value, list) for box in _boxes_in(value, label, confidence)]


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, float) for v in value)
