"""Average precision of one image's detections, as COCO defines it, with confidences.

Target: as for det.match_iou.

Meta: as for det.match_iou, but for `iou_threshold`: the ten thresholds are fixed.

Answer: as for det.match_iou; `confidence` or `score` ranks the boxes. A box without one is stated outright, 1; so
without any, all boxes are equal.

Guards: COCO's measure was made for whole data sets, and as a reward for one image it has holes: among equal
confidences the order of the list decides, boxes after the last hit are free, and classes that only the answer names do
not count. `ties="pessimistic"`, the default, closes the first and the last: among equal confidences the false positives
rank first (so extra boxes cost where no confidences are given), boxes beyond the hundredth of a class are false
positives, and a class that only the answer names has AP 0. det.map_length takes extra boxes with low confidences in
too. A confidence that is not finite makes its box a false positive that ranks first.

Source: AP@[.50:.95] of COCO (area all, 100 detections per class, no crowds): `ties="coco"` equals pycocotools. VLM-R1's
od_ap and odLength rewards are its forms with every confidence 1.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlrft.parse import Parsed
from vlrft.rewards.base import ordered
from vlrft.rewards.matching import (
    EMPTY_ANSWERS,
    Answer,
    Floats,
    Truth,
    iou_matrix,
    mean,
    read_answer,
    read_truth,
    settled,
)
from vlrft.types import Score

TIES = ("coco", "pessimistic")
MAX_DETECTIONS = 100
"""Per class; those with the highest confidences."""

# Spelt as pycocotools spells them: their last bits decide whether an overlap of exactly 0.7 counts.
_THRESHOLDS: list[float] = np.linspace(0.5, 0.95, 10).tolist()
_RECALLS: list[float] = np.linspace(0.0, 1.0, 101).tolist()


def mean_average_precision(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    ties: str = "pessimistic",
    empty_answers: Sequence[str] = EMPTY_ANSWERS,
) -> Score:
    """Mean average precision at IoU 0.50 to 0.95, over the classes of the image.

    Formula: mean over classes and 10 IoU thresholds of the mean interpolated precision at 101 recalls
    Range: [0, 1]

    ties: `pessimistic` (among equal confidences false positives first; classes that only the answer names have AP 0)
    or `coco` (pycocotools' value).

    empty_answers: texts that say that there is no object. Both empty is 1, one of them empty is 0.

    Example: score("det.map", "<answer>[0,0,10,8]</answer>", [{"bbox": [0, 0, 10, 10], "label": "a"}]) -> 0.7
    """
    return _score("det.map", parsed, target, meta, ties, empty_answers)[0]


def map_length(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    ties: str = "pessimistic",
    empty_answers: Sequence[str] = EMPTY_ANSWERS,
) -> Score:
    """Mean average precision that charges for every box beyond the true number.

    Formula: det.map * min(1, |G| / |P|)
    Range: [0, 1]

    ties, empty_answers: as for det.map.

    Example: score("det.map_length", "<answer>[0,0,10,8]</answer>", [{"bbox": [0,0,10,10], "label": "a"}]) -> 0.7
    """
    score, answer, truth = _score("det.map_length", parsed, target, meta, ties, empty_answers)
    if score.value and len(answer) > len(truth):
        return Score(value=score.value * len(truth) / len(answer), flags=score.flags)
    return score


def _score(
    name: str, parsed: Parsed, target: Any, meta: Mapping[str, Any], ties: str, empty_answers: Sequence[str]
) -> tuple[Score, Answer, Truth]:
    if ties not in TIES:
        raise ValueError(f"{name}: unknown ties {ties!r}; use one of {', '.join(TIES)}")
    truth = read_truth(target, meta)
    answer = read_answer(parsed, meta, truth, empty_answers)
    score = settled(answer, truth)
    if score is None:
        ranks, finite = _ranks(answer)
        flags = answer.flags if finite else ordered({*answer.flags, "non_finite"})
        score = Score(value=_mean_over_classes(answer, truth, ranks, ties == "pessimistic"), flags=flags)
    return score, answer, truth


def _ranks(answer: Answer) -> tuple[Floats, bool]:
    """(confidences to sort by, whether all those given are finite)."""
    given = np.array([1.0 if c is None else c for c in answer.confidences], dtype=np.float64)
    finite = np.isfinite(given)
    return np.where(finite, given, np.inf), bool(finite.all())


def _mean_over_classes(answer: Answer, truth: Truth, ranks: Floats, pessimistic: bool) -> float:
    overlap = iou_matrix(answer.boxes, truth.boxes)
    overlap[np.isinf(ranks)] = 0.0
    present = np.unique(truth.classes).tolist()
    values = []
    for number in present:
        rows = np.flatnonzero(answer.classes == number)
        columns = np.flatnonzero(truth.classes == number)
        values.append(_average_precision(ranks[rows], overlap[np.ix_(rows, columns)], pessimistic))
    if pessimistic:
        absent = np.flatnonzero(~np.isin(answer.classes, present))
        values += [0.0] * len({answer.labels[row] for row in absent.tolist()})
    return mean(values)


def _average_precision(ranks: Floats, overlap: Floats, pessimistic: bool) -> float:
    """AP of one class: ranks (n,) of the boxes given, overlap (n, m) with the m > 0 true ones."""
    order = np.argsort(-ranks, kind="stable")
    options = partners(overlap[order[:MAX_DETECTIONS]])
    falling = -ranks[order]
    ends = np.searchsorted(falling, falling[:MAX_DETECTIONS], side="right").tolist() if pessimistic else None
    values = []
    for at_least in _THRESHOLDS:
        places = hits(options, at_least)
        values.append(interpolated(places if ends is None else _postponed(places, ends), overlap.shape[1]))
    return mean(values)


def _postponed(places: Sequence[int], ends: Sequence[int]) -> list[int]:
    """`places` of the hits when among boxes of equal rank the hits come last.

    ends: for each box the last place of its rank.
    """
    moved: list[int] = []
    for place in reversed(places):
        end = ends[place - 1]
        moved.append(min(end, moved[-1] - 1) if moved else end)
    return moved[::-1]


def partners(overlap: Floats) -> list[list[tuple[float, int]]]:
    """(IoU, number) of the true boxes that each row's box may take at the lowest threshold, the best first."""
    rows, numbers = np.nonzero(overlap >= _THRESHOLDS[0])
    options: list[list[tuple[float, int]]] = [[] for _ in overlap]
    for row, iou, number in zip(rows.tolist(), overlap[rows, numbers].tolist(), numbers.tolist(), strict=True):
        options[row].append((iou, number))
    for choice in options:
        # Of equal overlaps pycocotools takes the last.
        choice.sort(reverse=True)
    return options


def hits(options: Sequence[Sequence[tuple[float, int]]], at_least: float) -> list[int]:
    """Places, from 1, of the boxes that take a true one: in falling rank each the best that is free.

    options: as `partners` gives them. at_least: the IoU that the best free one must reach, 0.5 or more.
    """
    places: list[int] = []
    taken: set[int] = set()
    for place, choice in enumerate(options, start=1):
        for iou, number in choice:
            if number not in taken:
                if iou >= at_least:
                    taken.add(number)
                    places.append(place)
                break
    return places


def interpolated(places: Sequence[int], expected: int) -> float:
    """Mean over the 101 recalls of the best precision at that recall or beyond; 0 where it is not reached.

    places: those of the hits in the ranking, from 1, rising.
    """
    best, terms = 0.0, []
    reached = bisect.bisect_right(_RECALLS, len(places) / expected)
    for found in range(len(places), 0, -1):
        best = max(best, found / places[found - 1])
        before = bisect.bisect_right(_RECALLS, (found - 1) / expected)
        terms += [best] * (reached - before)
        reached = before
    return math.fsum([best, *terms]) / len(_RECALLS)
