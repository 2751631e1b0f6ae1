"""When does it happen: one time span of a video, or several.

Target: `[start, end]` in seconds, `start == end` for a moment (`tg.multi_iou`: a list of such spans, `[]` where the
event never happens). Ends beyond the duration are cut off, as annotations often run over it a little.

Meta: `duration` of the video in seconds (optional, but `tg.tiou` needs it); `unit` of the completion's bare numbers:
`seconds` (default) or `relative`, fractions of the duration, which must then be known.

Answer: "a to b", "a - b", "a and b", "[a, b]", "(a, b)", lists and objects of those (`{"start": a, "end": b}`), "starts
at a and ends at b", or nothing but two times; a time is a number, with or without a unit ("12.5s", "2 min 5 s"), or a
clock ("mm:ss", "hh:mm:ss"). A span that is denied ("not 10 to 20", "10 to 20 is wrong") and an odd chain ("10 to 20 to
30") are none. The span is cut to [0, duration] where that is known (`out_of_range`); without it a
negative time stays negative. No span, and one that is reversed or empty, is `unparsable` and worth 0; a time that is
not finite is `non_finite`. Only for a moment as the target may both ends be equal, or one time stand alone.

Guards: the last span counts, so that "between 3 to 5 at first, but the answer is 7 to 9" is read as meant, and spans
named before it buy nothing. Where several spans stand in one listing, with no word of prose between them, the value
is divided by their number, so guessing by listing costs. `tg.multi_iou` merges all spans, and every wrong second
counts against the answer; one reversed span voids it.

Source: temporal grounding of Time-R1 and VideoChat-R1 (IoU), Time-R1's later tIoU, VideoChat-R1's evidence intervals.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.parse.boxes import says_nothing
from vlrft.parse.spans import ParsedSpan, read_spans
from vlrft.rewards.base import TargetError, is_number, ordered
from vlrft.types import Score

Span = tuple[float, float]
"""Start, end in seconds."""

_Value = Callable[[Span, Span, float], float]
"""(span, truth, point_tol) to a value."""

UNITS = ("seconds", "relative")
NO_SPANS = (
    "[]",
    "[[]]",
    "()",
    "{}",
    "none",
    "null",
    "no",
    "no span",
    "no spans",
    "no event",
    "no events",
    "no segments",
)
"""Answers that say that there is no span, compared in normal form."""


def iou(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, point_tol: float = 1.0) -> Score:
    """Overlap in time of the last span given and the true one.

    Formula: (intersection / union) / n spans in the last listing; for a moment max(0, 1 - |time - truth| / point_tol)
    Range: [0, 1]

    point_tol: seconds at which the credit for a moment reaches 0; 0 pays the exact time only.

    Example: score("tg.iou", "<answer>5s to 15s</answer>", [0, 10]) -> 0.3333333333333333
    """
    return _score_last("tg.iou", parsed, target, meta, point_tol, _overlap)


def tiou(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, point_tol: float = 1.0) -> Score:
    """IoU in time that also pays for ends near the true ends.

    Formula: IoU * (1 - |start - true start| / duration) * (1 - |end - true end| / duration), divided as in tg.iou
    Range: [0, 1]

    point_tol: see tg.iou.

    Example: score("tg.tiou", "<answer>0 to 10</answer>", [0, 20], {"duration": 40}) -> 0.375
    """
    if meta.get("duration") is None:
        raise TargetError(
            "tg.tiou needs meta['duration'], the video's length in seconds, got None; add it, or use tg.iou"
        )
    duration = _duration(meta)

    def near(span: Span, truth: Span, tolerance: float) -> float:
        shifts = (abs(a - b) / duration for a, b in zip(span, truth, strict=True))
        return _overlap(span, truth, tolerance) * math.prod(max(0.0, 1.0 - shift) for shift in shifts)

    return _score_last("tg.tiou", parsed, target, meta, point_tol, near)


def recall(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, t: float, point_tol: float = 1.0) -> Score:
    """Whether the overlap in time reaches a threshold.

    Formula: 1[IoU of the last span >= t] / n spans in the last listing
    Range: [0, 1]

    t: the threshold, in (0, 1]; usually written behind the name.

    point_tol: see tg.iou.

    Example: score("tg.recall@0.5", "<answer>[0, 5]</answer>", [0, 10]) -> 1.0
    """
    if not 0.0 < t <= 1.0:
        raise ValueError(f"tg.recall: the threshold must lie in (0, 1], got {t!r}")

    def hit(span: Span, truth: Span, tolerance: float) -> float:
        return 1.0 if _overlap(span, truth, tolerance) >= t else 0.0

    return _score_last("tg.recall", parsed, target, meta, point_tol, hit)


def multi_iou(
    parsed: Parsed, target: Any, meta: Mapping[str, Any], *, empty_answers: Sequence[str] = NO_SPANS
) -> Score:
    """Overlap in time of all spans given and all true ones.

    Formula: total intersection / total union of the merged spans; 1 when both are empty, 0 when only one is
    Range: [0, 1]

    empty_answers: texts that say that there is no span. Anything else without a span is unparsable, never empty.

    Example: score("tg.multi_iou", "<answer>[[0, 5], [10, 15]]</answer>", [[0, 10]]) -> 0.3333333333333333
    """
    truths = _true_spans(target, meta)
    bare = _seconds_per_unit(meta)
    flags = set(parsed.flags)
    if parsed.answer is None:
        return Score(value=0.0, flags=ordered(flags))
    found = read_spans(parsed.answer, bare=bare, relative=meta.get("unit") == "relative")
    if not found and says_nothing(parsed.answer, empty_answers):
        return Score(value=0.0 if truths else 1.0, flags=ordered(flags))
    wrong = next((flag for span in found if (flag := _fault(span, point=False))), "" if found else "unparsable")
    if wrong:
        return Score(value=0.0, flags=ordered(flags | {wrong}))
    spans = [_cut((span.start, span.end), meta) for span in found]
    flags |= {"out_of_range"} if any(a != (b.start, b.end) for a, b in zip(spans, found, strict=True)) else set()
    return Score(value=_merged_overlap(spans, truths), flags=ordered(flags))


def _score_last(
    name: str, parsed: Parsed, target: Any, meta: Mapping[str, Any], point_tol: float, value_of: _Value
) -> Score:
    """`value_of(span, truth, point_tol)` of the last span, divided by the length of its listing."""
    if not (math.isfinite(point_tol) and point_tol >= 0.0):
        raise ValueError(f"{name}: point_tol is a number of seconds, 0 or more, got {point_tol!r}")
    truth = _true_span(target, meta)
    bare = _seconds_per_unit(meta)
    flags = set(parsed.flags)
    if parsed.answer is None:
        return Score(value=0.0, flags=ordered(flags))
    found = read_spans(parsed.answer, bare=bare, relative=meta.get("unit") == "relative")
    if not found:
        return Score(value=0.0, flags=ordered(flags | {"unparsable"}))
    flags |= {"several_answers"} if len(found) > 1 else set()
    last = found[-1]
    point = truth[0] == truth[1]
    fault = _fault(last, point=point)
    if fault:
        return Score(value=0.0, flags=ordered(flags | {fault}))
    span = _cut((last.start, last.end), meta)
    flags |= {"out_of_range"} if span != (last.start, last.end) else set()
    if span[0] == span[1]:
        # What lies wholly outside the video must not turn into a moment at its edge.
        span = last.start, last.end
    listed = sum(other.listing == last.listing for other in found)
    return Score(value=value_of(span, truth, point_tol) / listed, flags=ordered(flags))


def _fault(span: ParsedSpan, *, point: bool) -> str:
    """The flag of a span that cannot count, or an empty string. point: whether both ends may be equal."""
    if not (math.isfinite(span.start) and math.isfinite(span.end)):
        return "non_finite"
    return "" if span.start < span.end or (point and span.start == span.end) else "unparsable"


def _overlap(span: Span, truth: Span, point_tol: float) -> float:
    """IoU; triangular credit where both are moments, 0 where only the truth is one."""
    if truth[0] == truth[1]:
        off = abs(span[0] - truth[0])
        if span[0] != span[1] or off > point_tol:
            return 0.0
        return 1.0 - off / point_tol if off else 1.0
    shared = max(0.0, min(span[1], truth[1]) - max(span[0], truth[0]))
    union = (span[1] - span[0]) + (truth[1] - truth[0]) - shared
    return min(1.0, shared / union) if math.isfinite(union) else 0.0


def _merged_overlap(spans: Sequence[Span], truths: Sequence[Span]) -> float:
    """Intersection over union of two sets of spans, each merged first."""
    if not truths:
        return 0.0
    ours, theirs = merged(spans), merged(truths)
    shared, i, j = 0.0, 0, 0
    while i < len(ours) and j < len(theirs):
        shared += max(0.0, min(ours[i][1], theirs[j][1]) - max(ours[i][0], theirs[j][0]))
        if ours[i][1] < theirs[j][1]:
            i += 1
        else:
            j += 1
    union = sum(e - s for s, e in ours) + sum(e - s for s, e in theirs) - shared
    return min(1.0, max(0.0, shared / union)) if 0.0 < union < math.inf else 0.0


def merged(spans: Sequence[Span]) -> list[Span]:
    """What `spans` cover, as few spans in order; those that touch become one, and a moment stays one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _cut(span: Span, meta: Mapping[str, Any]) -> Span:
    """`span` cut to the video where its duration is known."""
    if meta.get("duration") is None:
        return span
    duration = _duration(meta)
    return min(max(span[0], 0.0), duration), min(max(span[1], 0.0), duration)


