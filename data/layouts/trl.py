"""TRL: `prompt` (text or messages), `image` or `images`, and any other columns, which its rewards get by name.

Text content takes its images in front, as TRL does; typed content keeps their places. `<image>` in text marks nothing.
The truth is the first of the columns answer, solution, ground_truth, gt. Source: TRL's dataset formats for vision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.data.layouts.columns import TRUTH_COLUMNS, native_row, truth_of, truth_text
from vlrft.data.layouts.entries import images_of, videos_of
from vlrft.data.layouts.prompts import (
    Asked,
    native_prompt,
    place,
    prompt_parts,
    read_dialogue,
    refuse_literal,
    typed_message,
)

ABOUT = "TRL: prompt (text or messages), image or images, other columns for the rewards"
FOREIGN = ("label", "reward_model", "messages", "conversations", "problem")
"""Columns of other layouts that have `prompt` or media too."""


def matches(row: Mapping[str, Any]) -> str:
    if row.get("prompt") is None or any(name in row for name in FOREIGN):
        return ""
    media = next((name for name in ("images", "image", "videos", "video") if name in row), None)
    if media is None:
        return "messages in prompt" if isinstance(row["prompt"], list) else ""
    return f"prompt and {media}"


def to_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    prompt = row.get("prompt")
    asked = Asked(parts=[("text", prompt)]) if isinstance(prompt, str) else None
    asked = asked or read_dialogue(prompt, markers=False, where=where)
    images, image_column = images_of(row, where)
    videos, video_column = videos_of(row, where)
    images, videos = images or asked.images or images, videos or asked.videos or videos
    if not asked.typed:
        refuse_literal(row, asked.parts, layout="trl", instead="easyr1 or openrlhf", where=where)
    parts = place(asked.parts, {"image": len(images or ()), "video": len(videos or ())}, front=True, where=where)
    answer, think, truth = truth_of(row, TRUTH_COLUMNS)
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
    return {**made, "solution": truth_text(row)}
