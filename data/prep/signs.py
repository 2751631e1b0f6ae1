"""By what a published file is told, so that its rows are not taken for those of a layout with columns of like names.

A form in the layout of a framework has no sign here: GeoQA and SuperCLEVR in R1-V's, Geometry3K's table in EasyR1's,
VLM-R1's own rows. Nor has one whose columns say nothing: the tables of `image, question, answer` that hubs make.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlrft.data.prep.coco import is_coco


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What tells one form: all that is stated of columns, truth and keys, or the files."""

    columns: tuple[tuple[str, ...], ...] = ()
    """Sets of columns; most rows have all of one of them."""
    truth: str = ""
    """Regular expression found in the answers (`solution`, `answer`, last turn) of most rows."""
    keys: str = ""
    """Regular expression of the keys of a JSON object whose values are the rows."""
    files: tuple[str, ...] = ()
    """Patterns of names, of the file itself or of what its folder holds."""


class Told(NamedTuple):
    """A form that fits."""

    names: tuple[str, ...]
    """Several where forms share their layout."""
    by: str


_MOMENTS = (("duration", "timestamps", "sentences"),)
_VIDEO_R1 = (("problem_id", "problem_type", "data_type", "problem", "solution", "path"),)
_SCREEN = ("img_filename", "bbox", "instruction")

SIGNS: dict[str, tuple[Sign, ...]] = {
    "odinw": (Sign(files=("*/_annotations.coco.json", "*/annotations_without_background.json")),),
    "lvis": (
        Sign(columns=(("neg_category_ids", "not_exhaustive_category_ids"),)),
        Sign(files=("lvis_*.json", "annotations/lvis_*.json")),
    ),
    "refcoco": (
        Sign(columns=(
            ("raw_anns", "raw_image_info"), ("question_id", "question", "answer", "bbox", "iscrowd"), ("sent", "bbox"),
            ("expression", "bbox"),
        )),
        Sign(files=("refs(*).p",)),
    ),
    "lisa": (Sign(columns=(("text", "is_sentence", "shapes"),)),),
    "screenspot": (Sign(columns=((*_SCREEN, "data_type"),)),),
    "screenspot-v2": (Sign(columns=((*_SCREEN, "data_type"),)),),
    "screenspot-pro": (Sign(columns=((*_SCREEN, "img_size"),)),),
    "gui-r1": (Sign(columns=(("instruction", "gt_action", "gt_bbox"),)),),
    "androidcontrol": (Sign(columns=(("image", "gt", "task"), _SCREEN)),),
    "got-10k": (Sign(files=("groundtruth.txt", "*/groundtruth.txt", "*/*/groundtruth.txt")),),
    "few-shot": (Sign(files=("split_zhou_*.json", "images_variant_*.txt", "classnames.txt")),),
    "charades-sta": (
        Sign(columns=_MOMENTS, keys=r"(?!v_)"),
        Sign(files=("charades_sta_*.txt",)),
    ),
    "activitynet": (Sign(columns=_MOMENTS, keys=r"v_"),),
    "next-gqa": (Sign(columns=(("question", "options", "glue"), ("qid", "question", "a0", "a4"))),),
    "video-r1": (Sign(columns=_VIDEO_R1),),
    "videorft": (Sign(columns=_VIDEO_R1),),
    "vqa-rad": (Sign(columns=(("qid", "image_name", "question", "answer_type"),)),),
    "slake": (Sign(columns=(("img_name", "question", "q_lang"),)),),
    "path-vqa": (Sign(files=("*_vqa.pkl", "*_qa.pkl", "qas/*_vqa.pkl", "qas/*/*_qa.pkl")),),
    "omni-med-vqa": (
        Sign(columns=(("gt_answer", "option_A", "option_B"),)),
        Sign(files=("QA_information/Open-access",)),
    ),
    "clevr-math": (Sign(columns=(("template", "question", "label"), ("template_filename", "image_filename"))),),
    "geo170k": (
        Sign(columns=(("image", "conversations"),), truth=r"Answer\s*:\s*\(?[A-D]\)?\.?\s*$"),
    ),
    "geometry3k": (Sign(files=("*/img_diagram.png", "*/*/img_diagram.png")),),
    "trance": (
        Sign(columns=(("image", "problem"),), truth=r"\bchange_(?:size|color|material|shape|position)\("),
    ),
    "chart-code": (Sign(columns=(("InputFigurePreview", "GroundTruthFigureCode"), ("GroundTruthFigureCode", "Task"))),),
}  # fmt: skip


def told_by_rows(rows: Sequence[Mapping[str, Any]], keys: Sequence[str] = ()) -> Told | None:
    """The form of these first rows of a file; `keys`: under which they stand in a JSON object.

    Of several that fit, those with the most columns.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, signs in SIGNS.items():
        held = [columns for sign in signs for columns in sign.columns if _fits(sign, columns, rows, keys)]
        if held:
            found[name] = max(held, key=len)
    if not found:
        return None
    most = max(map(len, found.values()))
    names = tuple(name for name, columns in found.items() if len(columns) == most)
    return Told(names, f"its columns {', '.join(found[names[0]])}")


def told_by_name(path: Path) -> Told | None:
    """The form of a file by its own name, or of a folder by the names in it."""
    for name, signs in SIGNS.items():
        for pattern in (pattern for sign in signs for pattern in sign.files):
            if path.is_dir() and next(path.glob(pattern), None) is not None:
                return Told((name,), f"the {pattern} in it")
            if not path.is_dir() and "/" not in pattern and path.match(pattern):
                return Told((name,), "its name")
    return None


def rows_within(content: Any) -> tuple[list[Mapping[str, Any]], list[str]]:
    """(what may be rows of parsed JSON, the keys that they stand under): a list's items, COCO's images, the objects or
    the one list of an object, or the object itself."""
    if isinstance(content, Mapping):
        if is_coco(content):
            return rows_within(content["images"])
        values = list(content.values())
        if values and all(isinstance(value, Mapping) for value in values):
            return values, list(map(str, content))
        lists = [value for value in values if isinstance(value, list)]
        return rows_within(lists[0]) if len(lists) == 1 else ([content], [])
    return [item for item in content if isinstance(item, Mapping)] if isinstance(content, list) else [], []


def _fits(sign: Sign, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> bool:
    if sign.keys and not (keys and all(re.match(sign.keys, key) for key in keys)):
        return False
    fitting = [row for row in rows if all(name in row for name in columns)]
    if sign.truth:
        fitting = [row for row in fitting if re.search(sign.truth, _truth(row))]
    return 2 * len(fitting) > len(rows)


def _truth(row: Mapping[str, Any]) -> str:
    turns = row.get("conversations")
    last = turns[-1] if isinstance(turns, list) and turns else None
    said = last.get("value") if isinstance(last, Mapping) else row.get("solution", row.get("answer"))
    return said if isinstance(said, str) else ""
