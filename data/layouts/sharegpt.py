"""ShareGPT, as LLaMA-Factory and VLM-R1 use it: `conversations` (`from`, `value`) or `messages`, and `image(s)`.

`<image>` and `<video>` are slots. Rows of VLM-R1 may leave them out, its trainer puts the images first. LISA's rows
say user and assistant, and Visual-RFT's name the picture as `<img>path</img>`. The last turn is the answer. Sources:
LLaMA-Factory `data/README.md`, VLM-R1 `open_r1/grpo_jsonl.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlrft.data.layouts.columns import native_row, truth_of, truth_text, unwrap
from vlrft.data.layouts.entries import images_of, videos_of
from vlrft.data.layouts.prompts import Asked, Part, native_prompt, place, prompt_parts, read_dialogue, with_markers

ABOUT = "ShareGPT, LLaMA-Factory, VLM-R1: conversations (from, value) or messages, image(s), <image> markers"
_EMBEDDED = re.compile(r"<img>(.*?)</img>")


def matches(row: Mapping[str, Any]) -> str:
    if isinstance(row.get("conversations"), list):
        return "conversations"
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages or row.get("solution") is not None or row.get("objects"):
        return ""
    last = messages[-1]
    answered = isinstance(last, Mapping) and last.get("role") == "assistant"
    return "messages that end with the answer" if answered else ""


def to_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    turns, keys = row.get("conversations"), ("from", "value")
    if turns is None or (isinstance(turns, list) and turns and isinstance(turns[0], Mapping) and "role" in turns[0]):
        turns, keys = row.get("messages") if turns is None else turns, ("role", "content")
    asked = read_dialogue(turns, markers=True, keys=keys, where=where)
    images, image_column = images_of(row, where)
    videos, video_column = videos_of(row, where)
    if images is None:
        asked.parts = _embedded(asked)
    images, videos = images or asked.images or images, videos or asked.videos or videos
    parts = place(asked.parts, {"image": len(images or ()), "video": len(videos or ())}, front=True, where=where)
    answer, think, truth = truth_of(row, ("solution", "answer", "ground_truth", "gt"))
    if truth is None:
        answer, think = unwrap(asked.answer)
    system = row.get("system") if isinstance(row.get("system"), str) else None
    return native_row(
        row,
        used=("conversations", "messages", "system", image_column, video_column, truth),
        fields={"prompt": native_prompt(parts, where), "images": images, "videos": videos, "answer": answer},
        meta={"think": think, "system": asked.system or system},
        where=where,
    )


def from_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    made: dict[str, Any] = {"id": row.get("id")}
    made |= {key: list(row[name]) for name, key in (("images", "image"), ("videos", "videos")) if row.get(name)}
    turns = [{"from": "human", "value": with_markers(prompt_parts(row, where))}]
    truth = truth_text(row)
    if truth is not None:
        turns.append({"from": "gpt", "value": truth})
    return {**made, "conversations": turns}


def _embedded(asked: Asked) -> list[Part]:
    """Parts with `<img>path</img>` taken out as slots; the paths go to `asked.images`."""
    parts: list[Part] = []
    for kind, text in asked.parts:
        pieces = _EMBEDDED.split(text) if kind == "text" else []
        for index, piece in enumerate(pieces):
            if index % 2:
                asked.images.append(piece.strip())
                parts.append(("image", ""))
            elif piece:
                parts.append(("text", piece))
        if not pieces:
            parts.append((kind, text))
    return parts
