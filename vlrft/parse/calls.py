"""Calls in a completion: tool calls in their tags, `func(object, value)` triples, JSON trees, step blocks.

All readers are one pass over the text and never raise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.parse.values import PROSE, read_values

MAX_DEPTH = 32
"""Deeper JSON is refused, so that whoever walks it may recurse."""

_HIDDEN = re.compile(r"</?(?:think|tool_response)>")
_TOOL_TAG = re.compile(r"</?tool_call>")
_FENCED = re.compile(r"```[a-zA-Z]*\s(.*?)```", re.DOTALL)
_MAX_DIGITS = 30
"""A longer whole number is read as a float: nothing that we judge needs more digits."""

_CALL_START = re.compile(r"(?<![\w.])([A-Za-z_][\w.]*+)[ \t]*+\(", re.ASCII)
_ARGUMENT = re.compile(r"""[ \t]*(?:"((?:[^"\\\n]|\\.)*+)"|'((?:[^'\\\n]|\\.)*+)')[ \t]*(?=[,)])""")
_PLAIN_STOP = re.compile(r"[,()\[\]{}\n]")
_EMPTY = frozenset({"[]", "()", "{}", "none", "null", "no calls", "no change", "no changes"})

_REPEAT = "\0"
"""Ends the key of a repeated entry, before a number that makes it unlike all others."""

Triple = tuple[str, str, str]


class Unreadable:
    """Marks a text that holds no JSON value; None is a value of JSON."""


UNREADABLE = Unreadable()
"""The mark itself."""
_TOO_DEEP = Unreadable()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as the model wrote it."""

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ParsedCalls:
    """All tool calls of a completion."""

    calls: tuple[ToolCall, ...] = ()
    blocks: int = 0
    """How many `<tool_call>` blocks there are, readable or not."""
    errors: int = 0
    """Blocks or lines that are no call, and tags without a partner."""


def outside_reasoning(text: str, *, last_close: bool = True) -> str:
    """`text` without `<think>` and `<tool_response>` blocks; a block left open hides all that follows it.

    Text before a `</think>` that nothing opened is reasoning too: the prompt opened it, or blocks are nested or closed
    twice. last_close: whether that holds for every such tag, or for the first tag of the text only.
    """
    kept: list[str] = []
    position, inside, opened = 0, "", False
    for match in _HIDDEN.finditer(text):
        tag = match.group()
        name = tag.strip("</>")
        closing = tag.startswith("</")
        if inside:
            if closing and name == inside:
                position, inside = match.end(), ""
            continue
        if not closing:
            kept.append(text[position : match.start()])
            inside, opened = name, opened or name == "think"
        elif name == "think" and (last_close or not opened):
            kept.clear()
            position, opened = match.end(), True
        else:
            kept.append(text[position : match.start()])
            position = match.end()
    if not inside:
        kept.append(text[position:])
    # Joined by a space: pieces must not grow together into a tag that the model never wrote.
    return " ".join(kept)


def parse_calls(text: str, *, last_close: bool = True) -> ParsedCalls:
    """The tool calls in the `<tool_call>` blocks of a completion, outside its reasoning (see `outside_reasoning`).

    A block holds one JSON object, a JSON list of them, or one object per line: `{"name", "parameters"}`, with
    `arguments` or `args` for `parameters`, these perhaps as a JSON string, perhaps wrapped as `{"function": {...}}`.
    """
    calls: list[ToolCall] = []
    blocks = errors = 0
    opened: int | None = None
    visible = outside_reasoning(text, last_close=last_close)
    for match in _TOOL_TAG.finditer(visible):
        if match.group() == "<tool_call>":
            errors += opened is not None
            opened = match.end()
            blocks += 1
        elif opened is None:
            errors += 1
        else:
            found, bad = _calls_in(visible[opened : match.start()])
            calls += found
            errors += bad
            opened = None
    return ParsedCalls(tuple(calls), blocks, errors + (opened is not None))


def as_calls(value: Any) -> list[ToolCall] | None:
    """The calls that a JSON value lists (one object or a list of them); None when it is anything else."""
    items = value if isinstance(value, list) else [value]
    calls = [as_call(item) for item in items]
    return None if any(call is None for call in calls) else [call for call in calls if call is not None]


def as_call(value: Any) -> ToolCall | None:
    """`{"name", "parameters"}` in one of the spellings of `parse_calls`; None when it is anything else."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    # Which of two names would run depends on the reader: such an object is no call.
    if not isinstance(value, dict) or any(_REPEAT in str(key) for key in value):
        return None
    name = value.get("name")
    given = next((value[key] for key in ("parameters", "arguments", "args") if key in value), None)
    if isinstance(given, str):
        given = read_json(given)
    if given is None:
        given = {}
    if not isinstance(name, str) or not name.strip() or not isinstance(given, dict):
        return None
    return ToolCall(name.strip(), given)


