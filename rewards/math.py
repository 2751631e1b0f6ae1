"""Mathematical answers: two expressions that mean the same are equal.

Target: LaTeX or text, "\\frac{1}{2}", "x^2 + 1", "12 cm"; with or without dollar signs or boxed braces. A number is
taken as its text.

Answer: the answer span only, never the reasoning. Where it has LaTeX's boxed braces, the last of them counts (several:
flag `several_answers`). Both sides go to the math-verify library, the target as gold, unless a cheaper way decides
first: equal text; two plain numbers, compared exactly; a target without digits that is made of words, or a lone
letter on either side (an option letter is not a variable): compared as text after normalising, letters by case.
An answer with words around it is searched for its expression, all else is read as one expression. Unparsable: the
library finds no expression; more than 2,000 characters.

Guards: a list of numbers is a set and differs from each of its members, and so does "1 or 5"; letters are not
commutative in words ("god" is not "dog"); a chain "x = 4 = 5" says its last member. What takes too long or too much
memory ends with its process: 0 with `sandbox_timeout`, `sandbox_memory` or `sandbox_crash`.

Source: math-verify as open-r1, R1-V and VLM-R1 use it, with the gold first and on the answer alone: on the whole
completion, with prediction and gold exchanged, it pays for a number in the reasoning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from vlrft.parse import Parsed
from vlrft.parse.numbers import read_number
from vlrft.parse.text import boxed, normalise
from vlrft.rewards.base import TargetError, is_number, ordered
from vlrft.rewards.math_pool import pool, require_math_verify
from vlrft.types import Score

MAX_LENGTH = 2_000
"""Characters of an answer."""

_COMMAND = re.compile(r"\\[A-Za-z]+")
_TEXT = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s?\{([^{}]*)\}")
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "exp"}
    | {"sqrt", "abs", "max", "min", "gcd", "lcm", "mod", "inf", "infinity", "lim", "det", "frac", "floor", "ceil"}
)
_WORD = re.compile(r"(?<![\\\w])[A-Za-z]{3,}(?![\w(])")
_LEAD_IN = re.compile(r"\A(?:so\s+|thus\s+)?(?:the\s+)?(?:final\s+|correct\s+)?answer(?:\s+is\b|\s*:)[\s:]*", re.I)
_NOT_FINITE = re.compile(r"[-+]?(?:nan|inf)", re.I)
_LETTER = re.compile(r"[(\[\"'\s]*([A-Za-z])[)\].:\"'\s]*")


def verify(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, timeout_s: float = 5.0, workers: int = 1) -> Score:
    """1 when the answer is mathematically equal to the target, by the math-verify library.

    Formula: 1[verify(gold=target, answer)]
    Range: [0, 1]

    timeout_s: seconds that one comparison may take, reading included; the process is ended then.

    workers: processes of this process that compare; threads beyond that number wait. They start on the first answer
    that needs one (a second or two), are safe beside threads, CUDA and fork, and end with this process.

    Example: score("math.verify", "<think>half</think><answer>\\\\boxed{0.5}</answer>", "\\\\frac{1}{2}") -> 1.0
    """
    if not 0.0 < timeout_s < math.inf or workers < 1:
        raise ValueError(f"math.verify: timeout_s and workers must be positive, got {timeout_s!r} and {workers!r}")
    gold = _gold(target)
    require_math_verify()
    flags = set(parsed.flags)
    if parsed.answer is None:
        return Score(value=0.0, flags=ordered(flags))
    if len(parsed.answer) > MAX_LENGTH:
        return Score(value=0.0, flags=ordered(flags | {"unparsable"}))
    spans = boxed(parsed.answer)
    if len(set(spans)) > 1:
        flags.add("several_answers")
    answer = _bare(spans[-1] if spans else _LEAD_IN.sub("", parsed.answer))
    if not answer:
        return Score(value=0.0, flags=ordered(flags | {"unparsable"}))
    equal = _compared_cheaply(gold, answer)
    if equal is None:
        equal, flag = pool(workers).ask(_expression(gold), _expression(answer), timeout_s)
        flags |= {flag} if flag else set()
    return Score(value=float(equal), flags=ordered(flags))


def _gold(target: Any) -> str:
    if is_number(target) and math.isfinite(target):
        target = repr(target)
    gold = target.strip() if isinstance(target, str) and not _NOT_FINITE.fullmatch(target.strip()) else ""
    spans = boxed(gold)
    gold = _bare(spans[-1] if spans else gold)
    if not gold or len(gold) > MAX_LENGTH:
        raise TargetError(
            f"a math.verify target is LaTeX or text of 1 to {MAX_LENGTH} characters, got {target!r:.200}; "
            "correct the row"
        )
    return gold


def _bare(text: str) -> str:
    """Without the dollar signs or brackets of inline LaTeX, outer bold marks and a final period."""
    text = text.strip().strip("*").strip().removesuffix(".").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = text[len(opening) : len(text) - len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inner and closing not in inner:
            return inner.strip()
    return "" if not text.strip("$") else text


def _compared_cheaply(gold: str, answer: str) -> bool | None:
    """True or False where no algebra is needed; None where it is."""
    if gold == answer:
        return True
    letters = [match[1] if match else None for match in map(_LETTER.fullmatch, (gold, answer))]
    if letters != [None, None]:
        return letters[0] == letters[1]
    if _words(gold) and not any(c.isdigit() for c in gold):
        return normalise(_TEXT.sub(r"\1", gold)) == normalise(_TEXT.sub(r"\1", answer))
    left, right = read_number(gold), read_number(answer)
    if left.value is None or right.value is None or not (left.whole and right.whole):
        return None
    if left.value == right.value:
        return True
    # The library rounds decimals, and takes 50% for 50 too; beyond that no two plain numbers are equal to it.
    far = abs(left.value - right.value) * 1000 > abs(left.value)
    return False if far and "%" not in gold + answer else None


def _words(text: str) -> list[str]:
    """The words of a text that are no function names; those of LaTeX's text braces only where nothing else is there."""
    outside = _TEXT.sub(" ", text)
    bare = outside if outside.strip() else _TEXT.sub(r"\1", text)
    plain = _COMMAND.sub(" ", bare).replace("{", " ").replace("}", " ")
    return [word for word in _WORD.findall(plain) if word.lower() not in _FUNCTIONS]


def _expression(text: str) -> str:
    """`text` as math-verify reads it: prose as it is, anything else as one LaTeX expression."""
    balanced = text.count("{") == text.count("}") and "$" not in text
    return text if _words(text) or not balanced else f"\\boxed{{{text}}}"
