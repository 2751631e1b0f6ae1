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

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrft.parse import Parsed
from vlrft.rewards.base import ordered
from vlrft.rewards.matching import (
    EMPTY_ANSWERS,
    Answer,
    Bools,
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
_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
_RECALLS: Floats = np.linspace(0.0, 1.0, 101)


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
    kept = order[:MAX_DETECTIONS]
    hits = np.array([_hits(overlap[kept], at_least) for at_least in _THRESHOLDS.tolist()])
    if pessimistic:
        hits = np.concatenate([hits, np.zeros((len(hits), len(order) - len(kept)), dtype=np.bool_)], axis=1)
        # By falling rank, and among equals the false positives first.
        hits = np.array([row[np.lexsort((row, -ranks[order]))] for row in hits])
    return mean([_interpolated(row, overlap.shape[1]) for row in hits])


def _hits(overlap: Floats, at_least: float) -> Bools:
    """Which of the boxes, in falling rank, take a true one: each the free one with the largest IoU of `at_least`."""
    free = overlap.copy()
    hits = np.zeros(len(overlap), dtype=np.bool_)
    for row in np.flatnonzero(overlap.max(axis=1) >= at_least).tolist():
        # Of equal overlaps pycocotools takes the last.
        column = free.shape[1] - 1 - int(np.argmax(free[row, ::-1]))
        if free[row, column] >= at_least:
            hits[row] = True
            free[:, column] = -1.0
    return hits


def _interpolated(hits: NDArray[np.bool_], expected: int) -> float:
    """Mean over the 101 recalls of the best precision at that recall or beyond; 0 where it is not reached."""
    found = np.cumsum(hits, dtype=np.float64)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(found / expected, _RECALLS, side="left")
    return math.fsum(envelope[at[at < len(hits)]].tolist()) / len(_RECALLS)