def _calls_in(block: str) -> tuple[list[ToolCall], int]:
    """(calls, number of errors) of one block: the block as a whole, else line by line."""
    whole = as_calls(_sole_value(block))
    if whole:
        return whole, 0
    lines = [line for line in map(str.strip, block.splitlines()) if line]
    if lines == [block]:  # it has just been read
        return [], 1
    found = [as_call(_sole_value(line)) for line in lines]
    calls = [call for call in found if call is not None]
    return calls, len(found) - len(calls) if found else 1


def _sole_value(text: str) -> Any:
    """The value that `text` is, in JSON or Python quoting; UNREADABLE where anything stands beside it."""
    value = _strict_json(text.strip())
    if value is not UNREADABLE:
        return value
    values = read_values(text)
    return _single_valued(values[0]) if len(values) == 1 and isinstance(values[0], list | dict) else UNREADABLE


def read_json(text: str) -> Any:
    """The one JSON value in `text`, or UNREADABLE: the text itself, its only fenced block, or amid prose.

    Python quoting is read as well, then keys come in lower case. Of a repeated key the first value holds it; the
    others stand under names of their own, so that they hide nothing. UNREADABLE too when the prose holds several
    values, and when the value is nested deeper than MAX_DEPTH.
    """
    found = read_jsons(text)
    return found[0] if len(found) == 1 else UNREADABLE


def read_jsons(text: str) -> list[Any]:
    """Every list or object in `text`, in order; a text that is one JSON scalar gives that scalar."""
    stripped = text.strip()
    value = _strict_json(stripped)
    if value is UNREADABLE and stripped.count("```") == 2 and (fenced := _FENCED.search(stripped)):
        value = _strict_json(fenced.group(1).strip())
    if value is not UNREADABLE:
        return [] if value is _TOO_DEEP else [value]
    values = [v for v in read_values(stripped) if v is not PROSE]
    return [_single_valued(v) for v in values if isinstance(v, list | dict)]


def _strict_json(text: str) -> Any:
    if not text or text[0] not in '[{"-0123456789tfn':
        return UNREADABLE
    try:
        value = json.loads(text, object_pairs_hook=_with_repeats, parse_int=_whole)
    except RecursionError:
        return _TOO_DEEP
    except ValueError:
        return UNREADABLE
    return value if _depth(value) <= MAX_DEPTH else _TOO_DEEP


def _whole(digits: str) -> float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _with_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    merged = dict(pairs)
    if len(merged) == len(pairs):
        return merged
    merged = {}
    for number, (key, value) in enumerate(pairs):
        merged[key if key not in merged else f"{key}{_REPEAT}{number}"] = value
    return merged


def _single_valued(value: Any) -> Any:
    """What `read_values` gives (at most 16 deep), with each object's lists of values undone."""
    if isinstance(value, list):
        return [_single_valued(item) for item in value]
    if isinstance(value, dict):
        return _with_repeats([(key, _single_valued(item)) for key, held in value.items() for item in held])
    return value


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        inner = [v for v in level if isinstance(v, list | dict)]
        level = [child for v in inner for child in (v.values() if isinstance(v, dict) else v)]
        depth += 1
    return depth


