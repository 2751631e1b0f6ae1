"""Reason-RFT: spatial transformations, tolerant numbers, length and step rewards.

Target: a list of `[func, object, value]` for `func*`, a number for `tolerance`, none for `length` and `steps`.
Meta: `group_lengths` and `length` in characters, `correct`, `step` for `length`.
Answer: the first answer block, the whole completion where there is none; `func(object, value)` in it, also with quotes.
Guards: for training use struct.calls, num.tolerance and length.group_kimi.
Source: Reason-RFT (arXiv 2503.20752), released rewards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.base import Judged, TargetError, is_number
from vlrft.rewards.compat.answers import first_or_all, is_right, numbers, setting, truth_value, unwrap
from vlrft.types import Score

Call = tuple[str, str, str]

_CALL = re.compile(r"(?<!\w)(\w++)\(([^(),]{1,200}+),([^(),]{1,200}+)\)")
_STEP = re.compile(r"Step \d+:|^\d+\.|\n-|\n\*|First,|Second,|Next,|Finally,")
_STEPS_WANTED = 3
_LENGTH_WEIGHT, _LENGTH_FROM_STEP = 0.05, 800


def func(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Matched calls, in four tiers: exact 1, function and object 0.5, function and value 0.5, function 0.25.

    Kept: order does not count; each call serves once, better tiers first. Mended: quoted values are read; an answer
    without calls is worth 0 (the peer divides by zero).

    Formula: (unique / all predictions) / max(#unique predictions, #truths) * sum of tiers
    Range: [0, 1]
    Example: score("compat.reason_rft.func", "<answer>move(a, left)</answer>", [["move", "a", "right"]]) -> 0.5
    """
    return _score("compat.reason_rft.func", parsed, target, (1.0, 0.5, 0.5, 0.25))


