"""The quarantine file: media that could not be read, one JSON object a line, for whoever repairs the data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, NamedTuple

from vlrft.data.problems import DataError, SampleError


class BadMedia(NamedTuple):
    """One line of the file."""

    media: str
    """The file, as the error message calls it."""
    sample: str
    """Id of the sample in which it was met first."""
    reason: str
    decoder: str | None
    """`data.video.decoder`; None for images."""


class QuarantineFile:
    """Appends bad media to a JSONL file, each once: by medium and decoder, also over runs and over processes.

    quarantine = QuarantineFile(run_folder / "quarantine.jsonl")
    try:
        clip = submit_clip(ref, times, size, config).result()
    except MediaError as error:
        quarantine.add(error, sample=sample.id, decoder=config.decoder)
    """

    def __init__(self, path: str | Path) -> None:
        """The file is made with the first entry; entries of an earlier run count."""
        self.path = Path(path)
        self._known: set[tuple[str, str | None]] = set()
        """(medium, decoder) of what has been read of the file."""
        self._read = (0, 0, 0)
        """How far: inode of the file, bytes, lines."""

    def add(self, error: SampleError, *, sample: str, decoder: str | None = None) -> bool:
        """Note `error`, which names the medium and the reason. False when it was there already."""
        entry = BadMedia(media=error.where, sample=sample, reason=error.reason, decoder=decoder)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            _lock(file.fileno())
            end = self._catch_up(file)
            if (entry.media, decoder) in self._known:
                return False
            file.truncate(end)
            file.write(json.dumps(entry._asdict(), ensure_ascii=False).encode() + b"\n")
        return True

    def entries(self) -> list[BadMedia]:
        """Everything in the file, oldest first; [] without a file. Raises DataError for a line of another kind."""
        return self._parse(_finished(self.path.read_bytes()), 0) if self.path.exists() else []

    def _catch_up(self, file: IO[bytes]) -> int:
        """Read what was added since the last time, by others too; returns where the last whole line ends."""
        status = os.fstat(file.fileno())
        inode, done, lines = self._read
        if status.st_ino != inode or status.st_size < done:
            # Another file in its place, or a part of it: all is read anew.
            self._known, done, lines = set(), 0, 0
        file.seek(done)
        content = _finished(file.read())
        added = self._parse(content, lines)
        self._known |= {(bad.media, bad.decoder) for bad in added}
        self._read = (status.st_ino, done + len(content), lines + len(added))
        return done + len(content)

    def _parse(self, content: bytes, before: int) -> list[BadMedia]:
        """before: lines of the file in front of `content`."""
        entries = []
        for number, line in enumerate(content.splitlines(), start=before + 1):
            try:
                row = json.loads(line)
                entries.append(BadMedia(row["media"], row["sample"], row["reason"], row["decoder"]))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self.path}:{number} is no entry of a quarantine file ({error!r}); move the file away"
                ) from error
        return entries


def _finished(content: bytes) -> bytes:
    """Without a last line that a killed run, or a full disk, has cut."""
    return content[: content.rfind(b"\n") + 1]


def _lock(descriptor: int) -> None:
    """Until the file is closed, other processes wait here. Where there is no flock, they do not."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
