"""Wrong answers that try to be paid: each must earn little of a reward that can tell right from wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlrft.config import OutputMode
from vlrft.data.boxes import UPPER
from vlrft.data.tasks.base import Task
from vlrft.data.tasks.prompting import wrap_answer
from vlrft.types import Sample, TextPart

WHOLE = "whole"
"""The answer that covers everything: of a box that fills its image it is right."""

_THOUGHT = "I look at what is shown and decide."
_GIBBERISH = "qzx vrrk wmplf dgrot"
_NUMBERS = " ".join(str(number) for number in range(101))
_USUAL = ("yes", "no", "A", "B", "C", "D", "E", "none")
"""Labels for rows that name none."""
_GRID = 4
"""The dump of boxes holds each cell of grids of up to this many cells a side."""


def adversarial(
    sample: Sample,
    task: Task,
    *,
    space: str,
    image_size: tuple[int, int] | None,
    input_size: tuple[int, int] | None,
    mode: OutputMode,
) -> dict[str, str]:
    """Completions by the name of the trick; all but `empty` are in the form that `mode` asks for.

    `whole`, the box of the whole picture or the span of the whole clip, is there where the target is of that kind: it
    is the task's own way to write such an answer.
    """

    def said(answer: str) -> str:
        return wrap_answer(answer, think=_THOUGHT, default_think=_THOUGHT, output_mode=mode)

    size = input_size if space == "abs_input" else image_size
    answers = {
        "empty": "",
        "blank": said(""),
        "gibberish": said(_GIBBERISH),
        "numbers": said(_NUMBERS),
        "labels": said(", ".join(_labels(sample.meta))),
        "boxes": said(json.dumps(_boxes(sample.meta, _upper(space, size)), ensure_ascii=False)),
        "question": said(_question(sample)),
    }
    target = _everything(sample, image_size, input_size)
    if target is not None:
        answers[WHOLE] = task.reference(
            replace(sample, target=target),
            space=space,
            image_size=image_size,
            input_size=input_size,
            output_mode=mode,
        )
    return answers


def boxes_of(target: Any) -> list[Sequence[float]]:
    """The boxes that a target consists of, by its form; [] for another form."""
    if _numbers(target, 4):
        return [target]
    if isinstance(target, Mapping):
        return [target["box"]] if _numbers(target.get("box"), 4) else []
    if not isinstance(target, list | tuple):
        return []
    listed = [item.get("bbox") if isinstance(item, Mapping) else item for item in target]
    found: list[Sequence[float]] = [item for item in listed if item is not None]
    return found if all(_numbers(item, 4) for item in found) else []


def _everything(sample: Sample, image_size: tuple[int, int] | None, input_size: tuple[int, int] | None) -> Any:
    """A target of the same form that covers the whole picture or clip; None for a target of another kind."""
    target, duration = sample.target, sample.meta.get("duration")
    if _numbers(target, 2) and isinstance(duration, int | float):
        return [0.0, float(duration)]
    if not boxes_of(target):
        return None
    size = input_size if sample.target_space == "abs_input" else image_size
    box = [0.0, 0.0, *_upper(sample.target_space, size)]
    if isinstance(target, Mapping):
        return {**target, "box": box}
    if _numbers(target, 4):
        return box
    return [{**item, "bbox": box} if isinstance(item, Mapping) else box for item in target]


def _upper(space: str, size: tuple[int, int] | None) -> tuple[float, float]:
    """Largest x and y of a space; 100 where it depends on a picture that the sample does not have."""
    if space in UPPER:
        return UPPER[space], UPPER[space]
    return (float(size[0]), float(size[1])) if size is not None else (100.0, 100.0)


def _boxes(meta: Mapping[str, Any], upper: tuple[float, float]) -> list[dict[str, Any]]:
    """Every cell of several grids, under every label."""
    labels = _named(meta.get("labels")) or ["object"]
    digits = 3 if max(upper) <= 1.0 else 0
    return [
        {"bbox_2d": [round(x, digits) if digits else round(x) for x in cell], "label": label}
        for label in labels[:8]
        for cell in _cells(upper)
    ]


def _cells(upper: tuple[float, float]) -> Iterator[tuple[float, float, float, float]]:
    for count in range(1, _GRID + 1):
        width, height = upper[0] / count, upper[1] / count
        for row in range(count):
            for column in range(count):
                yield column * width, row * height, (column + 1) * width, (row + 1) * height


def _labels(meta: Mapping[str, Any]) -> list[str]:
    """All that a closed question can be answered with."""
    options = _named(meta.get("options"))
    letters = [chr(ord("A") + i) for i in range(min(len(options), 26))]
    return [*_named(meta.get("labels")), *letters, *options] or list(_USUAL)


def _named(texts: Any) -> list[str]:
    values = texts.values() if isinstance(texts, Mapping) else texts
    return [str(text) for text in values] if isinstance(texts, list | tuple | Mapping) else []


def _question(sample: Sample) -> str:
    return "".join(part.text for part in sample.parts if isinstance(part, TextPart)).strip()


def _numbers(value: Any, count: int) -> bool:
    listed = isinstance(value, list | tuple) and len(value) == count
    return listed and all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value)
