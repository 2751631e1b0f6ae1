"""Medical visual question answering: closed, open, and ranked lists.

Target: by `meta.question_type`: `closed` `{"type", "answer"}` of type mcq (`meta.options`), yesno or label
(`meta.labels`), `open` a text or a list of references (`meta.synonyms`), `ranked` a list of golds, each a text, a list
of synonyms or `{"item", "gain"}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.config import RewardSpec
from vlrft.data.boxes import is_finite
from vlrft.data.tasks.answers import first_text
from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.labels import check_class, check_labels, class_name
from vlrft.data.tasks.media_fields import IMAGES_OR_VIDEOS
from vlrft.data.tasks.options import check_choice, shown_options
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask, shared_out
from vlrft.data.tasks.targets import check_texts
from vlrft.data.tasks.video_qa import question_type
from vlrft.types import Sample

REWARDS = {"closed": "med.closed", "open": "med.open", "ranked": "ranked.rr"}
"""By question type."""
CLOSED = ("mcq", "yesno", "label")


class MedicalQA(RowTask):
    """The task `medical_qa`."""

    name = "medical_qa"
    rewards = (*REWARDS.values(), FORMAT)
    metric = "med.closed"
    media = IMAGES_OR_VIDEOS
    thought = "I describe the finding that the question is about, and what it stands for."

    def read_target(self, fields: Fields) -> Any:
        kind = question_type(fields, list(REWARDS))
        check_labels(fields)
        if kind == "closed":
            return _closed(fields)
        if kind == "open":
            return check_texts(fields.answer(), where=fields.where)
        return _ranked(fields)

    def variables(self, sample: Sample, canvas: Canvas) -> dict[str, Any]:
        kind = sample.meta["question_type"]
        kind = sample.target["type"] if kind == "closed" else kind
        return {"kind": kind, "options": shown_options(sample) if kind == "mcq" else []}

    def reward_specs(self) -> list[RewardSpec]:
        return shared_out([RewardSpec(func=func, when={"question_type": kind}) for kind, func in REWARDS.items()])

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        match sample.meta["question_type"]:
            case "closed":
                return class_name(sample.target["answer"], sample.meta)
            case "open":
                return first_text(sample.target)
        best = sorted(sample.target, key=_gain, reverse=True)
        return "\n".join(f"{rank}. {_name(gold)}" for rank, gold in enumerate(best, start=1) if _gain(gold) > 0)


def _closed(fields: Fields) -> dict[str, Any]:
    answer = fields.answer(decode=True)
    kind = answer.get("type") if isinstance(answer, Mapping) else None
    if kind not in CLOSED or "answer" not in answer:
        raise fields.error(f'`answer` is {answer!r:.200}; write {{"type": one of {", ".join(CLOSED)}, "answer": ...}}')
    if kind == "mcq":
        return {"type": kind, "answer": check_choice(answer["answer"], fields, "`answer.answer`")}
    if kind == "yesno":
        said = str(answer["answer"]).strip().lower()
        if said not in ("yes", "no"):
            raise fields.error(f"`answer.answer` is {answer['answer']!r}; write yes or no, or use the type label")
        return {"type": kind, "answer": said}
    return {"type": kind, "answer": check_class(answer["answer"], fields)}


def _ranked(fields: Fields) -> list[Any]:
    golds = fields.answer(decode=True)
    if not isinstance(golds, list | tuple) or not golds:
        raise fields.error(f"`answer` is {golds!r:.200}; list the golds, each a text or a list of synonyms")
    for gold in golds:
        item = gold.get("item") if isinstance(gold, Mapping) else gold
        check_texts(item, where=fields.where)
        gain = gold.get("gain", 1) if isinstance(gold, Mapping) else 1
        if not is_finite(gain) or gain < 0:
            raise fields.error(f"the gain of gold {gold!r:.200} has to be a number, 0 or more")
    if not any(_gain(gold) > 0 for gold in golds):
        raise fields.error("no gold of `answer` has a gain above 0; correct the row or drop it")
    return list(golds)


def _gain(gold: Any) -> float:
    gain = gold.get("gain") if isinstance(gold, Mapping) else None
    return 1.0 if gain is None else float(gain)


def _name(gold: Any) -> str:
    return first_text(gold["item"] if isinstance(gold, Mapping) else gold)
