"""Checks of what rows say is right. A target that fails here would have been learned as truth, or judged by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.coords import SPACES, CoordError, check_space
from vlrft.data.boxes import EDGE_SLACK, UPPER, check_box, fitting_spaces, is_finite
from vlrft.data.problems import SampleError
from vlrft.data.tasks.base import Row, missing_field
from vlrft.data.tasks.media_fields import TIME_SLACK
from vlrft.parse import has_tags
from vlrft.parse.numbers import read_number
from vlrft.registry import nearest

PUBLISHED = "flags"
"""Key of meta under which converters list what is odd about a benchmark's row that is kept as it was published."""


def published_flags(row: Row) -> list[str]:
    """What a converter has noted of the row under PUBLISHED; [] for most."""
    meta = row.get("meta")
    flags = meta.get(PUBLISHED) if isinstance(meta, Mapping) else None
    return [str(flag) for flag in flags] if isinstance(flags, list) else []


def stated_answer(row: Row, where: str, *, decode: bool) -> Any:
    """The row's `answer`. decode: read a text as JSON, since parquet files hold structures so. Raises SampleError."""
    answer = row.get("answer")
    if answer is None:
        raise missing_field(row, "answer", where)
    if decode and isinstance(answer, str):
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise SampleError(
                where, f"`answer` {answer!r:.200} is not valid JSON ({error}); correct the row"
            ) from error
    return answer


def stated_space(row: Row, where: str, *, keys: Sequence[str] = ("space",)) -> str:
    """The coordinate space that `boxes` states, `abs_original` where it says nothing. keys: what `boxes` may hold."""
    boxes = row.get("boxes")
    if boxes is None:
        return "abs_original"
    if not isinstance(boxes, Mapping):
        raise SampleError(where, f'`boxes` is {boxes!r:.200}; write {{"space": "abs_original"}}')
    for key, value in boxes.items():
        if key not in keys and value is not None:
            hint = nearest(str(key), list(keys)) or f"; known: {', '.join(keys)} (this task's boxes stand in `answer`)"
            raise SampleError(where, f"`boxes` has the unknown key {key!r}{hint}")
    space = boxes.get("space") or "abs_original"
    try:
        return check_space(space)
    except CoordError as error:
        raise SampleError(where, str(error)) from error


def check_boxes(raws: Sequence[Any], *, space: str, image_size: tuple[int, int], where: str) -> list[list[float]]:
    """Every box of `raws`, as `check_box` has it. Raises SampleError, for most boxes at once where the space is wrong.

    image_size: (width, height) in pixels of the stored image or video.
    """
    sound = [raw for raw in raws if _is_numbers(raw, 4)]
    outside = [raw for raw in sound if not _within(raw, space, image_size)]
    if len(sound) > 1 and 2 * len(outside) > len(sound):
        fits = [name for name in fitting_spaces(sound, image_size) if name != space]
        hint = f"; they would fit {' or '.join(fits)}" if fits else ""
        raise SampleError(
            where,
            f"{len(outside)} of {len(sound)} boxes lie outside the {image_size[0]}x{image_size[1]} picture in space "
            f"{space!r}, such as {list(outside[0])}: the stated space is probably wrong{hint}; correct `boxes.space`",
        )
    if len(sound) > 1 and space != "norm_1" and min(image_size) > 1 and all(max(raw) <= 1.0 for raw in sound):
        raise SampleError(
            where,
            f"no coordinate of {len(sound)} boxes exceeds 1 in space {space!r}: the stated space is probably wrong; if "
            "these are fractions, set `boxes.space` to 'norm_1'",
        )
    return [check_box(raw, space=space, image_size=image_size, where=where) for raw in raws]


def check_point(raw: Any, *, space: str, image_size: tuple[int, int], where: str) -> list[float]:
    """`raw` as `[x, y]` floats on the picture. Raises SampleError."""
    if not _is_numbers(raw, 2):
        raise SampleError(where, f"point {raw!r:.200} is not two finite numbers; write it as [x, y]")
    x, y = (float(value) for value in raw)
    if not _within((x, y, x, y), space, image_size):
        raise SampleError(
            where,
            f"point {[x, y]} lies outside the {image_size[0]}x{image_size[1]} picture in space {space!r}; correct the "
            f"row, or the space that it states (one of {', '.join(SPACES)})",
        )
    if space != "norm_1" and 0 < max(x, y) < 1.0 and min(image_size) > 1:
        raise SampleError(where, f"point {[x, y]} is less than one unit of space {space!r}; fractions are 'norm_1'")
    return [x, y]


