"""Classification of an image or a video: one class name.

Target: the name, or a list of synonyms. `meta.labels` is the closed set; the template `class_list` shows it.
"""

from __future__ import annotations

from typing import Any

from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.labels import check_class, class_name
from vlrft.data.tasks.media_fields import IMAGES_OR_VIDEOS
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.types import Sample


class Classification(RowTask):
    """The task `classification`."""

    name = "classification"
    rewards = ("cls.label", FORMAT)
    metric = "cls.label"
    media = IMAGES_OR_VIDEOS
    thought = "I compare what is to be seen with the classes that it could belong to."

    def read_target(self, fields: Fields) -> Any:
        return check_class(fields.answer(), fields)

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        return class_name(sample.target, sample.meta)
