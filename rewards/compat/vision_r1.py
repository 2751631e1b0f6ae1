"""Vision-R1: precision, recall and form of detected boxes.

Target: `[{"bbox", "label"}]` or the peer's `[[class, box], ...]`, also as a JSON text; `[]` for a picture without
instances. Boxes in pixels of the stored image.
Meta: `step` of the training (default 0) chooses the thresholds; `image_size` (or `width`, `height`) and `input_size`:
where both sizes are there, the answer is scaled from the one to the other.
Answer: no tags; the last fenced block, where it holds boxes, else the whole completion. Coordinates are cut to whole
numbers and inverted boxes dropped before the answer is scaled.
Guards: precision does not look at boxes without a partner, and both reward the generalised IoU: use det.* for training.
Source: Vision-R1 (arXiv 2503.18013), released rewards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from vlrft.coords import Box
from vlrft.parse import Parsed, parse_boxes
from vlrft.rewards.base import TargetError
from vlrft.rewards.compat.answers import fenced, json_or_none, setting, truth_value
from vlrft.rewards.compat.places import read_box, read_upright, scale
from vlrft.rewards.matching import Floats, class_name, iou_matrix
from vlrft.types import Score

Labelled = tuple[Box, str]

SWITCH = 1500
"""Training steps after which the thresholds rise."""

_STEPS = ((0.5, 0.75), (0.75, 0.9))
_FENCE = re.compile(r"\A```(?:json)?", re.IGNORECASE)
_LONGEST = 100_000
"""Characters that are read."""
_MOST = 1000
"""Boxes that are looked at."""
_FAR = 1e9
"""Boxes with a coordinate from here on are dropped."""


def precision(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Mean over the matched pairs of their gIoU after a step: 0 below `lo`, 1 above `hi`, itself between.

    Pairs are those of the least sum of L1 distance + [labels differ] - gIoU; the spec names these three costs and no
    weights. lo, hi are 0.5, 0.75, and 0.75, 0.9 after step 1500. Kept: boxes without a partner do not count. Mended:
    without a step the first thresholds hold. Without any box 1 where there is no instance, else 0.

    Formula: mean over pairs of step(gIoU; lo, hi)
    Range: [0, 1]
    Example: score("compat.vision_r1.precision", "[0, 0, 10, 6]", [["cat", [0, 0, 10, 10]]]) -> 0.6
    """
    truths = _truths("compat.vision_r1.precision", target)
    pairs, settled = _pairs(parsed, truths, meta)
    if settled is not None:
        return settled
    low, high = _STEPS[_phase(meta)]
    return Score(value=math.fsum(_step(value, low, high) for value in pairs) / len(pairs))


def recall(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Share of the instances whose pair reaches gIoU t, after a step: 0 below 0.5, 1 above 0.75.

    t is 0.5, and 0.75 after step 1500. Mended as `precision`.

    Formula: step(#pairs with gIoU >= t / #instances; 0.5, 0.75)
    Range: [0, 1]
    Example: score("compat.vision_r1.recall", "[0, 0, 9, 9]", [["a", [0, 0, 9, 9]], ["a", [50, 50, 60, 60]]]) -> 0.5
    """
    truths = _truths("compat.vision_r1.recall", target)
    pairs, settled = _pairs(parsed, truths, meta)
    if settled is not None:
        return settled
    at_least = _STEPS[_phase(meta)][0]
    return Score(value=_step(sum(value >= at_least for value in pairs) / len(truths), *_STEPS[0]))


def dual_format(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the completion, a fence aside, is JSON with boxes of four numbers; where there is no instance, when not.

    Mended: an empty list holds no box, so that it is right where there is no instance, and only there.

    Formula: x = 1[JSON with boxes], and 1 - x without instances
    Range: [0, 1]
    Example: score("compat.vision_r1.dual_format", '[{"bbox_2d": [0, 0, 9, 9], "label": "cat"}]', []) -> 0.0
    """
    truths = _truths("compat.vision_r1.dual_format", target)
    value = json_or_none(_FENCE.sub("", parsed.text.strip()).removesuffix("```"))
    lone = read_box(value) is not None or (isinstance(value, dict) and _holds_box(value))
    shaped = lone or (isinstance(value, list) and bool(value) and all(_holds_box(item) for item in value))
    return Score(value=float(shaped == bool(truths)))


def _pairs(parsed: Parsed, truths: list[Labelled], meta: Mapping[str, Any]) -> tuple[list[float], Score | None]:
    """(gIoU of every matched pair, the score where there is nothing to match)."""
    found = _predictions(parsed.text, meta)
    _phase(meta)
    if not found:
        return [], Score(value=float(not truths))
    if not truths:
        return [], Score(value=0.0)
    boxes, true_boxes = _rows(found), _rows(truths)
    overlap, distance = _giou(boxes, true_boxes), _distance(boxes, true_boxes)
    numbers = {label: i for i, label in enumerate({label for _, label in (*truths, *found)})}
    classes, true_classes = ([numbers[label] for _, label in side] for side in (found, truths))
    differs = np.array(classes)[:, None] != np.array(true_classes)
    rows, columns = linear_sum_assignment(distance + differs - overlap)
    return overlap[rows, columns].tolist(), None


def _rows(side: Sequence[Labelled]) -> Floats:
    return np.array([c for box, _ in side for c in box], dtype=np.float64).reshape(-1, 4)


def _giou(a: Floats, b: Floats) -> Floats:
    """Generalised IoU of every row of `a` with every row of `b`, all with an area."""
    iou = iou_matrix(a, b)
    a, b = _by_coordinate(a, b)
    hull, sides_a, sides_b = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]), a[2:] - a[:2], b[2:] - b[:2]
    areas = sides_a[0] * sides_a[1] + sides_b[0] * sides_b[1]
    # IoU = shared / (areas - shared), so that union = areas / (1 + IoU)
    made: Floats = iou - np.maximum(0.0, 1.0 - areas / (1.0 + iou) / (hull[0] * hull[1]))
    return made


