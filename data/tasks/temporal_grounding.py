"""Temporal grounding: when something happens in a video.

Target: `[start, end]` in seconds from the start of the clip, equal for a moment. `meta.duration` is the length of the
video in seconds (default: the file's own). Times are answered in seconds, or with `meta.unit` "relative" as fractions
of the duration; `meta.answer_style`: "plain" `3.50 to 6.00`, "json" `[3.50, 6.00]`, "clock" `00:03.50 to 00:06.00`.
"""

from __future__ import annotations

from typing import Any

from vlrft.data.tasks.coordinates import Canvas, format_span
from vlrft.data.tasks.media_fields import ONE_VIDEO
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.data.tasks.targets import check_span
from vlrft.types import Sample


class TemporalGrounding(RowTask):
    """The task `temporal_grounding`."""

    name = "temporal_grounding"
    rewards = ("tg.iou", FORMAT)
    metric = "tg.iou"
    media = ONE_VIDEO
    styles = ("plain", "json", "clock")
    thought = "I go through the video and note when the event begins and when it ends."

    def read_target(self, fields: Fields) -> Any:
        unit = fields.meta.get("unit")
        if unit not in (None, "seconds", "relative"):
            raise fields.error(f"meta.unit is {unit!r}; times are answered in 'seconds', or 'relative' to the duration")
        if unit == "relative" and self.style(fields.meta) == "clock":
            raise fields.error("meta.unit 'relative' and meta.answer_style 'clock' exclude each other; drop one")
        return check_span(fields.answer(decode=True), fields.meta, where=fields.where)

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        return format_span(sample.target, sample.meta, style=self.style(sample.meta) or "plain")