def check_span(raw: Any, meta: Mapping[str, Any], *, where: str) -> list[float]:
    """`raw` as `[start, end]` seconds within `meta["duration"]`, where that is known. Raises SampleError.

    An end up to TIME_SLACK past the video is kept as it is, and so is one further off where the row is flagged as a
    benchmark's own (`meta.flags`): rewards and references cut it. Otherwise it is an error.
    """
    if not _is_numbers(raw, 2):
        raise SampleError(where, f"span {raw!r:.200} is not two finite numbers; write [start, end] in seconds")
    start, end = (float(value) for value in raw)
    if start < 0 or end < start:
        raise SampleError(where, f"span {[start, end]} has to have 0 <= start <= end, in seconds; correct the row")
    duration = meta.get("duration")
    if duration is None:
        return [start, end]
    if start >= duration:
        raise SampleError(
            where,
            f"span {[start, end]} starts at or after the end of the video, which lasts {duration:g} s; check that both "
            "are in seconds and belong together",
        )
    if end > duration + TIME_SLACK and not meta.get(PUBLISHED):
        raise SampleError(
            where,
            f"span {[start, end]} ends after the video, which lasts {duration:g} s; correct the row, or flag it in "
            f"meta.{PUBLISHED} to keep it as published",
        )
    return [start, end]


def check_duration(meta: Mapping[str, Any], where: str) -> None:
    """Raise SampleError unless `meta["duration"]` is absent or a number of seconds."""
    duration = meta.get("duration")
    if duration is not None and not (is_finite(duration) and duration > 0):
        raise SampleError(where, f"meta.duration is {duration!r:.200}; write the video's length in seconds, above 0")


def check_number(answer: Any, meta: Mapping[str, Any], *, where: str) -> float | int | str:
    """`answer` itself when it is a finite number or a text that is nothing but one. Raises SampleError."""
    if is_finite(answer):
        return answer  # type: ignore[no-any-return]
    if isinstance(answer, str):
        reading = read_number(answer, unit=meta.get("unit") if isinstance(meta.get("unit"), str) else None)
        if reading.value is not None and reading.whole:
            return answer.strip()
    raise SampleError(
        where,
        f"`answer` {answer!r:.200} is not a finite number, nor a text that is nothing but one; correct the row, or "
        "declare what follows the number as meta.unit",
    )


def check_text(answer: Any, *, where: str, what: str = "`answer`") -> str:
    """`answer` itself when it is a text with content. Raises SampleError."""
    if not isinstance(answer, str) or not answer.strip():
        raise SampleError(where, f"{what} is {answer!r:.200}; write a text that is not blank")
    return check_tags(answer, what, where)


def check_tags(text: str, what: str, where: str) -> str:
    """`text` itself unless it holds a think or answer tag, which would break the completion that states it."""
    if has_tags(text):
        raise SampleError(where, f"{what} holds a <think> or <answer> tag: {text[:200]!r}; give its content alone")
    return text


def check_texts(answer: Any, *, where: str) -> str | list[str]:
    """A text, or a list of texts of which each is right. Raises SampleError."""
    if isinstance(answer, list | tuple) and answer:
        return [check_text(item, where=where, what=f"reference {i} of `answer`") for i, item in enumerate(answer)]
    return check_text(answer, where=where)


def _within(box: Sequence[float], space: str, image_size: tuple[int, int]) -> bool:
    """Whether four numbers lie on the picture in `space`."""
    right, bottom = (UPPER[space],) * 2 if space in UPPER else map(float, image_size)
    if space == "abs_input":
        right = bottom = math.inf
    slack = EDGE_SLACK if space == "abs_original" else 1e-6
    return min(box) >= -slack and box[2] <= right + slack and box[3] <= bottom + slack


def _is_numbers(raw: Any, count: int) -> bool:
    listed = isinstance(raw, list | tuple) and len(raw) == count
    return listed and all(map(is_finite, raw))
