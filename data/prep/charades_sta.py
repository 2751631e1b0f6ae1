"""Charades-STA: sentences with their spans in Charades videos (Gao et al., 2017), for temporal grounding.

Published as `charades_sta_train.txt` and `charades_sta_test.txt`, one line `VIDEO start end##sentence` with the span in
seconds, to one decimal (from documentation), and by VideoChat-R1 as JSON
`{video: {"duration", "timestamps": [[start, end], ...], "sentences": [...]}}` in seconds (seen). Videos are
`<video>.mp4` in the folder of `images`.

The text form states no duration; the Charades CSV (`Charades_v1_test.csv`, columns `id` and `length` in seconds) does.
562 of the 3,720 test spans end after the stated duration, since annotators were shown rounded times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vlrft.data.prep.moments import (
    Moment,
    MomentRule,
    Seconds,
    moment_rows,
    read_durations,
    read_moments_json,
    slack_of,
)
from vlrft.data.prep.source_rows import Rows, annotation_file, media_folder
from vlrft.data.problems import DataError, Quarantine, SampleError

_NAMES = ("charades_sta_{split}.txt", "charades_sta_{split}.json", "charades_sta.json")
_LINE = re.compile(r"\s*(\S+)\s+(-?\d+(?:\.\d+)?)\s+(-?\d+(?:\.\d+)?)\s*##(.*)")


def rows(
    path: Path,
    *,
    split: str | None,
    images: Path | None,
    quarantine: Quarantine,
    durations: str | None = None,
    slack: Seconds | None = None,
    keep_published: bool = False,
) -> Rows:
    """(where, row of temporal_grounding) for each sentence; `meta.duration` where it is stated.

    durations: file with the durations for the text form (the Charades CSV or JSON), relative to the annotations; None =
    the task takes them from the videos. slack: seconds by which a span may pass the stated duration; None = 0.5, as
    tasks let pass, and with `keep_published` 0. Left out: spans that end later than that, start after the video or end
    before they start (with `keep_published` they are kept and flagged; where the duration is unknown that is a flag
    too), and lines that cannot be read.
    """
    file = annotation_file(path, split, _NAMES)
    if file.suffix == ".json":
        if durations is not None:
            raise DataError(f"durations is for the text form; {file} states the durations itself: take the option out")
        found, seconds = read_moments_json(file, quarantine)
        moments = iter(found)
    else:
        moments = _lines(file, quarantine)
        seconds = read_durations(file.parent / durations) if durations is not None else {}
    rule = MomentRule(
        folder=media_folder(path, images), durations=seconds, slack=slack_of(slack, keep_published),
        keep_published=keep_published,
    )  # fmt: skip
    for where, row in moment_rows(moments, rule, quarantine):
        if keep_published and "duration" not in row["meta"]:
            # The video's own length decides then, and must not drop a row of the benchmark.
            row["meta"].setdefault("flags", []).append("no duration is stated")
        yield where, row


def _lines(file: Path, quarantine: Quarantine) -> Iterator[Moment]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error}); fetch it again") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        match = _LINE.fullmatch(line)
        if match is None:
            quarantine.bad(SampleError(where, f"{line[:100]!r} is not VIDEO start end##sentence; correct the line"))
        else:
            video, start, end, sentence = match.groups()
            yield Moment(where=where, video=video, start=float(start), end=float(end), sentence=sentence)
