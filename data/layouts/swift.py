"""ms-swift: `messages`, `images`, `videos`, `solution`, `objects` with `<ref-object>` and `<bbox>` slots.

`<image>` and `<video>` are slots; a row without any gets its media in front, as ms-swift does. `objects` holds `ref`
(names, for `<ref-object>`), `bbox` (two numbers a point, four a box, for `<bbox>`), `bbox_type` `real` (pixels of the
stored image, the default) or `norm1` (fractions) and `image_id`. Source: ms-swift `Customization/Custom-dataset`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlrft.data.layouts.columns import native_row, truth_of, truth_text, unwrap
from vlrft.data.layouts.entries import images_of, videos_of
from vlrft.data.layouts.prompts import native_prompt, place, prompt_parts, read_dialogue, with_markers
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
    objects = row.get("objects")
    if isinstance(objects, Mapping) and objects.get("bbox"):
        parts = _named(parts, objects, where)
        if truth is None:
            answer, boxes = _target(objects, answer, where)
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


def _named(parts: list[tuple[str, str]], objects: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """The question with the names of the objects in the places of `<ref-object>`."""
    names = iter(objects.get("ref") or ())

    def put(found: re.Match[str]) -> str:
        if found.group() == "<bbox>":
            raise SampleError(
                where, "the question has a <bbox> slot, whose numbers depend on the model; write the place in words"
            )
        name = next(names, None)
        if name is None:
            raise SampleError(where, "the question has more <ref-object> slots than `objects.ref` has names")
        return str(name)

    return [(kind, _SLOT.sub(put, text) if kind == "text" else text) for kind, text in parts]


def _target(objects: Mapping[str, Any], answer: Any, where: str) -> tuple[Any, dict[str, Any]]:
    """(answer, boxes) of a row whose truth is `objects`: one box, or objects with names."""
    kind = objects.get("bbox_type") or "real"
    if kind not in _SPACES:
        raise SampleError(where, f"objects.bbox_type is {kind!r}; ms-swift knows {', '.join(_SPACES)}")
    found, names = list(objects["bbox"]), [str(name) for name in objects.get("ref") or ()]
    slots = len(re.findall("<bbox>", answer)) if isinstance(answer, str) else 0
    if slots not in (0, len(found)):
        raise SampleError(where, f"the answer has {slots} <bbox> slots, but `objects.bbox` has {len(found)} boxes")
    space = {"space": _SPACES[kind]}
    if len(found) == 1:
        return list(found[0]), space
    if len(names) not in (1, len(found)):
        raise SampleError(where, f"`objects` has {len(names)} names for {len(found)} boxes; give each box its name")
    labels = names * len(found) if len(names) == 1 else names
    pairs = zip(found, labels, strict=True)
    return [{"bbox": list(box), "label": label} for box, label in pairs], space


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