def parse_triples(text: str) -> list[Triple] | None:
    """The `func(object, value)` calls in `text`, in order; None where there is none and the text does not say so.

    Quotes of either kind are dropped, white space is free. With one argument the value is empty, from the third on
    arguments belong to the value. Calls do not span lines. JSON is read too: lists of three scalars, or objects with
    func (function, name), object and value. `[]` and "none" are an empty list.
    """
    bare = text.strip()
    if bare.lower().rstrip(".") in _EMPTY:
        return []
    if bare[:1] in ("[", "{", "`"):
        triples = _json_triples(read_json(bare))
        if triples is not None:
            return triples
    found: list[Triple] = []
    position = 0
    while match := _CALL_START.search(bare, position):
        arguments, position = _arguments(bare, match.end())
        if arguments is not None:
            padded = [*arguments, "", ""]
            found.append((match.group(1), padded[0], ", ".join(arguments[1:])))
    return found or None


def _arguments(text: str, position: int) -> tuple[list[str] | None, int]:
    """(arguments, where to read on); no arguments when the bracket does not close on its line."""
    arguments: list[str] = []
    while True:
        if quoted := _ARGUMENT.match(text, position):
            argument, position = quoted[1] if quoted[1] is not None else quoted[2], quoted.end()
            argument = re.sub(r"\\(.)", r"\1", argument)
        else:
            start = position
            position = _plain_end(text, position)
            if position < 0:
                break
            argument = text[start:position].strip().strip("\"'")
        arguments.append(argument.strip())
        if text[position] == ")":
            return ([] if arguments == [""] else arguments), position + 1
        position += 1
    line_end = text.find("\n", start)
    return None, len(text) if line_end < 0 else line_end


def _plain_end(text: str, position: int) -> int:
    """Where an unquoted argument ends, brackets within it balanced; -1 when its line ends first."""
    depth = 0
    for match in _PLAIN_STOP.finditer(text, position):
        sign = match.group()
        if sign == "\n":
            return -1
        if depth == 0 and sign in ",)":
            return match.start()
        depth += 1 if sign in "([{" else -1 if sign in ")]}" else 0
    return -1


def _json_triples(value: Any) -> list[Triple] | None:
    items = value if isinstance(value, list) else [value]
    if len(items) == 3 and not any(isinstance(item, list | dict) for item in items):
        items = [items]
    triples = [_json_triple(item) for item in items]
    return None if any(t is None for t in triples) else [t for t in triples if t is not None]


def _json_triple(item: Any) -> Triple | None:
    if isinstance(item, dict):
        func = next((item[key] for key in ("func", "function", "name") if key in item), None)
        item = [func, item.get("object"), item.get("value")]
    scalars = isinstance(item, list) and len(item) == 3 and not any(isinstance(part, list | dict) for part in item)
    if not scalars or not isinstance(item[0], str):
        return None
    return item[0].strip(), scalar_text(item[1]), scalar_text(item[2])


def scalar_text(value: Any) -> str:
    """A JSON scalar as a call would write it: 3.0 as 3, null as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value).strip()


def tagged_blocks(text: str, kinds: Sequence[str]) -> list[tuple[str, str]] | None:
    """(kind, stripped content) of every `<kind>...</kind>` outside the reasoning, in order.

    None when these tags are nested or lack a partner.
    """
    found: list[tuple[str, str]] = []
    opened: tuple[str, int] | None = None
    visible = outside_reasoning(text)
    for match in re.finditer(rf"<(/?)({'|'.join(map(re.escape, kinds))})>", visible):
        closing, kind = match.groups()
        if not closing:
            if opened is not None:
                return None
            opened = kind, match.end()
        elif opened is None or opened[0] != kind:
            return None
        else:
            found.append((kind, visible[opened[1] : match.start()].strip()))
            opened = None
    return found if opened is None else None
