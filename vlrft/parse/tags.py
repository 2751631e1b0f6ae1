"""Completion text to `Parsed`: the only place that reads tags."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from vlrft.parse.text import normalise

OutputMode = Literal["think", "direct", "answer_then_think", "adaptive"]
OUTPUT_MODES: tuple[str, ...] = get_args(OutputMode)

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
    answers: int = 1
    """How many different answers the answer blocks give, blank ones left out; `answer` is the one that counts."""


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
    answer, flags, answers = None, [], 1
    if spans:
        start, end = spans[0] if first else spans[-1]
        answer = text[start:end].strip() or None
        if len(spans) > 1:
            flags.append("several_answers")
            answers = _different(text[start:end] for start, end in spans)
    elif lenient:
        answer = _lenient_answer(text, tail, reasoned)
        flags += ["lenient"] if answer else []
    flags += [] if answer else ["no_answer"]
    return Parsed(text=text, think=_think(text, tags), answer=answer, flags=tuple(flags), mode=mode, answers=answers)


def _different(answers: Iterable[str]) -> int:
    """How many of `answers` differ in normal form and white space left out; blank ones are none."""
    forms = {"".join(normalise(answer).split()) for answer in answers if answer.strip()}
    return max(1, len(forms))


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
