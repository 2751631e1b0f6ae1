"""SLAKE: questions about radiology images in English and Chinese (Liu et al., 2021), for medical_qa.

Published as `train.json`, `validation.json` (early copies: `validate.json`), `test.json`, each a list of objects with
`img_id`, `img_name` (such as `xmlab1/source.jpg`, in the folder `imgs`), `question`, `answer`, `q_lang` (`en` or `zh`),
`location`, `modality`, `answer_type` (`CLOSED` or `OPEN`), `base_type` (`vqa`, or `kvqa` for questions that need the
knowledge graph), `content_type`, `triple`, `qid`. From documentation. Not read: `triple`, masks and detections.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlrft.data.prep.medical import answer_of, is_closed, kept_columns, medical_row
from vlrft.data.prep.source_rows import Made, Rows, Unasked, converted, media_folder, picture_of, row_stream
from vlrft.data.problems import DataError, Quarantine

_META = {
    "q_lang": "language", "location": "location", "modality": "modality", "content_type": "content_type",
    "base_type": "base_type", "img_id": "img_id",
}  # fmt: skip
_LANGUAGES = ("en", "zh")


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, language: str | None = None
) -> Rows:
    """(where, row of medical_qa), with `meta.language`, `location`, `modality`, `content_type` and `base_type`.

    language: `en` or `zh` keeps the questions in it, None both. Closed answers other than yes and no, the Chinese ones
    among them, are labels. Left out: questions in the other language, rows without question, answer or picture.
    """
    if language is not None and language not in _LANGUAGES:
        raise DataError(f"language is {language!r}; SLAKE has {' and '.join(_LANGUAGES)}")
    folder = media_folder(path, images, "imgs")

    def convert(columns: dict[str, Any], where: str) -> Made:
        if language is not None and columns.get("q_lang") != language:
            return None, Unasked([f"q_lang is {columns.get('q_lang')!r}, not {language!r}"])
        answer = answer_of(columns, where)
        pictures = picture_of(columns, ("img_name", "image"), folder, where)
        meta = kept_columns(columns, _META)
        row = medical_row(columns, answer, is_closed(columns, answer, where), pictures, meta, where)
        return {"id": str(columns["qid"]), **row} if "qid" in columns else row, []

    if split == "validation" and (path / "validate.json").is_file():
        split = "validate"
    return converted(row_stream(path, split, ("{split}.json",)), convert, quarantine=quarantine)
