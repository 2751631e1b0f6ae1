"""Interface actions in an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.parse.points import BOX_KEYS, POINT_KEYS, ParsedPoint, points_in, read_points
from vlrft.parse.values import PROSE, read_values

_NAME_KEYS = ("action", "action_type")
_TEXT_KEYS = ("text", "input_text", "content", "value", "app_name", "app")
_DIRECTION_KEYS = ("direction",)
_KEY_KEYS = ("key", "keys", "button")
_NESTED_KEYS = ("arguments", "parameters", "args")
_LONGEST_POINT = 200
"""Characters of a point that is written as a text of its own."""


@dataclass(frozen=True, slots=True)
class ParsedAction:
    """One action as the text has it: names and texts as written, coordinates in the text's own space."""

    name: str
    point: ParsedPoint | None = None
    """x, y, or a box x1, y1, x2, y2."""
    text: str | None = None
    direction: str | None = None
    key: str | None = None
    choices: int = 1
    """How many values are given for what should be one: a key written twice, or several points."""


def read_actions(answer: str) -> list[ParsedAction]:
    """Every action in `answer`, in the order written; an empty list where there is none.

    An action is an object with `action` (or `action_type`), alone or in lists, in JSON or Python quoting, fenced or
    not, amid prose; the fields may stand in an inner object `arguments` or `parameters`, as in a tool call, whose
    `name` is the action where the arguments give none. Its other fields: `point` (or `coordinate`, `position`, `bbox`
    and the like, or `x` and `y`; a text that holds a point is read), `text` (or `input_text`, `content`, `value`,
    `app_name`), `direction`, `key` (or `keys`, `button`). Never raises.
    """
    actions: list[ParsedAction] = []
    # A stack, not recursion: the last one is looked at first.
    waiting: list[Any] = [value for value in reversed(read_values(answer)) if value is not PROSE]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, dict):
            action = _action(value)
            if action is not None:
                actions.append(action)
            else:
                inner = [v for key in _NESTED_KEYS for v in value.get(key, ()) if isinstance(v, dict)]
                waiting.extend(reversed([_named_call(value, v) for v in inner]))
    return actions


def _named_call(call: dict[str, list[Any]], arguments: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The arguments of a tool call; where they name no action, the tool's own name is the action."""
    if any(key in arguments for key in _NAME_KEYS) or "name" not in call:
        return arguments
    return {**arguments, "action": call["name"]}


def _action(item: dict[str, list[Any]]) -> ParsedAction | None:
    names = [value for value in _given(item, _NAME_KEYS) if isinstance(value, str)]
    if not names:
        return None
    points = _points(item)
    texts, directions, keys = (_texts(_given(item, group)) for group in (_TEXT_KEYS, _DIRECTION_KEYS, _KEY_KEYS))
    return ParsedAction(
        name=names[0],
        point=points[0] if points else None,
        text=texts[0] if texts else None,
        direction=directions[0] if directions else None,
        key=keys[0] if keys else None,
        choices=max(len(names), len(points), len(texts), len(directions), len(keys)),
    )


def _given(item: dict[str, list[Any]], keys: Sequence[str]) -> list[Any]:
    """All values of the first of `keys` that is there."""
    return next((item[key] for key in keys if key in item), [])


def _points(item: dict[str, list[Any]]) -> list[ParsedPoint]:
    held = next(((key, given) for key, given in item.items() if key in POINT_KEYS or key in BOX_KEYS), None)
    if held is None:
        return points_in([{axis: item[axis] for axis in "xy" if axis in item}])
    key, given = held
    return points_in([{key: given}]) or [p for text in map(_written, given) if text for p in read_points(text)[:1]]


def _written(value: Any) -> str | None:
    """A point as one text, "[20, 15]", or as a list of texts, ["20", "15"]."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        value = ", ".join(value)
    return value if isinstance(value, str) and len(value) <= _LONGEST_POINT else None


def _texts(values: Sequence[Any]) -> list[str]:
    """Strings as they are, whole numbers without their point; a list of keys is one chord."""
    texts: list[str] = []
    for value in values:
        if isinstance(value, list):
            texts.append("+".join(_texts(value)))
        elif isinstance(value, str):
            texts.append(value)
        elif isinstance(value, float):
            texts.append(f"{value:.0f}" if value.is_integer() else repr(value))
    return texts
