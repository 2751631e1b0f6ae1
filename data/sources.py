"""Stop 1: the rows of one split, in whatever format, as checked Samples."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vlrft.config import DataConfig, SourceConfig
from vlrft.data.places import Place, Role, places, rows_at
from vlrft.data.problems import DataError, Quarantine, SampleError, Skipped, lost_rows, of_row
from vlrft.data.tables import check_rank, shard
from vlrft.data.tasks import build_task
from vlrft.data.tasks.base import Row, Task
from vlrft.data.tasks.media_fields import video_refs
from vlrft.data.tasks.targets import published_flags
from vlrft.data.video import probe_many, video_limits
from vlrft.registry import LoadError, MissingAttributeError, UnknownNameError
from vlrft.types import Sample

__all__ = ["Loaded", "Role", "load_samples", "size_of"]

log = logging.getLogger(__name__)

CHUNK = 64
"""Rows whose videos are looked into at a time, by all `data.video.workers`."""
_NO_TASK = (UnknownNameError, LoadError, MissingAttributeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came of a source."""

    samples: list[Sample]
    skipped: list[Skipped]
    """Bad rows (with `data.on_bad_sample="skip"`), rows that a rule of the recipe filtered, and rows of published files
    against which no answer can be judged."""
    problems: tuple[Exception, ...] = ()
    """With `collect`: what would have stopped a run, besides bad rows."""

    @property
    def rows(self) -> int:
        """The N of "n of N": samples, and rows that were lost. What the recipe filters is in neither."""
        return len(self.samples) + lost_rows(self.skipped)


def load_samples(
    data: DataConfig, source: SourceConfig, *, role: Role, collect: bool = False, rank: int = 0, world: int = 1
) -> Loaded:
    """The samples of `source`, checked as far as that goes without decoding pixels.

    Every image's header is read, every box checked against it. Nothing of a bad row gets through: it is a SampleError
    naming file, line and next step, or with `data.on_bad_sample="skip"` an entry of `skipped`. A row that its published
    file has so (`meta.flags`) that no answer can be judged is such an entry in either case. In a mixture the ids start
    with the source's name. Raises DataError for what is wrong with the source as a whole: files missing, options
    unknown, duplicate ids, no sample left.

    collect: raise nothing of this, but go on and list it all in `skipped` and `problems`.
    rank, world: only the share of one of `world` processes; every row goes to exactly one of them, in turn. All of them
    read all rows, so that ids are compared over the whole source; media are opened by the one that has the row. A share
    may be empty.
    """
    check_rank(rank, world)
    policy: Literal["error", "skip"] = "skip" if collect else data.on_bad_sample
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    problems: list[Exception] = []
    for place in places(data, source, role):
        reading = _Reading(place, policy=policy, collect=collect, rank=rank, world=world)
        try:
            with video_limits(data.video):
                reading.read()
        except (DataError, *_NO_TASK) as error:
            if not collect:
                raise
            problems.append(error)
        found = reading.found
        if place.prefix:
            found = [dataclasses.replace(sample, id=f"{place.prefix}/{sample.id}") for sample in found]
            log.info("%s: %d samples from %s", place.what, len(found), place.prefix)
        samples += found
        skipped += reading.skipped
    loaded = Loaded(samples=samples, skipped=skipped, problems=tuple(problems))
    log.info("data.%s: %s", role, size_of(loaded))
    return loaded


def size_of(loaded: Loaded) -> str:
    """Such as `8 samples of 10 rows; left out: 1 bad, 1 as published; 3 filtered by the recipe`."""
    counts: Counter[str] = Counter(item.kind for item in loaded.skipped if item.whole)
    said = f"{len(loaded.samples)} samples"
    if loaded.rows > len(loaded.samples):
        named = (("bad", "bad"), ("published", "as published"))
        lost = [f"{counts[kind]} {name}" for kind, name in named if counts[kind]]
        said += f" of {loaded.rows} rows; left out: {', '.join(lost)}"
    return said + (f"; {counts['rule']} filtered by the recipe" if counts["rule"] else "")


