"""GUI truths and answers as GUI-R1 and UI-R1 write them."""

from __future__ import annotations

import ast
import json
from typing import Any

from vlrft.rewards.base import TargetError
from vlrft.rewards.compat.answers import LARGEST, truth_value

Numbers = tuple[float, ...]

_NUMERIC = (float, int)

LONGEST = 20_000
"""Characters of an answer that is read."""


def read_data(text: str | None) -> Any:
    """JSON or a Python literal; None for anything else, and for what is longer than any answer."""
    if len(text or "") > LONGEST:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read((text or "").strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return None


def true_action(target: Any, what: str) -> dict[str, Any]:
    """`{"action", "box" or "point", "text"}` in one form. Raises TargetError for anything else.

    GUI-R1's own columns (`gt_action`, `gt_bbox`, `gt_input_text`) and UI-R1's (`action`, `bbox`) are read too.
    """
    value = truth_value(target, what)
    if not isinstance(value, dict):
        raise TargetError(f"{what} needs an action such as {{'action': 'click', 'box': [...]}}, got {target!r}")
    action = value.get("action", value.get("gt_action"))
    if not isinstance(action, str) or not action.strip():
        raise TargetError(f"{what}: the target has no action name: {target!r}")
    place = next((value[k] for k in ("box", "bbox", "gt_bbox", "point") if value.get(k) is not None), None)
    numbers = finite(place)
    if place is not None and (numbers is None or len(numbers) not in (2, 4)):
        raise TargetError(f"{what}: box or point must be 4 or 2 finite numbers, got {place!r}")
    text = next((value[k] for k in ("text", "gt_input_text", "direction", "key") if value.get(k) is not None), "")
    return {"action": action.strip().lower(), "place": numbers, "text": str(text)}


def finite(value: Any) -> Numbers | None:
    """A list of finite numbers; None for anything else."""
    if type(value) not in (list, tuple):
        return None
    for item in value:
        if type(item) not in _NUMERIC or not abs(item) < LARGEST:
            return None
    return tuple(map(float, value))
