"""ms-swift: `messages`, `images`, `videos`, `solution`, `objects` with `<ref-object>` and `<bbox>` slots.

`<image>` and `<video>` are slots; a row without any gets its media in front, as ms-swift does. `objects` holds `ref`
(names, for the `<ref-object>` slots of all turns in their order), `bbox` (two numbers a point, four a box, for the
`<bbox>` slots), `bbox_type` `real` (pixels of the stored image, the default) or `norm1` (fractions) and `image_id`, the
image of each box, which has to be the first. Source: ms-swift `Customization/Custom-dataset`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlrft.data.boxes import is_finite
from vlrft.data.layouts.columns import native_row, truth_of, truth_text, unwrap
from vlrft.data.layouts.entries import images_of, videos_of
from vlrft.data.layouts.prompts import Part, native_prompt, place, prompt_parts, read_dialogue, with_markers
from vlrft.data.problems import SampleError

ABOUT = "ms-swift: messages, images, videos, solution, objects (ref, bbox, bbox_type)"
_SPACES = {"real": "abs_original", "norm1": "norm_1"}
_SLOT = re.compile("<ref-object>|<bbox>")


def matches(row: Mapping[str, Any]) -> str:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages or "conversations" in row:
        return ""
    for name in ("objects", "solution"):
        if row.get(name):
            return f"messages and {name}"
    last = messages[-1]
    answered = isinstance(last, Mapping) and last.get("role") == "assistant"
    return "" if answered else "messages that end with the question"


def to_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    asked = read_dialogue(row.get("messages"), markers=True, where=where)
    images, image_column = images_of(row, where)
    videos, video_column = videos_of(row, where)
    images, videos = images or asked.images or images, videos or asked.videos or videos
    parts = place(asked.parts, {"image": len(images or ()), "video": len(videos or ())}, front=True, where=where)
    answer, think, truth = truth_of(row, ("solution", "answer", "ground_truth", "gt"))
    if truth is None:
        answer, think = unwrap(asked.answer)
    boxes = None
    objects = _read_objects(row.get("objects"), where)
    if objects is not None:
        parts, left = _named(parts, objects, where)
        if truth is None and objects.boxes:
            answer, boxes = _target(objects, left, answer, where), {"space": objects.space}
    return native_row(
        row,
        used=("messages", image_column, video_column, truth, "objects" if boxes else None),
        fields={
            "prompt": native_prompt(parts, where),
            "images": images,
            "videos": videos,
            "answer": answer,
            "boxes": boxes,
        },
        meta={"think": think, "system": asked.system},
        where=where,
    )


def from_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": row.get("id"),
        "messages": [{"role": "user", "content": with_markers(prompt_parts(row, where))}],
    }
    made |= {name: list(row[name]) for name in ("images", "videos") if row.get(name) is not None}
    truth = truth_text(row)
    return {**made, "solution": truth, "objects": _objects(row)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objects:
    """The column `objects`, checked."""

    names: list[str]
    boxes: list[list[float]]
    space: str


def _read_objects(objects: Any, where: str) -> _Objects | None:
    """None where the row has none. Raises SampleError."""
    if objects is None or (isinstance(objects, Mapping | list) and not objects):
        return None
    if not isinstance(objects, Mapping):
        raise SampleError(where, f"`objects` is {objects!r:.100}; write an object with ref and bbox")
    names, boxes, images = (objects.get(key) or [] for key in ("ref", "bbox", "image_id"))
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise SampleError(where, f"objects.ref is {names!r:.100}; list the names")
    sound = isinstance(boxes, list | tuple) and all(isinstance(box, list | tuple) for box in boxes)
    if not sound or not all(len(box) in (2, 4) and all(map(is_finite, box)) for box in boxes):
        raise SampleError(where, f"objects.bbox is {boxes!r:.100}; list boxes of four numbers, or points of two")
    if not isinstance(images, list | tuple) or any(image != 0 for image in images):
        raise SampleError(
            where,
            f"objects.image_id is {images!r:.100}, but places are asked for and judged in the first image alone (0); "
            "put that image first, or drop the row",
        )
    kind = objects.get("bbox_type") or "real"
    if not isinstance(kind, str) or kind not in _SPACES:
        raise SampleError(where, f"objects.bbox_type is {kind!r:.100}; ms-swift knows {', '.join(_SPACES)}")
    return _Objects(names=list(names), boxes=[list(box) for box in boxes], space=_SPACES[kind])


def _named(parts: list[Part], objects: _Objects, where: str) -> tuple[list[Part], list[str]]:
    """(the question with names in the places of its `<ref-object>` slots, the names that are left for the answer)."""
    names = iter(objects.names)

    def put(found: re.Match[str]) -> str:
        if found.group() == "<bbox>":
            raise SampleError(
                where, "the question has a <bbox> slot, whose numbers depend on the model; write the place in words"
            )
        name = next(names, None)
        if name is None:
            raise SampleError(where, "the question has more <ref-object> slots than `objects.ref` has names")
        return name

    return [(kind, _SLOT.sub(put, text) if kind == "text" else text) for kind, text in parts], list(names)


def _target(objects: _Objects, left: list[str], answer: Any, where: str) -> Any:
    """The answer of a row whose truth is `objects`: one box, or objects with names. left: names not in the question."""
    boxes = objects.boxes
    text = answer if isinstance(answer, str) else ""
    slots, named = text.count("<bbox>"), text.count("<ref-object>")
    if slots not in (0, len(boxes)):
        raise SampleError(where, f"the answer has {slots} <bbox> slots, but `objects.bbox` has {len(boxes)} boxes")
    if named and named != len(left):
        raise SampleError(
            where,
            f"question and answer have {len(objects.names) - len(left) + named} <ref-object> slots, but `objects.ref` "
            f"has {len(objects.names)} names",
        )
    if len(boxes) == 1:
        return boxes[0]
    # Without slots of its own the answer is about what the question names: each box has its name, or all have one.
    choices = [left] if named else [left, objects.names]
    labels = next((names for names in choices if len(names) == len(boxes)), None)
    if labels is None and not named and len(set(objects.names)) == 1:
        labels = objects.names[:1] * len(boxes)
    if labels is None:
        raise SampleError(
            where, f"`objects` has {len(left or objects.names)} names for {len(boxes)} boxes; give each box its name"
        )
    return [{"bbox": box, "label": label} for box, label in zip(boxes, labels, strict=True)]


def _objects(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row's boxes as ms-swift's objects, where they are in a space that it knows."""
    boxes = row.get("boxes") if isinstance(row.get("boxes"), Mapping) else {}
    kinds = {space: kind for kind, space in _SPACES.items()}
    kind = kinds.get((boxes or {}).get("space", "abs_original"))
    truth = row.get("answer") if row.get("answer") is not None else (boxes or {}).get("box")
    if kind is None or not isinstance(truth, list) or not truth:
        return None
    if all(isinstance(item, Mapping) and "bbox" in item for item in truth):
        names = [str(item.get("label", "")) for item in truth]
        return {"ref": names, "bbox": [list(item["bbox"]) for item in truth], "bbox_type": kind}
    if boxes and len(truth) in (2, 4) and all(isinstance(x, int | float) for x in truth):
        return {"ref": [], "bbox": [list(truth)], "bbox_type": kind}
    return None
