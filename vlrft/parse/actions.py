"""Interface actions in an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.parse.points import BOX_KEYS, POINT_KEYS, ParsedPoint, points_in, read_points
from vlrft.parse.text import normalise
from vlrft.parse.values import PROSE, read_values

_NAME_KEYS = ("action", "action_type")
_TEXT_KEYS = ("text", "input_text", "content", "value", "app_name", "app")
_DIRECTION_KEYS = ("direction",)
_KEY_KEYS = ("key", "keys", "button")
_NESTED_KEYS = ("arguments", "parameters", "args")
_PLACES = POINT_KEYS | BOX_KEYS | {"start_box", "end_box", "start_point", "end_point"}
_LONGEST_POINT = 200
"""Characters of a point that is written as a text of its own."""
_KEY = r"[A-Za-z_]\w*+"
_VALUE = (
    r"""(?:"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+'"""
    r"""|\[[^\[\]()\n]*+\]|\([^\[\]()\n]*+\)|[^\s,()\[\]'"=][^,()\[\]'"=\n]*+)"""
)
_CALL = re.compile(rf"(?<![\w.])({_KEY})\(((?:\s*+{_KEY}\s*+=\s*+{_VALUE}\s*+(?:,|(?=\))))*+)\s*+\)")
_NAMED = re.compile(rf"({_KEY})\s*+=\s*+({_VALUE})")


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
    """How many different values are given for what should be one: a key written twice, several points, a second name
    for the action."""


def read_actions(answer: str) -> list[ParsedAction]:
    """Every action in `answer`, in the order written; an empty list where there is none.

    An action is an object with `action` (or `action_type`), alone or in lists, in JSON or Python quoting, fenced or
    not, amid prose; the fields may stand in an inner object `arguments` or `parameters`, as in a tool call, whose
    `name` is the action where the arguments give none. Its other fields: `point` (or `coordinate`, `position`, `bbox`,
    `start_box` and the like, or `x` and `y`; a text that holds points is read), `text` (or `input_text`, `content`,
    `value`, `app_name`), `direction`, `key` (or `keys`, `button`). Where there is no such object, calls with named
    arguments or none: "click(start_box='(12,30)')", "scroll(point='<point>12 30</point>', direction='up')", "wait()".
    Never raises.
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
    return actions or [action for item in _calls(answer) if (action := _action(item)) is not None]


def _calls(answer: str) -> Iterable[dict[str, list[Any]]]:
    """Calls with named arguments, as objects of which `action` is the name."""
    for call in _CALL.finditer(answer):
        item: dict[str, list[Any]] = {"action": [call[1]]}
        for key, value in _NAMED.findall(call[2]):
            quoted = value[0] in "\"'"
            read = [re.sub(r"\\(.)", _escaped, value[1:-1])] if quoted else _read(value.strip())
            item.setdefault(key.lower(), []).extend(read)
        yield item


def _read(value: str) -> list[Any]:
    """An argument without quotes: the numbers or the list that it is, else its text."""
    values = read_values(value)
    return [value] if any(each is PROSE for each in values) else values


def _escaped(match: re.Match[str]) -> str:
    return {"n": "\n", "t": "\t"}.get(match[1], match[1])


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
    fields = [names, texts, directions, keys]
    return ParsedAction(
        name=names[0],
        point=points[0] if points else None,
        text=texts[0] if texts else None,
        direction=directions[0] if directions else None,
        key=keys[0] if keys else None,
        choices=max(1, len(set(points)), *map(_different, fields)),
    )


def _different(texts: Sequence[str]) -> int:
    """How many of `texts` differ in normal form; blank ones say nothing."""
    return len(texts) if len(texts) < 2 else len({normalise(text) for text in texts if text.strip()})


def _given(item: dict[str, list[Any]], keys: Sequence[str]) -> list[Any]:
    """All values of all of `keys`, those of the first key first, blank texts last."""
    given = [value for key in keys for value in item.get(key, ())]
    return given if len(given) < 2 else sorted(given, key=lambda value: value == "")


def _points(item: dict[str, list[Any]]) -> list[ParsedPoint]:
    found: list[ParsedPoint] = []
    for key, given in item.items():
        if key in _PLACES:
            held = key if key in POINT_KEYS or key in BOX_KEYS else "box"
            found += points_in([{held: given}]) or [
                p for text in map(_written, given) if text for p in read_points(text)
            ]
    return found + points_in([{axis: item[axis] for axis in "xy" if axis in item}])


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
