"""The usual answer of a detector, read at the speed of the standard library.

A strict JSON list of `{"bbox_2d": [x1, y1, x2, y2], "label": "cat", "confidence": 0.9}`, fenced or not, is most of what
a trained model writes. It is read here without the general reader's care for repeated keys and odd values: at the first
sign of either, this says None and the general reader decides. The result is the same, and tested to be.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

BOX_KEYS = frozenset({"bbox_2d", "bbox", "box", "bounding_box", "position", "coordinate"})
LABEL_KEYS = ("label", "category", "class", "name")
CONFIDENCE_KEYS = ("confidence", "score")

_FENCE = "```"
_OPENINGS = ("```json\n", "```\n")
_SHAPES = {
    frozenset({box, label, confidence} - {None}): (box, label, confidence)
    for box in BOX_KEYS
    for label in (None, *LABEL_KEYS)
    for confidence in (None, *CONFIDENCE_KEYS)
}
"""(key of the box, of the label, of the confidence) by the keys of an object."""
_TEXT, _NUMBER, _MAYBE = {str, type(None)}, {int, float}, {int, float, type(None)}


class ParsedBox(NamedTuple):
    """One box as the text has it: in the text's own space, unchecked, perhaps NaN or inverted."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in the order written."""
    label: str | None = None
    confidence: float | None = None


def plain_boxes(answer: str) -> list[ParsedBox] | None:
    """The boxes of an answer that is a plain list of objects; None where it is anything else. Never raises."""
    text = _unfenced(answer)
    if not text.startswith("[{") and not text.startswith("[\n"):
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not items or {dict} != set(map(type, items)):
        return None
    shape = tuple(items[0])
    names = _SHAPES.get(frozenset(shape))
    if names is None or {shape} != set(map(tuple, items)):
        return None
    box, label, confidence = names
    corners = [item[box] for item in items]
    labels = [None if label is None else item[label] for item in items]
    confidences = [None if confidence is None else item[confidence] for item in items]
    if not set(map(type, labels)) <= _TEXT or not set(map(type, confidences)) <= _MAYBE:
        return None
    # A key that is given twice leaves more quotes in the text than in what was read.
    if text.count('"') != 2 * len(items) * (len(shape) + (label is not None)):
        return None
    try:
        flat = _numbers(corners)
        stated = confidences if confidence is None else [None if c is None else float(c) for c in confidences]
    except OverflowError:  # an integer that no float can hold
        return None
    return list(map(ParsedBox, zip(flat, flat, flat, flat, strict=True), labels, stated)) if flat else None


def _unfenced(answer: str) -> str:
    if answer.startswith(_FENCE) and answer.endswith(_FENCE):
        for opening in _OPENINGS:
            if answer.startswith(opening):
                return answer[len(opening) : -len(_FENCE)].strip()
    return answer


def _numbers(corners: list[Any]) -> Iterator[float] | None:
    """All coordinates in a row, where every box is four numbers."""
    if {list} != set(map(type, corners)) or {4} != set(map(len, corners)):
        return None
    flat = list(itertools.chain.from_iterable(corners))
    return iter([float(c) for c in flat]) if set(map(type, flat)) <= _NUMBER else None
