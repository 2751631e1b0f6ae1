"""Several expected objects, each with a box and a class.

Target: `[{"bbox": [x1, y1, x2, y2], "label": "cat"}, ...]` in `meta["target_space"]` (default `abs_original`); `[]` for
an image without objects; a label of null on all objects where classes do not matter.

Meta: as for box.*; `labels`, the closed set of class names; `iou_threshold`, from which a pair is valid (default 0.5;
an option of the reward wins over it).

Answer: the boxes of box.*, each with `label`, `category`, `class` or `name`, and `confidence` or `score` where it
matters; or one of `empty_answers`. Labels are compared in normal form (case, space, dashes). Where there is one class
only (in `labels`, or in the target when no `labels` are given), a box without a label is read as that class. An answer
that holds no box and is not an empty answer is `unparsable` and worth 0: it never counts as "no objects". Both empty
is 1, one of them empty is 0.

Guards: only pairs of one class with enough overlap can match, and all others weigh nothing before the assignment, so
they cannot displace a valid pair. Inverted boxes, boxes that are not finite, exact duplicates, unknown labels
(`unknown_label`) and boxes without a label among several classes stay in the count as false positives. A dump of boxes
therefore lowers every reward here but two. det.recall by itself does not judge extras: weigh it against det.precision,
or use det.match_iou or det.f1. det.calibration takes an extra box with confidence 0 for honest doubt, so a dump of them
thins out the other errors, up to det.recall and no further: weigh it against det.precision as well.

Source: the matching of Vision-R1 and VisionReasoner (Hungarian), the value of Visual-RFT's IoU reward with the holes of
its released form closed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.base import ordered
from vlrft.rewards.matching import (
    EMPTY_ANSWERS,
    MATCHINGS,
    Answer,
    Truth,
    pairs,
    read_answer,
    read_truth,
    settled,
    threshold,
)
from vlrft.types import Score


def match_iou(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    iou_threshold: float | None = None,
    matching: str = "hungarian",
    empty_answers: Sequence[str] = EMPTY_ANSWERS,
) -> Score:
    """Overlap of the objects found, with misses and extras counted alike.

    Formula: sum of the IoU of matched pairs / max(|P|, |G|), P the boxes given, G the true ones
    Range: [0, 1]

    iou_threshold: IoU from which a pair is valid; default `meta["iou_threshold"]`, else 0.5.

    matching: `hungarian` (the largest sum of IoU) or `greedy` (the largest IoU first).

    empty_answers: texts that say that there is no object.

    Example: score("det.match_iou", "<answer>[0, 0, 10, 8]</answer>", [{"bbox": [0, 0, 10, 10], "label": "a"}]) -> 0.8
    """
    answer, truth, score, hits = _matched("det.match_iou", parsed, target, meta, iou_threshold, matching, empty_answers)
    total = math.fsum(iou for _, _, iou in hits)
    return score or Score(value=total / max(len(answer), len(truth)), flags=answer.flags)


def f1(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    t: float | None = None,
    matching: str = "hungarian",
    empty_answers: Sequence[str] = EMPTY_ANSWERS,
) -> Score:
    """F1 of the objects found.

    Formula: 2 * matched pairs / (|P| + |G|)
    Range: [0, 1]

    t: IoU from which a pair is valid, as in det.f1@0.75; default `meta["iou_threshold"]`, else 0.5.

    matching, empty_answers: as for det.match_iou.

    Example: score("det.f1@0.5", "<answer>[0, 0, 10, 8]</answer>", [{"bbox": [0, 0, 10, 10], "label": "a"}]) -> 1.0
    """
    answer, truth, score, hits = _matched("det.f1", parsed, target, meta, t, matching, empty_answers)
    return score or Score(value=2.0 * len(hits) / (len(answer) + len(truth)), flags=answer.flags)


def precision(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    t: float | None = None,
    matching: str = "hungarian",
    empty_answers: Sequence[str] = EMPTY_ANSWERS,
) -> Score:
    """Share of the boxes given that are right. One sure box is enough for 1: weigh it against det.recall.

    Formula: matched pairs / |P|
    Range: [0, 1]

    t, matching, empty_answers: as for det.f1.

    Example: score("det.precision", "<answer>[[0,0,9,9],[9,9,18,18]]</answer>", [{"bbox":[0,0,9,9],"label":"a"}]) -> 0.5
    """
    answer, _, score, hits = _matched("det.precision", parsed, target, meta, t, matching, empty_answers)
    return score or Score(value=len(hits) / len(answer), flags=answer.flags)


def recall(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    t: float | None = None,
    matching: str = "hungarian",
    empty_answers: Sequence[str] = EMPTY_ANSWERS,
) -> Score:
    """Share of the true objects that are found. Extra boxes cost nothing here: weigh it against det.precision.

    Formula: matched pairs / |G|
    Range: [0, 1]

    t, matching, empty_answers: as for det.f1.

    Example: score("det.recall", "<answer>[[0,0,9,9],[9,9,18,18]]</answer>", [{"bbox":[0,0,9,9],"label":"a"}]) -> 1.0
    """
    answer, truth, score, hits = _matched("det.recall", parsed, target, meta, t, matching, empty_answers)
    return score or Score(value=len(hits) / len(truth), flags=answer.flags)


def calibration(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    iou_threshold: float | None = None,
    matching: str = "hungarian",
    empty_answers: Sequence[str] = EMPTY_ANSWERS,
) -> Score:
    """Whether the stated confidences tell right boxes from wrong ones.

    Formula: (1 - mean over P of (c - hit)^2) * recall, c clipped to [0, 1], hit = 1 where the box is matched
    Range: [0, 1]

    iou_threshold, matching, empty_answers: as for det.match_iou.

    A box without a confidence is stated outright, c = 1. One that is not finite is wrong in any case (error 1, flag
    `non_finite`); one outside [0, 1] is clipped (flag `out_of_range`). Recall is in it so that a wrong box with
    confidence 0 earns nothing.

    Example: score("det.calibration", "<answer>No Objects</answer>", []) -> 1.0
    """
    answer, truth, score, hits = _matched(
        "det.calibration", parsed, target, meta, iou_threshold, matching, empty_answers
    )
    if score is not None:
        return score
    hit = {row for row, _, _ in hits}
    flags, errors = set(answer.flags), []
    for row, confidence in enumerate(answer.confidences):
        stated = 1.0 if confidence is None else confidence
        if not math.isfinite(stated):
            flags.add("non_finite")
            errors.append(1.0)
            continue
        if not 0.0 <= stated <= 1.0:
            flags.add("out_of_range")
            stated = 0.0 if stated < 0.0 else 1.0
        errors.append((stated - (row in hit)) ** 2)
    share = len(hits) / len(truth)
    return Score(value=(1.0 - math.fsum(errors) / len(errors)) * share, flags=ordered(flags))


def _matched(
    name: str,
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    t: float | None,
    matching: str,
    empty_answers: Sequence[str],
) -> tuple[Answer, Truth, Score | None, list[tuple[int, int, float]]]:
    """(answer, truth, the score where there is nothing to match, the matched pairs)."""
    if matching not in MATCHINGS:
        raise ValueError(f"{name}: unknown matching {matching!r}; use one of {', '.join(MATCHINGS)}")
    at_least = threshold(name, t, meta)
    truth = read_truth(target, meta)
    answer = read_answer(parsed, meta, truth, empty_answers)
    score = settled(answer, truth)
    return answer, truth, score, [] if score else pairs(answer, truth, at_least, matching)