def _distance(a: Floats, b: Floats) -> Floats:
    """L1 distance of every row of `a` from every row of `b`."""
    a, b = _by_coordinate(a, b)
    made: Floats = np.abs(a - b).sum(axis=0)
    return made


def _by_coordinate(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """(4, n, 1) and (4, 1, m): one operation serves all coordinates, which at 20 boxes is what counts."""
    return a.T[:, :, None].copy(), b.T[:, None].copy()


def _truths(what: str, target: Any) -> list[Labelled]:
    value = truth_value(target, what)
    items = value if isinstance(value, list) else None
    found = [_labelled(item) for item in items or ()]
    if items is None or any(item is None for item in found):
        raise TargetError(
            f'{what} needs a list of {{"bbox", "label"}} or of [class, box] as its target, got {target!r}'
        )
    return [item for item in found if item is not None]


def _labelled(item: Any) -> Labelled | None:
    if isinstance(item, dict):
        label, written = item.get("label", ""), item.get("bbox_2d", item.get("bbox"))
    elif isinstance(item, Sequence) and len(item) == 2:
        label, written = item
    else:
        return None
    box = read_upright(written)
    return None if box is None else (box, class_name(str(label)))


def _predictions(text: str, meta: Mapping[str, Any]) -> list[Labelled]:
    text = text[:_LONGEST]
    blocks = fenced(text) or fenced(text, "```")
    written = (parse_boxes(blocks[-1], wide=False) if blocks else []) or parse_boxes(text, wide=False)
    sx, sy = scale(meta, _size_in_columns(meta))
    found: list[Labelled] = []
    for item in written[:_MOST]:
        a, b, c, d = item.box
        if not (-_FAR < a < _FAR and -_FAR < b < _FAR and -_FAR < c < _FAR and -_FAR < d < _FAR):
            continue
        x1, y1, x2, y2 = int(a), int(b), int(c), int(d)
        if x1 < x2 and y1 < y2:
            found.append(((x1 * sx, y1 * sy, x2 * sx, y2 * sy), class_name(item.label or "")))
    return found


def _size_in_columns(meta: Mapping[str, Any]) -> list[Any] | None:
    return None if meta.get("width") is None else [meta.get("width"), meta.get("height")]


def _phase(meta: Mapping[str, Any]) -> int:
    return int(meta.get("step") is not None and setting(meta, "step", 0) > SWITCH)


def _step(value: float, low: float, high: float) -> float:
    return 0.0 if value < low else (1.0 if value > high else value)


def _holds_box(item: Any) -> bool:
    if isinstance(item, dict):
        return any(
            read_box(value) or (isinstance(value, list) and any(map(read_box, value))) for value in item.values()
        )
    return bool(read_box(item)) or (isinstance(item, list) and any(map(read_box, item)))
