"""Geometry and mathematics, with images or without.

Target: LaTeX or text, or a number. `meta.unit` names the unit that the question asks for.
"""

from __future__ import annotations

from typing import Any

from vlrft.data.boxes import is_finite
from vlrft.data.tasks.answers import written_number
from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.media_fields import ANY_OR_NONE
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.data.tasks.targets import check_text
from vlrft.types import Sample


class Math(RowTask):
    """The task `math`."""

    name = "math"
    rewards = ("math.verify", FORMAT)
    metric = "math.verify"
    media = ANY_OR_NONE
    thought = "I write down what is given, and work out what is asked for step by step."

    def read_target(self, fields: Fields) -> Any:
        answer = fields.answer()
        if is_finite(answer):
            return answer
        return check_text(answer, where=fields.where)

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        return written_number(sample.target)