def func_full(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """As `func`, exact calls only: what the published scripts train with.

    Formula: (unique / all predictions) / max(#unique predictions, #truths) * #exact
    Range: [0, 1]
    Example: score("compat.reason_rft.func_full", "<answer>move(a, left)</answer>", [["move", "a", "left"]]) -> 1.0
    """
    return _score("compat.reason_rft.func_full", parsed, target, (1.0, 0.0, 0.0, 0.0))


def func_penalty(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """As `func`, partial matches cost: -0.25, -0.25, -0.5.

    Formula: (unique / all predictions) / max(#unique predictions, #truths) * sum of tiers
    Range: [-0.5, 1]
    Example: score("compat.reason_rft.func_penalty", "<answer>move(b, left)</answer>", [["move", "a", "right"]]) -> -0.5
    """
    return _score("compat.reason_rft.func_penalty", parsed, target, (1.0, -0.25, -0.25, -0.5))


def tolerance(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 within 5 % of the truth, 0 beyond 20 %, half a cosine between.

    Mended: a truth of 0 wants an exact 0 (the peer divides by zero), "nan" is worth 0.

    Formula: d = |p - g|; 1 if d < .05|g|; 0 if d > .20|g|; else (1 + cos(pi (d - .05|g|) / (.15|g|))) / 2
    Range: [0, 1]
    Example: score("compat.reason_rft.tolerance", "<answer>104</answer>", 100) -> 1.0
    """
    gold = truth_value(target, "compat.reason_rft.tolerance")
    if not is_number(gold) or not math.isfinite(gold):
        raise TargetError(f"compat.reason_rft.tolerance needs a finite number as its target, got {target!r}")
    try:
        found = float(first_or_all(parsed.text))
    except ValueError:
        return Score(value=0.0, flags=("unparsable",))
    if not math.isfinite(found):
        return Score(value=0.0, flags=("non_finite",))
    gap, size = abs(found - gold), abs(gold)
    if gap == 0.0 or gap < 0.05 * size:
        return Score(value=1.0)
    if gap > 0.20 * size:
        return Score(value=0.0)
    return Score(value=(1.0 + math.cos(math.pi * (gap - 0.05 * size) / (0.15 * size))) / 2.0)


def length(group: Judged) -> list[Score]:
    """Shorter is better within the group: from step 800 on, at most 0.05 * 0.5 either way.

    meta: `correct`, `step`; alone also `group_lengths` (characters of every completion of the group) and `length` of
    this one (default: its text's). Kept: wrong answers can only lose; before step 800 the value is 0, and so it is
    where all are equally long.

    Formula: 0.05 * l, l = 0.5 - (L - min) / (max - min), and min(0, l) when wrong
    Range: [-0.025, 0.025]
    Example: score("compat.reason_rft.length", "ab", None, {"group_lengths": [2, 6], "correct": True}) -> 0.025
    """
    given = group.meta[0].get("group_lengths") if len(group.parsed) == 1 else None
    if given is None and len(group.parsed) == 1:
        raise TargetError("compat.reason_rft.length needs meta['group_lengths']: characters of each completion")
    texts = [float(len(parsed.text)) for parsed in group.parsed]
    lengths = texts if given is None else numbers(given, "compat.reason_rft.length: meta['group_lengths']")
    return [
        Score(value=_length(setting(meta, "length", mine), lengths, meta))
        for mine, meta in zip(texts, group.meta, strict=True)
    ]


def _length(mine: float, lengths: Sequence[float], meta: Mapping[str, Any]) -> float:
    right = is_right(meta, "compat.reason_rft.length")
    if setting(meta, "step", _LENGTH_FROM_STEP) < _LENGTH_FROM_STEP or min(lengths) == max(lengths):
        return 0.0
    share = 0.5 - (mine - min(lengths)) / (max(lengths) - min(lengths))
    share = max(-0.5, min(0.5, share))
    return _LENGTH_WEIGHT * (share if right else min(0.0, share))


def steps(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """How many marks of a step the completion has, three being enough.

    Marks: "Step n:", a number and a dot at the very start, a new line with a dash or star, "First,", "Second,",
    "Next,", "Finally,", letter case as written here.

    Formula: min(1, marks / 3)
    Range: [0, 1]
    Example: score("compat.reason_rft.steps", "First, look. Next, count. Finally, answer.", None) -> 1.0
    """
    return Score(value=min(1.0, len(_STEP.findall(parsed.text)) / _STEPS_WANTED))


def _score(what: str, parsed: Parsed, target: Any, tiers: tuple[float, float, float, float]) -> Score:
    bare = unwrap(target)
    value = _calls(bare) if isinstance(bare, str) and not bare.lstrip().startswith("[[") else truth_value(bare, what)
    if not isinstance(value, list) or not value or not all(_is_call(call) for call in value):
        raise TargetError(f"{what} needs a list of [func, object, value] as its target, got {target!r}")
    truths = [(str(f), str(o), str(v)) for f, o, v in value]
    every = _calls(first_or_all(parsed.text))
    if not every:
        return Score(value=0.0, flags=("unparsable",))
    unique = list(dict.fromkeys(every))
    item = len(unique) / len(every) / max(len(unique), len(truths))
    found = unique
    total = 0.0
    for worth, keys in zip(tiers, ((0, 1, 2), (0, 1), (0, 2), (0,)), strict=True):
        count, found, truths = _serve(found, truths, keys)
        total += worth * count
    return Score(value=item * total)


def _serve(found: list[Call], truths: list[Call], keys: tuple[int, ...]) -> tuple[int, list[Call], list[Call]]:
    """Pair calls that agree in `keys`; returns how many, and what is left on both sides."""
    left, free = [], list(truths)
    for call in found:
        partner = next((t for t in free if all(t[k] == call[k] for k in keys)), None)
        if partner is None:
            left.append(call)
        else:
            free.remove(partner)
    return len(found) - len(left), left, free


def _calls(text: str) -> list[Call]:
    return [(f, o.strip("'\" "), v.strip("'\" ")) for f, o, v in _CALL.findall(text)]


def _is_call(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3
