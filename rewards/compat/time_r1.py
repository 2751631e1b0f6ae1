"""Time-R1: temporal grounding.

Target: `[start, end]` in seconds.
Meta: `duration` in seconds: with it the newer form counts (`iou_v2`), without it the older one.
Answer: the last "a to b" or "a and b" of the last answer block, one space either side of the word.
Guards: for training use tg.iou or tg.tiou, which read more ways to write a span and clip it to the video.
Source: Time-R1, released rewards, old and new (its issue 17).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.base import TargetError
from vlrft.rewards.compat.answers import last, setting
from vlrft.rewards.compat.spans import last_span, span_iou, true_span
from vlrft.types import Score


def tg(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """IoU of the span with the truth; with a known duration, less by how far start and end are off.

    Kept: no clipping to the video, "12.5s to" and mm:ss are not read. Mended: a truth and an answer of no length raise
    in the peer; here equal points are worth 1.

    Formula: IoU, or IoU * (1 - |start error| / T) * (1 - |end error| / T) with T = duration
    Range: [0, 1]
    Example: score("compat.time_r1.tg", "<answer>2 to 6</answer>", [4, 8]) -> 0.3333333333333333
    """
    truth = true_span(target, "compat.time_r1.tg")
    duration = setting(meta, "duration", 0.0) if meta.get("duration") is not None else None
    if duration is not None and not duration > 0.0:
        raise TargetError(f"compat.time_r1.tg: meta['duration'] must be above 0, got {duration!r}")
    span = last_span(last(parsed.text))
    if span is None:
        return Score(value=0.0, flags=("unparsable",))
    value = span_iou(span, truth)
    if duration is not None:
        for mine, true in zip(span, truth, strict=True):
            value *= max(0.0, 1.0 - abs(mine - true) / duration)
    return Score(value=value)
