"""NExT-GQA: multiple choice about videos with the spans that show the answer (Xiao et al., 2024).

Two layouts. VideoChat-R1's JSON list (seen): `id`, `video` (path), `question`, `options` as `(A) text`, `duration` (s,
whole), `glue` (`[[start, end], ...]`, s), `type`, `answer` as `(C)`. The published files (from documentation):
`<split>.csv` with `video_id, question, answer, qid, type, a0 ... a4`, where `answer` is the text of the right option
(NExT-QA's own files: its number from 0), `gsub_<split>.json` `{video_id: {"duration", "location": {qid: [[start,
end], ...]}, "fps"}}` in seconds, and `map_vid_vidorID.json` `{video_id: "folder/video"}`. `train.csv` has no spans.

Not read: `frame_count`, `width`, `height`, `fps`, which describe the original videos.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrft.data.prep.moments import Seconds, is_number, span_oddities
from vlrft.data.prep.source_rows import (
    Made,
    Rows,
    annotation_file,
    converted,
    letter_of,
    media_folder,
    text_of,
    video_file,
)
from vlrft.data.problems import DataError, Quarantine, SampleError
from vlrft.data.tables import RowStream, load_json
from vlrft.data.tasks.media_fields import TIME_SLACK
from vlrft.parse.choices import LETTERS

_OPTION = re.compile(r"\(([A-Z])\)\s*(.*)", re.DOTALL)
_CHOICES = ("a0", "a1", "a2", "a3", "a4")


def rows(
    path: Path,
    *,
    split: str | None,
    images: Path | None,
    quarantine: Quarantine,
    slack: Seconds = TIME_SLACK,
    keep_published: bool = False,
) -> Rows:
    """(where, row of grounded_video_qa): the letter, `meta.options`, `meta.spans`, `meta.duration`, `meta.type`.

    slack: seconds by which a span may pass the stated duration, which is rounded to whole seconds. Left out: rows with
    a span that ends later, is empty or reversed, or with two options that read like the answer (with `keep_published`
    kept and flagged), and rows without spans or options, or whose answer is no option.
    """
    file = annotation_file(path, split, ("{split}.csv", "nextgqa_{split}.json", "nextgqa.json"))
    folder = media_folder(path, images)
    published = _Published(file) if file.suffix == ".csv" else None

    def convert(columns: dict[str, Any], where: str) -> Made:
        if published is not None:
            return published.row(columns, folder, slack, where)
        options, answer = _lettered(columns, where)
        video = str(folder / text_of(columns, ("video",), where))
        made = _row(columns, video, answer, options, columns.get("glue"), columns.get("duration"), slack, where)
        return {"id": str(columns["id"]), **made[0]} if "id" in columns else made[0], made[1]

    return converted(RowStream(file), convert, quarantine=quarantine, keep_published=keep_published)


class _Published:
    """The files that stand beside a published CSV."""

    def __init__(self, file: Path) -> None:
        spans = file.with_name(f"gsub_{file.stem}.json")
        if not spans.is_file():
            raise DataError(f"{file} needs {spans.name} beside it for the spans; train.csv has none and cannot be used")
        self.spans = load_json(spans)
        names = file.with_name("map_vid_vidorID.json")
        self.names = load_json(names) if names.is_file() else {}
        for found, what in ((self.spans, spans), (self.names, names)):
            if not isinstance(found, Mapping):
                raise DataError(f"{what} is not a JSON object by video; fetch it again")

    def row(self, columns: dict[str, Any], folder: Path, slack: float, where: str) -> Made:
        video, qid = text_of(columns, ("video_id",), where), text_of(columns, ("qid",), where)
        entry = self.spans.get(video)
        spans = entry.get("location", {}).get(qid) if isinstance(entry, Mapping) else None
        if spans is None:
            return None, ["no span is given for the question"]
        options = [text_of(columns, (name,), where) for name in _CHOICES]
        letter, odd = _letter(text_of(columns, ("answer",), where), options, where)
        file = video_file(folder, str(self.names.get(video, video)))
        made, more = _row(columns, file, letter, options, spans, entry.get("duration"), slack, where)
        return {"id": f"{video}_{qid}", **made}, [*odd, *more]


def _row(
    columns: Mapping[str, Any],
    video: str,
    letter: str,
    options: list[str],
    spans: Any,
    duration: Any,
    slack: float,
    where: str,
) -> tuple[dict[str, Any], list[str]]:
    if not is_number(duration) or not duration > 0:
        raise SampleError(where, f"duration is {duration!r:.100}, not seconds above 0; correct the row")
    if not isinstance(spans, list) or not spans or not all(_is_span(span) for span in spans):
        raise SampleError(where, f"the spans {spans!r:.200} are not a list of [start, end] in seconds; correct the row")
    odd = [note for span in spans for note in span_oddities((span[0], span[1]), duration, slack=slack)]
    odd += [f"span {span} has no length" for span in spans if span[0] == span[1]]
    row = {
        "prompt": text_of(columns, ("question",), where),
        "videos": [video],
        "answer": letter,
        "task": "grounded_video_qa",
        "meta": {"options": options, "spans": spans, "duration": duration, "type": columns.get("type")},
    }
    return row, odd


def _lettered(columns: Mapping[str, Any], where: str) -> tuple[list[str], str]:
    """(texts of the options, letter) of options `(A) text` and an answer `(C)`."""
    given = columns.get("options")
    found = [_OPTION.fullmatch(str(option).strip()) for option in given] if isinstance(given, list) else []
    letters = [match.group(1) for match in found if match]
    if len(letters) < 2 or letters != list(LETTERS[: len(found)]):
        raise SampleError(where, f"options {given!r:.200} are not a list of (A) ..., (B) ...; correct the row")
    answer = text_of(columns, ("answer",), where).strip("()")
    if answer not in letters:
        raise SampleError(where, f"the answer {answer!r:.100} is none of the letters {', '.join(letters)}")
    return [match.group(2).strip() for match in found if match], answer


def _letter(answer: str, options: list[str], where: str) -> tuple[str, list[str]]:
    number = int(answer) if answer.isdecimal() and int(answer) < len(options) else None
    if number is None:
        return letter_of(answer, options, where)
    if answer in options and options.index(answer) != number:
        raise SampleError(where, f"the answer {answer!r} may be the number or the text of an option; write its text")
    return LETTERS[number], []


def _is_span(span: Any) -> bool:
    return isinstance(span, list) and len(span) == 2 and all(map(is_number, span))
