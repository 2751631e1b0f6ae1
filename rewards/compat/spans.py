"""Time spans as VideoChat-R1 and Time-R1 read them."""

from __future__ import annotations

import math
import re
from typing import Any

from vlrft.rewards.base import TargetError
from vlrft.rewards.compat.answers import truth_value

Span = tuple[float, float]

_SPAN = re.compile(r"(?<!\d)(\d++(?:\.\d++)?+) (?:to|and) (\d++(?:\.\d++)?+)", re.IGNORECASE)


def last_span(text: str | None) -> Span | None:
    """The last "a to b" or "a and b", one space either side. A minus sign and the minutes of mm:ss are not seen."""
    found = _SPAN.findall(text or "")
    return (float(found[-1][0]), float(found[-1][1])) if found else None


def true_span(target: Any, what: str) -> Span:
    """A truth `[start, end]` in seconds. Raises TargetError for anything else."""
    value = truth_value(target, what)
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(_is_time(v) for v in value):
        raise TargetError(f"{what} needs [start, end] in seconds as its target, got {target!r}")
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
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
