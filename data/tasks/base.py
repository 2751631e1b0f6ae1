"""The Task protocol, and the reading of the row fields that all tasks share.

Native row: `{id, prompt, images, answer, task, meta, boxes, width, height}`. `prompt` is the question as text (images
stand before it) or one user message with typed parts; `images` holds paths or `{"bytes": ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vlrft.config import OutputMode
from vlrft.data.media import MediaError, image_size
from vlrft.data.problems import SampleError
from vlrft.registry import nearest
from vlrft.types import MediaPart, MediaRef, Part, Sample, TextPart

Row = Mapping[str, Any]

NATIVE_FIELDS = ("id", "prompt", "images", "videos", "answer", "task", "meta", "boxes", "width", "height")

_ELSEWHERE = {
    "prompt": ("problem", "question", "instruction", "messages", "conversations"),
    "images": ("image", "image_path", "img_filename"),
    "boxes": ("solution", "ground_truth", "gt", "bbox", "gt_bbox", "box", "objects", "reward_model", "label"),
    "answer": ("solution", "ground_truth", "gt", "reward_model", "label"),
}
"""What other frameworks call the native fields."""

_MISPLACED = ("space", "coord_space", "target_space", "bbox_type")
"""Columns that would change the meaning of a box if they were read, and must not pass as mere metadata."""


class Task(Protocol):
    """One kind of question with one form of target."""

    name: str

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

        `template` is jinja text with `question`, `format_hint`, `space`; None = the task's own. `input_size` is
        (width, height) in pixels as the vision tower sees the image, needed for `abs_input` only.
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


def missing_field(row: Row, field: str, where: str) -> SampleError:
    """The error for an absent field, with the column that probably holds it."""
    others = [name for name in row if name not in NATIVE_FIELDS]
    for alias in _ELSEWHERE.get(field, ()):
        if alias in others:
            return SampleError(where, f"no `{field}`, but `{alias}`, which is not a native field; rename or convert it")
    hint = nearest(field, others) or "; add it to the row"
    return SampleError(where, f"no `{field}` (columns: {', '.join(map(str, row))}){hint}")


def read_media(row: Row, *, where: str) -> tuple[tuple[MediaRef, ...], tuple[tuple[int, int], ...]]:
    """References to the row's images, and their (width, height) in pixels from the files' headers.

    Raises SampleError for a malformed entry or a size other than the row's `width` and `height`, and MediaError for a
    file that cannot be opened.
    """
    if row.get("videos"):
        raise SampleError(where, "has `videos`, which this task does not take; use a video task or drop the column")
    images = row.get("images")
    if images is None:
        raise missing_field(row, "images", where)
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        raise SampleError(where, f"`images` is {images!r}; write a list, also for one image")
    refs = tuple(_media_ref(image, where) for image in images)
    try:
        sizes = tuple(image_size(ref) for ref in refs)
    except MediaError as error:
        raise MediaError(f"{where}: {error.where}", error.reason) from error
    stated = (row.get("width"), row.get("height"))
    if len(sizes) == 1 and None not in stated and stated != sizes[0]:
        raise SampleError(
            where,
            f"the annotation is for a {stated[0]}x{stated[1]} image, but {refs[0].name()} is "
            f"{sizes[0][0]}x{sizes[0][1]} (upright); give the image that was annotated",
        )
    return refs, sizes


def read_question(row: Row, *, num_media: int, where: str) -> tuple[Part, ...]:
    """The parts of the question. Text alone gets its media in front; typed parts keep their places."""
    prompt = row.get("prompt")
    if prompt is None:
        raise missing_field(row, "prompt", where)
    if isinstance(prompt, str):
        if "<image>" in prompt:
            raise SampleError(
                where,
                "`prompt` holds the text <image>; leave it out (images come first) or write a message with typed parts",
            )
        if not prompt.strip():
            raise SampleError(where, "`prompt` is empty; write the question")
        return (*(MediaPart(index=i) for i in range(num_media)), TextPart(text=prompt))
    parts = _message_parts(prompt, where)
    slots = sum(isinstance(part, MediaPart) for part in parts)
    if slots != num_media:
        raise SampleError(where, f"the message has {slots} image parts, but `images` has {num_media}; make them agree")
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


def _media_ref(image: Any, where: str) -> MediaRef:
    if isinstance(image, str) and image:
        if "://" in image:
            raise SampleError(where, f"image {image!r} is an address; download it and give the path")
        return MediaRef(path=image)
    if isinstance(image, Mapping) and isinstance(image.get("bytes"), bytes):
        return MediaRef(data=image["bytes"])
    if isinstance(image, Mapping) and isinstance(image.get("path"), str):
        return MediaRef(path=image["path"])
    raise SampleError(where, f'image {image!r} is neither a path nor {{"bytes": ...}}; correct the row')


def _message_parts(prompt: Any, where: str) -> tuple[Part, ...]:
    messages = list(prompt) if isinstance(prompt, Sequence) else []
    if len(messages) != 1 or not isinstance(messages[0], Mapping) or messages[0].get("role") != "user":
        raise SampleError(where, "`prompt` has to be text or a list with exactly one user message; correct the row")
    content = messages[0].get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts: list[Part] = []
    slots = 0
    for item in content if isinstance(content, Sequence) else ():
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "text" and isinstance(item.get("text"), str):
            parts.append(TextPart(text=item["text"]))
        elif kind == "image":
            parts.append(MediaPart(index=slots))
            slots += 1
        else:
            raise SampleError(where, f"message part {item!r} is not a text or image part; correct the row")
    if not any(isinstance(part, TextPart) and part.text.strip() for part in parts):
        raise SampleError(where, "the user message holds no text; write the question")
    return tuple(parts)
