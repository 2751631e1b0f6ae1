"""Reasoning grounding (LISA): the object is described by what it is for or what follows from it; one box.

Target: `[x1, y1, x2, y2]` in `target_space`. `meta.mask` (polygons or run lengths) and `meta.points` (`[[x, y], ...]`
inside the object), in the same space, are kept where the row has them. With `meta.answer_style` "box_points" the answer
is the box with as many points, for seg.box_point, which compares with `meta["box_points"]`.
"""

from __future__ import annotations

from typing import Any

from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.grounding import OneBox
from vlrft.data.tasks.row_task import FORMAT, Fields
from vlrft.data.tasks.targets import check_point
from vlrft.types import Sample


class ReasoningGrounding(OneBox):
    """The task `reasoning_grounding`."""

    name = "reasoning_grounding"
    rewards = ("box.iou", FORMAT)
    metric = "box.iou"
    styles = ("box", "box_points")
    thought = "I work out which object is meant, and read off its left, top, right and bottom edges."

    def read_target(self, fields: Fields) -> Any:
        box = super().read_target(fields)
        points = fields.meta.get("points")
        if points is None:
            if self.style(fields.meta) == "box_points":
                raise fields.error("meta.answer_style is 'box_points', but meta.points is missing; add [[x, y], ...]")
            return box
        if not isinstance(points, list | tuple) or not points:
            raise fields.error(f"meta.points is {points!r:.200}; write [[x, y], ...] inside the object, or drop it")
        checked = [check_point(p, space=fields.space, image_size=fields.size, where=fields.where) for p in points]
        fields.meta["points"] = checked
        fields.meta["box_points"] = {"box": box, "points": checked}
        return box

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        box = canvas.box(sample, sample.target)
        if self.style(sample.meta) == "box":
            return f'{{"bbox_2d": {box}}}'
        points = ", ".join(canvas.point(sample, point) for point in sample.meta["points"])
        return f'{{"bbox_2d": {box}, "points": [{points}]}}'