class _Reading:
    """One source on its way to samples."""

    def __init__(self, place: Place, *, policy: Literal["error", "skip"], collect: bool, rank: int, world: int) -> None:
        self.place = place
        self.collect = collect
        self.rank, self.world = rank, world
        self.found: list[Sample] = []
        self._of_files = Quarantine(policy=policy)
        """What the readers leave out: the same in every process."""
        self._own = Quarantine(policy=policy)
        """What this process finds in its rows."""
        self._before: list[int] = []
        """For each entry of `_own`: how many of `_of_files` stand before it."""
        self._taken: dict[str, str] = {}
        """Where each id stands."""

    @property
    def skipped(self) -> list[Skipped]:
        """What was left out, this process's share of it, in the order of the rows where it is alone."""
        if self.world > 1:
            return [*shard(self._of_files.skipped, self.rank, self.world), *self._own.skipped]
        merged, done = list[Skipped](), 0
        for item, before in zip(self._own.skipped, self._before, strict=True):
            merged += self._of_files.skipped[done:before]
            merged.append(item)
            done = before
        return merged + self._of_files.skipped[done:]

    def read(self) -> None:
        """Fill `found` and `skipped`. Raises DataError and SampleError, as `load_samples` says."""
        build_task(self.place.task)
        count = 0
        for where, row, before in self._rows():
            count += 1
            of_all = self._own if self.world == 1 else self._of_files
            free = row.get("id") is None or self._is_free(str(row["id"]), where, of_all)
            if free and (count - 1) % self.world == self.rank:
                self._add(row, where)
            self._before += [before] * (len(self._own.skipped) - len(self._before))
        if not self.found and (self.world == 1 or not count):
            skipped = self.skipped
            first = f"; first of {len(skipped)} skipped: {skipped[0]}" if skipped else ""
            raise DataError(f"{self.place.what} holds no usable sample{first}; check its path, split and classes")

    def _rows(self) -> Iterator[tuple[str, Row, int]]:
        """(where, row, entries of `_of_files` before it). The videos of a chunk are looked into side by side."""
        rows = itertools.islice(rows_at(self.place, self._of_files), self.place.source.limit)
        start, failed = 0, None
        while failed is None:
            chunk: list[tuple[str, Row, int]] = []
            try:
                for where, row in itertools.islice(rows, CHUNK):
                    chunk.append((where, row, len(self._of_files.skipped)))
            except (DataError, *_NO_TASK) as error:
                # What stands before the place where reading ends is told first.
                failed = error
            mine = (row for i, (_, row, _) in enumerate(chunk, start) if i % self.world == self.rank)
            probe_many([ref for row in mine for ref in video_refs(row)])
            yield from chunk
            start += len(chunk)
            if len(chunk) < CHUNK:
                break
        if failed is not None:
            raise failed

    def _is_free(self, name: str, where: str, quarantine: Quarantine) -> bool:
        """Take the id `name` for the row at `where`. Raises DataError where a row before has it: seeds go by ids."""
        if name not in self._taken:
            self._taken[name] = where
            return True
        reason = f"id {name!r} is taken already by {self._taken[name]}; give every row its own id"
        if not self.collect:
            raise DataError(f"{where}: {reason}")
        quarantine.skipped.append(Skipped(where=where, reason=reason, stops=True))
        return False

    def _add(self, row: Row, where: str) -> None:
        try:
            with of_row(where):
                sample = _task_of(row, self.place.task, where).to_sample(row, where=where)
        except SampleError as error:
            flags = published_flags(row)
            if flags and error.medium is None:
                # Nobody is to correct it: the reason without what to do about it.
                refused = error.reason.partition("; ")[0]
                self._own.published(where, f"{'; '.join(flags)}; no answer can be judged: {refused}")
            else:
                self._own.bad(error)
            return
        # A task of the user's own may name its samples otherwise than their rows.
        if sample.id == str(row.get("id")) or self._is_free(sample.id, where, self._own):
            self.found.append(sample)


def _task_of(row: Row, default: str, where: str) -> Task:
    """The task that the row states, else `default`. Raises SampleError."""
    stated = row.get("task", default)
    if not isinstance(stated, str):
        raise SampleError(where, f"`task` is {stated!r:.100}; write the name of a task")
    try:
        return build_task(stated)
    except _NO_TASK as error:
        raise SampleError(where, str(error)) from error
