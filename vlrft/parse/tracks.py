"""Boxes frame by frame in an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.parse.text import normalise
from vlrft.parse.values import read_values

_FRAME_KEYS = ("frame", "frame_id", "frame_index", "frame_idx", "index")
_TIME_KEYS = ("timestamp", "time", "t")
_BOX_KEYS = ("bbox_2d", "bbox", "box", "position", "coordinate")
_NUMBERED = re.compile(r"(?:frame[\s_]?)?([0-9]{1,9})", re.I | re.A)
_FOUR = [float] * 4
_ABSENT = frozenset({"", "none", "null", "absent"})


@dataclass(frozen=True, slots=True)
class ParsedFrame:
    """What the text says of one frame: in the text's own space, unchecked."""

    box: tuple[float, ...] | None
    """Four numbers x1, y1, x2, y2; None where the object is said to be absent; empty where there is no box to read."""
    frame: float | None = None
    """The frame's number, where the text gives one."""
    time: float | None = None
    """The frame's time in seconds, where the text gives one."""


def read_track(answer: str) -> list[ParsedFrame]:
    """One entry per frame in `answer`, in the order written; an empty list where there is none.

    Reads, in JSON or Python syntax, fenced or not, amid prose: a list of boxes `[x1, y1, x2, y2]` with null (None, [],
    "absent") for frames without the object; a list of objects with a box and `frame` (`frame_id`, `index`) or
    `timestamp` (`time`); and an object `{"frame 0": box, ...}`. Several such lists are one after the other. An entry
    that is neither box nor null keeps its place. Never raises.
    """
    frames: list[ParsedFrame] = []
    for value in read_values(answer):
        if isinstance(value, dict):
            frames += _object(value)
        elif _is_numbers(value):
            frames.append(_frame(value))
        elif isinstance(value, list) and any(v is None or isinstance(v, list | dict) for v in value):
            frames += _list(value)
    return frames


def _list(values: Sequence[Any]) -> list[ParsedFrame]:
    frames: list[ParsedFrame] = []
    for value in values:
        frames += _object(value) if isinstance(value, dict) else [_frame(value)]
    return frames


def _object(item: dict[str, list[Any]]) -> list[ParsedFrame]:
    """The frames of `{"frame": 3, "bbox": box}` or of `{"frame 3": box, ...}`; a repeated key is another frame."""
    boxes = next((item[key] for key in _BOX_KEYS if key in item), None)
    if boxes is not None:
        frame, time = _number(item, _FRAME_KEYS), _number(item, _TIME_KEYS)
        return [_frame(box, frame, time) for box in boxes]
    numbered = [(match, given) for key, given in item.items() if (match := _NUMBERED.fullmatch(key.strip()))]
    return [_frame(box, float(match[1])) for match, given in numbered for box in given]


def _frame(value: Any, frame: float | None = None, time: float | None = None) -> ParsedFrame:
    if _is_numbers(value):
        return ParsedFrame(tuple(value), frame, time)
    absent = value is None or value == [] or (isinstance(value, str) and normalise(value[:100]) in _ABSENT)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    return ParsedFrame(None if absent else tuple(value) if _is_numbers(value) else (), frame, time)


def _number(item: dict[str, list[Any]], keys: Sequence[str]) -> float | None:
    """The first of `keys` that holds a number, or a text like "frame 3"."""
    for value in (value for key in keys for value in item.get(key, ())):
        if isinstance(value, float):
            return value
        if isinstance(value, str) and (match := _NUMBERED.fullmatch(value.strip())):
            return float(match[1])
    return None


def _is_numbers(value: Any) -> bool:
    return value.__class__ is list and list(map(type, value)) == _FOUR
