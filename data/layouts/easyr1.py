"""EasyR1: `problem` with `<image>` or `<video>` at the places of the media, `answer`, `images` or `videos`.

EasyR1 shows images or videos of a row, not both. Source: EasyR1 `verl/utils/dataset.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.data.layouts.columns import native_row, truth_of, truth_text
from vlrft.data.layouts.entries import images_of, videos_of
from vlrft.data.layouts.prompts import native_prompt, place, prompt_parts, split_markers, with_markers
from vlrft.data.problems import SampleError

ABOUT = "EasyR1: problem with <image> markers, answer, images or videos"


def matches(row: Mapping[str, Any]) -> str:
    if "prompt" in row or "messages" in row or "conversations" in row:
        return ""
    return "problem and answer" if isinstance(row.get("problem"), str) and row.get("answer") is not None else ""


def to_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    problem = row.get("problem")
    if not isinstance(problem, str):
        raise SampleError(where, f"`problem` is {problem!r:.80}; write the question as text")
    images, image_column = images_of(row, where)
    videos, video_column = videos_of(row, where)
    counts = {"image": len(images or ()), "video": len(videos or ())}
    parts = place(split_markers(problem), counts, front=False, where=where)
    answer, think, truth = truth_of(row, ("answer", "ground_truth", "solution"))
    return native_row(
        row,
        used=("problem", image_column, video_column, truth),
        fields={"prompt": native_prompt(parts, where), "images": images, "videos": videos, "answer": answer},
        meta={"think": think},
        where=where,
    )


def from_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    made: dict[str, Any] = {"id": row.get("id"), "problem": with_markers(prompt_parts(row, where))}
    made |= {name: list(row[name]) for name in ("images", "videos") if row.get(name) is not None}
    return {**made, "answer": truth_text(row)}
