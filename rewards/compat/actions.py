"""GUI truths and answers as GUI-R1 and UI-R1 write them."""

from __future__ import annotations

import ast
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.base import TargetError
from vlrft.rewards.compat.answers import LARGEST, first, json_or_none, truth_value

Numbers = tuple[float, ...]

_NUMERIC = (float, int)
_TEXTS = ("text", "gt_input_text", "key", "direction")

LONGEST = 20_000
"""Characters of an answer that is read."""


def read_data(text: str | None) -> Any:
    """JSON or a Python literal; None for anything else, and for what is longer than any answer."""
    if text is None or len(text) > LONGEST:
        return None
    value = json_or_none(text.strip())
    return _read_literal(text.strip()) if value is None else value


def _read_literal(text: str) -> Any:
    """A Python literal; None where the text is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def first_item(parsed: Parsed) -> dict[str, Any] | None:
    """The action that the first answer block holds, or the first of a list of them; None where there is none."""
    data = read_data(first(parsed.text))
    item = data[0] if isinstance(data, list) and data else data
    return item if isinstance(item, dict) else None


def true_action(target: Any, what: str, *, needs_place: bool = True) -> dict[str, Any]:
    """`{"action", "box" or "point", "text"}` in one form. Raises TargetError for anything else.

    GUI-R1's own columns (`gt_action`, `gt_bbox`, `gt_input_text`) and UI-R1's (`action`, `bbox`) are read too.
    needs_place: whether a click without a place, or with an inverted box, is an error.
    """
    value = truth_value(target, what)
    if not isinstance(value, dict):
        raise TargetError(f"{what} needs an action such as {{'action': 'click', 'box': [...]}}, got {target!r}")
    action = value.get("action", value.get("gt_action"))
    if not isinstance(action, str) or not action.strip():
        raise TargetError(f"{what}: the target has no action name: {target!r}")
    name = action.strip().lower()
    place = next((value[k] for k in ("box", "bbox", "gt_bbox", "point") if value.get(k) is not None), None)
    numbers = finite(place)
    if place is not None and (numbers is None or len(numbers) not in (2, 4)):
        raise TargetError(f"{what}: box or point must be 4 or 2 finite numbers, got {place!r}")
    if name == "click" and needs_place and (numbers is None or (len(numbers) == 4 and not _has_area(numbers))):
        raise TargetError(f"{what}: a click needs a point, or a box with an area, got {place!r}")
    keys = ("direction", "text", "gt_input_text", "key") if name == "scroll" else _TEXTS
    text = next((str(value[k]) for k in keys if value.get(k) not in (None, "")), "")
    return {"action": name, "place": numbers, "text": text}


def _has_area(box: Numbers) -> bool:
    return box[0] < box[2] and box[1] < box[3]


def finite(value: Any) -> Numbers | None:
    """A list of finite numbers; None for anything else."""
    if type(value) not in (list, tuple):
        return None
    for item in value:
        if type(item) not in _NUMERIC or not abs(item) < LARGEST:
            return None
    return tuple(map(float, value))
