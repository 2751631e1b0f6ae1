"""Multiple choice over any media, or none.

Target: the letter of the right option. `meta.options` lists the texts; the prompt adds them to a question that does not
name them all itself.
"""

from __future__ import annotations

from typing import Any

from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.media_fields import ANY_OR_NONE
from vlrft.data.tasks.options import check_choice, shown_options
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.types import Sample


class Choice(RowTask):
    """The task `choice`."""

    name = "choice"
    rewards = ("mcq.letter", FORMAT)
    metric = "mcq.letter"
    media = ANY_OR_NONE
    thought = "I check each option and keep the one that fits."

    def read_target(self, fields: Fields) -> Any:
        return check_choice(fields.answer(), fields)

    def variables(self, sample: Sample, canvas: Canvas) -> dict[str, Any]:
        return {"options": shown_options(sample)}

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        return str(sample.target)
