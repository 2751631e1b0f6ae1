"""VLM-R1: referring expressions, detection, choices and repetition.

Target: `[x1, y1, x2, y2]` for `iou`; `[{"bbox", "label"}]` (or the peer's `bbox_2d`, fenced or not; `[]` or "None" for
a negative) for `od_ap`, `od_ap50`, `od_length` and `weighted_sum`; a letter for `mcq`; "yes" or "no" for `yes_no`; none
for `repetition`. Boxes in pixels of the stored image.
Meta: `image_size` and `input_size` for `iou`: where both are there, the answer is scaled from the one to the other.
Answer: the first answer block for `iou`, `mcq` and `yes_no` (the last two take the whole completion where there is
none); for detection the last fenced json block of the last answer block, or a plain "None".
Guards: flaws of the measures themselves are kept (in COCO's AP boxes after the last hit and unknown labels are free,
dumped boxes keep half of the weighted sum): use box.iou, det.* and mcq.letter for training.
Source: VLM-R1 (arXiv 2504.07615), released rewards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlrft.coords import Box
from vlrft.parse import Parsed
from vlrft.rewards.average_precision import MAX_DETECTIONS, hits, interpolated, partners
from vlrft.rewards.base import TargetError
from vlrft.rewards.box import intersection_over_union
from vlrft.rewards.compat.answers import (
    fenced,
    first,
    first_or_all,
    json_or_none,
    last,
    truth_text,
    truth_value,
    unwrap,
)
from vlrft.rewards.compat.letters import one_letter
from vlrft.rewards.compat.places import has_area, overlaps, read_box, scale
from vlrft.rewards.matching import Floats
from vlrft.types import Score

Found = tuple[Box, str]

_BOX = re.compile(r"\[([0-9]+),\s*([0-9]+),\s*([0-9]+),\s*([0-9]+)\]")
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_OVERLAP = 0.5
_POSITION, _COMPLETENESS = 0.7, 0.3
_WORDS = 6

COCO: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""IoU thresholds, spelt as COCO spells them."""


