"""How many objects there are, as the number of boxes given or as a plain number.

Target: count.boxes: as for det.match_iou, `[]` for none. count.exact and count.soft: a whole number from 0 on, or a
string that is one.

Meta: count.boxes: as for det.match_iou. count.exact and count.soft: as for num.exact.

Answer: count.boxes: as for det.match_iou. count.exact and count.soft: one number, as for num.exact.

Guards: count.boxes judges the number alone, not where the boxes are; weigh it beside det.match_iou. What cannot be an
object (a box that is inverted, not finite or outside the image, a label that is not in `labels`) never helps to reach
the number, but counts once it is exceeded. The other two read one number, and none in the reasoning.

Source: the exact count of R1-V and Reason-RFT; the relative one is a common measure of counting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlrft.parse import Parsed
from vlrft.parse.numbers import Take, parse_number
from vlrft.rewards import numbers
from vlrft.rewards.base import TargetError
from vlrft.rewards.matching import EMPTY_ANSWERS, read_answer, read_truth, settled
from vlrft.types import Score


def boxes(
    parsed: Parsed, target: Any, meta: Mapping[str, Any], *, empty_answers: Sequence[str] = EMPTY_ANSWERS
) -> Score:
    """Whether as many boxes are given as there are objects, wherever they are.

    Formula: min(|P|, |G|) / max(|P|, |G|); both empty 1; of boxes that can be no object, min counts none
    Range: [0, 1]

    empty_answers: texts that say that there is no object.

    Example: score("count.boxes", "<answer>[[0,0,9,9],[9,9,18,18]]</answer>", [{"bbox":[0,0,9,9],"label":"a"}]) -> 0.5
    """
    truth = read_truth(target, meta)
    answer = read_answer(parsed, meta, truth, empty_answers)
    if (score := settled(answer, truth)) is not None:
        return score
    with_area = (answer.boxes[:, 2] > answer.boxes[:, 0]) & (answer.boxes[:, 3] > answer.boxes[:, 1])
    possible = int(np.count_nonzero(with_area & ~answer.unknown))
    return Score(value=min(possible, len(truth)) / max(len(answer), len(truth)), flags=answer.flags)


def exact(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, take: Take = "only") -> Score:
    """Whether the number is right.

    Formula: 1[p = g], or within the `abs_tol` or `rel_tol` that meta gives
    Range: [0, 1]

    take: "only" - one number may stand in the answer; "last" - the last one counts.

    Example: score("count.exact", "<answer>There are 5.</answer>", 5) -> 1.0
    """
    score = numbers.exact(parsed, target, meta, take=take)
    _check_count("count.exact", target, meta)
    return score


def soft(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, take: Take = "only") -> Score:
    """One minus the relative error of the count.

    Formula: max(0, 1 - |p - g| / max(g, 1))
    Range: [0, 1]

    take: as for count.exact.

    Example: score("count.soft", "<answer>3</answer>", 4) -> 0.75
    """
    score = numbers.relative(parsed, target, meta, eps=1.0, take=take)
    _check_count("count.soft", target, meta)
    return score


def _check_count(name: str, target: Any, meta: Mapping[str, Any]) -> None:
    """Raise TargetError unless the number `target` can be a count."""
    number = parse_number(str(target), unit=meta.get("unit"))
    if number is None or number.denominator != 1 or number < 0:
        raise TargetError(f"a {name} target is a whole number from 0 on, got {target!r}; for others use num.exact")
