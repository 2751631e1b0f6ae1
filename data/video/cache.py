"""Decoded clips on disk. Any number of processes may share the folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vlrft.data.images import MediaError
from vlrft.data.video.clips import ClipRequest, clip_digest
from vlrft.data.video.source import identity
from vlrft.types import Clip

log = logging.getLogger(__name__)

VERSION = 2
"""Part of every key. To be raised when the same request would give other frames."""
_SLACK = 64
"""The folder is looked through each time that a process has written 1 / _SLACK of the capacity."""
_ABANDONED_S = 3600.0
"""A file of this age that is still being written belongs to a process that was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a clip is kept, or would be."""

    request: ClipRequest
    decoder: str
    path: Path


class ClipCache:
    """Clips by what they were made from: the file's path, size and time of change (or its bytes), times, size, decoder.

    An entry is written beside its place and renamed, so that no process sees half of it. One that is damaged, which its
    digest tells, is removed and counts as missing. The least recently used entries go when the folder exceeds
    `capacity`; it may do so by a 64th per process.
    """

    def __init__(self, folder: str | Path, *, capacity: int) -> None:
        """capacity: bytes."""
        self.folder = Path(folder).expanduser()
        self.capacity = capacity
        self._unseen = capacity
        """Bytes written since the folder was looked through last."""

    def entry(self, request: ClipRequest, decoder: str) -> Entry:
        """The place of a clip by what its video is now: taken before decoding, so that a file that is replaced
        meanwhile is not kept as the new one. Raises MediaError when the video is gone."""
        ref = request.ref
        shown = [ref.fps, ref.start, ref.end, request.times, request.size]
        made_of = [VERSION, decoder, bool(ref.frames), identity(ref), *shown]
        name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        return Entry(request=request, decoder=decoder, path=self.folder / f"{name}.clip")

    def load(self, entry: Entry) -> Clip | None:
        """The clip, or None; a disk that refuses is logged and counts as missing."""
        try:
            with entry.path.open("rb") as file:
                clip = _read(file, entry.request)
            if clip is not None:
                # Its time of change is its time of use.
                os.utime(entry.path)
                return clip
            log.warning("%s: damaged, decoded anew", entry.path)
            entry.path.unlink(missing_ok=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("data.video.cache_dir: a clip cannot be read, decoded anew (%s)", error)
        return None

    def store(self, entry: Entry, clip: Clip) -> None:
        """Keep `clip`, unless it alone exceeds the capacity, or its video has changed since `entry` was taken. A disk
        that refuses is logged: the clip is at hand."""
        size = int(clip.frames.nbytes)
        if size > self.capacity:
            return
        try:
            if self.entry(entry.request, entry.decoder).path != entry.path:
                log.warning("%s: changed while it was decoded; this clip is not kept", entry.request.ref.name())
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(entry.path, clip)
            self._unseen += size
            if self._unseen * _SLACK >= self.capacity:
                self._unseen = 0
                self._remove_least_used()
        except MediaError as error:
            log.warning("%s; this clip is not kept", error)
        except OSError as error:
            log.warning("data.video.cache_dir: a clip cannot be kept (%s)", error)

    def _remove_least_used(self) -> None:
        entries = []
        with os.scandir(self.folder) as files:
            for file in files:
                # Another process may remove it meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    status = file.stat()
                    if file.name.endswith((".clip", ".info")):
                        entries.append((status.st_mtime_ns, status.st_size, file.path))
                    elif file.name.endswith(".part") and time.time() - status.st_mtime > _ABANDONED_S:
                        Path(file.path).unlink(missing_ok=True)
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.capacity:
                return
            Path(path).unlink(missing_ok=True)
            total -= size


def _write(path: Path, clip: Clip) -> None:
    """One line of JSON, then the bytes of the frames."""
    import numpy as np

    header = {
        "timestamps": clip.timestamps,
        "fps": clip.fps,
        "duration": clip.duration,
        "stored_size": clip.stored_size,
        "digest": clip.digest,
    }
    descriptor, part = tempfile.mkstemp(suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            file.write(np.ascontiguousarray(clip.frames).data)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _read(file: BinaryIO, request: ClipRequest) -> Clip | None:
    """None when the file does not hold what its name promises."""
    import numpy as np

    frames = np.empty(request.shape, np.uint8)
    try:
        header = json.loads(file.readline(2**20 * 16))
        if file.readinto(frames.data) != frames.nbytes or file.read(1):  # type: ignore[attr-defined]
            return None
        clip = Clip(
            frames=frames,
            timestamps=tuple(map(float, header["timestamps"])),
            fps=float(header["fps"]),
            duration=float(header["duration"]),
            stored_size=(int(header["stored_size"][0]), int(header["stored_size"][1])),
            digest=str(header["digest"]),
        )
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return clip if clip_digest(frames, clip.timestamps) == clip.digest else None
