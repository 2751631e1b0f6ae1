"""Columns that rows of several layouts share: the truth, ids and sizes, and all the rest, which becomes `meta`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vlrft.data.layouts.entries import IMAGE_COLUMNS, VIDEO_COLUMNS, is_empty
from vlrft.data.problems import SampleError
from vlrft.data.tasks import TASKS
from vlrft.data.tasks.base import NATIVE_FIELDS
from vlrft.parse import has_tags, parse

REST = "_vlrft"
"""The key under which a row of another layout keeps what that layout cannot hold."""

TRUTH_COLUMNS = ("answer", "solution", "ground_truth", "gt", "label")
MISPLACED = ("space", "coord_space", "target_space", "bbox_type")
"""Columns that change the meaning of coordinates, and must not pass as mere metadata."""

_BLANK = re.compile(r"<answer>\s*</answer>")

QUESTION_TYPES = {
    "multiple choice": "choice",
    "multiple-choice": "choice",
    "numerical": "numeric",
    "ocr": "ocr",
    "free-form": "free_form",
    "regression": "regression",
}
"""Values of Video-R1's column `problem_type` -> `meta.question_type`."""


def unwrap(truth: Any) -> tuple[Any, str | None]:
    """(answer, reasoning) of a truth: `<answer>4</answer>` is 4, with the text of a `<think>` block before it.

    An answer block with nothing in it is an empty answer; text without a complete block is taken as it stands.
    """
    if not isinstance(truth, str) or not has_tags(truth):
        return truth, None
    parsed = parse(truth, "adaptive")
    if parsed.answer is None:
        return ("", parsed.think) if _BLANK.search(truth) else (truth, None)
    return parsed.answer, parsed.think


def truth_of(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Any, str | None, str | None]:
    """(answer, reasoning, column): the first of `columns` that the row has, unwrapped."""
    column = next((name for name in columns if row.get(name) is not None), None)
    if column is None:
        return None, None, None
    return (*unwrap(row[column]), column)


def truth_text(row: Mapping[str, Any]) -> str | None:
    """What a native row's answer is in a text column: text as it is, anything else as JSON; None where it has none.

    A box that only `boxes` holds counts as the answer, in its own space.
    """
    answer = row.get("answer")
    boxes = row.get("boxes")
    if answer is None and isinstance(boxes, Mapping):
        answer = boxes.get("box")
    if answer is None or isinstance(answer, str):
        return answer
    return json.dumps(answer, ensure_ascii=False)


def native_row(
    row: Mapping[str, Any],
    *,
    used: Collection[str | None],
    fields: Mapping[str, Any],
    meta: Mapping[str, Any],
    where: str,
) -> dict[str, Any]:
    """`fields` as a native row, with the columns of `row` that are not in `used` in their places.

    `id`, `width`, `height` and the name of a known task are native fields; everything else goes to `meta`. Fields that
    are None are left out. Raises SampleError for a column that states a coordinate space: where a layout has such a
    column it is in `used`.
    """
    made = {key: value for key, value in fields.items() if value is not None}
    kept = {key: value for key, value in meta.items() if value is not None}
    for name, value in row.items():
        if name in used or name == REST or value is None:
            continue
        if name in (*IMAGE_COLUMNS, *VIDEO_COLUMNS) and is_empty(value):
            continue
        if name in MISPLACED:
            raise SampleError(where, f'the column `{name}` is not read; state it in `boxes`: {{"space": {value!r}}}')
        if _is_native(name, value):
            made.setdefault(name, value)
        elif name == "meta" and isinstance(value, Mapping):
            kept = {**value, **kept}
        else:
            kept.setdefault(name, value)
    kind = QUESTION_TYPES.get(str(kept.get("problem_type", "")).lower())
    if kind is not None:
        kept.setdefault("question_type", kind)
    if kept:
        made["meta"] = kept
    return {key: made[key] for key in NATIVE_FIELDS if key in made}


def _is_native(name: str, value: Any) -> bool:
    """Whether a column means just what the native field of its name does. Some files call the question `task`."""
    if name == "task":
        return isinstance(value, str) and value in TASKS
    return name in ("id", "width", "height") or (name == "boxes" and isinstance(value, Mapping))
