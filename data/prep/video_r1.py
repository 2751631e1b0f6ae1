"""Video-R1 and VideoRFT: questions of five types about a video or an image (Feng et al., 2025; Wang et al., 2025).

Published as a JSON list (from documentation): `problem_id`, `problem`, `data_type` (`video` or `image`),
`problem_type` (`multiple choice`, `numerical`, `OCR`, `free-form`, `regression`), `options` (list of `A. text`, [] for
the other types; VideoRFT has them in `problem`), `solution` (`<answer>B</answer>`), `path` (of the medium, relative to
`images`), `data_source`. The files for SFT also have `process`, the reasoning with its tags, or all in `solution`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vlrft.data.layouts.columns import QUESTION_TYPES
from vlrft.data.prep.source_rows import (
    Made,
    Rows,
    Unasked,
    converted,
    media_folder,
    prompt_of,
    row_stream,
    text_of,
    truth_of,
)
from vlrft.data.problems import Quarantine, SampleError
from vlrft.parse.choices import LETTERS
from vlrft.parse.numbers import read_number

_USED = ("problem", "data_type", "problem_type", "options", "solution", "path", "process", "problem_id")
_THINK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, data_source: str | None = None
) -> Rows:
    """(where, row of video_qa), with `meta.question_type`, `meta.options`, `meta.think` and the columns left over.

    data_source: only rows whose `data_source` starts so. Left out: others; a numerical or regression row whose answer
    is no number, a choice whose answer is no letter of its options (such answers earn nothing by Video-R1's own
    rewards); rows of an unknown type or without medium, question or answer.
    """
    folder = media_folder(path, images)

    def convert(columns: dict[str, Any], where: str) -> Made:
        if data_source is not None and not str(columns.get("data_source", "")).startswith(data_source):
            return None, Unasked([f"data_source is {columns.get('data_source')!r}, not {data_source!r}"])
        stated = text_of(columns, ("problem_type",), where)
        kind = QUESTION_TYPES.get(stated.lower())
        if kind is None:
            raise SampleError(where, f"problem_type is {stated!r}; known: {', '.join(QUESTION_TYPES)}")
        answer, think = truth_of(columns, ("solution",), where)
        options = columns.get("options") or []
        reason = _unusable(answer, kind, options)
        if reason:
            return None, [reason]
        medium = text_of(columns, ("data_type",), where)
        if medium not in ("image", "video"):
            raise SampleError(where, f"data_type is {medium!r}; known: image, video")
        process = _THINK.fullmatch(columns.get("process") or "")
        meta = {name: value for name, value in columns.items() if name not in _USED}
        meta |= {"question_type": kind, **({"options": list(options)} if options else {})}
        meta |= {"think": process.group(1).strip()} if process else think
        row = {
            "prompt": prompt_of(text_of(columns, ("problem",), where), medium, where),
            f"{medium}s": [str(folder / text_of(columns, ("path",), where))],
            "answer": answer.strip("().").upper() if kind == "choice" else answer,
            "task": "video_qa",
            "meta": meta,
        }
        return {"id": str(columns["problem_id"]), **row} if "problem_id" in columns else row, []

    stream = row_stream(path, split, ("Video-R1-260k.json", "Video-R1-COT-165k.json", "{split}.json"))
    return converted(stream, convert, quarantine=quarantine)


def _unusable(answer: str, kind: str, options: list[str]) -> str:
    """Why no completion could be right; empty where one can."""
    if kind == "choice":
        letters = LETTERS[: len(options)] if options else LETTERS
        letter = answer.strip("().").upper()
        return "" if len(letter) == 1 and letter in letters else f"the answer {answer!r:.100} is no option's letter"
    if kind in ("numeric", "regression"):
        reading = read_number(answer)
        return "" if reading.value is not None and reading.whole else f"the answer {answer!r:.100} is not a number"
    return ""
