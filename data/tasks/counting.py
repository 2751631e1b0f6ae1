"""Counting: how many there are.

Target: a whole number, or a text that is nothing but one.
"""

from __future__ import annotations

from typing import Any

from vlrft.data.tasks.answers import written_number
from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.media_fields import IMAGES_OR_VIDEOS
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.data.tasks.targets import check_number
from vlrft.parse.numbers import read_number
from vlrft.types import Sample


class Counting(RowTask):
    """The task `counting`."""

    name = "counting"
    rewards = ("count.exact", FORMAT)
    metric = "count.exact"
    media = IMAGES_OR_VIDEOS
    thought = "I count one by one what is asked for."

    def read_target(self, fields: Fields) -> Any:
        number = check_number(fields.answer(), fields.meta, where=fields.where)
        unit = fields.meta.get("unit")
        value = read_number(number, unit=unit).value if isinstance(number, str) else number
        if value is None or value < 0 or value != int(value):
            raise fields.error(f"`answer` {number!r} is not a count, a whole number from 0 on; correct it, or use math")
        return number

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        return written_number(sample.target)
