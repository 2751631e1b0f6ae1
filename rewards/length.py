"""How long is the completion, in tokens?

Target: none; whatever is given is not looked at.

Meta: `num_tokens` (or TRL's column `completion_ids`) of the completion; `max_tokens`, the limit it was generated under.
`correct` says whether the answer is right (true / false, or a score in [0, 1] that counts from 0.5 on). Rewards that
compare a group take `group_lengths` (tokens of all its completions), and `length.budget` also `group_correct`; in a
run both come from the group itself, and a completion alone without them is a group of one. Where `group_correct` is not
known, `correct` stands for the share of right answers in it, and all lengths for theirs. The judge of a run fills in
`correct`: see `rewards.correct` in the recipe.

Answer: only whether there is one is looked at. Flag `over_length`: more tokens than the limit.

Guards: short wrong answers must not be paid, so by default (`correct_only`) a wrong answer is worth 0, however short.
Where nobody says whether it is right, the length alone decides, but a completion with a blank answer is worth 0; where
`correct` is None (the judge could not say), the reward does not apply. No curve rises again past the limit.

Source: the cosine of VLM-R1 (its wrap past 1024 tokens and its lost correctness mended), the length window of
Video-R1, DAPO's soft overlong punishment, Kimi k1.5's group length reward as in Reason-RFT, DAST as in UI-R1; all of
them shifted or scaled into [0, 1]. DAST's symbols are read from a short summary: that Lr is the mean length of the
right answers is our reading of it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed, has_tags, visible_length
from vlrft.rewards.base import Judged, TargetError, is_number, ordered
from vlrft.types import Score

RIGHT = 0.5
"""From which value of `meta["correct"]` on an answer is right."""


def cosine(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    max_len: float | None = None,
    short: float = 1.0,
    long: float = 0.5,
    correct_only: bool = True,
) -> Score:
    """Half a cosine from `short` for no tokens down to `long` at the limit, and level from there on.

    Formula: long + (short - long) (1 + cos(pi min(L, max_len) / max_len)) / 2; a wrong answer 0
    Range: [0, 1]

    max_len: where the curve ends; None = `meta["max_tokens"]`, or VLM-R1's 1024 where that says nothing.

    short, long: values at the ends, each in [0, 1]; VLM-R1's are 1 and 0.5.

    correct_only: false pays wrong answers like right ones.

    Example: score("length.cosine", "<answer>B</answer>", None, {"num_tokens": 512, "max_tokens": 1024}) -> 0.75
    """
    if not (0.0 <= short <= 1.0 and 0.0 <= long <= 1.0):
        raise ValueError(f"length.cosine: short and long must lie in [0, 1], got {short!r} and {long!r}")
    length, limit = num_tokens(meta), _limit(meta, max_len, default=1024.0)
    share = min(length, limit) / limit
    value = long + (short - long) * (1.0 + math.cos(math.pi * share)) / 2.0
    return _paid(min(1.0, max(0.0, value)), parsed, meta, correct_only, over=length > limit)


def window(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    low: float = 320,
    high: float = 512,
    correct_only: bool = True,
) -> Score:
    """The length lies within the window, its ends included.

    Formula: 1 if low <= L <= high, else 0; a wrong answer 0
    Range: [0, 1]

    low, high: the window in tokens; Video-R1's is 320 to 512.

    correct_only: false pays wrong answers like right ones.

    Example: score("length.window", "<answer>B</answer>", None, {"num_tokens": 400}) -> 1.0
    """
    if not 0.0 <= low <= high < math.inf:
        raise ValueError(f"length.window: 0 <= low <= high must hold, got {low!r} and {high!r}")
    value = 1.0 if low <= num_tokens(meta) <= high else 0.0
    return _paid(value, parsed, meta, correct_only)


def overlong(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    max_len: float | None = None,
    buffer: float | None = None,
    correct_only: bool = True,
) -> Score:
    """DAPO's soft overlong punishment plus 1: full value up to a buffer before the limit, then linearly down to 0.

    Formula: 1 if L <= max_len - buffer; (max_len - L) / buffer inside the buffer; 0 from max_len on; a wrong answer 0
    Range: [0, 1]

    max_len: None = `meta["max_tokens"]`, which must be there.

    buffer: tokens over which the value falls; None = a fifth of max_len, DAPO's share (4096 of 20480).

    correct_only: false pays wrong answers like right ones.

    Example: score("length.overlong", "<answer>B</answer>", None, {"num_tokens": 900, "max_tokens": 1000}) -> 0.5
    """
    length, limit = num_tokens(meta), _limit(meta, max_len)
    room = limit / 5.0 if buffer is None else buffer
    if not 0.0 < room <= limit:
        raise ValueError(f"length.overlong: buffer must lie in (0, max_len = {limit:g}], got {buffer!r}")
    value = min(1.0, max(0.0, (limit - length) / room))
    return _paid(value, parsed, meta, correct_only, over=length > limit)


def group_kimi(group: Judged, *, correct_only: bool = True) -> list[Score]:
    """Kimi k1.5's length reward plus a half: 1 for the shortest completion of the group, 0 for the longest.

    Formula: (max - L) / (max - min) over the lengths of the group; 0.5 where all are equal; a wrong answer 0
    Range: [0, 1]

    correct_only: false pays wrong answers like right ones. Their lengths set min and max in both cases.

    Example: score("length.group_kimi", "B", None, {"num_tokens": 50, "group_lengths": [40, 50, 80]}) -> 0.75
    """
    lengths = _group_lengths(group)
    shortest, longest = min(lengths), max(lengths)
    scores = []
    for parsed, meta in zip(group.parsed, group.meta, strict=True):
        spread = longest - shortest
        value = (longest - num_tokens(meta)) / spread if spread > 0.0 else 0.5
        scores.append(_paid(min(1.0, max(0.0, value)), parsed, meta, correct_only))
    return scores


def budget(group: Judged, *, max_len: float | None = None, correct_only: bool = True) -> list[Score]:
    """DAST: against a budget that is short for easy questions and long for hard ones, right answers save tokens.

    Formula: max(0.1, 0.5 - 0.5 l) for a right answer, 0 for a wrong one; l = (L - Lb) / Lb, Lb = p Lr + (1 - p) Lmax,
    p = share of right answers in the group, Lr = their mean length
    Range: [0, 1]

    max_len: Lmax; None = `meta["max_tokens"]`, or the longest of the group where that says nothing.

    correct_only: false gives (1 + r) / 2 of DAST's full reward r, where a wrong answer gets min(-0.1, 0.9 l - 0.1): it
    loses least when it spends the budget.

    Example: score("length.budget", "B", None, {"num_tokens": 9, "group_lengths": [9], "group_correct": [1]}) -> 0.5
    """
    lengths = _group_lengths(group)
    share, mean = _right_ones(group, lengths)
    limit = _limit(group.meta[0], max_len, default=max(*lengths, 1.0))
    planned = share * mean + (1.0 - share) * limit
    return [_dast(p, m, planned, correct_only) for p, m in zip(group.parsed, group.meta, strict=True)]


def _dast(parsed: Parsed, meta: Mapping[str, Any], planned: float, correct_only: bool) -> Score:
    length = num_tokens(meta)
    over = (length - planned) / planned if planned > 0.0 else (0.0 if length == 0.0 else math.inf)
    value = max(0.1, 0.5 - 0.5 * over)
    if correct_only:
        return _paid(value, parsed, meta, correct_only)
    right = _is_right(parsed, meta)
    full = value if right else max(-1.0, min(-0.1, 0.9 * over - 0.1))
    return Score(value=None if right is None else (1.0 + full) / 2.0, flags=parsed.flags)


def num_tokens(meta: Mapping[str, Any]) -> float:
    """Length of the completion in tokens. Raises TargetError where meta does not say it."""
    ids = meta.get("completion_ids")
    given = meta.get("num_tokens", len(ids) if isinstance(ids, list | tuple) else None)
    if given is None:
        raise TargetError("meta['num_tokens'] is missing; a length reward needs the tokens of the completion")
    return _length("num_tokens", given)


def _length(field: str, given: Any) -> float:
    if not is_number(given) or not 0.0 <= given < 1e15:
        raise TargetError(f"meta[{field!r}] is {given!r}; it is a number of tokens, finite and not negative")
    return float(given)


def _limit(meta: Mapping[str, Any], max_len: float | None, default: float | None = None) -> float:
    if max_len is not None:
        if not 0.0 < max_len < math.inf:
            raise ValueError(f"max_len must be a number of tokens above 0, got {max_len!r}")
        return float(max_len)
    given = meta.get("max_tokens")
    given = default if given is None else given
    if given is None:
        raise TargetError("meta['max_tokens'] is missing; give the limit of tokens there, or as the option max_len")
    limit = _length("max_tokens", given)
    if limit == 0.0:
        raise TargetError("meta['max_tokens'] is 0; a completion has at least one token")
    return limit


def _group_lengths(group: Judged) -> list[float]:
    own = [num_tokens(meta) for meta in group.meta]
    given = group.meta[0].get("group_lengths")
    if given is None:
        return own
    if not isinstance(given, list | tuple) or not given:
        raise TargetError(f"meta['group_lengths'] is {given!r}; list the tokens of all completions of the group")
    return [_length("group_lengths", item) for item in given]


def _right_ones(group: Judged, lengths: Sequence[float]) -> tuple[float, float]:
    """Share of right answers in the group, and their mean length (0 where there are none)."""
    meta = group.meta[0]
    given = meta.get("group_correct")
    if given is None and len(lengths) != len(group.parsed):  # called alone: nobody says which of the others are right
        right = _is_right(group.parsed[0], meta)
        said = meta.get("correct")
        return float(right or False) if said is None else float(said), statistics.fmean(lengths)
    if given is None:
        known = [bool(_is_right(parsed, meta)) for parsed, meta in zip(group.parsed, group.meta, strict=True)]
    elif not isinstance(given, list | tuple) or not given:
        raise TargetError(f"meta['group_correct'] is {given!r}; list for each completion whether it is right")
    else:
        known = [_truth("group_correct", item) for item in given]
    if len(known) != len(lengths):
        raise TargetError(
            f"group_correct has {len(known)} entries and group_lengths {len(lengths)}; give one of each per completion"
        )
    of_right = [length for length, is_right in zip(lengths, known, strict=True) if is_right]
    return len(of_right) / len(known), statistics.fmean(of_right) if of_right else 0.0


def _is_right(parsed: Parsed, meta: Mapping[str, Any]) -> bool | None:
    """What `meta["correct"]` says; where it is absent, whether there is an answer at all, or text without any tag."""
    if "correct" in meta:
        return None if meta["correct"] is None else _truth("correct", meta["correct"])
    return parsed.answer is not None or (not has_tags(parsed.text) and visible_length(parsed.text) > 0)


def _truth(field: str, given: Any) -> bool:
    if not isinstance(given, int | float) or not 0.0 <= given <= 1.0:
        raise TargetError(f"meta[{field!r}] holds {given!r}; say true or false, or a score in [0, 1]")
    return given >= RIGHT


def _paid(value: float, parsed: Parsed, meta: Mapping[str, Any], correct_only: bool, *, over: bool = False) -> Score:
    """`value` where the answer is right, or where all that is written is paid."""
    flags: Sequence[str] = ordered({*parsed.flags, "over_length"}) if over else parsed.flags
    right = _is_right(parsed, meta)
    if not correct_only:
        right = visible_length(parsed.text) > 0
    if right is None:
        return Score(value=None, flags=tuple(flags))
    return Score(value=value if right else 0.0, flags=tuple(flags))
