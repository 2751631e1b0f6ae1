"""Single-box grounding: one image, one named object, one box.

Target: `[x1, y1, x2, y2]` in `target_space`. The row's question is the referring expression ("the red square").
`meta["answer_style"]`: "json" writes `{"bbox_2d": [x1, y1, x2, y2]}`, "plain" just `x1 y1 x2 y2` (for tiny models).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vlrft.data.boxes import check_box
from vlrft.data.tasks.base import missing_field
from vlrft.data.tasks.coordinates import Canvas, format_box
from vlrft.data.tasks.media_fields import ONE_IMAGE
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.types import Sample

__all__ = ["Grounding", "OneBox", "format_box"]

_BOX_KEYS = ("bbox_2d", "bbox", "box")


class OneBox(RowTask):
    """A task whose target is one box of one image.

    The box stands in `boxes` (`{"box": [...], "space": ...}`), or in `answer` as a list, JSON text or
    `{"bbox_2d": [...]}`, in `boxes["space"]` or else `abs_original`.
    """

    media = ONE_IMAGE
    box_keys = ("box", "boxes", "space")

    def read_target(self, fields: Fields) -> Any:
        box = _stated_box(fields, self.name)
        return check_box(box, space=fields.space, image_size=fields.size, where=fields.where)


class Grounding(OneBox):
    """The task `grounding`."""

    name = "grounding"
    rewards = ("box.iou", FORMAT)
    metric = "box.acc@0.5"
    styles = ("json", "plain")
    thought = "I look for the described object and read off its left, top, right and bottom edges."

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        box = canvas.of(sample, sample.target)
        return format_box(box, space=canvas.space, style=self.style(sample.meta) or "json")


def _stated_box(fields: Fields, task: str) -> Any:
    """The raw box."""
    boxes = fields.row.get("boxes") or {}
    if boxes.get("box") is not None:
        return boxes["box"]
    several = boxes.get("boxes")
    if several is not None:
        if not isinstance(several, list | tuple):
            raise fields.error(f"`boxes.boxes` is {several!r:.200}; list one box [x1, y1, x2, y2] in it")
        if len(several) != 1:
            raise fields.error(f"`boxes` lists {len(several)} boxes; {task} asks for exactly one per row")
        return several[0]
    answer = fields.row.get("answer")
    if answer is None:
        raise missing_field(fields.row, "boxes", fields.where)
    if isinstance(answer, str):
        try:
            answer = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise fields.error(f"`answer` {answer!r:.200} is not a box; write [x1, y1, x2, y2]") from error
    if isinstance(answer, Mapping):
        answer = next((answer[key] for key in _BOX_KEYS if key in answer), answer)
    return answer
