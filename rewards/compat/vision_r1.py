"""Vision-R1: precision, recall and form of detected boxes.

Target: `[{"bbox", "label"}]` or the peer's `[[class, box], ...]`, also as a JSON text; `[]` for a picture without
instances. Boxes in pixels of the stored image.
Meta: `step` of the training (default 0) chooses the thresholds; `image_size` (or `width`, `height`) and `input_size`:
where both sizes are there, the answer is scaled from the one to the other.
Answer: no tags; the last fenced block, where it holds boxes, else the whole completion. Coordinates are cut to whole
numbers, inverted boxes dropped.
Guards: precision does not look at boxes without a partner, and both reward the generalised IoU: use det.* for training.
Source: Vision-R1 (arXiv 2503.18013), released rewards.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from vlrft.coords import Box
from vlrft.parse import Parsed, normalise, parse_boxes
from vlrft.rewards.base import TargetError
from vlrft.rewards.compat.actions import finite
from vlrft.rewards.compat.answers import fenced, setting, truth_value
from vlrft.rewards.matching import Floats, iou_matrix
from vlrft.types import Score

Labelled = tuple[Box, str]

SWITCH = 1500
"""Training steps after which the thresholds rise."""

_STEPS = ((0.5, 0.75), (0.75, 0.9))
_LONGEST = 100_000
"""Characters that are read."""
_MOST = 1000
"""Boxes that are looked at."""


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
    text = parsed.text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    shaped = isinstance(value, list) and bool(value) and all(_holds_box(item) for item in value)
    return Score(value=float(shaped == bool(truths)))


def _pairs(parsed: Parsed, truths: list[Labelled], meta: Mapping[str, Any]) -> tuple[list[float], Score | None]:
    """(gIoU of every matched pair, the score where there is nothing to match)."""
    found = _predictions(parsed.text, meta)
    _phase(meta)
    if not found:
        return [], Score(value=float(not truths))
    if not truths:
        return [], Score(value=0.0)
    boxes, true_boxes = np.array([box for box, _ in found]), np.array([box for box, _ in truths])
    overlap = _giou(boxes, true_boxes)
    distance = np.abs(boxes[:, None, :] - true_boxes[None, :, :]).sum(axis=-1)
    numbers = {label: i for i, label in enumerate({label for _, label in (*truths, *found)})}
    classes, true_classes = ([numbers[label] for _, label in side] for side in (found, truths))
    differs = np.array(classes)[:, None] != np.array(true_classes)
    rows, columns = linear_sum_assignment(distance + differs - overlap)
    return overlap[rows, columns].tolist(), None


def _giou(a: Floats, b: Floats) -> Floats:
    """Generalised IoU of every row of `a` with every row of `b`, all with an area."""
    low, high = np.minimum(a[:, None, :2], b[:, :2]), np.maximum(a[:, None, 2:], b[:, 2:])
    hull = (high - low).prod(axis=-1)
    iou = iou_matrix(a, b)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(axis=-1)
    # IoU = shared / (areas - shared), so that union = areas / (1 + IoU)
    made: Floats = iou - np.maximum(0.0, 1.0 - areas / (1.0 + iou) / hull)
    return made


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
    numbers = finite(written)
    if numbers is None or len(numbers) != 4 or not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        return None
    return (numbers[0], numbers[1], numbers[2], numbers[3]), _name(str(label))


def _predictions(text: str, meta: Mapping[str, Any]) -> list[Labelled]:
    text = text[:_LONGEST]
    blocks = fenced(text) or fenced(text, "```")
    written = (parse_boxes(blocks[-1]) if blocks else []) or parse_boxes(text)
    sx, sy = _scale(meta)
    found: list[Labelled] = []
    for item in written[:_MOST]:
        a, b, c, d = item.box
        if not (abs(a) < 1e9 and abs(b) < 1e9 and abs(c) < 1e9 and abs(d) < 1e9):
            continue
        x1, y1, x2, y2 = int(a * sx), int(b * sy), int(c * sx), int(d * sy)
        if x1 < x2 and y1 < y2:
            found.append(((x1, y1, x2, y2), _name(item.label or "")))
    return found


@functools.lru_cache(maxsize=4096)
def _name(label: str) -> str:
    return normalise(label)


def _scale(meta: Mapping[str, Any]) -> tuple[float, float]:
    stored, seen = meta.get("image_size"), meta.get("input_size")
    if stored is None and meta.get("width") is not None:
        stored = [meta.get("width"), meta.get("height")]
    if stored is None or seen is None:
        return 1.0, 1.0
    sizes = finite(stored), finite(seen)
    if any(size is None or len(size) != 2 or min(size) <= 0.0 for size in sizes):
        raise TargetError(f"meta image_size and input_size must be [width, height], got {stored!r} and {seen!r}")
    return stored[0] / seen[0], stored[1] / seen[1]


def _phase(meta: Mapping[str, Any]) -> int:
    return int(meta.get("step") is not None and setting(meta, "step", 0) > SWITCH)


def _step(value: float, low: float, high: float) -> float:
    return 0.0 if value < low else (1.0 if value > high else value)


def _holds_box(item: Any) -> bool:
    if isinstance(item, dict):
        return any(_is_box(item.get(key)) for key in ("bbox_2d", "bbox", "box"))
    return _is_box(item) or (isinstance(item, list) and any(_is_box(part) for part in item))


def _is_box(value: Any) -> bool:
    numbers = finite(value)
    return numbers is not None and len(numbers) == 4
