"""PathVQA: questions about pathology images (He et al., 2020), for medical_qa.

Three layouts, all from documentation: `qas/<split>_vqa.pkl`, a pickled list of objects with `img_id`, `sent` (the
question), `label` (`{answer: score}`), `answer_type` (`yes/no`, `number`, `other`), `question_type`, `question_id`,
with the pictures in `images/<split>/<img_id>.jpg`; `qas/<split>/<split>_qa.pkl` (or beside the former), a pickled list
of `Image`, `Question`, `Answer`; and the parquet form of hubs with `image`, `question`, `answer`.

Pickles are read without running anything that is in them: a file that holds more than lists, objects, texts and
numbers is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrft.data.prep.medical import YES_NO, answer_of, kept_columns, medical_row
from vlrft.data.prep.moments import is_number
from vlrft.data.prep.plain_pickle import load_plain
from vlrft.data.prep.source_rows import Made, Rows, converted, picture_of
from vlrft.data.problems import DataError, Quarantine, SampleError
from vlrft.data.tables import RawRow, RowStream

_PICKLES = (
    "qas/{split}_vqa.pkl", "{split}_vqa.pkl", "qas/{split}/{split}_qa.pkl", "qas/{split}_qa.pkl", "{split}_qa.pkl",
)  # fmt: skip
_SPLITS = ("train", "val", "test")


def rows(path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine) -> Rows:
    """(where, row of medical_qa): yes and no are closed, everything else open; `meta.answer_type` as published.

    split: `train`, `val` or `test`; of a pickle given as path it is the start of its name where not stated. Several
    answers to one question are references of which the best counts. Left out: rows without question or answer.
    """
    file = _pickle_file(path, split)
    if file is None:
        stream: Any = RowStream(path, split=split)
        folder = images or (path if path.is_dir() else path.parent)
    else:
        stream = _pickled(file)
        folder = images or _pictures(file, split or file.stem.partition("_")[0])

    def convert(columns: dict[str, Any], where: str) -> Made:
        answers = _answers(columns, where)
        closed = columns.get("answer_type", "yes/no") == "yes/no" and answers[0].lower() in YES_NO
        pictures = picture_of(_with_picture(columns), ("image",), folder, where)
        meta = kept_columns(columns, {"answer_type": "answer_type", "question_type": "content_type"})
        row = medical_row(columns, answers[0], closed, pictures, meta, where)
        if len(answers) > 1:
            row["answer"] = answers
        return {"id": str(columns["question_id"]), **row} if "question_id" in columns else row, []

    return converted(stream, convert, quarantine=quarantine)


def _pickle_file(path: Path, split: str | None) -> Path | None:
    """The pickle that is meant; None where `path` holds none and is a table."""
    if path.is_file():
        return path if path.suffix == ".pkl" else None
    if not any((path / name.format(split=part)).is_file() for name in _PICKLES for part in _SPLITS):
        return None
    if split not in _SPLITS:
        raise DataError(f"{path}: split is {split!r}; set it to one of {', '.join(_SPLITS)}")
    found = (path / name.format(split=split) for name in _PICKLES)
    file = next((file for file in found if file.is_file()), None)
    if file is None:
        raise DataError(f"no pickle of the split {split!r} in {path} ({', '.join(_PICKLES)}); check path and split")
    return file


def _pickled(file: Path) -> Iterator[RawRow]:
    content = load_plain(file)
    if not isinstance(content, list):
        raise DataError(f"{file} holds a {type(content).__name__}, not a list of questions; give <split>_vqa.pkl")
    for number, entry in enumerate(content, start=1):
        where = f"{file}:{number}"
        sound = isinstance(entry, Mapping)
        columns = dict(entry) if sound else SampleError(where, f"is {entry!r:.100}, not an object; correct the file")
        yield RawRow(where, file.stem, number, columns)


def _pictures(file: Path, split: str) -> Path:
    """`images/<split>` of the release, in the folder of the pickle or up to two above it; else the pickle's folder."""
    above = [file.parent, *list(file.parents)[1:3]]
    return next((base / "images" / split for base in above if (base / "images" / split).is_dir()), file.parent)


def _answers(columns: Mapping[str, Any], where: str) -> list[str]:
    label = columns.get("label")
    if isinstance(label, Mapping):
        if not label or not all(map(is_number, label.values())):
            raise SampleError(where, f"its label {label!r:.200} is not an object of scores by answer; correct the row")
        return [str(answer).strip() for answer in sorted(label, key=lambda key: -label[key])]
    return [answer_of(columns, where, ("answer", "Answer"))]


def _with_picture(columns: Mapping[str, Any]) -> dict[str, Any]:
    name = columns.get("img_id", columns.get("Image"))
    if not isinstance(name, str):
        return dict(columns)
    return {"image": name if Path(name).suffix.lower() in (".jpg", ".png") else f"{name}.jpg"}
