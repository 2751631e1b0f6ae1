"""Lists, objects and scalars as models write them: one tolerant reader for JSON and Python literals.

One pass over the text without recursion, so a hostile megabyte costs about a second. Never raises. Brackets that hold
strict JSON, as most answers do, are read by the standard library's decoder, with the same result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MAX_DEPTH = 16
"""A list of objects with boxes is three deep; deeper text is not an answer."""

_SKIP = r"(?P<skip>[\s,]+|<\|[a-z_]{1,32}\|>|```\w*)"
_DIGITS = r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+(?![\w.+-])"
_NUMBER = rf"(?P<number>{_DIGITS})"
_WORD = r"(?P<word>(?:[-+]?(?:nan|inf(?:inity)?)|true|false|none|null)(?![\w.+-]))"
# A list of plain numbers is one token: boxes and points are most of what is read.
_NUMBERS = rf"(?P<numbers>[\[(][\s,]*+(?:{_DIGITS}[\s,]*+)++[\])])"
# Brackets in a row are one token, as long as the depth allows: a megabyte of them is soon read.
_OPENING = r"[\[({]"
_OPEN = rf"(?P<open>(?:{_OPENING}(?={_OPENING})){{1,{_MAX_DEPTH + 1}}}+|{_OPENING})"
_BRACKET = rf"{_NUMBERS}|{_OPEN}|(?P<close>[\])}}])"
_STRING = r"""(?P<string>"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+')|(?P<colon>:)"""
# ASCII: without it, ignoring case lets a dotless i pass for the i of "inf".
# Signs that begin nothing else are taken in one go.
_PROSE = r"(?P<prose>[\w.+-]+|[^\w\s,.+\-<`\[\](){}]+|.)"
_OUTSIDE = re.compile(rf"{_SKIP}|{_NUMBER}|{_WORD}|{_BRACKET}|{_PROSE}", re.I | re.A | re.DOTALL)
_INSIDE = re.compile(rf"{_SKIP}|{_NUMBER}|{_WORD}|{_BRACKET}|{_STRING}", re.I | re.A)
_CLOSES = {"[": "]", "(": ")", "{": "}"}
_NESTED: frozenset[type] = frozenset({list, dict})
_WORDS = {"true": True, "false": False, "none": None, "null": None}


class Prose:
    """Marks a place between two values where the text is not data."""


PROSE = Prose()
"""The mark itself."""


@dataclass(slots=True)
class _Open:
    """A bracket that waits for its partner. In braces, `items` are (key, value) pairs."""

    bracket: str
    items: list[Any]
    key: Any = None
    keyed: bool = False


def read_values(text: str) -> list[Any]:
    """Values at the top level of `text`: numbers, strings, words, lists (also for tuples), dicts of lists, PROSE.

    One tolerant grammar for JSON and Python literals: commas are white space. A dict maps each lower-case key to the
    list of all values given for it, so that a repeated key hides nothing.
    """
    top: list[Any] = []
    stack: list[_Open] = []
    position = 0
    # Without double quotes and escapes, a string in single quotes is a JSON string but for its quotes.
    strict = text if '"' in text or "\\" in text else text.replace("'", '"')
    is_json = True
    while position < len(text):
        if is_json and not stack and text[position] in "[{":
            value, end = _json_at(strict, position)
            # One failure is enough: trying again and again could cost the square of the length.
            is_json = end > 0
            if is_json:
                top.append(value)
                position = end
                continue
        match = (_INSIDE if stack else _OUTSIDE).match(text, position)
        if match is None:  # inside brackets only: they do not hold data
            stack.clear()
            top.append(PROSE)
            continue
        position = match.end()
        kind, token = match.lastgroup, match.group()
        if kind == "skip":
            continue
        if kind == "open":
            token = token[: _MAX_DEPTH + 1 - len(stack)]
            position = match.start() + len(token)
        if kind == "prose":
            if not top or top[-1] is not PROSE:
                top.append(PROSE)
        elif not _accept(kind, token, top, stack):
            stack.clear()
            top.append(PROSE)
    return [*top, PROSE] if stack else top


def _accept(kind: str | None, token: str, top: list[Any], stack: list[_Open]) -> bool:
    """Put one token where it belongs; False when it cannot stand there."""
    if kind == "open":
        if len(stack) + len(token) > _MAX_DEPTH:
            return False
        stack += [_Open(bracket, []) for bracket in token]
        return True
    if kind == "numbers":
        if _CLOSES[token[0]] != token[-1] or len(stack) == _MAX_DEPTH:
            return False
        value: Any = [float(number) for number in token[1:-1].replace(",", " ").split()]
        return _put(value, top, stack)
    if kind == "colon":
        holder = stack[-1]
        if holder.bracket != "{" or holder.keyed or not holder.items or isinstance(holder.items[-1], tuple):
            return False
        holder.key, holder.keyed = holder.items.pop(), True
        return isinstance(holder.key, str)
    if kind == "close":
        if not stack or _CLOSES[stack[-1].bracket] != token:
            return False
        closed = stack.pop()
        value = _as_dict(closed) if closed.bracket == "{" else closed.items
        if value is None:
            return False
    else:
        value = _scalar(kind, token)
    return _put(value, top, stack)


def _put(value: Any, top: list[Any], stack: list[_Open]) -> bool:
    if stack and stack[-1].keyed:
        holder = stack[-1]
        holder.items.append((holder.key, value))
        holder.keyed = False
    else:
        (stack[-1].items if stack else top).append(value)
    return True


def _as_dict(closed: _Open) -> dict[str, list[Any]] | None:
    if closed.keyed or not all(isinstance(item, tuple) for item in closed.items):
        return None
    return _merged(closed.items)


def _merged(pairs: Sequence[tuple[str, Any]]) -> dict[str, list[Any]]:
    merged: dict[str, list[Any]] = {}
    for key, value in pairs:
        merged[key.lower()] = [value]
    if len(merged) < len(pairs):
        merged = {key: [] for key in merged}
        for key, value in pairs:
            merged[key.lower()].append(value)
    return merged


_JSON = json.JSONDecoder(object_pairs_hook=_merged, parse_int=float, parse_constant=float)


def _json_at(text: str, position: int) -> tuple[Any, int]:
    """(the JSON value that starts at `position`, where it ends); (None, 0) where there is none or it is too deep."""
    try:
        value, end = _JSON.raw_decode(text, position)
    except (ValueError, RecursionError):
        return None, 0
    return (value, end) if _is_shallow(value, _MAX_DEPTH) else (None, 0)


def _is_shallow(value: Any, room: int) -> bool:
    """Whether a list or dict (of lists of values) has at most `room` levels."""
    level = [value]
    for _ in range(room):
        held: list[Any] = []
        for holder in level:
            if type(holder) is dict:
                for group in holder.values():
                    held += group
            else:
                held += holder
        level = [item for item in held if type(item) in _NESTED]
        if not level:
            return True
    return False


def _scalar(kind: str | None, token: str) -> Any:
    if kind == "number":
        return float(token)
    if kind == "word":
        word = token.lower()
        return _WORDS[word] if word in _WORDS else float(word)
    try:
        return json.loads(token)
    except ValueError:  # single quotes, or an escape that JSON does not know
        return re.sub(r"\\(.)", r"\1", token[1:-1])
