"""The quarantine file: media that could not be read, one JSON object a line, for whoever repairs the data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

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
        clip = read_clip(ref, times, size, config)
    except MediaError as error:
        quarantine.add(error, sample=sample.id, decoder=config.decoder)
    """

    def __init__(self, path: str | Path) -> None:
        """The file is made with the first entry; entries of an earlier run count."""
        self.path = Path(path)

    def add(self, error: SampleError, *, sample: str, decoder: str | None = None) -> bool:
        """Note `error`, which names the medium and the reason. False when it was there already."""
        entry = BadMedia(media=error.where, sample=sample, reason=error.reason, decoder=decoder)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            _lock(file.fileno())
            file.seek(0)
            content = _finished(file.read())
            if (entry.media, decoder) in {(bad.media, bad.decoder) for bad in self._parse(content)}:
                return False
            file.truncate(len(content))
            file.write(json.dumps(entry._asdict(), ensure_ascii=False).encode() + b"\n")
        return True

    def entries(self) -> list[BadMedia]:
        """Everything in the file, oldest first; [] without a file. Raises DataError for a line of another kind."""
        return self._parse(_finished(self.path.read_bytes())) if self.path.exists() else []

    def _parse(self, content: bytes) -> list[BadMedia]:
        entries = []
        for number, line in enumerate(content.splitlines(), start=1):
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
