"""Visual-RFT: detection, classification and reasoning grounding.

Target: `[{"bbox", "label"}]` or `[{"Position": [x1, y1, x2, y2]}]` (`[]` or "No Objects" for a negative) for `iou` and
`confidence`, a label for `cls`, `[x1, y1, x2, y2]` for `lisa_giou`; boxes in 0-1000 integers, as the peer's data has
them. All may be wrapped in answer tags.
Answer: the first answer block, the whole completion where there is none. Detection: a list of
`{'Position': [x1, y1, x2, y2], 'Confidence': c}`, either quote; a list that breaks off keeps its whole items.
Guards: the peer's own values are kept, flaws of design included (no labels in detection, a wrong box with confidence 0
is worth 1): use det.* and cls.label for training. Its symbolic check of the whole completion is left out: it pays for
one shared coordinate and for numbers in the reasoning.
Source: Visual-RFT (arXiv 2503.01785), released rewards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlrft.coords import Box
from vlrft.parse import Parsed, normalise
from vlrft.rewards.base import TargetError, is_number
from vlrft.rewards.box import generalised_iou
from vlrft.rewards.compat.answers import LARGEST, first_or_all, json_or_none, truth_text, unwrap
from vlrft.rewards.compat.places import has_area, overlaps
from vlrft.types import Score

_NONE = {"", "no objects", "none", "[]"}
_ITEM = re.compile(r"\{[^{}]*\}")
_PAIRS = re.compile(r"\((\d+),(\d+)\),\((\d+),(\d+)\)")
_SURE = 0.5
_MATCHES = ("exact", "contains", "bidirectional")

Found = tuple[Box, float | None]


def iou(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Summed IoU of greedily matched boxes over the larger of the two counts.

    Predictions are served in descending confidence, each takes the best free truth, a match needs IoU > 0.5.
    Kept: labels do not count; exact duplicates of a box count once, the first. Mended: "No Objects" for a picture
    without objects is worth 1 (the peer gives 0), answers on a line of their own are seen.

    Formula: min(1, sum of matched IoU / max(#truths, #predictions))
    Range: [0, 1]
    Example: score("compat.visual_rft.iou", "<answer>[{'Position': [0, 0, 9, 9], 'Confidence': 1}]</answer>", []) -> 0.0
    """
    truths, found = _both(parsed, target)
    if not truths and not found:
        return Score(value=float(_says_none(parsed)))
    if not truths or not found:
        return Score(value=0.0)
    matched = _match(found, truths)
    return Score(value=min(1.0, sum(matched) / max(len(truths), len(found))))


