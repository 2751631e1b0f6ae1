"""Single-box grounding: one image, one named object, one box.

Target: `[x1, y1, x2, y2]` in `target_space`. The row's question is the referring expression ("the red square").
`meta["answer_style"]`: "json" writes `{"bbox_2d": [x1, y1, x2, y2]}`, "plain" just `x1 y1 x2 y2` (for tiny models).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.config import OutputMode
from vlrft.coords import check_space, convert
from vlrft.data.boxes import check_box
from vlrft.data.problems import SampleError
from vlrft.data.tasks.base import Row, missing_field, read_media, read_meta, read_question
from vlrft.data.tasks.prompting import MODE_HINTS, render_user_parts, wrap_answer
from vlrft.registry import nearest
from vlrft.types import Part, Sample

TEMPLATE = "Find the object in the image that this describes: {{ question }}\n{{ format_hint }}"
DEFAULT_THINK = "I look for the described object and read off its left, top, right and bottom edges."

_STYLE_HINTS = {
    "json": 'The answer is its bounding box as JSON: {"bbox_2d": [x1, y1, x2, y2]}',
    "plain": "The answer is its bounding box as four numbers: x1 y1 x2 y2",
}
_UNIT_HINTS = {
    "abs_original": "in pixels",
    "abs_input": "in pixels",
    "norm_1000": "as integers from 0 to 1000 across the image",
    "norm_999": "as integers from 0 to 999 across the image",
    "norm_1": "as fractions from 0 to 1 across the image, with 3 decimals",
}
_BOX_KEYS = ("bbox_2d", "bbox", "box")


class Grounding:
    """The task `grounding`."""

    name = "grounding"

    def to_sample(self, row: Row, *, where: str) -> Sample:
        """Reads the box from `boxes` (`{"box": [...], "space": ...}`) or from `answer` (a list, JSON text or
        `{"bbox_2d": [...]}`, in `boxes["space"]` or else `abs_original`)."""
        media, sizes = read_media(row, where=where)
        if len(media) != 1:
            raise SampleError(where, f"has {len(media)} images; grounding takes exactly one per row")
        raw, space = _stated_box(row, where)
        return Sample(
            id=str(row["id"]),
            task=self.name,
            parts=read_question(row, num_media=1, where=where),
            media=media,
            target=check_box(raw, space=space, image_size=sizes[0], where=where),
            target_space=space,
            meta={**_checked_meta(row, where), "image_size": list(sizes[0])},
        )

    def user_parts(
        self,
        sample: Sample,
        *,
        space: str,
        output_mode: OutputMode,
        template: str | None,
        input_size: tuple[int, int] | None,
    ) -> tuple[Part, ...]:
        check_space(space)
        size = {"abs_original": sample.meta.get("image_size"), "abs_input": input_size}.get(space)
        edges = f" of a {size[0]}x{size[1]} image" if size is not None else ""
        style = _STYLE_HINTS[_answer_style(sample.meta)]
        hint = f"{style}, {_UNIT_HINTS[space]}{edges}. {MODE_HINTS[output_mode]}"
        return render_user_parts(sample, template=template or TEMPLATE, format_hint=hint, space=space)

    def reference(
        self,
        sample: Sample,
        *,
        space: str,
        image_size: tuple[int, int] | None,
        input_size: tuple[int, int] | None,
        output_mode: OutputMode,
    ) -> str:
        box = convert(sample.target, sample.target_space, space, image_size=image_size, input_size=input_size)
        answer = format_box(list(box), space=space, style=_answer_style(sample.meta))
        return wrap_answer(answer, think=sample.meta.get("think"), default_think=DEFAULT_THINK, output_mode=output_mode)


def format_box(box: Sequence[float], *, space: str, style: str) -> str:
    """The box as a model writes it in `space`: whole numbers, or 3 decimals in `norm_1`.

    Rounding never closes a box: an edge pair that would coincide is rounded outwards.
    """
    digits = 3 if space == "norm_1" else 0
    x1, x2 = _rounded_pair(box[0], box[2], 10**digits)
    y1, y2 = _rounded_pair(box[1], box[3], 10**digits)
    if digits:
        numbers = [f"{value / 10**digits:.{digits}f}" for value in (x1, y1, x2, y2)]
    else:
        numbers = [str(value) for value in (x1, y1, x2, y2)]
    return " ".join(numbers) if style == "plain" else f'{{"bbox_2d": [{", ".join(numbers)}]}}'


def _rounded_pair(low: float, high: float, scale: int) -> tuple[int, int]:
    first, second = math.floor(low * scale + 0.5), math.floor(high * scale + 0.5)
    if second > first:
        return first, second
    first = math.floor(low * scale)
    return first, max(math.ceil(high * scale), first + 1)


def _stated_box(row: Row, where: str) -> tuple[Any, str]:
    """The raw box and its coordinate space."""
    boxes = row.get("boxes")
    if boxes is None:
        boxes = {}
    if not isinstance(boxes, Mapping):
        raise SampleError(where, f'`boxes` is {boxes!r}; write {{"box": [x1, y1, x2, y2], "space": "abs_original"}}')
    for key in boxes:
        if key not in ("box", "boxes", "space"):
            hint = nearest(str(key), ["box", "boxes", "space"]) or "; known: box, boxes, space"
            raise SampleError(where, f"`boxes` has the unknown key {key!r}{hint}")
    space = boxes.get("space") or "abs_original"
    if boxes.get("box") is not None:
        return boxes["box"], space
    several = boxes.get("boxes")
    if several is not None:
        if len(several) != 1:
            raise SampleError(where, f"`boxes` lists {len(several)} boxes; grounding asks for exactly one per row")
        return several[0], space
    answer = row.get("answer")
    if answer is None:
        raise missing_field(row, "boxes", where)
    if isinstance(answer, str):
        try:
            answer = json.loads(answer)
        except json.JSONDecodeError as error:
            raise SampleError(where, f"`answer` {answer!r} is not a box; write [x1, y1, x2, y2]") from error
    if isinstance(answer, Mapping):
        answer = next((answer[key] for key in _BOX_KEYS if key in answer), answer)
    return answer, space


def _checked_meta(row: Row, where: str) -> dict[str, Any]:
    meta = read_meta(row, where=where)
    style = meta.get("answer_style")
    if style is not None and style not in _STYLE_HINTS:
        raise SampleError(where, f"meta.answer_style is {style!r}; use one of {', '.join(_STYLE_HINTS)}")
    return meta


def _answer_style(meta: Mapping[str, Any]) -> str:
    style: str = meta.get("answer_style") or "json"
    return style
