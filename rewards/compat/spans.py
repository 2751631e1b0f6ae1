"""Time spans as VideoChat-R1 and Time-R1 read them."""

from __future__ import annotations

import math
import re
from typing import Any

from vlrft.rewards.base import TargetError, is_number
from vlrft.rewards.compat.answers import truth_value, unwrap

Span = tuple[float, float]

_SPAN = re.compile(r"(?<!\d)(\d++(?:\.\d++)?+) (?:to|and) (\d++(?:\.\d++)?+)", re.IGNORECASE)


def last_span(text: str | None) -> Span | None:
    """The last "a to b" or "a and b", one space either side. A minus sign and the minutes of mm:ss are not seen."""
    found = _SPAN.findall(text or "")
    return (float(found[-1][0]), float(found[-1][1])) if found else None


def true_span(target: Any, what: str) -> Span:
    """A truth `[start, end]` in seconds, or the text "start to end". Raises TargetError for anything else."""
    bare = unwrap(target)
    written = _SPAN.fullmatch(bare.strip()) if isinstance(bare, str) else None
    value = [float(part) for part in written.groups()] if written else truth_value(bare, what)
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(_is_time(v) for v in value):
        raise TargetError(f"{what} needs [start, end] in seconds as its target, got {target!r}")
    if not 0.0 <= value[0] <= value[1]:
        raise TargetError(f"{what}: the true span must not start after its end nor before 0, got {target!r}")
    return float(value[0]), float(value[1])


def span_iou(span: Span, truth: Span) -> float:
    """Overlap over hull; 0 for a reversed span, 1 for two equal points."""
    if span[0] > span[1] or truth[0] > truth[1]:
        return 0.0
    if span == truth:
        return 1.0
    overlap = min(span[1], truth[1]) - max(span[0], truth[0])
    return max(0.0, overlap) / (max(span[1], truth[1]) - min(span[0], truth[0]))


def _is_time(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
