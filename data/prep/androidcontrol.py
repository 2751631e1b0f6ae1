"""AndroidControl as UI-R1 publishes it: one low-level instruction on a screenshot -> GUI actions.

Evaluation file, seen: a JSON list of `{"image", "task", "gt": {"action_type", ...}}` with `x`, `y` (click, long_press),
`text` (input_text), `app_name` (open_app) or `direction` (scroll). `x` and `y` are pixels of the stored screenshot, as
in AndroidControl, whose screens are up to 1080 wide and 2400 high. A scroll's direction is that of the view: "down"
shows what lies below, also where the instruction says "scroll up".

Training file, from documentation: `{"img_filename", "instruction", "bbox"}` (a click, pixels) or `"action"` in place of
`bbox`. It does not say whether `bbox` is a corner with an extent or two corners; the option `bbox` has to (xywh, xyxy).

Names of actions are brought into those of the task (input_text is type, navigate_back is press_back);
`meta.published` keeps the published one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrft.data.prep.gui_names import ABOUT_PLACES, ANDROID, action_name, action_words
from vlrft.data.prep.published import corners, four_numbers, needed, settled_box
from vlrft.data.prep.source_rows import Made, Rows, converted
from vlrft.data.problems import DataError, Quarantine, SampleError
from vlrft.data.tables import RowStream


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, bbox: str | None = None
) -> Rows:
    """(where, gui_action row) of the JSON file, or of those of a folder; `split` is the start of their names.

    `images` is the folder of the screenshots, by default that of the file.
    """
    if bbox not in (None, "xywh", "xyxy"):
        raise DataError(f"bbox is {bbox!r}; write xywh (corner and extent) or xyxy (two corners)")
    folder = images if images is not None else (path if path.is_dir() else path.parent)
    files = [path] if path.is_file() else sorted(path.glob(f"{split or ''}*.json"))
    if not files:
        raise DataError(f"no .json file{f' that starts with {split}' if split else ''} in {path}")
    read = functools.partial(_row, folder, bbox)
    return converted((raw for file in files for raw in RowStream(file)), read, quarantine=quarantine)


def _row(folder: Path, bbox: str | None, columns: Mapping[str, Any], where: str) -> Made:
    if "gt" in columns:
        needed(columns, ("image", "task"), where)
        answer, published = _step(columns["gt"], where)
        image, instruction = columns["image"], columns["task"]
    else:
        needed(columns, ("img_filename", "instruction"), where)
        answer, published = _trained(columns, bbox, where)
        image, instruction = columns["img_filename"], columns["instruction"]
    row = {
        "task": "gui_action",
        "prompt": str(instruction),
        "images": [str(folder / str(image))],
        "answer": answer,
        "boxes": {"space": "abs_original"},
        "meta": {"published": published, "actions": list(ANDROID)},
    }
    return row, []


def _step(gt: Any, where: str) -> tuple[dict[str, Any], str]:
    needed(gt, ("action_type",), where)
    action = action_name(gt["action_type"], where, space=ANDROID)
    answer: dict[str, Any] = {"action": action}
    if action in ABOUT_PLACES:
        needed(gt, ("x", "y"), where)
        answer["point"] = [gt["x"], gt["y"]]
    words = next((gt[key] for key in ("text", "app_name", "direction") if gt.get(key) is not None), None)
    return {**answer, **action_words(action, words, where)}, str(gt["action_type"])


def _trained(columns: Mapping[str, Any], bbox: str | None, where: str) -> tuple[dict[str, Any], str]:
    if columns.get("bbox") is None:
        needed(columns, ("action",), where)
        action = action_name(columns["action"], where, space=ANDROID)
        if action in ABOUT_PLACES:
            raise SampleError(where, f"has the action {action} without a bbox; correct the row")
        words = next((columns[key] for key in ("text", "app_name", "direction") if columns.get(key) is not None), None)
        return {"action": action, **action_words(action, words, where)}, str(columns["action"])
    if bbox is None:
        raise SampleError(where, "does not say how its bbox is written; set the option bbox to xywh or xyxy")
    box, odd = settled_box(corners(four_numbers(columns["bbox"], where), bbox), None)
    if box is None or odd:
        raise SampleError(where, f"{'; '.join(odd)}; is {bbox} the way its boxes are written?")
    return {"action": "click", "box": box}, str(columns.get("action", "click"))
