"""EasyR1: its rewards for R1-V data, for maths, in DAPO's manner, and the overlong penalty.

Target: the true answer as text, LaTeX or number.
Meta: `num_tokens` (or `response_length`), `max_length` (or `max_response_length`, `max_tokens`) and `buffer` (or
`overlong_buffer_length`; default: a fifth of the limit) for `overlong`, and for `dapo` where they are there.
Answer: `r1v`: the first answer block, the whole completion where there is none; `math`: the last boxed content;
`dapo`: the last "Answer:" line of the last 300 characters.
Guards: equality is plain text, else math.verify with the truth as gold; the peer's grader is not part of this library.
Source: EasyR1, example rewards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlrft.parse import Parsed
from vlrft.parse.text import boxed
from vlrft.rewards import math as mathematics
from vlrft.rewards.base import TargetError
from vlrft.rewards.compat.answers import first_or_all, has_shape, setting, truth_text
from vlrft.types import Score

# A run of blanks is looked at once: the look-behind refuses to start in its middle.
_MARK = re.compile(r"(?:(?<!\s)\s++)?([<>/])\s*+")
_ANSWER_LINE = re.compile(r"answer\s{0,9}:([^\n]*)", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-Za-z])\)?")
_TAIL = 300
_LENGTH = ("num_tokens", "response_length")
_LIMIT = ("max_length", "max_response_length", "max_tokens")
_BUFFER = ("buffer", "overlong_buffer_length", "overlong_buffer")


def r1v(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Half for the answer, half for think and answer blocks as the whole completion.

    Kept: nothing is stripped for the shape; "(B)" is B, "B." is not. Mended: an answer on a line of its own is seen.

    Formula: 0.5 * 1[answer = truth] + 0.5 * 1[shape]
    Range: [0, 1]
    Example: score("compat.easyr1.r1v", "<answer>(B)</answer>", "B") -> 0.5
    """
    truth = truth_text(target, "compat.easyr1.r1v")
    right = _equal(first_or_all(parsed.text), truth)
    return Score(value=0.5 * right + 0.5 * has_shape(parsed.text))


def math(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """The last boxed content, and a think block with a box behind it.

    White space around "<", ">" and "/" is removed before the shape is looked at.

    Formula: 0.9 * 1[boxed = truth] + 0.1 * 1[shape]
    Range: [0, 1]
    Example: score("compat.easyr1.math", "<think>a</think> \\\\boxed{7}", "7") -> 1.0
    """
    truth = truth_text(target, "compat.easyr1.math")
    found = boxed(parsed.text)
    shaped = _has_box(_MARK.sub(r"\1", parsed.text))
    return Score(value=0.9 * (bool(found) and _equal(found[-1], truth)) + 0.1 * shaped)


def dapo(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 for the right answer, -1 for a wrong one, and the overlong penalty where meta has the lengths.

    Formula: 1 or -1, + overlong
    Range: [-2, 1]
    Example: score("compat.easyr1.dapo", "so x = 4\\nAnswer: 4", "4") -> 1.0
    """
    truth = truth_text(target, "compat.easyr1.dapo")
    penalty = _penalty("compat.easyr1.dapo", meta) if _given(meta, _LENGTH) and _given(meta, _LIMIT) else 0.0
    lines = _ANSWER_LINE.findall(parsed.text[-_TAIL:])
    right = bool(lines) and _equal(lines[-1].strip(), truth)
    return Score(value=(1.0 if right else -1.0) + penalty)


def overlong(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """What tokens beyond the limit less a buffer cost.

    Formula: 0 if L <= max - buffer; (max - buffer - L) / buffer within the buffer; -1 beyond max
    Range: [-1, 0]
    Example: score("compat.easyr1.overlong", "", None, {"num_tokens": 95, "max_length": 100, "buffer": 20}) -> -0.75
    """
    return Score(value=_penalty("compat.easyr1.overlong", meta))


def _has_box(text: str) -> bool:
    """A think block at the start and a closed box behind it."""
    closed = text.find("</think>", len("<think>"))
    box = text.find("\\boxed{", closed) if closed >= 0 else -1
    return text.startswith("<think>") and 0 <= box < text.rfind("}")


def _penalty(what: str, meta: Mapping[str, Any]) -> float:
    length, limit = _first_setting(what, meta, _LENGTH), _first_setting(what, meta, _LIMIT)
    room = setting(meta, _given(meta, _BUFFER) or _BUFFER[0], limit / 5.0)
    if not (0.0 < room <= limit and length >= 0.0):
        raise TargetError(f"{what}: 0 < buffer <= limit and 0 <= length must hold, got {room!r}, {limit!r}, {length!r}")
    return max(-1.0, min(0.0, (limit - room - length) / room))


def _given(meta: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if meta.get(name) is not None), None)


def _first_setting(what: str, meta: Mapping[str, Any], names: tuple[str, ...]) -> float:
    name = _given(meta, names)
    if name is None:
        raise TargetError(f"{what} needs meta[{names[0]!r}] (or {', '.join(names[1:])})")
    return setting(meta, name, 0.0)


def _equal(found: str, truth: str) -> bool:
    """Equality as a grader of final answers sees it: as text, as option letters, else as mathematics."""
    if found == truth:
        return True
    wanted = _LETTER.fullmatch(truth)
    if wanted is not None:
        given = _LETTER.fullmatch(found)
        return given is not None and given[1] == wanted[1]
    if not found:
        return False
    return mathematics.verify(Parsed(text=found, answer=found), truth, {}).value == 1.0