def iou(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """IoU of the first `[x1, y1, x2, y2]` of the first answer block.

    Kept: whole, non-negative numbers only and no space after the bracket; an overlap of at most one pixel in either
    direction counts as none. An inverted box is worth 0.

    Formula: IoU, 0 where the overlap is not wider and higher than 1
    Range: [0, 1]
    Example: score("compat.vlm_r1.iou", "<answer>[0, 0, 10, 10]</answer>", [0, 0, 10, 20]) -> 0.5
    """
    truth = read_box(truth_value(target, "compat.vlm_r1.iou"))
    if truth is None or not has_area(truth):
        raise TargetError(f"compat.vlm_r1.iou needs a box [x1, y1, x2, y2] with an area as its target, got {target!r}")
    sx, sy = scale(meta)
    match = _BOX.search(first(parsed.text) or "")
    if match is None:
        return Score(value=0.0, flags=("unparsable",))
    x1, y1, x2, y2 = (float(group) for group in match.groups())
    box = (x1 * sx, y1 * sy, x2 * sx, y2 * sy)
    if not all(map(math.isfinite, box)) or not has_area(box):
        return Score(value=0.0, flags=("invalid_box",))
    width, height = min(box[2], truth[2]) - max(box[0], truth[0]), min(box[3], truth[3]) - max(box[1], truth[1])
    return Score(value=intersection_over_union(box, truth) if width > 1.0 and height > 1.0 else 0.0)


def od_ap(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """COCO's AP at IoU 0.50 to 0.95, every box with the same confidence, so that the order of the list decides.

    Kept: boxes after the last hit and labels that the truth lacks are free. Mended: on a picture without objects only
    "None" or an empty list is worth 1 (the peer pays for any unparsable text).

    Formula: mean over classes and 10 IoU thresholds of the interpolated precision
    Range: [0, 1]
    Example: score("compat.vlm_r1.od_ap", "<answer>None</answer>", []) -> 1.0
    """
    return _detection("compat.vlm_r1.od_ap", parsed, target)[0]


def od_ap50(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """As `od_ap`, at IoU 0.50 alone.

    Formula: mean over classes of the interpolated precision at IoU 0.5
    Range: [0, 1]
    Example: score("compat.vlm_r1.od_ap50", "<answer>none at all</answer>", []) -> 0.0
    """
    return _detection("compat.vlm_r1.od_ap50", parsed, target, thresholds=(_OVERLAP,))[0]


def od_length(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """`od_ap`, less by how many boxes too many there are; all boxes of the answer count, unknown labels too.

    Formula: AP * min(1, #truths / #predictions)
    Range: [0, 1]
    Example: score("compat.vlm_r1.od_length", "<answer>None</answer>", []) -> 1.0
    """
    score, found, truths = _detection("compat.vlm_r1.od_length", parsed, target)
    if not found or score.value is None:
        return score
    return Score(value=score.value * min(1.0, len(truths) / len(found)), flags=score.flags)


def weighted_sum(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Position and completeness of the boxes that match: the pair with the largest IoU first, down to 0.5.

    Kept: a matched pair with different labels adds no IoU but counts as found, and labels have no weight of their own.
    Mended: a box without a label is one with a wrong label (the peer raises); gibberish is worth 0. An answer without
    boxes for a picture with objects is worth 0; the spec leaves the false-alarm rate of no boxes open.

    Formula: 0.7 * sum of matched IoU / #truths + 0.3 * (1 - (miss rate + false-alarm rate) / 2)
    Range: [0, 1]
    Example: score("compat.vlm_r1.weighted_sum", "<answer>none</answer>", "None") -> 1.0
    """
    truths = _truths("compat.vlm_r1.weighted_sum", target)
    found = _predictions(parsed.text, any_case=True)
    if found is None:
        return Score(value=0.0, flags=("unparsable",))
    if not truths or not found:
        return Score(value=float(not truths and not found))
    shared = overlaps([box for box, _ in found], [box for box, _ in truths])
    pairs = [(float(shared[i, j]), int(i), int(j)) for i, j in np.argwhere(shared >= _OVERLAP)]
    used: set[int] = set()
    served: set[int] = set()
    total = 0.0
    for overlap, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if i in used or j in served:
            continue
        used.add(i)
        served.add(j)
        total += overlap if found[i][1] == truths[j][1] else 0.0
    missed, alarms = 1.0 - len(served) / len(truths), 1.0 - len(used) / len(found)
    return Score(value=_POSITION * total / len(truths) + _COMPLETENESS * (1.0 - (missed + alarms) / 2.0))


def mcq(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the letter that the answer names is the true one.

    Kept: letter case does not count; a letter counts when punctuation or the end follows it. Mended: "(B)", "B)",
    "**B**" and boxed letters are seen, "A or B" is worth 0. The peer decides between several letters by keywords,
    position and punctuation, whose weights the spec does not give: here the letter after "answer" or "option" counts,
    and several others are worth 0.

    Formula: 1[letter = truth]
    Range: [0, 1]
    Example: score("compat.vlm_r1.mcq", "<answer>b. a dog</answer>", "B") -> 1.0
    """
    truth = one_letter(truth_text(target, "compat.vlm_r1.mcq"))
    if truth is None:
        raise TargetError(f"compat.vlm_r1.mcq needs one letter as its target, got {target!r}")
    return Score(value=float(one_letter(first_or_all(parsed.text)) == truth))


def yes_no(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the first "yes" or "no" of the answer is the true one.

    Mended: only whole words count ("cannot" is no "no"), and an answer with neither is worth 0.

    Formula: 1[first of yes, no = truth]
    Range: [0, 1]
    Example: score("compat.vlm_r1.yes_no", "<answer>I cannot know: yes</answer>", "yes") -> 1.0
    """
    said = {True: "yes", False: "no"}.get(target, target) if isinstance(target, bool) else target
    truth = _YES_NO.search(truth_text(said, "compat.vlm_r1.yes_no"))
    if truth is None:
        raise TargetError(f"compat.vlm_r1.yes_no needs 'yes' or 'no' as its target, got {target!r}")
    found = _YES_NO.search(first_or_all(parsed.text))
    return Score(value=float(found is not None and found.group().lower() == truth.group().lower()))


def repetition(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """What repeats costs: items of the last fenced json list, else runs of six words of the completion.

    Words are what white space separates, letter case aside. Fewer than six words are worth 0.

    Formula: -(1 - unique / all)
    Range: [-1, 0]
    Example: score("compat.vlm_r1.repetition", "a a a a a a a a", None) -> -0.6666666666666667
    """
    value = _read(fenced(parsed.text))
    if isinstance(value, list) and value:
        return Score(value=len(set(map(repr, value))) / len(value) - 1.0)
    words = parsed.text.lower().split()
    if len(words) < _WORDS:
        return Score(value=0.0)
    grams = list(zip(*(words[i:] for i in range(_WORDS)), strict=False))
    return Score(value=len(set(grams)) / len(grams) - 1.0)


def _detection(
    what: str, parsed: Parsed, target: Any, thresholds: Sequence[float] = COCO
) -> tuple[Score, list[Found], list[Found]]:
    truths, found = _truths(what, target), _predictions(parsed.text)
    if found is None:
        return Score(value=0.0, flags=("unparsable",)), [], truths
    if not truths or not found:
        return Score(value=float(not truths and not found)), found, truths
    shared = overlaps([box for box, _ in found], [box for box, _ in truths])
    values = []
    for label in sorted({name for _, name in truths}):
        rows, columns = ([i for i, (_, name) in enumerate(side) if name == label] for side in (found, truths))
        values.append(_average_precision(shared[rows[:MAX_DETECTIONS]][:, columns], thresholds))
    return Score(value=math.fsum(values) / len(values)), found, truths


def _average_precision(overlap: Floats, thresholds: Sequence[float]) -> float:
    options = partners(overlap)
    values = [interpolated(hits(options, at_least), overlap.shape[1]) for at_least in thresholds]
    return math.fsum(values) / len(values)


def _truths(what: str, target: Any) -> list[Found]:
    bare = unwrap(target)
    if isinstance(bare, str):
        bare = [bare, *fenced(bare)][-1].strip()
        if bare.lower() == "none":
            return []
    found = _items(truth_value(bare, what))
    # A box without an area stays: as in COCO's evaluation it is an object that nothing can find.
    if found is None or not all(box[0] <= box[2] and box[1] <= box[3] and label for box, label in found):
        raise TargetError(f'{what} needs a list of {{"bbox", "label"}} as its target, or "None", got {target!r}')
    return found


def _predictions(text: str, *, any_case: bool = False) -> list[Found] | None:
    """The boxes that the last answer block lists; None where it can not be read, which is never "no objects"."""
    answer = last(text) or ""
    blocks = fenced(answer)
    bare = blocks[-1].strip() if blocks else answer
    if bare == "[]" or (bare.lower() if any_case else bare) == ("none" if any_case else "None"):
        return []
    return _items(_read(blocks))


def _items(value: Any) -> list[Found] | None:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    found = []
    for item in value:
        box = read_box(item.get("bbox_2d", item.get("bbox")))
        if box is None:
            return None
        found.append((box, str(item.get("label") or "")))
    return found


def _read(blocks: Sequence[str]) -> Any:
    """The last block as JSON; None where it is not."""
    return json_or_none(blocks[-1]) if blocks else None
