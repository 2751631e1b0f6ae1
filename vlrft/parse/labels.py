"""Names of classes in an answer: one, a list, a path through a taxonomy."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from vlrft.parse.text import normalise, words
from vlrft.parse.values import read_values

_ARTICLE = re.compile(r"(?:an?|the) (?=\S)")
_GAP = re.compile(r"[,;\n]")
_AND = re.compile(r"(?<=\s)and(?=\s)|&", re.I)
_BULLET = re.compile(r"\s*(?:[-*\u2022]+|\d{1,3}[.)])\s+")
_LEAD_IN = re.compile(r"[^:]{1,40}:\s*")
_MARKS = re.compile(r"\*\*|`")
_STEP = re.compile(r"[-=]?>+|\u2192|\u203a|\u00bb|/|\||::|\\")
_EMPTY = frozenset({"", "[]", "none", "no labels", "no label", "no objects", "empty"})


def label_key(text: str) -> str:
    """A label in the form in which labels are compared: normalised, without a leading article.

    Example: label_key(" The red_blood-cell.") == label_key("Red blood cell") == "red blood cell"
    """
    flat = normalise(_MARKS.sub("", text) if "*" in text or "`" in text else text)
    return _ARTICLE.sub("", flat, count=1) if _ARTICLE.match(flat) else flat


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Labels by the words of their names; two labels may share them ("C" and "C++")."""

    by_words: Mapping[tuple[str, ...], frozenset[str]]
    lengths: tuple[int, ...]
    """Numbers of words that names have, longest first."""


def label_table(keys: Iterable[str]) -> LabelTable:
    """A table of the labels that `keys` (as `label_key` gives them) stand for."""
    found: dict[tuple[str, ...], frozenset[str]] = {}
    for key in keys:
        name = label_words(key)
        found[name] = found.get(name, frozenset()) | {key}
    found.pop((), None)
    return LabelTable(found, tuple(sorted({len(name) for name in found}, reverse=True)))


def mentions(answer: str, *tables: LabelTable) -> set[str]:
    """Which labels of any table stand in `answer` as whole words; of overlapping ones the longest.

    Example: mentions("a hot dog", label_table(["dog", "hot dog"])) == {"hot dog"}
    """
    found: set[str] = set()
    lengths = sorted({length for table in tables for length in table.lengths}, reverse=True)
    said = label_words(answer)
    position = 0
    while position < len(said):
        step = 1
        for length in lengths:
            name = said[position : position + length]
            labels = [table.by_words[name] for table in tables if name in table.by_words]
            if labels:
                found.update(*labels)
                step = length
                break
        position += step
    return found


def label_words(text: str) -> tuple[str, ...]:
    """The words of a label or an answer, case folded, dashes and underscores apart."""
    return tuple(words(normalise(text)))


def read_labels(answer: str, known: Collection[str] = ()) -> tuple[str, ...] | None:
    """The labels that `answer` lists, as keys, each once, in order; () for an explicit "[]" or "none".

    A JSON or Python list of strings; else items between commas, semicolons or lines, with bullets or numbers before
    them, and "and" or "&" between items unless it is part of a known label ("salt and pepper").
    known: keys of labels whose own "and", comma or colon must hold. None where there is nothing to read.
    """
    text = _MARKS.sub("", answer).strip()
    values = read_values(text)
    if len(values) == 1 and isinstance(values[0], list):
        if not all(isinstance(value, str) for value in values[0]):
            return _keys(text.strip("[]()"), known)
        return tuple(dict.fromkeys(key for value in values[0] if (key := label_key(value))))
    return () if normalise(text) in _EMPTY else _keys(text, known)


def _keys(text: str, known: Collection[str]) -> tuple[str, ...] | None:
    if text.startswith("[") and text.endswith("]"):
        text = text.strip("[]")
    if label_key(text) in known:
        return (label_key(text),)
    found: dict[str, None] = {}
    first, *others = _GAP.split(text)
    for number, piece in enumerate([first, *dict.fromkeys(others)]):
        if not piece or piece.isspace():
            continue
        item = _BULLET.sub("", piece, count=1) if _BULLET.match(piece) else piece
        if number == 0 and label_key(item) not in known:
            item = _LEAD_IN.sub("", item, count=1) if _LEAD_IN.match(item) else item
        parts = [item] if label_key(item) in known else _AND.split(item)
        found |= {key: None for part in parts if (key := label_key(part.removeprefix("and ")))}
    return tuple(found) or None


def read_path(answer: str) -> tuple[tuple[str, ...], bool] | None:
    """(the path as keys from the root on, whether other paths follow on further lines), or None.

    A JSON list; names with ">", "->", "/", "|", "::" or a backslash between; else commas, semicolons or lines.
    """
    text = _MARKS.sub("", answer).strip()
    values = read_values(text)
    if len(values) == 1 and isinstance(values[0], list) and all(isinstance(v, str) for v in values[0]):
        steps, more = values[0], False
    else:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) == 1 or (lines and _STEP.search(text)):
            steps = _STEP.split(lines[0])
            steps, more = (_GAP.split(lines[0]) if len(steps) == 1 else steps), len(lines) > 1
        else:
            steps, more = lines, False
    path = tuple(key for step in steps if (key := label_key(step)))
    return (path, more) if path else None
