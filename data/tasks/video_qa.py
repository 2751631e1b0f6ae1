"""Questions about a video or images, of five types, as Video-R1 and VideoRFT mix them.

Target: by `meta.question_type`: `choice` a letter (`meta.options`), `numeric` a number that has to be met, `ocr` a text
as it is written, `free_form` a text or a list of references, `regression` a number that has to be come near to.
"""

from __future__ import annotations

from typing import Any

from vlrft.config import RewardSpec
from vlrft.data.tasks.answers import first_text, written_number
from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.media_fields import IMAGES_OR_VIDEOS
from vlrft.data.tasks.options import check_choice, shown_options
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask, shared_out
from vlrft.data.tasks.targets import check_number, check_texts
from vlrft.registry import nearest
from vlrft.types import Sample

REWARDS = {
    "choice": "mcq.letter",
    "numeric": "num.exact",
    "ocr": "text.wer",
    "free_form": "text.rouge",
    "regression": "num.relative",
}
"""By question type."""


def question_type(fields: Fields, known: list[str]) -> str:
    """`meta.question_type`. Raises SampleError unless it is one of `known`."""
    kind = fields.meta.get("question_type")
    if kind not in known:
        hint = nearest(kind, known) if isinstance(kind, str) else ""
        raise fields.error(f"meta.question_type is {kind!r}{hint or ';'} use one of {', '.join(known)}")
    return str(kind)


class VideoQA(RowTask):
    """The task `video_qa`."""

    name = "video_qa"
    rewards = (*REWARDS.values(), FORMAT)
    metric = "mcq.letter"
    media = IMAGES_OR_VIDEOS
    thought = "I look at what the question asks for and read the answer off the picture."

    def read_target(self, fields: Fields) -> Any:
        kind = question_type(fields, list(REWARDS))
        if kind == "choice":
            return check_choice(fields.answer(), fields)
        if kind in ("numeric", "regression"):
            return check_number(fields.answer(), fields.meta, where=fields.where)
        return check_texts(fields.answer(), where=fields.where)

    def variables(self, sample: Sample, canvas: Canvas) -> dict[str, Any]:
        kind = sample.meta["question_type"]
        return {"kind": kind, "options": shown_options(sample) if kind == "choice" else []}

    def reward_specs(self) -> list[RewardSpec]:
        return shared_out([RewardSpec(func=func, when={"question_type": kind}) for kind, func in REWARDS.items()])

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        if sample.meta["question_type"] in ("numeric", "regression"):
            return written_number(sample.target)
        return first_text(sample.target)
