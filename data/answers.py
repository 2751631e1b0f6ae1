"""Answers of rows that other frameworks wrote: text to the task's form, and the coordinate space that they must state.

Native rows state both themselves and are not touched. Tasks whose target is text (maths, open questions, captions)
keep it as it stands, so that an interval `[1, 2]` stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from vlrft.coords import SPACES
from vlrft.data.problems import SampleError
from vlrft.parse import PROSE, read_values
from vlrft.registry import nearest

COORDINATE_TASKS = ("grounding", "detection", "reasoning_grounding", "gui_grounding", "gui_action", "tracking")
"""Tasks whose answers are places in an image."""

_STRUCTURED = (*COORDINATE_TASKS, "temporal_grounding", "spatial_transformation")
"""Tasks whose answers are lists or objects, which other layouts hold as JSON or Python text."""

_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_BOX_KEYS = ("bbox", "bbox_2d", "box", "Position", "position")


def settled(row: Mapping[str, Any], *, task: str, space: str | None, where: str) -> dict[str, Any]:
    """The row with its answer in the form of `task`. `space`: coordinate space where the row states none.

    Raises SampleError where the task needs a coordinate space that neither row nor source states: it is never guessed.
    """
    made = dict(row)
    answer = made.get("answer")
    if answer is not None:
        made["answer"] = typed_answer(answer, task)
    if task in COORDINATE_TASKS and (answer is not None or made.get("boxes")):
        boxes = made.get("boxes") or {}
        if isinstance(boxes, Mapping) and not boxes.get("space"):
            if space is None:
                raise SampleError(
                    where,
                    "does not state the coordinate space of its answer, and this layout has no column for it; set the "
                    f"source's options: {{space: ...}} to one of {', '.join(SPACES)}",
                )
            made["boxes"] = {**boxes, "space": space}
    return made


def checked_space(space: Any, where: str) -> str | None:
    """`space` if it names a coordinate space. Raises SampleError."""
    if space is None or space in SPACES:
        return None if space is None else str(space)
    raise SampleError(where, f"space is {space!r}{nearest(str(space), list(SPACES))}; known: {', '.join(SPACES)}")


def typed_answer(answer: Any, task: str) -> Any:
    """`answer` in the form that `task` compares with; unchanged where its text does not read so, for the task to judge.

    Lists and objects are read from JSON or Python text; `(B)` and `B.` are the letter B; in detection `No Objects` is
    the empty list and the box keys of Visual-RFT and Qwen are `bbox`.
    """
    if task in ("choice", "grounded_video_qa") and isinstance(answer, str):
        letter = _LETTER.fullmatch(answer.strip())
        return letter.group(1).upper() if letter else answer
    if task not in _STRUCTURED:
        return answer
    if isinstance(answer, str):
        answer = _read(answer)
    if task == "detection":
        if isinstance(answer, str) and answer.strip().lower() in ("no objects", "no object", "none"):
            return []
        return [_detected(item) for item in answer] if isinstance(answer, list) else answer
    return answer


def _read(text: str) -> Any:
    """The one list or object that the text is, else the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, list | dict):
        return value
    values = read_values(text)
    if len(values) == 1 and isinstance(values[0], list | dict) and not any(value is PROSE for value in values):
        return _single(values[0])
    return text


def _single(value: Any) -> Any:
    """Objects whose keys were each said once, as plain objects."""
    if isinstance(value, dict):
        return {key: _single(said[0] if len(said) == 1 else said) for key, said in value.items()}
    return [_single(item) for item in value] if isinstance(value, list) else value


def _detected(item: Any) -> Any:
    if not isinstance(item, Mapping) or "bbox" in item:
        return item
    key = next((name for name in _BOX_KEYS if name in item), None)
    return item if key is None else {("bbox" if name == key else name): value for name, value in item.items()}
