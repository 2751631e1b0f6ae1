"""Completion text to `Parsed`, and answer text to boxes: the only place that reads tags or box syntax.

A parse failure is a value, never an exception: the text comes from a model. Everything here is one pass over the text
without recursion, so a hostile megabyte costs about a second.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

OutputMode = Literal["think", "direct", "answer_then_think", "adaptive"]
OUTPUT_MODES: tuple[str, ...] = get_args(OutputMode)

# ---------------------------------------------------------------------------------------------- tags

_TAG = re.compile(r"</?(?:think|answer)>")
_TOOL_RESPONSE = ("<tool_response>", "</tool_response>")
BOXED = r"\boxed"
"""Block name of LaTeX's `\\boxed{...}` in `match_blocks`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A completion, taken apart.

    Example: parse("<think>left of it</think><answer>[1, 2, 3, 4]</answer>") ->
    Parsed(text=..., think="left of it", answer="[1, 2, 3, 4]", flags=(), mode="think")
    """

    text: str
    """The whole completion as it came."""
    think: str | None = None
    """The reasoning without its tags, stripped; None where there is none."""
    answer: str | None = None
    """The answer without its tags, stripped; None where there is none or it is blank."""
    flags: tuple[str, ...] = ()
    """`no_answer`, `lenient`, `several_answers`."""
    mode: str = "think"
    """The output mode it was read in."""


def parse(text: str, mode: str = "think", *, lenient: bool = False) -> Parsed:
    """Find the reasoning and the answer of one completion.

    mode: `think` - the last complete `<answer>` pair that starts after the last `</think>` counts, and none that
    stands inside a `<think>` left open; `answer_then_think` - the first complete pair outside the reasoning;
    `direct` - the whole completion; `adaptive` - as `think` where the text holds any of these tags, else as `direct`.
    lenient: where that finds nothing, take an unclosed `<answer>` after the reasoning, else all text after it, and
    say so with the flag `lenient`. For the warm-up of base models.

    Only the exact ASCII tags are tags. Raises ValueError for an unknown mode, never for a text.
    """
    if mode not in OUTPUT_MODES:
        raise ValueError(f"unknown output mode {mode!r}; use one of {', '.join(OUTPUT_MODES)}")
    tags = [(m.group(), m.start(), m.end()) for m in _TAG.finditer(text)] if mode != "direct" else []
    if mode == "direct" or (mode == "adaptive" and not tags):
        answer = text.strip() or None
        return Parsed(text=text, answer=answer, flags=() if answer else ("no_answer",), mode=mode)
    first = mode == "answer_then_think"
    reasoned = 0 if first else max((end for tag, _, end in tags if tag == "</think>"), default=0)
    tail = [tag for tag in tags if tag[1] >= reasoned]
    spans = _answer_spans(tail)
    answer, flags = None, []
    if spans:
        start, end = spans[0] if first else spans[-1]
        answer = text[start:end].strip() or None
        flags += ["several_answers"] if len(spans) > 1 else []
    elif lenient:
        answer = _lenient_answer(text, tail, reasoned)
        flags += ["lenient"] if answer else []
    flags += [] if answer else ["no_answer"]
    return Parsed(text=text, think=_think(text, tags), answer=answer, flags=tuple(flags), mode=mode)


def has_tags(text: str) -> bool:
    """True when `text` holds a think or answer tag, opening or closing."""
    return _TAG.search(text) is not None


def _answer_spans(tags: Sequence[tuple[str, int, int]]) -> list[tuple[int, int]]:
    """(start, end) of the text in every complete answer pair outside the reasoning; of nested pairs the inner one."""
    spans: list[tuple[int, int]] = []
    opened: int | None = None
    thinking = False
    for tag, start, end in tags:
        if tag == "<think>" and opened is None:
            thinking = True
        elif tag == "</think>":
            thinking = False
        elif tag == "<answer>" and not thinking:
            opened = end
        elif tag == "</answer>" and opened is not None:
            spans.append((opened, start))
            opened = None
    return spans


def _lenient_answer(text: str, tail: Sequence[tuple[str, int, int]], reasoned: int) -> str | None:
    begin, end = reasoned, len(text)
    for tag, tag_start, tag_end in tail:
        if tag == "<answer>":
            begin = tag_end
        elif tag == "<think>":
            end = tag_start
            break
    return text[begin:end].strip() or None


def _think(text: str, tags: Sequence[tuple[str, int, int]]) -> str | None:
    """From the first `<think>` (the text's start where the prompt opened it) to the last `</think>`."""
    closed = max((start for tag, start, _ in tags if tag == "</think>"), default=None)
    if closed is None:
        return None
    opened = next((end for tag, start, end in tags if tag == "<think>" and start < closed), 0)
    return text[opened:closed].strip() or None


def match_blocks(text: str, blocks: Sequence[str]) -> list[str] | None:
    """The stripped contents of `blocks` when `text` is exactly these tagged blocks, each once and in this order.

    Only white space may stand before, between and after them, and none of their tags (nor `think` or `answer`) may
    occur anywhere else, so no block hides in another. BOXED names LaTeX's boxed braces. Environment-made
    `<tool_response>` blocks are cut out first. None when the text has another shape.
    """
    rest = text = _without_tool_responses(text).strip()
    for name in {"think", "answer", *blocks} - {BOXED}:
        wanted = 1 if name in blocks else 0
        if text.count(f"<{name}>") != wanted or text.count(f"</{name}>") != wanted:
            return None
    contents = []
    for name in blocks:
        opening = BOXED + "{" if name == BOXED else f"<{name}>"
        if not rest.startswith(opening) or (name == BOXED and text.count(opening) != 1):
            return None
        end, after = _braces_end(rest) if name == BOXED else _block_end(rest, name)
        if end < 0:
            return None
        contents.append(rest[len(opening) : end].strip())
        rest = rest[after:].lstrip()
    return contents if not rest else None


def _block_end(text: str, name: str) -> tuple[int, int]:
    end = text.find(f"</{name}>")
    return end, end + len(name) + 3


def _braces_end(text: str) -> tuple[int, int]:
    """Where the first balanced pair of braces in `text` closes."""
    depth = 0
    for match in re.finditer(r"[{}]", text):
        depth += 1 if match.group() == "{" else -1
        if depth <= 0:
            return match.start(), match.end()
    return -1, -1


def _without_tool_responses(text: str) -> str:
    opening, closing = _TOOL_RESPONSE
    kept, position = [], 0
    while (start := text.find(opening, position)) >= 0 and (end := text.find(closing, start)) >= 0:
        kept.append(text[position:start])
        position = end + len(closing)
    # Joined by a space: pieces must not grow together into a tag that the model never wrote.
    return " ".join([*kept, text[position:]])


def visible_length(text: str) -> int:
    """Characters of `text` without outer white space; 0 when all of them are blank, control or zero-width ones."""
    stripped = text.strip()
    return len(stripped) if any(unicodedata.category(c)[0] not in "CZ" for c in stripped) else 0


# --------------------------------------------------------------------------------------------- boxes

_BOX_KEYS = frozenset({"bbox_2d", "bbox", "box", "position", "coordinate"})
_LABEL_KEYS = ("label", "category", "class", "name")
_CONFIDENCE_KEYS = ("confidence", "score")
_MAX_DEPTH = 16
"""A list of objects with boxes is three deep; deeper text is not an answer."""

_SKIP = r"(?P<skip>[\s,]+|<\|[a-z_]{1,32}\|>|```\w*)"
_NUMBER = r"(?P<number>[-+]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+(?![\w.+-]))"
_WORD = r"(?P<word>(?:[-+]?(?:nan|inf(?:inity)?)|true|false|none|null)(?![\w.+-]))"
_BRACKET = r"(?P<open>[\[({])|(?P<close>[\])}])"
_STRING = r"""(?P<string>"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+')|(?P<colon>:)"""
# ASCII: without it, ignoring case lets a dotless i pass for the i of "inf".
_OUTSIDE = re.compile(rf"{_SKIP}|{_NUMBER}|{_WORD}|{_BRACKET}|(?P<prose>[\w.+-]+|.)", re.I | re.A | re.DOTALL)
_INSIDE = re.compile(rf"{_SKIP}|{_NUMBER}|{_WORD}|{_BRACKET}|{_STRING}", re.I | re.A)
_CLOSES = {"[": "]", "(": ")", "{": "}"}
_WORDS = {"true": True, "false": False, "none": None, "null": None}


@dataclass(frozen=True, slots=True)
class ParsedBox:
    """One box as the text has it: in the text's own space, unchecked, perhaps NaN or inverted."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in the order written."""
    label: str | None = None
    confidence: float | None = None


class _Prose:
    """Marks a place between two values where the text is not data."""


_PROSE = _Prose()


@dataclass(slots=True)
class _Open:
    """A bracket that waits for its partner. In braces, `items` are (key, value) pairs."""

    bracket: str
    items: list[Any]
    key: Any = None
    keyed: bool = False


def parse_boxes(answer: str) -> list[ParsedBox]:
    """Every box in `answer`, in the order written; an empty list where there is none.

    Reads JSON and Python syntax alike (lists, tuples, objects with `bbox_2d`, `bbox`, `box`, `Position` or
    `coordinate`, and lists of those), fenced or not, with either quote, amid prose; "(x1,y1),(x2,y2)", with or
    without `<|box_start|>` marks; and an answer that is nothing but four numbers. NaN and infinity are kept.
    Brackets that hold anything else, or are cut off, are skipped as prose. Never raises.
    """
    values = _read_values(answer)
    if not any(v is _PROSE for v in values):
        return list(_boxes_in(values))
    boxes: list[ParsedBox] = []
    run: list[Any] = []
    for value in [*values, _PROSE]:
        if value is not _PROSE:
            run.append(value)
            continue
        # Loose numbers amid prose are counts and names, not coordinates.
        boxes += _boxes_in([v for v in run if isinstance(v, list | dict)])
        run = []
    return boxes


def _read_values(text: str) -> list[Any]:
    """Values at the top level of `text`: numbers, strings, words, lists (also for tuples), dicts of lists, _PROSE.

    One tolerant grammar for JSON and Python literals: commas are white space. A dict maps each lower-case key to the
    list of all values given for it, so that a repeated key hides nothing.
    """
    top: list[Any] = []
    stack: list[_Open] = []
    position = 0
    while position < len(text):
        match = (_INSIDE if stack else _OUTSIDE).match(text, position)
        if match is None:  # inside brackets only: they do not hold data
            stack.clear()
            top.append(_PROSE)
            continue
        position = match.end()
        kind, token = match.lastgroup, match.group()
        if kind == "skip":
            continue
        if kind == "prose":
            if not top or top[-1] is not _PROSE:
                top.append(_PROSE)
        elif not _accept(kind, token, top, stack):
            stack.clear()
            top.append(_PROSE)
    return [*top, _PROSE] if stack else top


def _accept(kind: str | None, token: str, top: list[Any], stack: list[_Open]) -> bool:
    """Put one token where it belongs; False when it cannot stand there."""
    if kind == "open":
        stack.append(_Open(token, []))
        return len(stack) <= _MAX_DEPTH
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
        value: Any = _as_dict(closed) if closed.bracket == "{" else closed.items
        if value is None:
            return False
    else:
        value = _scalar(kind, token)
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
    merged: dict[str, list[Any]] = {}
    for key, value in closed.items:
        merged.setdefault(key.lower(), []).append(value)
    return merged


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


def _boxes_in(values: Sequence[Any], label: str | None = None, confidence: float | None = None) -> list[ParsedBox]:
    """Boxes in a sequence of values: four numbers, two points, or the items of an inner list or dict."""
    if len(values) == 4 and all(isinstance(v, float) for v in values):
        return [ParsedBox((values[0], values[1], values[2], values[3]), label, confidence)]
    boxes: list[ParsedBox] = []
    corner: list[float] | None = None
    for value in values:
        if _is_point(value) and corner is not None:
            boxes.append(ParsedBox((corner[0], corner[1], value[0], value[1]), label, confidence))
            corner = None
            continue
        corner = value if _is_point(value) else None
        if isinstance(value, dict):
            boxes += _boxes_of_object(value)
        elif isinstance(value, list) and corner is None:
            boxes += _boxes_in(value, label, confidence)
    return boxes


def _boxes_of_object(item: dict[str, list[Any]]) -> list[ParsedBox]:
    label = next((v for k in _LABEL_KEYS for v in item.get(k, ()) if isinstance(v, str)), None)
    confidence = next((v for k in _CONFIDENCE_KEYS for v in item.get(k, ()) if isinstance(v, float)), None)
    holders = [value for key, given in item.items() if key in _BOX_KEYS for value in given]
    return [box for value in holders if isinstance(value, list) for box in _boxes_in(value, label, confidence)]


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, float) for v in value)
