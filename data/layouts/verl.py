"""verl: `data_source`, `prompt` (messages), `images` and `videos`, `ability`, `reward_model`, `extra_info`.

`<image>` and `<video>` in text content are slots. Items are `{"bytes": ...}`, `{"image": path}` or
`{"video": path, "video_start", "video_end"}` (seconds), as qwen-vl-utils reads them. The keys of `extra_info` become
keys of `meta`. Source: verl `utils/dataset/rl_dataset.py` and `examples/data_preprocess`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.data.layouts.columns import native_row, truth_text, unwrap
from vlrft.data.layouts.entries import images_of, videos_of
from vlrft.data.layouts.prompts import Asked, native_prompt, place, prompt_parts, read_dialogue, with_markers
from vlrft.data.tasks import TASKS

_OURS = "vlrft"
"""`data_source` and `ability` of a row that names no task; of others its task."""
ABOUT = "verl: data_source, prompt (messages), images, reward_model.ground_truth, extra_info"


def matches(row: Mapping[str, Any]) -> str:
    model = row.get("reward_model")
    if "prompt" in row and isinstance(model, Mapping) and "ground_truth" in model:
        return "prompt and reward_model.ground_truth"
    return ""


def to_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    asked: Asked = read_dialogue(row.get("prompt"), markers=True, where=where)
    images, image_column = images_of(row, where)
    videos, video_column = videos_of(row, where)
    images, videos = images or asked.images or images, videos or asked.videos or videos
    parts = place(asked.parts, {"image": len(images or ()), "video": len(videos or ())}, front=False, where=where)
    model, extra = row.get("reward_model"), row.get("extra_info")
    known = dict(extra) if isinstance(extra, Mapping) else {}
    if known.get("id") == str(row.get("id", "")):
        del known["id"]
    answer, think = unwrap(model.get("ground_truth") if isinstance(model, Mapping) else None)
    kind = row.get("data_source") if row.get("data_source") == row.get("ability") else None
    ours = ("data_source", "ability") if isinstance(kind, str) and kind in (_OURS, *TASKS) else ()
    return native_row(
        row,
        used=("prompt", "reward_model", "extra_info", image_column, video_column, *ours),
        fields={"prompt": native_prompt(parts, where), "images": images, "videos": videos, "answer": answer},
        meta={"think": think, "system": asked.system, **known},
        where=where,
    )


def from_native(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    kind = str(row.get("task") or _OURS)
    made: dict[str, Any] = {
        "id": row.get("id"),
        "data_source": kind,
        "prompt": [{"role": "user", "content": with_markers(prompt_parts(row, where))}],
    }
    if row.get("images") is not None:
        made["images"] = [{"image": item} if isinstance(item, str) else item for item in row["images"]]
    if row.get("videos") is not None:
        made["videos"] = [_video_item(item) for item in row["videos"]]
    return {
        **made,
        "ability": kind,
        "reward_model": {"style": "rule", "ground_truth": truth_text(row)},
        "extra_info": {"id": str(row.get("id", ""))},
    }


def _video_item(item: Any) -> Any:
    """A native video entry as qwen-vl-utils reads it."""
    if isinstance(item, str):
        return {"video": item}
    if "frames" in item:
        return {"video": list(item["frames"])} | ({"fps": item["fps"]} if "fps" in item else {})
    if "path" in item:
        return {"video": item["path"]} | {f"video_{end}": item[end] for end in ("start", "end") if end in item}
    return item
