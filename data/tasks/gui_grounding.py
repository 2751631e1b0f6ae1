"""GUI grounding: the element of a screenshot that an instruction is about; the model answers a point.

Target: the element's box `[x1, y1, x2, y2]` in `target_space`; the reference answer is its centre.
"""

from __future__ import annotations

from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.grounding import OneBox
from vlrft.data.tasks.row_task import FORMAT
from vlrft.types import Sample


class GuiGrounding(OneBox):
    """The task `gui_grounding`."""

    name = "gui_grounding"
    rewards = ("gui.point_in_box", FORMAT)
    metric = "gui.point_in_box"
    thought = "I look for the element that the instruction is about, and point at its middle."

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        return f'{{"point_2d": {canvas.centre(sample, sample.target)}}}'
