"""A reference to a video, opened by PyAV."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vlrft.data.images import MediaError
from vlrft.data.problems import DataError
from vlrft.types import MediaRef

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_PLACE = re.compile(r"\[\d+:\d+:\d+\] |(?:\w+, )?\S*/\S+\.(?:cc|cpp|h):\d+[:,]? *")
"""Clock and line of a library's source at the head of its messages."""

FRAME_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""Files that count as frames in a folder of frames."""


def frame_files(ref: MediaRef) -> tuple[str, ...]:
    """Paths of the frames of a video that is published as images: `frames`, or the folder's files by name; else ()."""
    if ref.frames:
        return ref.frames
    if ref.path is not None and os.path.isdir(ref.path):
        files = sorted(p for p in Path(ref.path).iterdir() if p.suffix.lower() in FRAME_SUFFIXES)
        if not files:
            raise MediaError(ref.path, f"is a folder without frames ({', '.join(FRAME_SUFFIXES)}); correct the row")
        return tuple(map(str, files))
    return ()


def encoded(ref: MediaRef) -> str | bytes:
    """Path or bytes of an encoded video. Raises MediaError when the reference holds neither or both, or no file."""
    name = ref.name()
    if ref.kind != "video":
        raise MediaError(name, f"is an {ref.kind}, and a video is needed here; correct the row")
    if (ref.path is None) == (ref.data is None):
        raise MediaError(name, "has to have either a path or encoded bytes; correct the row")
    if ref.data is not None:
        return ref.data
    assert ref.path is not None
    if not os.path.isfile(ref.path):
        raise MediaError(name, "no such file; check data.root, the source's `images` folder and the row")
    if not os.access(ref.path, os.R_OK):
        raise MediaError(name, "cannot be opened (Permission denied); check its permissions")
    return ref.path


def identity(ref: MediaRef) -> list[Any]:
    """What tells a video from others, and from itself when it has been changed: path, size and time of change of its
    file (of each file of frames), or the digest of its bytes. Raises MediaError when it is gone."""
    if ref.data is not None:
        return [hashlib.sha256(ref.data).hexdigest()]
    found = []
    for path in frame_files(ref) or (ref.path,):
        assert path is not None, "a reference without bytes and frames has a path"
        try:
            status = os.stat(path)
        except OSError as error:
            raise MediaError(path, f"cannot be opened ({error.strerror}); check data.root and the row") from error
        found.append((os.path.abspath(path), status.st_size, status.st_mtime_ns))
    return found


def readable(ref: MediaRef) -> BinaryIO:
    """The encoded video as an open file."""
    source = encoded(ref)
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


@contextmanager
def opened(ref: MediaRef) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first moving picture; whatever FFmpeg raises inside the block becomes a MediaError."""
    av = import_av()
    source = encoded(ref)
    name = ref.name()
    try:
        # Broken tags are no reason to refuse a video.
        file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
        with av.open(file, metadata_errors="replace") as container:
            yield container, _video_stream(container, name)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise damaged(name, error) from error


def damaged(name: str, error: Exception) -> MediaError:
    """What is said of a video that a decoder refuses."""
    said = getattr(error, "strerror", None) or _PLACE.sub("", str(error))
    return MediaError(
        name, f"is damaged or no video ({' '.join(said.split())[:200]}); fetch it again, convert it or drop the row"
    )


def import_av() -> Any:
    """The PyAV module. Raises DataError with the next step when it is missing."""
    try:
        import av
    except ImportError as error:
        raise DataError("videos are read with PyAV, which is not installed; run: pip install 'vlrft[video]'") from error
    return av


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    for stream in container.streams.video:
        # A cover picture is a video stream too.
        if not int(stream.disposition) & _ATTACHED_PICTURE:
            return stream
    raise MediaError(name, "holds no moving picture (sound only?); give the video or drop the row")


_ATTACHED_PICTURE = 0x0400
"""FFmpeg's AV_DISPOSITION_ATTACHED_PIC."""
