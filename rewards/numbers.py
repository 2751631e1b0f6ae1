"""One expected number: measurement, chart reading, geometry, counting in words of digits.

Target: a finite number, or a string that is nothing but one ("3/4", "1,250", "12 cm" where the unit is declared).
Floats are taken as the decimal that they print as, so 0.1 means one tenth.

Meta: `unit` (a string) may follow the number in the answer and is dropped; `abs_tol` and `rel_tol` are tolerances of
the row. All three are also options of the reward; the row's own value wins. `num.exact` uses both tolerances; the
others use `abs_tol` where the target is 0, since there is no relative error to speak of.

Answer: one number, alone or in a sentence: sign ("minus 12" is -12), thousands commas, decimals, a fraction, a mixed
number, percent (50% is 1/2) and per mille, scientific notation, "5 million", "12 hundred", "3 lakh", LaTeX's frac and
boxed, digits of every script. Compared as exact rationals. Unparsable: no number, digits glued to letters (B52), a
number with a unit that was not declared (`unit` is what makes "12 cm" readable), a time or a ratio (12:30), a number
that its words or signs make another one or deny: "half of 12", "sqrt(12)", "12 squared", "12 and a half", "3 pi",
"<12", "at least 12", "not 12", "12 is wrong". Two numbers: `several_answers`, value 0; the option take="last" takes
the last of them. A unit is compared without case, unless another unit differs by case only: "12 CM" is 12 cm, but Mm is
not mm, Mb not MB and MW not mW. "um" is µm, in either of Unicode's two letters; a name of more than three characters
may have a plural s.

Guards: nan, inf and what no float can hold are worth 0 with the flag `non_finite`; listing numbers is worth 0; a
number in the reasoning is not looked at; a huge exponent is refused before it is worked out; "+-5" names two numbers.

Source: the exact comparison and the curves as in Video-R1 (relative), Reason-RFT (tolerance) and VSI-Bench (mean
relative accuracy), without their faults: rounding before comparing, a reward of 1 for nan, dividing by a target of 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from vlrft.parse import Parsed
from vlrft.parse.numbers import Take, read_number
from vlrft.rewards.base import TargetError, is_number, ordered
from vlrft.types import Score

FULL_BELOW, NOTHING_ABOVE = Fraction(1, 20), Fraction(1, 5)
"""Relative errors between which Reason-RFT's curve falls from 1 to 0."""
THRESHOLDS = tuple(Fraction(50 + 5 * i, 100) for i in range(10))
"""0.50, 0.55 ... 0.95 of VSI-Bench."""


def exact(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    unit: str | None = None,
    abs_tol: float = 0.0,
    rel_tol: float = 0.0,
    take: Take = "only",
) -> Score:
    """1 when the number equals the target, or lies within the tolerance.

    Formula: 1[|p - g| <= max(abs_tol, rel_tol * |g|)] in exact rational arithmetic
    Range: [0, 1]

    unit, abs_tol, rel_tol: used where the meta does not say them.

    take: "only" - one number may stand in the answer; "last" - the last one counts.

    Example: score("num.exact", "<think>half</think><answer>It is 0.5</answer>", "1/2") -> 1.0
    """
    gold, near, relative = _truth(target, meta, unit, abs_tol, rel_tol)
    number, flags = _answer(parsed, meta, unit, take)
    hit = number is not None and abs(number - gold) <= max(near, relative * abs(gold))
    return Score(value=float(hit), flags=flags)


def tolerance(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    unit: str | None = None,
    abs_tol: float = 0.0,
    eps_abs: float = 1e-9,
    take: Take = "only",
) -> Score:
    """Reason-RFT's curve: full value up to 5 % off, none beyond 20 %, half a cosine between.

    Formula: r = |p - g| / max(|g|, eps_abs); 1 if r < 0.05; 0 if r > 0.20; else (1 + cos(pi * (r - 0.05) / 0.15)) / 2
    Range: [0, 1]

    unit, abs_tol: used where the meta does not say them. A target of 0 is met within abs_tol, else the value is 0.

    eps_abs: least denominator.

    take: as in num.exact.

    Example: score("num.tolerance", "<think>about</think><answer>112.5</answer>", 100) -> 0.5
    """
    gold, near, _ = _truth(target, meta, unit, abs_tol, 0.0)
    number, flags = _answer(parsed, meta, unit, take)
    if number is None:
        return Score(value=0.0, flags=flags)
    if gold == 0:
        return Score(value=float(abs(number) <= near), flags=flags)
    error = _relative_error(number, gold, eps_abs)
    if error < FULL_BELOW:
        value = 1.0
    elif error > NOTHING_ABOVE:
        value = 0.0
    else:
        value = (1.0 + math.cos(math.pi * float((error - FULL_BELOW) / (NOTHING_ABOVE - FULL_BELOW)))) / 2.0
    return Score(value=value, flags=flags)


