"""OmniMedVQA: multiple choice about medical images of many kinds (Hu et al., 2024), for medical_qa.

Published as one JSON list per source set in `QA_information/Open-access/` (from documentation), of objects with
`dataset`, `question_id`, `question_type` (such as Modality Recognition), `question`, `gt_answer` (the text of the right
option), `image_path` (from the folder that holds `QA_information`), `option_A` to `option_D` (two to four of them) and
`modality_type`; `Chest CT Scan.json` says `modality`.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from vlrft.data.prep.medical import kept_columns
from vlrft.data.prep.source_rows import Made, Rows, Unasked, converted, letter_of, picture_of, text_of
from vlrft.data.problems import DataError, Quarantine
from vlrft.data.tables import RowStream

_OPTIONS = ("option_A", "option_B", "option_C", "option_D")
_META = {
    "dataset": "dataset", "question_type": "content_type", "modality_type": "modality", "modality": "modality",
}  # fmt: skip


def rows(
    path: Path,
    *,
    split: str | None,
    images: Path | None,
    quarantine: Quarantine,
    modality: str | None = None,
    keep_published: bool = False,
) -> Rows:
    """(where, row of medical_qa, closed, of type mcq), with `meta.options`, `modality`, `content_type` and `dataset`.

    path: one JSON file, or a folder of them. split: the name of a source set, such as ACRIMA. modality: only questions
    about such images. Left out: other modalities; rows with two options that read like the answer (with
    `keep_published` the first is right, and they are flagged); rows whose answer is no option.
    """
    folder = images or _root(path)

    def convert(columns: dict[str, Any], where: str) -> Made:
        meta = kept_columns(columns, _META)
        if modality is not None and str(meta.get("modality")).lower() != modality.lower():
            return None, Unasked([f"the modality is {meta.get('modality')!r}, not {modality!r}"])
        options = [str(columns[name]).strip() for name in _OPTIONS if str(columns.get(name) or "").strip()]
        letter, odd = letter_of(text_of(columns, ("gt_answer",), where), options, where)
        row = {
            "prompt": text_of(columns, ("question",), where),
            "images": picture_of(columns, ("image_path", "image"), folder, where),
            "answer": {"type": "mcq", "answer": letter},
            "task": "medical_qa",
            "meta": {**meta, "options": options, "question_type": "closed"},
        }
        return {"id": str(columns["question_id"]), **row} if "question_id" in columns else row, odd

    stream = itertools.chain.from_iterable(RowStream(file) for file in _files(path, split))
    return converted(stream, convert, quarantine=quarantine, keep_published=keep_published)


def _files(path: Path, split: str | None) -> list[Path]:
    if path.is_file():
        return [path]
    inner = path / "QA_information" / "Open-access"
    base = inner if inner.is_dir() else path
    files = [file for file in sorted(base.glob("*.json")) if split is None or file.stem == split]
    if not files:
        named = f" named {split}.json" if split is not None else ""
        raise DataError(f"no JSON file{named} in {base}; give QA_information/Open-access or one of its files as path")
    return files


def _root(path: Path) -> Path:
    """The folder that holds `QA_information`, else that of the file."""
    base = path if path.is_dir() else path.parent
    return next((above.parent for above in (base, *base.parents) if above.name == "QA_information"), base)
