"""Images and videos of a row, in every spelling that rows come with, as entries of the native `images` and `videos`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from vlrft.data.problems import SampleError

IMAGE_COLUMNS = ("images", "image", "image_path", "img_filename")
VIDEO_COLUMNS = ("videos", "video", "video_path")
ENTRY_KEYS = ("bytes", "path", "frames")
_RANGE = {"video_start": "start", "video_end": "end", "start": "start", "end": "end", "fps": "fps"}
"""qwen-vl-utils' keys of a video item (seconds from the start of the file) -> ours."""
_MOVING = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ts")


def images_of(row: Mapping[str, Any], where: str) -> tuple[list[Any] | None, str | None]:
    """The native `images` and the column that they were in; (None, None) where the row has no such column."""
    return _items_of(row, "image", IMAGE_COLUMNS, where)


def videos_of(row: Mapping[str, Any], where: str) -> tuple[list[Any] | None, str | None]:
    """The native `videos` and the column that they were in."""
    return _items_of(row, "video", VIDEO_COLUMNS, where)


def _items_of(
    row: Mapping[str, Any], kind: str, columns: tuple[str, ...], where: str
) -> tuple[list[Any] | None, str | None]:
    present = [name for name in columns if row.get(name) is not None]
    # Of several columns the first that holds something: files keep empty ones beside it.
    column = next((name for name in present if not is_empty(row[name])), next(iter(present), None))
    if column is None and _kind_of_path(row) == kind:
        column = "path"
    return (None, None) if column is None else (entries(row[column], kind, where), column)


def is_empty(value: Any) -> bool:
    """Whether a media column holds nothing."""
    return isinstance(value, list | tuple | str | bytes) and len(value) == 0


def entries(value: Any, kind: str, where: str) -> list[Any]:
    """One item or a list of them as native entries: paths stay text, encoded files are `{"bytes": ...}`.

    Takes paths, data URIs, bytes, `{"bytes", "path"}` of HF image columns, `{"image": ...}` and
    `{"video": ..., "video_start", "video_end"}` of message items, and PIL images. Raises SampleError for anything else.
    """
    if isinstance(value, list | tuple):
        return [entry(item, kind, where) for item in value if item is not None]
    if is_empty(value):
        return []
    return [entry(value, kind, where)]


def entry(value: Any, kind: str, where: str) -> Any:
    """One item as a native entry; see `entries`."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value)}
    if isinstance(value, list | tuple) and kind == "video" and value and all(isinstance(x, str) for x in value):
        return {"frames": list(value)}
    if isinstance(value, Mapping):
        held = {key: item for key, item in value.items() if item is not None}
        if any(key in held for key in ENTRY_KEYS):
            return held
        if held.get(kind) is not None:
            return _message_item(held, kind, where)
    if hasattr(value, "save") and hasattr(value, "mode"):
        return {"bytes": encode_picture(value)}
    shown = f"{type(value).__name__} {value!r:.80}"
    raise SampleError(where, f'{kind} {shown} is neither a path nor {{"bytes": ...}}; correct the row')


def encode_picture(image: Any) -> bytes:
    """A PIL image as the bytes of a file that holds the same pixels: PNG, or TIFF for modes that PNG lacks."""
    buffer = io.BytesIO()
    png = image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    image.save(buffer, format="PNG" if png else "TIFF", exif=image.getexif())
    return buffer.getvalue()


def _message_item(item: Mapping[str, Any], kind: str, where: str) -> Any:
    """`{"image": x}` or `{"video": x, "video_start": 1.0, ...}` as a native entry."""
    made = entry(item[kind], kind, where)
    extra = {ours: item[name] for name, ours in _RANGE.items() if kind == "video" and name in item}
    if not extra:
        return made
    if isinstance(made, dict) and "frames" in made:
        return {**made, **extra}
    # The frame rate of a file is what it is; one beside a path says how densely to sample, which is a setting here.
    extra.pop("fps", None)
    return {**(made if isinstance(made, dict) else {"path": made}), **extra} if extra else made


def _kind_of_path(row: Mapping[str, Any]) -> str | None:
    """What the column `path` (Video-R1 and its kin) holds: as `data_type` says, else by suffix."""
    path = row.get("path")
    if not isinstance(path, str) or not path:
        return None
    stated = row.get("data_type")
    if stated in ("image", "video"):
        return str(stated)
    return "video" if path.lower().endswith(_MOVING) else "image"