def confidence(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Mean over the predictions of their confidence where matched, of its complement where not.

    Kept: missed objects do not count; a prediction without confidence is worth 0. Mended: "No Objects" for a picture
    without objects is worth 1, as in `iou`.

    Formula: clip(mean(c if matched else 1 - c), 0, 1)
    Range: [0, 1]
    Example: score("compat.visual_rft.confidence", "[{'Position': [0, 0, 9, 9], 'Confidence': 0.2}]", []) -> 0.8
    """
    truths, found = _both(parsed, target)
    if not found:
        return Score(value=float(not truths and _says_none(parsed)))
    ordered = _by_confidence(found)
    matched = _match(found, truths)
    terms = [
        0.0 if sure is None else (sure if overlap > 0.0 else 1.0 - sure)
        for (_, sure), overlap in zip(ordered, matched, strict=True)
    ]
    return Score(value=min(1.0, max(0.0, sum(terms) / len(terms))))


def cls(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, match: str = "bidirectional") -> Score:
    """1 when the answer and the label are equal or one holds the other as whole words, a plural included.

    Mended: the peer removes spaces and underscores and looks for substrings either way, so that an empty answer, one
    letter or "primrose" for "rose" score 1 and training collapses to empty answers (its issues 79, 161, 176). An answer
    with "or" between labels is worth 0, and with `meta["labels"]` one that names other labels too.

    Formula: 1[answer = label, or one holds the other as whole words]
    Range: [0, 1]

    match: `bidirectional`; `contains`: the answer must hold the label; `exact`: both must be equal.

    Example: score("compat.visual_rft.cls", "<answer>it is a red rose</answer>", "Rose") -> 1.0
    """
    if match not in _MATCHES:
        raise ValueError(f"compat.visual_rft.cls: match must be one of {', '.join(_MATCHES)}, got {match!r}")
    truth = truth_text(target, "compat.visual_rft.cls")
    gold, answer = normalise(truth), normalise(first_or_all(parsed.text))
    joined_gold, joined = gold.replace(" ", ""), answer.replace(" ", "")
    others = [normalise(str(label)) for label in meta.get("labels") or ()]
    if any(other != gold and _holds(answer, other) and not _holds(gold, other) for other in others):
        return Score(value=0.0, flags=("several_answers",))
    if " or " in f" {answer} " and " or " not in f" {gold} ":
        return Score(value=0.0, flags=("several_answers",))
    same = joined == joined_gold
    same = same or (match != "exact" and _holds(answer, gold)) or (match == "bidirectional" and _holds(gold, answer))
    return Score(value=float(bool(joined) and same))


def lisa_giou(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Generalised IoU plus 1 of one box written "(x1,y1),(x2,y2)"; 0 when none is found.

    Kept: the range. Mended: of several boxes the first counts (the peer pairs first corners with first corners), an
    inverted box is worth 0.

    Formula: gIoU + 1
    Range: [0, 2]
    Example: score("compat.visual_rft.lisa_giou", "<answer>(0,0),(10,10)</answer>", [0, 0, 10, 10]) -> 2.0
    """
    truth = _box(_corners(unwrap(target)))
    if truth is None or not has_area(truth):
        raise TargetError(f"compat.visual_rft.lisa_giou needs a box [x1, y1, x2, y2] as its target, got {target!r}")
    box = _box(_corners(first_or_all(parsed.text)))
    if box is None:
        return Score(value=0.0, flags=("unparsable",))
    if not has_area(box):
        return Score(value=0.0, flags=("invalid_box",))
    return Score(value=generalised_iou(box, truth) + 1.0)


def _holds(text: str, part: str) -> bool:
    return bool(part) and any(f" {part}{plural} " in f" {text} " for plural in ("", "s", "es"))


def _says_none(parsed: Parsed) -> bool:
    return normalise(first_or_all(parsed.text)) in {"no objects", "none", "[]"}


def _both(parsed: Parsed, target: Any) -> tuple[list[Box], list[Found]]:
    truths = _truths(unwrap(target))
    if truths is None:
        raise TargetError(f"compat.visual_rft needs a list of boxes as its target, or 'No Objects', got {target!r}")
    return truths, _predictions(first_or_all(parsed.text))


def _truths(target: Any) -> list[Box] | None:
    if isinstance(target, str):
        if target.strip().lower() in _NONE:
            return []
        return [box for box, _ in _predictions(target)] or None
    if not isinstance(target, list):
        return None
    boxes = [_box(item.get("bbox", item.get("Position")) if isinstance(item, dict) else item) for item in target]
    return None if any(box is None for box in boxes) else [box for box in boxes if box is not None]


def _predictions(text: str) -> list[Found]:
    """Every whole `{...}` item with a position, exact duplicates of a position left out."""
    found: list[Found] = []
    seen: set[Box] = set()
    for item in _listed(text.replace("'", '"').replace("[[", "[").replace("]]", "]")):
        box = _box(item.get("Position"))
        if box is None or box in seen:
            continue
        seen.add(box)
        sure = item.get("Confidence")
        if not is_number(sure) or not abs(sure) < LARGEST:
            sure = None
        found.append((box, sure))
    return found


def _listed(text: str) -> list[dict[str, Any]]:
    """The objects of a list, whole ones only where the list is cut off or has text around it."""
    whole = json_or_none(f"[{text}]")
    if whole and len(whole) == 1 and isinstance(whole[0], list) and all(isinstance(item, dict) for item in whole[0]):
        return whole[0]
    items = (json_or_none(match.group()) for match in _ITEM.finditer(text))
    return [item for item in items if item is not None]


def _by_confidence(found: list[Found]) -> list[Found]:
    return sorted(found, key=lambda item: -(item[1] if item[1] is not None else 0.0))


def _match(found: list[Found], truths: list[Box]) -> list[float]:
    """IoU of each prediction with the truth it takes, 0 without one, in descending confidence."""
    mine = [box for box, _ in _by_confidence(found)]
    if not mine or not truths:
        return [0.0] * len(mine)
    overlap = overlaps(mine, truths)
    taken = [0.0] * len(mine)
    for row in np.flatnonzero(overlap.max(axis=1) > _SURE).tolist():
        column = int(overlap[row].argmax())
        if overlap[row, column] > _SURE:
            taken[row] = float(overlap[row, column])
            overlap[:, column] = 0.0
    return taken


def _corners(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _PAIRS.search("".join(value.split()))
    return [float(g) for g in match.groups()] if match else None


def _box(value: Any) -> Box | None:
    """Four numbers below 1e9, in whatever order; None for anything else."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None
    if not all(is_number(c) and abs(c) < 1e9 for c in value):
        return None
    return float(value[0]), float(value[1]), float(value[2]), float(value[3])
