"""R1-V and Visual-RFT: `image`, `problem`, `solution` (often `<answer>...</answer>`).

Their evaluation and data files also say `question` or `instruction` for the question, `image_path`, `img_filename`,
`video` or `path` for the media, and `ground_truth`, `gt` or `answer` for the truth. Media come before the text;
`<image>` in text marks nothing. Sources: R1-V `src/r1-v` and `src/eval`, Visual-RFT, Video-R1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.data.layouts.columns import native_row, truth_of, truth_text
from vlrft.data.layouts.entries import IMAGE_COLUMNS, VIDEO_COLUMNS, images_of, videos_of
from vlrft.data.layouts.prompts import native_prompt, place, prompt_parts, refuse_literal

ABOUT = "R1-V, Visual-RFT: image, problem, solution (with answer tags)"
_QUESTIONS = ("problem", "question", "instruction", "sentence")
_TRUTHS = ("solution", "ground_truth", "gt", "answer", "timestamp")
"""Not `bbox`: as often x, y, width, height as two corners. The forms of published files know which."""
_FOREIGN = ("prompt", "messages", "conversations", "gt_action", "reward_model")


def matches(row: Mapping[str, Any]) -> str:
    if any(name in row for name in _FOREIGN):
        return ""
    question = next((name for name in _QUESTIONS if isinstance(row.get(name), str)), None)
    media = next((name for name in (*IMAGE_COLUMNS, *VIDEO_COLUMNS, "path") if row.get(name) is not None), None)
    truth = next((name for name in _TRUTHS if row.get(name) is not None), None)
    if question is None or truth is None:
        return ""
    if question == "problem":
        return "problem and solution" if truth == "solution" else ""
    return f"{question}, {media} and {truth}" if media else ""


def to_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    question = next((name for name in _QUESTIONS if isinstance(row.get(name), str)), "problem")
    images, image_column = images_of(row, where)
    videos, video_column = videos_of(row, where)
    parts = [("text", str(row.get(question, "")))]
    refuse_literal(row, parts, layout="r1v", instead="easyr1", where=where)
    parts = place(parts, {"image": len(images or ()), "video": len(videos or ())}, front=True, where=where)
    answer, think, truth = truth_of(row, _TRUTHS)
    return native_row(
        row,
        used=(question, image_column, video_column, truth),
        fields={"prompt": native_prompt(parts, where), "images": images, "videos": videos, "answer": answer},
        meta={"think": think},
        where=where,
    )


def from_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    text = "".join(text for kind, text in prompt_parts(row, where) if kind == "text")
    made: dict[str, Any] = {"id": row.get("id"), "problem": text}
    for plural, single in (("images", "image"), ("videos", "video")):
        items = row.get(plural)
        if items is not None:
            made |= {single: items[0]} if len(items) == 1 else {plural: list(items)}
    truth = truth_text(row)
    return {**made, "solution": None if truth is None else f"<answer>{truth}</answer>"}
