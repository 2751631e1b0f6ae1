"""Open questions over any media, or none: a text in one's own words.

Target: a text, or a list of references of which the best counts. `meta.synonyms` lists phrases that mean the same.
"""

from __future__ import annotations

from typing import Any

from vlrft.data.tasks.answers import first_text
from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.media_fields import ANY_OR_NONE
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.data.tasks.targets import check_texts
from vlrft.types import Sample


class OpenQA(RowTask):
    """The task `open_qa`."""

    name = "open_qa"
    rewards = ("text.rouge", FORMAT)
    metric = "text.rouge"
    media = ANY_OR_NONE
    thought = "I look for what the question asks about, and say it in few words."

    def read_target(self, fields: Fields) -> Any:
        return check_texts(fields.answer(), where=fields.where)

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        return first_text(sample.target)
