"""Lists in an answer: ranked candidates, and sets of labels."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlrft.parse.values import PROSE, read_values

ListForm = Literal["json", "numbered", "bullets", "semicolons", "lines", "single", "none"]

# "1." must not be the start of 1.5, nor "1:" of 1:30.
_NUMBERED = re.compile(r"(?:\([0-9]{1,4}\)|[0-9]{1,4}(?:[.:](?![0-9])|[)\u3001\uff0e]))[ \t]*")
_LETTERED = re.compile(r"(?:\([a-z]\)|[a-z][.)])[ \t]+", re.I)
_INLINE = re.compile(r"(?:\A|(?<=[\s,;]))([0-9]{1,3})[.)][ \t]+")
_BULLET = re.compile(r"[-*+\u2022\u2023\u25aa\u25cf\u2013\u2014][ \t]+")
_NAMED = ("item", "name", "label", "answer")
_FENCE = re.compile(r"```[^\n`]*\n?")
_SEPARATOR = re.compile(r"[,;\n]|\band\b|\s&\s", re.I)


@dataclass(frozen=True, slots=True)
class ParsedList:
    """The entries of a list as the text has them, in order, duplicates included."""

    items: tuple[str, ...]
    """An entry that is not one text (a list, null, an object without a name) is an empty string: it keeps its rank."""
    form: ListForm
    clean: bool
    """True when the text is written as a list and as nothing else: no loose lines, no empty entries."""


def read_list(text: str) -> ParsedList:
    """The list that `text` gives: JSON or Python list, numbered lines, bullets, semicolons, lines, or a single entry.

    Where lines are numbered, lettered from a on, or bulleted, the others are prose and skipped; numbers from 1 may also
    count off entries within one line. An object with one list gives that list. Commas do not separate: names hold them.
    Never raises.
    """
    bare = _without_fence(text)
    if "[" in bare and (found := _bracketed(bare)) is not None:
        return found
    lines = [line for line in map(str.strip, bare.splitlines()) if line]
    if len(lines) == 1 and (found := _counted_off(lines[0])) is not None:
        return found
    for form, mark in (("numbered", _NUMBERED), ("bullets", _BULLET), ("numbered", _LETTERED)):
        marked = [(line, match.end()) for line in lines if (match := mark.match(line))]
        if marked and (mark is not _LETTERED or _in_order([line.strip("(")[0] for line, _ in marked])):
            items = [_plain(line[end:]) for line, end in marked]
            clean = len(marked) == len(lines) and all(items)
            return ParsedList(tuple(filter(None, items)), "numbered" if form == "numbered" else "bullets", clean)
    if ";" in bare:
        items = [_plain(piece) for line in lines for piece in line.removesuffix(";").split(";")]
        return ParsedList(tuple(filter(None, items)), "semicolons", all(items))
    items = [item for item in map(_plain, lines) if item]
    return ParsedList(tuple(items), "none" if not items else "single" if len(items) == 1 else "lines", clean=False)


def _counted_off(line: str) -> ParsedList | None:
    """Entries numbered from 1 within one line, "1. asthma 2. COPD"; None where there are not two of them."""
    marks = list(_INLINE.finditer(line))
    if len(marks) < 2 or marks[0].start() or [int(m[1]) for m in marks] != list(range(1, len(marks) + 1)):
        return None
    ends = [m.start() for m in marks[1:]] + [len(line)]
    items = [_plain(line[m.end() : end].strip().rstrip(",;")) for m, end in zip(marks, ends, strict=True)]
    return ParsedList(tuple(filter(None, items)), "numbered", clean=all(items))


def _in_order(letters: Sequence[str]) -> bool:
    """Whether they count off from a: the lines "a. asthma", "b. COPD", but not "A. fumigatus" alone."""
    return len(letters) > 1 and [letter.lower() for letter in letters] == [chr(97 + i) for i in range(len(letters))]


def read_labels(text: str) -> list[str]:
    """Labels listed in `text`: a list in any form of `read_list`, its entries split at commas and the word "and".

    Entries of a JSON list are whole. The order is kept, and so are duplicates. Never raises.
    """
    found = read_list(text)
    if found.form == "json":
        return [item for item in found.items if item]
    return [label for item in found.items for piece in _SEPARATOR.split(item) if (label := _plain(piece.strip("{}()")))]


def _without_fence(text: str) -> str:
    stripped = text.strip()
    return _FENCE.sub("", stripped).strip() if stripped.startswith("```") else stripped


def _bracketed(text: str) -> ParsedList | None:
    """The only list in `text`; None where there is none or there are several."""
    if text[0] == "[":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list):
            return _of_values(value, clean=True)
    values = read_values(text)
    lists = [value for value in values if isinstance(value, list)]
    if len(values) == 1 and isinstance(values[0], dict):
        lists = [held for given in values[0].values() for held in given if isinstance(held, list)]
    if len(lists) != 1:
        return None
    return _of_values(lists[0], clean=not any(value is PROSE for value in values))


def _of_values(values: Sequence[Any], *, clean: bool) -> ParsedList:
    items = tuple(_entry(value) for value in values)
    return ParsedList(items, "json", clean and bool(items) and all(items))


def _entry(value: Any) -> str:
    """One entry as text; empty where it is not one name."""
    if isinstance(value, dict):
        lowered = {str(key).lower(): held for key, held in value.items()}
        held = next((lowered[key] for key in _NAMED if key in lowered), None)
        # The tolerant reader keeps all values of a repeated key; more than one is not one name.
        value = held[0] if isinstance(held, list) and len(held) == 1 else held
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return f"{value:.12g}" if isinstance(value, float) else _digits(value)


def _digits(value: int) -> str:
    # A number beyond Python's own limit for printing is no entry of any list.
    return str(value) if value.bit_length() < 4096 else ""


def _plain(text: str) -> str:
    """`text` without outer white space and Markdown emphasis around the whole of it."""
    text = text.strip()
    for mark in ("**", "__", "`", "*", "_"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)].strip()
    return text