def _duration(meta: Mapping[str, Any]) -> float:
    duration = meta.get("duration")
    if not is_number(duration) or not 0.0 < duration <= sys.float_info.max:
        raise TargetError(
            f"meta['duration'] is the video's length in seconds, above 0, got {duration!r}; correct the row"
        )
    return float(duration)


def _seconds_per_unit(meta: Mapping[str, Any]) -> float:
    """Seconds that a bare number of the completion stands for."""
    unit = meta.get("unit") or "seconds"
    if unit not in UNITS:
        raise TargetError(f"meta['unit'] must be one of {', '.join(UNITS)}, got {unit!r}")
    if unit == "seconds":
        return 1.0
    if meta.get("duration") is None:
        raise TargetError(
            "meta['unit'] 'relative' needs meta['duration'], the video's length in seconds, got None; add it"
        )
    return _duration(meta)


def _true_spans(target: Any, meta: Mapping[str, Any]) -> list[Span]:
    if not isinstance(target, list | tuple):
        raise TargetError(f"a target of tg.multi_iou is a list of [start, end], or [], got {target!r}; correct the row")
    if len(target) == 2 and all(map(is_number, target)):
        raise TargetError(
            f"a target of tg.multi_iou is a list of spans, got one span, {target!r}; write [{target!r}], or use tg.iou"
        )
    spans = [_true_span(span, meta) for span in target]
    for span, given in zip(spans, target, strict=True):
        if span[0] == span[1]:
            raise TargetError(f"span {given!r} of a tg.multi_iou target has no length; give start < end")
    return spans


def _true_span(target: Any, meta: Mapping[str, Any]) -> Span:
    """The target, cut to the video where its duration is known. Raises TargetError."""
    if not isinstance(target, list | tuple) or len(target) != 2 or not all(map(is_number, target)):
        raise TargetError(f"a span target is [start, end] in seconds, got {target!r}; correct the row")
    if not all(abs(t) < math.inf and 0.0 <= t <= target[1] for t in target):
        raise TargetError(f"span target {target!r} must be finite with 0 <= start <= end, in seconds; correct the row")
    if meta.get("duration") is None:
        return _as_floats(target)
    duration = _duration(meta)
    if target[0] > duration or (target[0] == duration and target[1] > duration):
        raise TargetError(
            f"span target {target!r} starts after the video's end (meta['duration'] is {duration:g}); check that both "
            "are in seconds and belong to this video"
        )
    return _as_floats((target[0], min(target[1], duration)))


def _as_floats(span: Sequence[float]) -> Span:
    try:
        return float(span[0]), float(span[1])
    except OverflowError as error:
        raise TargetError(f"span target {span!r} is too large for a time in seconds; correct the row") from error
