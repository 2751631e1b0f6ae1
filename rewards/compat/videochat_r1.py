"""VideoChat-R1: temporal grounding, grounded questions, tracking, classification.

Target: `[start, end]` for `tg`, a list of spans for `glue`, eight boxes in 0-1 coordinates for `tracking`, a label for
`cls`, a letter for `qa`.
Answer: the last answer block for `tg` and `tracking`, the first for `cls` and `qa`, the `<glue>` block for `glue`.
Guards: for training use tg.*, track.mean_iou, mcq.letter and cls.label.
Source: VideoChat-R1 (arXiv 2504.06958), released rewards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.base import TargetError
from vlrft.rewards.compat.actions import read_data
from vlrft.rewards.compat.answers import LARGEST, first, last, truth_text, truth_value, unwrap
from vlrft.rewards.compat.letters import is_article
from vlrft.rewards.compat.places import has_area, overlap
from vlrft.rewards.compat.spans import Span, last_span, span_iou, true_span
from vlrft.rewards.temporal import merged
from vlrft.types import Score

FRAMES = 8
"""Boxes that the tracking reward insists on."""

MOST_SPANS = 1_000
"""Spans of an answer, after merging."""

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_PAIR = re.compile(rf"\({_NUMBER},{_NUMBER}\)")
_PAIRS = re.compile(r"\[(?:\([^()]*\)(?:,\s*)?)*\]")
_LETTER_ALONE = re.compile(r"(?<![A-Za-z])[A-G](?![A-Za-z])")
_PREFIXES = ("The best answer is", "The correct answer is", "The answer is", "The answer", "The best option is",
             "The correct option is", "Best answer:", "Best option:")  # fmt: skip


def tg(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """IoU of the last "a to b" of the last answer block with the true span.

    Kept: see Time-R1, whose older reward is the same. Mended: equal points are worth 1 everywhere.

    Formula: overlap / hull
    Range: [0, 1]
    Example: score("compat.videochat_r1.tg", "<answer>5.00 to 10.00</answer>", [5, 15]) -> 0.5
    """
    truth = true_span(target, "compat.videochat_r1.tg")
    span = last_span(last(parsed.text))
    return Score(value=0.0, flags=("unparsable",)) if span is None else Score(value=span_iou(span, truth))


def glue(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Overlap over union of two sets of spans, each merged first; 1 when both are empty.

    Kept: strictly `[(a, b), ...]` inside `<glue>`; one reversed pair makes the answer worth 0.

    Formula: |union(P) & union(T)| / |union(P) | union(T)|
    Range: [0, 1]
    Example: score("compat.videochat_r1.glue", "<glue>[(0, 4), (6, 8)]</glue>", [[0, 8]]) -> 0.75
    """
    value = _true_spans(target)
    truth = merged([true_span(list(span) if isinstance(span, tuple) else span, "compat.videochat_r1.glue")
                     for span in value])  # fmt: skip
    pairs = _glued(parsed.text)
    if pairs is None or any(a > b or b >= LARGEST for a, b in pairs):
        return Score(value=0.0, flags=("unparsable",))
    spans = merged(pairs)
    if not spans or not truth:
        return Score(value=float(not spans and not truth))
    if len(spans) > MOST_SPANS:
        return Score(value=0.0, flags=("over_length",))
    shared = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in spans for b in truth)
    union = _length(spans) + _length(truth) - shared
    return Score(value=min(1.0, shared / union) if union > 0.0 else float(spans == truth))


def _glued(text: str) -> list[Span] | None:
    """The pairs of the first `<glue>` block; None where it is not strictly `[(a, b), ...]`."""
    _, opened, rest = text.partition("<glue>")
    inner, closed, _ = rest.partition("</glue>")
    if not opened or not closed or not _PAIRS.fullmatch(inner.rstrip()):
        return None
    pairs = [(float(a), float(b)) for a, b in _PAIR.findall(inner)]
    return pairs if len(pairs) == inner.count("(") else None


def _true_spans(target: Any) -> Sequence[Any]:
    """Spans as data, as a JSON text, or as the peer's own `<glue>[(a, b), ...]</glue>`."""
    bare = unwrap(target)
    if isinstance(bare, str) and "(" in bare:
        written = bare if "<glue>" in bare else f"<glue>{bare.strip()}</glue>"
        bare = _glued(written)
    value = truth_value(bare, "compat.videochat_r1.glue")
    if not isinstance(value, list | tuple):
        raise TargetError(f"compat.videochat_r1.glue needs a list of spans as its target, got {target!r}")
    return value


def tracking(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Mean IoU of eight boxes, frame by frame.

    Kept: exactly eight lists of four numbers in 0-1 coordinates, anything else is worth 0.

    Formula: mean over 8 frames of IoU
    Range: [0, 1]
    Example: score("compat.videochat_r1.tracking", "<answer>[[0, 0, 1, 1]]</answer>", [[0, 0, 1, 1]]) -> 0.0
    """
    truth = _boxes(truth_value(target, "compat.videochat_r1.tracking"))
    if not truth or not all(map(has_area, truth)):
        raise TargetError(
            f"compat.videochat_r1.tracking needs a list of boxes with an area as its target, got {target!r}"
        )
    boxes = _boxes(read_data(last(parsed.text)))
    if boxes is None or len(boxes) != FRAMES or len(truth) != FRAMES:
        return Score(value=0.0, flags=("unparsable",))
    return Score(value=sum(overlap(a, b) for a, b in zip(boxes, truth, strict=True)) / FRAMES)


def cls(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the first answer block equals the label, outer space and letter case aside.

    Formula: 1[lower(strip(answer)) = lower(strip(label))]
    Range: [0, 1]
    Example: score("compat.videochat_r1.cls", "<answer> Running</answer>", "running") -> 1.0
    """
    truth = truth_text(target, "compat.videochat_r1.cls")
    return Score(value=float((first(parsed.text) or "").lower() == truth.lower()))


def qa(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the letter that the answer names is the true one.

    Kept: known openings are cut off, then the first capital A to G counts. Mended: it counts only as a word of its
    own ("Because" is no B) and not as an article ("A dog" is no A), and an answer without such a letter is worth 0
    (the peer pays it for truths from H on).

    Formula: 1[letter = truth]
    Range: [0, 1]
    Example: score("compat.videochat_r1.qa", "<answer>The answer is (C) red</answer>", "C") -> 1.0
    """
    truth = _letter(truth_text(target, "compat.videochat_r1.qa"))
    if truth is None:
        raise TargetError(f"compat.videochat_r1.qa needs a letter A to G as its target, got {target!r}")
    return Score(value=float(_letter(first(parsed.text) or "") == truth))


def _letter(text: str) -> str | None:
    for prefix in _PREFIXES:
        text = text.replace(prefix, "")
    return next((m.group() for m in _LETTER_ALONE.finditer(text) if not is_article(text, m.start())), None)


def _length(spans: Sequence[Span]) -> float:
    return sum(end - start for start, end in spans)


def _boxes(value: Any) -> list[tuple[float, float, float, float]] | None:
    if not isinstance(value, list | tuple):
        return None
    boxes = []
    for box in value:
        numbers = isinstance(box, list | tuple) and len(box) == 4
        if not numbers or not all(isinstance(c, int | float) and abs(c) < 1e9 for c in box):
            return None
        boxes.append((float(box[0]), float(box[1]), float(box[2]), float(box[3])))
    return boxes