def relative(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    unit: str | None = None,
    abs_tol: float = 0.0,
    eps: float = 1e-9,
    take: Take = "only",
) -> Score:
    """One minus the relative error.

    Formula: max(0, 1 - |p - g| / max(|g|, eps)); 1 for a target of 0 that is met within abs_tol
    Range: [0, 1]

    unit, abs_tol: used where the meta does not say them.

    eps: least denominator.

    take: as in num.exact.

    Example: score("num.relative", "<think>about</think><answer>75</answer>", 100) -> 0.75
    """
    gold, near, _ = _truth(target, meta, unit, abs_tol, 0.0)
    number, flags = _answer(parsed, meta, unit, take)
    if number is None:
        return Score(value=0.0, flags=flags)
    error = _error(number, gold, near, eps)
    return Score(value=float(max(Fraction(0), 1 - error)), flags=flags)


def mra(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    unit: str | None = None,
    abs_tol: float = 0.0,
    eps: float = 1e-9,
    take: Take = "only",
) -> Score:
    """Mean relative accuracy of VSI-Bench: the share of ten thresholds that the relative error stays below.

    Formula: mean over t in {0.50, 0.55 ... 0.95} of 1[|p - g| / max(|g|, eps) < 1 - t]
    Range: [0, 1]

    unit, abs_tol: used where the meta does not say them. A target of 0 that is met within abs_tol earns 1.

    eps: least denominator.

    take: as in num.exact.

    Example: score("num.mra", "<think>about</think><answer>80</answer>", 100) -> 0.6
    """
    gold, near, _ = _truth(target, meta, unit, abs_tol, 0.0)
    number, flags = _answer(parsed, meta, unit, take)
    if number is None:
        return Score(value=0.0, flags=flags)
    error = _error(number, gold, near, eps)
    return Score(value=sum(error < 1 - t for t in THRESHOLDS) / len(THRESHOLDS), flags=flags)


def _truth(
    target: Any, meta: Mapping[str, Any], unit: str | None, abs_tol: float, rel_tol: float
) -> tuple[Fraction, Fraction, Fraction]:
    """(target, absolute tolerance, relative tolerance) as rationals. Raises TargetError."""
    unit = _unit(meta, unit)
    near = _tolerance("abs_tol", meta, abs_tol)
    share = _tolerance("rel_tol", meta, rel_tol)
    if isinstance(target, str):
        reading = read_number(target, unit=unit)
        if reading.value is None or not reading.whole:
            raise TargetError(
                f"a number target is a finite number, or a string that is nothing but one, got {target!r}; "
                "correct the row, or declare what follows the number as meta 'unit'"
            )
        return reading.value, near, share
    return _rational("a number target", target), near, share


def _rational(name: str, value: Any) -> Fraction:
    if not is_number(value) or not -math.inf < value < math.inf:
        raise TargetError(f"{name} is a finite number, got {value!r}; correct the row or choose another reward")
    if isinstance(value, int) and value.bit_length() > 1024:
        raise TargetError(f"{name} is a number that a float can hold, got one of {value.bit_length()} bits")
    return Fraction(value) if isinstance(value, int) else Fraction(repr(float(value)))


def _tolerance(key: str, meta: Mapping[str, Any], option: float) -> Fraction:
    given = meta.get(key)
    tolerated = _rational(f"{key} (a tolerance)", option if given is None else given)
    if tolerated < 0:
        raise TargetError(f"{key} is a tolerance of 0 or more, got {option if given is None else given!r}")
    return tolerated


def _unit(meta: Mapping[str, Any], option: str | None) -> str | None:
    unit = option if meta.get("unit") is None else meta["unit"]
    if unit is not None and not isinstance(unit, str):
        raise TargetError(f"meta 'unit' is a string such as 'cm', got {unit!r}; correct the row")
    return unit


def _answer(
    parsed: Parsed, meta: Mapping[str, Any], unit: str | None, take: Take
) -> tuple[Fraction | None, tuple[str, ...]]:
    """(the number or None, flags)."""
    flags = set(parsed.flags)
    if parsed.answer is None:
        return None, ordered(flags)
    reading = read_number(parsed.answer, unit=_unit(meta, unit), take=take)
    return reading.value, ordered(flags | ({reading.flag} if reading.flag else set()))


def _error(number: Fraction, gold: Fraction, near: Fraction, least: float) -> Fraction:
    """The relative error; 0 for a target of 0 that is met within `near`."""
    return Fraction(0) if gold == 0 and abs(number) <= near else _relative_error(number, gold, least)


def _relative_error(number: Fraction, gold: Fraction, least: float) -> Fraction:
    if not 0.0 < least < math.inf:
        raise ValueError(f"the least denominator must be positive and finite, got {least!r}")
    return abs(number - gold) / max(abs(gold), Fraction(repr(float(least))))
