"""Moments of videos told by sentences: rows for temporal grounding, and what can be odd about a span."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vlrft.data.boxes import is_finite
from vlrft.data.prep.published import admitted
from vlrft.data.prep.source_rows import Rows, video_file
from vlrft.data.problems import DataError, Quarantine, SampleError, of_row
from vlrft.data.tables import load_json
from vlrft.data.tasks.media_fields import TIME_SLACK

Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
"""Type of an option that is a length of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One sentence with its span, as the file states them."""

    where: str
    video: str
    """Id of the video."""
    start: float
    end: float
    """Seconds from the start of the video."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentRule:
    """What the readers of moments are told."""

    folder: Path
    """Of the videos."""
    durations: Mapping[str, float]
    """Seconds by video; a video that is not in it has no stated duration."""
    slack: float
    """Seconds by which a span may pass the stated duration without being odd."""
    keep_published: bool


def slack_of(stated: float | None, keep_published: bool) -> float:
    """Seconds by which a span may pass the stated duration: as stated, else what tasks let pass (TIME_SLACK).

    A benchmark, which loses no row by it, flags every such span.
    """
    if stated is not None:
        return stated
    return 0.0 if keep_published else TIME_SLACK


def span_oddities(span: tuple[float, float], duration: float | None, *, slack: float) -> list[str]:
    """What is odd about `span`, in seconds, of a video that lasts `duration` s (None = not stated)."""
    start, end = span
    odd = []
    if end < start:
        odd.append(f"span [{start:g}, {end:g}] ends before it starts")
    if start < 0:
        odd.append(f"span [{start:g}, {end:g}] starts before the video")
    if duration is not None and start >= duration:
        odd.append(f"span [{start:g}, {end:g}] starts after the stated duration of {duration:g} s")
    elif duration is not None and end > duration + slack:
        past = f" by more than the option slack allows, {slack:g} s" if slack else ""
        odd.append(f"span [{start:g}, {end:g}] ends after the stated duration of {duration:g} s{past}")
    return odd


def moment_rows(moments: Iterable[Moment], rule: MomentRule, quarantine: Quarantine) -> Rows:
    """(where, native row of temporal_grounding), with ids `<video>-<n>`, n counting the sentences of a video from 1.

    The sentence is the prompt, as published but for white space around it.
    """
    seen: Counter[str] = Counter()
    for moment in moments:
        seen[moment.video] += 1
        duration = rule.durations.get(moment.video)
        row: dict[str, Any] = {
            "id": f"{moment.video}-{seen[moment.video]}",
            "prompt": moment.sentence.strip(),
            "videos": [video_file(rule.folder, moment.video)],
            "answer": [moment.start, moment.end],
            "task": "temporal_grounding",
            "meta": {"video": moment.video, **({} if duration is None else {"duration": duration})},
        }
        odd = span_oddities((moment.start, moment.end), duration, slack=rule.slack)
        if not row["prompt"]:
            quarantine.published(moment.where, "the sentence is empty")
            continue
        kept = admitted(row, odd, where=moment.where, keep_published=rule.keep_published, quarantine=quarantine)
        if kept is not None:
            yield moment.where, kept


def read_moments_json(file: Path, quarantine: Quarantine) -> tuple[list[Moment], dict[str, float]]:
    """(moments, seconds by video) of `{video: {"duration", "timestamps": [[start, end], ...], "sentences": [...]}}`.

    An entry that is malformed goes to `quarantine`. Raises DataError when the file is not in this layout.
    """
    content = load_json(file)
    if not isinstance(content, Mapping) or not all(isinstance(entry, Mapping) for entry in content.values()):
        raise DataError(f"{file} is not an object of videos with duration, timestamps and sentences; check the form")
    moments: list[Moment] = []
    durations: dict[str, float] = {}
    for video, entry in content.items():
        try:
            with of_row(f"{file}: {video}"):
                found = list(_moments_of(video, entry, f"{file}: {video}"))
        except SampleError as error:
            quarantine.bad(error)
            continue
        moments += found
        durations[video] = float(entry["duration"])
    return moments, durations


def read_durations(file: Path) -> dict[str, float]:
    """Seconds by video: a CSV file with columns `id` and `length`, as Charades has, or JSON `{video: seconds}`.

    Values of the JSON file may be objects with `duration`. Raises DataError.
    """
    if not file.is_file():
        raise DataError(f"durations: no file {file}; give the Charades CSV or a JSON object of seconds by video")
    found: dict[str, float] = {}
    for video, value in _stated_durations(file):
        try:
            found[video] = float(value["duration"] if isinstance(value, Mapping) else value)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{file}: the duration of {video} is {value!r:.100}, not seconds; correct it") from error
    return found


def _stated_durations(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".json":
        content = load_json(file)
        if not isinstance(content, Mapping):
            raise DataError(f"{file} is not a JSON object of seconds by video; correct it")
        yield from content.items()
        return
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text)
        if not {"id", "length"} <= set(rows.fieldnames or ()):
            raise DataError(f"{file} lacks the columns id and length of Charades; give that CSV, or JSON")
        for row in rows:
            yield row["id"], row["length"]


def _moments_of(video: str, entry: Mapping[str, Any], where: str) -> Iterator[Moment]:
    spans, sentences = entry.get("timestamps"), entry.get("sentences")
    if not is_number(entry.get("duration")) or not entry["duration"] > 0:
        raise SampleError(where, f"duration is {entry.get('duration')!r:.100}, not seconds above 0; correct the file")
    if not isinstance(spans, list) or not isinstance(sentences, list) or len(spans) != len(sentences):
        raise SampleError(where, "timestamps and sentences are not two lists of the same length; correct the file")
    for number, (span, sentence) in enumerate(zip(spans, sentences, strict=True), start=1):
        here = f"{where} sentence {number}"
        if not isinstance(span, list) or len(span) != 2 or not all(map(is_number, span)):
            raise SampleError(here, f"timestamp {span!r:.100} is not [start, end] in seconds; correct the file")
        if not isinstance(sentence, str):
            raise SampleError(here, f"sentence {sentence!r:.100} is not text; correct the file")
        yield Moment(where=here, video=video, start=float(span[0]), end=float(span[1]), sentence=sentence)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number and no truth value."""
    return is_finite(value)
