"""Medical questions as published sets state them: closed or open, as rows for medical_qa."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.data.prep.source_rows import text_of
from vlrft.data.problems import SampleError

YES_NO = ("yes", "no")


def answer_of(columns: Mapping[str, Any], where: str, names: Sequence[str] = ("answer",)) -> str:
    """The answer as text; some files state numbers. Raises SampleError where there is none."""
    value = next((columns[name] for name in names if columns.get(name) is not None), None)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise SampleError(where, f"no answer in {' or '.join(map(repr, names))}; correct the row")
    return value.strip()


def is_closed(columns: Mapping[str, Any], answer: str, where: str) -> bool:
    """By `answer_type` (CLOSED or OPEN, some with white space); files without it: whether the answer is yes or no."""
    stated = columns.get("answer_type")
    if stated is None:
        return answer.lower() in YES_NO
    kind = str(stated).strip().upper()
    if kind not in ("CLOSED", "OPEN"):
        raise SampleError(where, f"answer_type is {stated!r}; known: CLOSED, OPEN")
    return kind == "CLOSED"


def medical_row(
    columns: Mapping[str, Any], answer: str, closed: bool, images: list[Any], meta: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The row: yes and no are told apart from other closed answers, which are the names of what is right."""
    target: Any = answer
    if closed:
        yes_no = answer.lower() in YES_NO
        target = {"type": "yesno", "answer": answer.lower()} if yes_no else {"type": "label", "answer": answer}
    return {
        "prompt": text_of(columns, ("question", "sent", "Question"), where),
        "images": images,
        "answer": target,
        "task": "medical_qa",
        "meta": {**meta, "question_type": "closed" if closed else "open"},
    }


def kept_columns(columns: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The columns `names` that the row has, under the name that `meta` has for each."""
    return {as_name: columns[name] for name, as_name in names.items() if columns.get(name) is not None}
