"""The Task protocol, and the reading of the row fields that all tasks share.

Native row: `{id, prompt, images, videos, answer, task, meta, boxes, width, height}`. `prompt` is the question as text
(media stand before it, images first) or one user message with typed parts; `images` and `videos` hold paths or
`{"bytes": ...}` (see media_fields.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vlrft.config import OutputMode, RewardSpec
from vlrft.data.problems import SampleError
from vlrft.registry import nearest
from vlrft.types import MediaPart, Part, Sample, TextPart

Row = Mapping[str, Any]

NATIVE_FIELDS = ("id", "prompt", "images", "videos", "answer", "task", "meta", "boxes", "width", "height")

_ELSEWHERE = {
    "prompt": ("problem", "question", "instruction", "messages", "conversations"),
    "images": ("image", "image_path", "img_filename"),
    "videos": ("video", "video_path", "path"),
    "boxes": ("solution", "ground_truth", "gt", "bbox", "gt_bbox", "box", "objects", "reward_model", "label"),
    "answer": ("solution", "ground_truth", "gt", "reward_model", "label"),
}
"""What other frameworks call the native fields."""

_MISPLACED = ("space", "coord_space", "target_space", "bbox_type")
"""Columns that would change the meaning of a box if they were read, and must not pass as mere metadata."""


class Task(Protocol):
    """One kind of question with one form of target.

    It may also have `shown_times(sample, info)`, for questions about particular frames: the seconds, from the start of
    the clip, of the frames of the sample's first medium, a video that is `info`, that have to be shown, whatever
    `data.video` says. It raises SampleError where they cannot be.
    """

    name: str
    rewards: tuple[str, ...]
    """Names of the rewards that judge it by default."""
    metric: str
    """Name of the reward whose mean over held-out samples is its main figure."""

    def to_sample(self, row: Row, *, where: str) -> Sample:
        """The row as a Sample. Raises SampleError (or MediaError) that starts with `where`."""
        ...

    def user_parts(
        self,
        sample: Sample,
        *,
        space: str,
        output_mode: OutputMode,
        template: str | None,
        input_size: tuple[int, int] | None,
    ) -> tuple[Part, ...]:
        """The user turn: the question with its media, and the answer format for a model that writes in `space`.

        `template` is jinja text with the variables of docs/tasks.md (`question`, `format_hint`, `space`, ...) or the
        name of a shipped one; None = the task's own. `input_size` is (width, height) in pixels as the vision tower sees
        the first image or video, needed for `abs_input` only. Raises DataError for a template that cannot work.
        """
        ...

    def reference(
        self,
        sample: Sample,
        *,
        space: str,
        image_size: tuple[int, int] | None,
        input_size: tuple[int, int] | None,
        output_mode: OutputMode,
    ) -> str:
        """The completion that states `sample.target` in `space`: what SFT teaches and what scores full marks."""
        ...

    def reward_specs(self) -> list[RewardSpec]:
        """`rewards` as a recipe's `rewards.funcs` lists them: weights, targets, and the samples that each judges."""
        ...


def missing_field(row: Row, field: str, where: str) -> SampleError:
    """The error for an absent field, with the column that probably holds it."""
    others = [name for name in row if name not in NATIVE_FIELDS]
    for alias in _ELSEWHERE.get(field, ()):
        if alias in others:
            return SampleError(where, f"no `{field}`, but `{alias}`, which is not a native field; rename or convert it")
    hint = nearest(field, others) or "; add it to the row"
    return SampleError(where, f"no `{field}` (columns: {', '.join(map(str, row))}){hint}")


def read_question(
    row: Row, *, num_images: int, num_videos: int = 0, video: bool = False, where: str
) -> tuple[Part, ...]:
    """The parts of the question. Text alone gets its media in front; typed parts keep their places.

    Media are numbered images first, then videos. video: whether the task takes videos at all.
    """
    prompt = row.get("prompt")
    if prompt is None:
        raise missing_field(row, "prompt", where)
    if isinstance(prompt, str):
        for kind in ("image", "video"):
            if f"<{kind}>" in prompt:
                raise SampleError(
                    where,
                    f"`prompt` holds the text <{kind}>; leave it out ({kind}s come first) or write a message with "
                    "typed parts",
                )
        if not prompt.strip():
            raise SampleError(where, "`prompt` is empty; write the question")
        return (*(MediaPart(index=i) for i in range(num_images + num_videos)), TextPart(text=prompt))
    kinds = ("image", "video") if video or num_videos else ("image",)
    parts, slots = _message_parts(prompt, kinds, num_images, where)
    for kind, count in (("image", num_images), ("video", num_videos)):
        if slots[kind] != count:
            raise SampleError(
                where, f"the message has {slots[kind]} {kind} parts, but `{kind}s` has {count}; make them agree"
            )
    return parts


def read_meta(row: Row, *, where: str) -> dict[str, Any]:
    """The row's `meta`, with every column that is not a native field added to it."""
    meta = row.get("meta") or {}
    if not isinstance(meta, Mapping):
        raise SampleError(where, f"`meta` is {meta!r}; write an object")
    for name in _MISPLACED:
        if name in row:
            raise SampleError(
                where, f'the column `{name}` is not read; state the coordinate space in `boxes`: {{"space": ...}}'
            )
    others = {name: value for name, value in row.items() if name not in NATIVE_FIELDS}
    return {**others, **{key: value for key, value in meta.items() if value is not None}}


def _message_parts(
    prompt: Any, kinds: Sequence[str], num_images: int, where: str
) -> tuple[tuple[Part, ...], dict[str, int]]:
    """(the parts of the one user message, how many media parts of each kind it has)."""
    messages = list(prompt) if isinstance(prompt, Sequence) else []
    if len(messages) != 1 or not isinstance(messages[0], Mapping) or messages[0].get("role") != "user":
        raise SampleError(where, "`prompt` has to be text or a list with exactly one user message; correct the row")
    content = messages[0].get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts: list[Part] = []
    slots = {"image": 0, "video": 0}
    first = {"image": 0, "video": num_images}
    for item in content if isinstance(content, Sequence) else ():
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "text" and isinstance(item.get("text"), str):
            parts.append(TextPart(text=item["text"]))
        elif isinstance(kind, str) and kind in kinds:
            parts.append(MediaPart(index=first[kind] + slots[kind]))
            slots[kind] += 1
        else:
            known = "text, image or video" if "video" in kinds else "text or image"
            raise SampleError(where, f"message part {item!r:.200} is not a {known} part; correct the row")
    if not any(isinstance(part, TextPart) and part.text.strip() for part in parts):
        raise SampleError(where, "the user message holds no text; write the question")
    return tuple(parts), slots
