"""The row fields `images` and `videos`: references, and what the files' headers say of size and length."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.data.boxes import is_finite
from vlrft.data.images import MediaError, image_ref, image_size, stored_size
from vlrft.data.problems import SampleError
from vlrft.data.tasks.base import Row, missing_field
from vlrft.registry import nearest
from vlrft.types import MediaRef

_VIDEO_KEYS = ("path", "bytes", "frames", "fps", "start", "end")

TIME_SLACK = 0.5
"""Seconds by which a published time may pass the end of its video: they are rounded. The excess is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRule:
    """How many media a task takes: (least, most) of each kind, most = None for any number."""

    images: tuple[int, int | None] = (0, 0)
    videos: tuple[int, int | None] = (0, 0)
    least: int = 1
    """Of both kinds together."""


ONE_IMAGE = MediaRule(images=(1, 1))
ONE_VIDEO = MediaRule(videos=(1, 1))
IMAGES = MediaRule(images=(1, None))
IMAGES_OR_VIDEOS = MediaRule(images=(0, None), videos=(0, None))
ANY_OR_NONE = MediaRule(images=(0, None), videos=(0, None), least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """The media of a row, images first."""

    refs: tuple[MediaRef, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) in stored pixels, upright, of each."""
    durations: tuple[float | None, ...] = ()
    """Seconds of each clip; None for images."""

    @property
    def num_images(self) -> int:
        return sum(ref.kind == "image" for ref in self.refs)


def read_media(row: Row, rule: MediaRule, *, task: str, where: str) -> Media:
    """References to the row's images and videos, with size and duration from the files' headers.

    Raises SampleError for media that `task` does not take, a malformed entry, a size other than the row's `width` and
    `height`, or a clip outside its video; MediaError for a file that cannot be opened.
    """
    images = _entries(row, "images", rule.images, rule, where)
    videos = _entries(row, "videos", rule.videos, rule, where)
    _check_count("images", len(images), rule.images, task, where)
    _check_count("videos", len(videos), rule.videos, task, where)
    if len(images) + len(videos) < rule.least:
        raise SampleError(where, f"has neither `images` nor `videos`; {task} takes at least one of them")
    refs = [*(image_ref(image, where=where) for image in images), *(_video_ref(video, where) for video in videos)]
    sizes: list[tuple[int, int]] = []
    durations: list[float | None] = []
    for ref in refs:
        try:
            size, duration = (image_size(ref), None) if ref.kind == "image" else _probed(ref, where)
        except MediaError as error:
            raise MediaError(f"{where}: {error.where}", error.reason, medium=error.medium) from error
        sizes.append(size)
        durations.append(duration)
    _check_size(row, refs, sizes, where)
    return Media(refs=tuple(refs), sizes=tuple(sizes), durations=tuple(durations))


def video_refs(row: Row) -> list[MediaRef]:
    """References to the videos of `row` that are well formed; of the others `read_media` says what is wrong."""
    listed = row.get("videos")
    found: list[MediaRef] = []
    for video in listed if isinstance(listed, list | tuple) else ():
        with contextlib.suppress(SampleError):
            found.append(_video_ref(video, ""))
    return found


def _entries(row: Row, field: str, limits: tuple[int, int | None], rule: MediaRule, where: str) -> Sequence[Any]:
    given = row.get(field)
    if given is not None and (not isinstance(given, Sequence) or isinstance(given, str | bytes)):
        raise SampleError(where, f"`{field}` is {given!r:.200}; write a list, also for one {field[:-1]}")
    if limits == (0, 0):
        if given:
            use = "use a video task" if field == "videos" else "use an image task"
            raise SampleError(where, f"has `{field}`, which this task does not take; {use} or drop the column")
        return ()
    if given is None:
        other = "videos" if field == "images" else "images"
        if limits[0] > 0 or (rule.least > 0 and row.get(other) is None):
            raise missing_field(row, field, where)
        return ()
    return given


def _check_count(field: str, count: int, limits: tuple[int, int | None], task: str, where: str) -> None:
    least, most = limits
    if count >= least and (most is None or count <= most):
        return
    takes = "exactly one" if least == most == 1 else f"at least {least}" if count < least else f"at most {most}"
    raise SampleError(where, f"has {count} {field}; {task} takes {takes} per row")


def _check_size(row: Row, refs: Sequence[MediaRef], sizes: Sequence[tuple[int, int]], where: str) -> None:
    stated = (row.get("width"), row.get("height"))
    for name, pixels in zip(("width", "height"), stated, strict=True):
        if pixels is not None and (isinstance(pixels, bool) or not isinstance(pixels, int | float)):
            raise SampleError(where, f"`{name}` is {pixels!r:.200}; write a number of pixels, or drop it")
    if len(sizes) == 1 and None not in stated and stated != sizes[0] and stated == stored_size(refs[0], sizes[0]):
        raise SampleError(
            where,
            f"the annotation is for a {stated[0]}x{stated[1]} image, which {refs[0].name()} is before its EXIF "
            f"rotation ({sizes[0][0]}x{sizes[0][1]} upright); turn the boxes, or take out the file's tag (Images in "
            "docs/data.md says how)",
        )
    if len(sizes) == 1 and None not in stated and stated != sizes[0]:
        raise SampleError(
            where,
            f"the annotation is for a {stated[0]}x{stated[1]} {refs[0].kind}, but {refs[0].name()} is "
            f"{sizes[0][0]}x{sizes[0][1]} (upright); give the {refs[0].kind} that was annotated",
        )


def _video_ref(video: Any, where: str) -> MediaRef:
    if isinstance(video, str) and video:
        video = {"path": video}
    if not isinstance(video, Mapping):
        raise SampleError(
            where, f'video {video!r:.200} is neither a path nor {{"path"}}, {{"bytes"}} or {{"frames", "fps"}}'
        )
    # Parquet fills the keys that a row does not use with nulls.
    given = {key: value for key, value in video.items() if value is not None}
    if isinstance(given.get("bytes"), bytes):
        # A path beside them is the name that they had, as `datasets` keeps it.
        given.pop("path", None)
    for key in given:
        if key not in _VIDEO_KEYS:
            hint = nearest(str(key), list(_VIDEO_KEYS)) or f"; known: {', '.join(_VIDEO_KEYS)}"
            raise SampleError(where, f"a video has the unknown key {key!r}{hint}")
    sources = [key for key in ("path", "bytes", "frames") if key in given]
    if len(sources) != 1:
        raise SampleError(where, f"a video needs exactly one of path, bytes and frames, got {sources}; correct the row")
    frames = given.get("frames", ())
    if "frames" in given and not (frames and isinstance(frames, list | tuple) and all(_is_path(f) for f in frames)):
        raise SampleError(where, f"`frames` of a video is {frames!r:.200}; list the paths of its images, at least one")
    if "path" in given and not _is_path(given["path"]):
        raise SampleError(where, f"`path` of a video is {given['path']!r:.200}; write a path")
    if "bytes" in given and not isinstance(given["bytes"], bytes):
        raise SampleError(
            where,
            f"`bytes` of a video is a {type(given['bytes']).__name__}; give the encoded file, in JSON "
            "as the text data:video/mp4;base64,... in place of the path",
        )
    for path in [given["path"]] if "path" in given else frames:
        _refuse_address(path, where)
    times = {key: _seconds(given.get(key), key, where) for key in ("fps", "start", "end")}
    if times["end"] is not None and times["end"] <= (times["start"] or 0.0):
        raise SampleError(where, f"a video's clip ends at {times['end']:g} s, before it starts; correct start and end")
    return MediaRef(
        kind="video", path=given.get("path"), data=given.get("bytes"), frames=tuple(frames), fps=times["fps"] or None,
        start=times["start"], end=times["end"],
    )  # fmt: skip


def _is_path(path: Any) -> bool:
    return isinstance(path, str) and bool(path)


def _refuse_address(path: str, where: str) -> None:
    if "://" in path:
        raise SampleError(where, f"video {path!r} is an address; download it and give the path")


def _seconds(value: Any, key: str, where: str) -> float | None:
    if value is None:
        return None
    least = "above 0" if key == "fps" else "0 or more"
    if not is_finite(value) or value < 0 or (key == "fps" and value == 0):
        raise SampleError(where, f"`{key}` of a video is {value!r:.200}; write a number, {least}")
    return float(value)


def _probed(ref: MediaRef, where: str) -> tuple[tuple[int, int], float]:
    """((width, height), seconds of the clip) of a video."""
    from vlrft.data.video import clip_seconds, probe

    info = probe(ref)
    start, end = ref.start or 0.0, info.duration if ref.end is None else ref.end
    if start >= info.duration or end > info.duration + TIME_SLACK:
        raise SampleError(
            where,
            f"the clip {start:g} s to {end:g} s lies outside {ref.name()}, which lasts {info.duration:.2f} s; correct "
            "`start` and `end` of the video",
        )
    return info.size, clip_seconds(ref, info.duration)
