"""What was found out about videos, remembered: a video is looked into once, not by each stop that asks."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import tempfile
from collections import OrderedDict
from pathlib import Path

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.video.info import VideoInfo
from vlrft.data.video.source import encoded, identity
from vlrft.types import MediaRef

log = logging.getLogger(__name__)

VERSION = 1
"""Part of every key. To be raised when the same file would give another VideoInfo."""
MOST = 2**16
"""Videos that are remembered in memory."""

_known: OrderedDict[str, VideoInfo | tuple[float, int, str]] = OrderedDict()
"""By key: what it is, or (timeout_s, memory_mb, reason) of a video that could not be read within these limits."""


def info_key(ref: MediaRef) -> str:
    """The key of an encoded video as it is now. Raises MediaError when it is gone."""
    encoded(ref)
    return hashlib.sha256(json.dumps([VERSION, identity(ref)]).encode()).hexdigest()


def find_info(key: str, ref: MediaRef, config: VideoConfig) -> VideoInfo | None:
    """What is known of the video with this key. Raises MediaError when it could not be read within these limits."""
    found = _known.get(key)
    if found is None and config.cache_dir is not None:
        found = _load(_file_of(key, config.cache_dir))
        if found is not None:
            _remember(key, found)
    if isinstance(found, VideoInfo):
        return dataclasses.replace(found, name=ref.name())
    if found is not None and found[:2] == (config.timeout_s, config.memory_mb):
        raise MediaError(ref.name(), found[2])
    return None


def keep_info(key: str, ref: MediaRef, config: VideoConfig, found: VideoInfo | MediaError) -> None:
    """Remember `found`, unless the video has changed since `key` was taken; on disk too, where there is a folder."""
    try:
        changed = ref.data is None and info_key(ref) != key
    except MediaError:
        changed = True
    if changed:
        return
    if isinstance(found, MediaError):
        _remember(key, (config.timeout_s, config.memory_mb, found.reason))
        return
    _remember(key, found)
    if config.cache_dir is not None:
        try:
            _store(_file_of(key, config.cache_dir), found)
        except OSError as error:
            log.warning("data.video.cache_dir: what %s is cannot be kept (%s)", ref.name(), error)


def forget_infos() -> None:
    """Look into every video anew, but for what is on disk."""
    _known.clear()


def _remember(key: str, found: VideoInfo | tuple[float, int, str]) -> None:
    _known[key] = found
    while len(_known) > MOST:
        # Another thread may have taken the last one.
        with contextlib.suppress(KeyError):
            _known.popitem(last=False)


def _file_of(key: str, folder: str) -> Path:
    return Path(folder).expanduser() / f"{key}.info"


def _load(path: Path) -> VideoInfo | None:
    """None for what is missing or damaged."""
    try:
        held = json.loads(path.read_bytes())
        width, height = held["size"]
        info = VideoInfo(
            name="",
            size=(int(width), int(height)),
            num_frames=int(held["num_frames"]),
            fps=float(held["fps"]),
            duration=float(held["duration"]),
            rotation=int(held["rotation"]),
        )
        os.utime(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: cannot be read, the video is looked into anew (%r)", path, error)
        return None
    return info


def _store(path: Path, info: VideoInfo) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump({**dataclasses.asdict(info), "name": ""}, file)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
