"""An answer as a list of items, and which kind of value each of them is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from vlrft.parse.lists import read_list
from vlrft.parse.numbers import read_number
from vlrft.parse.spans import read_spans
from vlrft.parse.text import normalise
from vlrft.parse.values import PROSE, read_values

_BOX_KEYS = ("bbox_2d", "bbox", "box", "position", "coordinate")
_POINT_KEYS = ("point_2d", "point", "coordinate", "coordinates", "position")
_NOTHING = frozenset({"[]", "{}", "none", "nothing", "no objects", "no object", "empty"})
_LETTER = re.compile(r"[(\[]?\*{0,2}([A-Z])\*{0,2}[)\]]?[.:]?")
_BETWEEN_LETTERS = re.compile(r"[\s,;/&]+(?:and[\s,]+)?")


def is_empty_list(answer: str) -> bool:
    """True for an answer that says in so many words that there is nothing to list: `[]`, None, No Objects."""
    return normalise(answer[:40]) in _NOTHING and len(answer) <= 40


def is_number(value: Any) -> bool:
    """A finite number, as `read_values` gives them."""
    return type(value) is float and math.isfinite(value)


def is_point(value: Any) -> bool:
    """[x, y], or an object that holds one."""
    if isinstance(value, dict):
        return any(is_point(_only(value, key)) for key in _POINT_KEYS if key in value)
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def is_box(value: Any) -> bool:
    """[x1, y1, x2, y2] with x1 < x2 and y1 < y2, two corners, or an object that holds such a box."""
    if isinstance(value, dict):
        return any(is_box(_only(value, key)) for key in _BOX_KEYS if key in value)
    if not isinstance(value, list):
        return False
    flat = [*value[0], *value[1]] if len(value) == 2 and all(isinstance(v, list) for v in value) else value
    return len(flat) == 4 and all(map(is_number, flat)) and bool(flat[0] < flat[2] and flat[1] < flat[3])


def is_span(value: Any) -> bool:
    """[start, end] with 0 <= start < end, or an object with both."""
    if isinstance(value, dict):
        value = [_only(value, "start"), _only(value, "end")]
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and 0.0 <= value[0] < value[1]


KINDS: dict[str, Callable[[Any], bool]] = {
    "any": lambda value: True,
    "number": is_number,
    "integer": lambda value: is_number(value) and value.is_integer(),
    "string": lambda value: isinstance(value, str) and bool(value.strip()),
    "boolean": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "box": is_box,
    "point": is_point,
    "span": is_span,
}
"""What a key of an object may hold."""


def valid_objects(answer: str, keys: Mapping[str, str]) -> list[bool]:
    """One entry per item: an object with every key of `keys` once and of its kind; "key?" may be missing."""

    def fits(item: Any) -> bool:
        return isinstance(item, dict) and all(_fits(item, key, KINDS[kind]) for key, kind in keys.items())

    return [fits(item) for item in _items(answer, fits)]


def _fits(item: dict[str, list[Any]], key: str, holds: Callable[[Any], bool]) -> bool:
    name = key.removesuffix("?").lower()
    if name not in item:
        return key.endswith("?")
    return len(item[name]) == 1 and holds(item[name][0])


def valid_items(answer: str, kind: str, *, options: int = 26, unit: str | None = None) -> list[bool]:
    """One entry per item that `answer` lists: whether it is a `kind`. Text around the items is one more, not valid.

    kind: `boxes`, `points`, `spans`, `choice` (letters, `options` of them are allowed), `number` (one, in `unit`),
    `list` (any form of list, of entries that are not blank), `json` (JSON or Python values). Never raises.
    """
    if kind == "number":
        reading = read_number(answer, unit=unit)
        return [reading.value is not None and reading.whole]
    if kind == "choice":
        return _letters(answer, options)
    if kind == "list":
        found = read_list(answer)
        loose = found.form in ("numbered", "bullets") and not found.clean
        return [bool(item.strip()) and found.form != "single" for item in found.items] + [False] * loose
    if kind == "json":
        return [value is not PROSE for value in read_values(answer)]
    holds = {"boxes": is_box, "points": is_point, "spans": is_span}[kind]
    items = _items(answer, holds)
    if kind == "spans" and PROSE in items and (spans := read_spans(answer)):
        return [is_span([span.start, span.end]) for span in spans]
    return [holds(item) for item in items]


def _items(answer: str, holds: Callable[[Any], bool]) -> list[Any]:
    """Values at the top of `answer`; those inside, where all stand in one list; loose numbers are one list."""
    values = read_values(answer)
    while len(values) == 1 and isinstance(values[0], list) and values[0] and not holds(values[0]):
        values = values[0]
    if values and all(type(value) is float for value in values):
        return [values]
    corners = len(values) % 2 == 0 and holds is is_box and all(isinstance(v, list) and is_point(v) for v in values)
    return [[values[i], values[i + 1]] for i in range(0, len(values), 2)] if corners else values


def _letters(answer: str, options: int) -> list[bool]:
    values = read_values(answer) if answer.lstrip().startswith("[") else []
    if len(values) == 1 and isinstance(values[0], list) and all(isinstance(item, str) for item in values[0]):
        pieces: Sequence[str] = values[0]
    else:
        pieces = [piece for piece in _BETWEEN_LETTERS.split(answer.strip()) if piece]
    matches = [_LETTER.fullmatch(piece.strip()) for piece in pieces]
    return [match is not None and ord(match[1]) - ord("A") < options for match in matches]


def _only(item: dict[str, list[Any]], key: str) -> Any:
    given = item.get(key, [])
    return given[0] if len(given) == 1 else None


def list_items(answer: str) -> list[Hashable]:
    """The entries of the list that `answer` gives, in a form that compares by value; prose around data is no entry.

    Two or four numbers in brackets are one entry: a point, a span, a box.
    """
    items: list[Any] = [value for value in read_values(answer) if isinstance(value, list | dict)]
    if not items:
        return [normalise(item) for item in read_list(answer).items if item.strip()]
    while len(items) == 1 and isinstance(items[0], list) and not _is_place(items[0]):
        items = items[0]
    return [_frozen(item) for item in items]


def _is_place(value: list[Any]) -> bool:
    return len(value) in (2, 4) and all(type(item) is float for item in value)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, dict):
        return ("object", *sorted((key, _frozen(item)) for key, item in value.items()))
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return normalise(value) if isinstance(value, str) else repr(value)
