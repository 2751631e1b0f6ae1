"""Counting in rendered scenes: CLEVR-Math (Lindstrom and Abraham, 2022) and the SuperCLEVR questions of R1-V.

One reader for the layouts in which they are published. R1-V's test file (seen): `image_path`, `question`,
`ground_truth` (whole number). CLEVR-Math (from documentation): `template`, `id`, `question`, `image`, `label` (whole
number) in the tables of hubs, and the authors' JSON `{"questions": [{"question", "image_filename", "answer",
"template_filename", ...}]}`. Reason-RFT and R1-V training (from documentation): `image`, `problem`, `solution`
(`<answer> 3 </answer>`) or `answer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlrft.data.layouts.columns import unwrap
from vlrft.data.prep.source_rows import (
    Made,
    Rows,
    Unasked,
    converted,
    media_folder,
    picture_of,
    prompt_of,
    row_stream,
    text_of,
)
from vlrft.data.problems import Quarantine, SampleError
from vlrft.parse.numbers import read_number

_PICTURES = ("image_path", "image", "image_filename", "images")
_TRUTHS = ("ground_truth", "label", "solution", "answer")
_NAMES = ("clevr-math-{split}.json", "{split}.json", "{split}.jsonl")


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, template: str | None = None
) -> Rows:
    """(where, row of counting), with `meta.template` where the file states it.

    template: only questions of this template of CLEVR-Math, such as `subtraction`. Left out: others, and rows without
    question, picture or a whole number as answer.
    """
    folder = media_folder(path, images)

    def convert(columns: dict[str, Any], where: str) -> Made:
        of = columns.get("template", columns.get("template_filename"))
        if template is not None and of != template:
            return None, Unasked([f"the template is {of!r}, not {template!r}"])
        truth = next((columns[name] for name in _TRUTHS if columns.get(name) is not None), None)
        row = {
            "prompt": prompt_of(text_of(columns, ("question", "problem"), where), "image", where),
            "images": picture_of(columns, _PICTURES, folder, where),
            "answer": _count(truth, where),
            "task": "counting",
            "meta": {} if of is None else {"template": of},
        }
        return {"id": str(columns["id"]), **row} if "id" in columns else row, []

    return converted(row_stream(path, split, _NAMES), convert, quarantine=quarantine)


def _count(truth: Any, where: str) -> int:
    """The whole number that the truth states. Raises SampleError."""
    answer, _ = unwrap(truth)
    if isinstance(answer, str):
        reading = read_number(answer)
        answer = float(reading.value) if reading.value is not None and reading.whole else answer
    if isinstance(answer, bool) or not isinstance(answer, int | float) or answer != answer // 1 or answer < 0:
        raise SampleError(where, f"the answer {truth!r:.100} is not a whole number from 0 on; correct the row")
    return int(answer)
