"""VQA-RAD: questions of clinicians about radiology images (Lau et al., 2018), for medical_qa.

Published as `VQA_RAD Dataset Public.json`, a list of objects with `qid`, `image_name`, `image_organ`, `question`,
`answer` (text or number), `answer_type` (`CLOSED` or `OPEN`, some with a space behind), `question_type` (such as PRES),
`phrase_type` (`freeform`, `para`, and for the test questions `test_freeform`, `test_para`); pictures in
`VQA_RAD Image Folder`. Also read: the parquet form of hubs with `image`, `question`, `answer`, which states no
`answer_type`, so that yes and no are closed and the rest open. All from documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlrft.data.prep.medical import answer_of, is_closed, kept_columns, medical_row
from vlrft.data.prep.source_rows import Made, Rows, Unasked, converted, media_folder, picture_of, row_stream
from vlrft.data.problems import DataError, Quarantine

_META = {
    "image_organ": "organ", "question_type": "content_type", "phrase_type": "phrase_type", "image_name": "image_name",
}  # fmt: skip
_JSON = "VQA_RAD Dataset Public.json"


def rows(path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine) -> Rows:
    """(where, row of medical_qa). The published `question_type` is `meta.content_type`.

    split: `test` keeps the rows whose `phrase_type` starts with `test`, `train` the others, as the authors split them;
    parquet files are picked by their name. Left out: rows without question, answer or picture.
    """
    folder = media_folder(path, images, "VQA_RAD Image Folder")
    by_phrase = path.suffix == ".json" or (path / _JSON).is_file()
    if by_phrase and split not in (None, "train", "test"):
        raise DataError(f"{path}: VQA-RAD has the splits train and test, not {split!r}; set split to one of them")

    def convert(columns: dict[str, Any], where: str) -> Made:
        part = "test" if str(columns.get("phrase_type", "")).startswith("test") else "train"
        if by_phrase and split is not None and part != split:
            return None, Unasked([f"is of the split {part}"])
        answer = answer_of(columns, where)
        pictures = picture_of(columns, ("image_name", "image"), folder, where)
        meta = kept_columns(columns, _META)
        row = medical_row(columns, answer, is_closed(columns, answer, where), pictures, meta, where)
        return {"id": str(columns["qid"]), **row} if "qid" in columns else row, []

    return converted(row_stream(path, None if by_phrase else split, (_JSON,)), convert, quarantine=quarantine)
