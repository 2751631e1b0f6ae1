"""OpenRLHF: `prompt` (text or messages), `images`, `label`.

`<image>` in text is a slot, typed content keeps the places of its images. Source: OpenRLHF's documentation of VLM
training and `datasets/prompts_dataset.py`. OpenRLHF shows no videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.data.layouts.columns import native_row, truth_of, truth_text
from vlrft.data.layouts.entries import images_of, videos_of
from vlrft.data.layouts.prompts import (
    Asked,
    native_prompt,
    place,
    prompt_parts,
    read_dialogue,
    split_markers,
    typed_message,
)

ABOUT = "OpenRLHF: prompt (text with <image> or messages), images, label"


def matches(row: Mapping[str, Any]) -> str:
    foreign = ("reward_model", "messages", "conversations", "problem", "solution")
    if row.get("prompt") is None or row.get("label") is None or any(name in row for name in foreign):
        return ""
    return "prompt and label"


def to_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    prompt = row.get("prompt")
    asked = Asked(parts=split_markers(prompt)) if isinstance(prompt, str) else None
    asked = asked or read_dialogue(prompt, markers=True, where=where)
    images, image_column = images_of(row, where)
    videos, video_column = videos_of(row, where)
    images, videos = images or asked.images or images, videos or asked.videos or videos
    parts = place(asked.parts, {"image": len(images or ()), "video": len(videos or ())}, front=False, where=where)
    answer, think, truth = truth_of(row, ("label",))
    return native_row(
        row,
        used=("prompt", image_column, video_column, truth),
        fields={"prompt": native_prompt(parts, where), "images": images, "videos": videos, "answer": answer},
        meta={"think": think, "system": asked.system},
        where=where,
    )


def from_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    made: dict[str, Any] = {"id": row.get("id"), "prompt": typed_message(prompt_parts(row, where))}
    made |= {name: list(row[name]) for name in ("images", "videos") if row.get(name) is not None}
    return {**made, "label": truth_text(row)}
