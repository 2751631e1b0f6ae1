"""GUI-R1: one step on a screen -> GUI actions. Written from the paper's code and data card.

Parquet or JSON with `image` (encoded or a path), `instruction`, `history` (text, "None" at the first step), `task_type`
(high, low), `gt_action`, `gt_bbox` (fractions of the screenshot: two corners, or a point of two numbers; negative where
nothing is touched) and `gt_input_text` ("no input text" where there is none; a scroll's direction).

Left out: the columns verify_bbox, success_rate and scale; boxes without area; and boxes that reach outside the
screenshot or have swapped sides, which `keep_published` keeps and flags.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrft.data.prep.gui_names import ABOUT_PLACES, GUI_R1, action_name, action_words
from vlrft.data.prep.published import UNJUDGED, needed, settled_box
from vlrft.data.prep.source_rows import Made, Rows, converted
from vlrft.data.problems import Quarantine, SampleError
from vlrft.data.tables import RowStream

_NO_TEXT = ("no input text", "none")
_META = ("task_type", "group", "ui_type")


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, keep_published: bool = False
) -> Rows:
    """(where, gui_action row) of a file or a folder of them; `split` is the start of their names (train, test)."""
    stream = RowStream(path, split=split if path.is_dir() else None)
    read = functools.partial(_row, images)
    return converted(stream, read, quarantine=quarantine, keep_published=keep_published)


def _row(images: Path | None, columns: Mapping[str, Any], where: str) -> Made:
    needed(columns, ("image", "instruction", "gt_action"), where)
    action = action_name(columns["gt_action"], where, space=GUI_R1)
    answer: dict[str, Any] = {"action": action}
    flags: list[str] = []
    if action in ABOUT_PLACES:
        place, flags = _place(columns, where)
        if place is None:
            return None, [*flags, UNJUDGED]
        answer |= place
    text = columns.get("gt_input_text")
    spoken = None if isinstance(text, str) and text.strip().lower() in _NO_TEXT else text
    answer |= action_words(action, spoken, where)
    history = columns.get("history")
    meta: dict[str, Any] = {key: columns[key] for key in _META if key in columns}
    if isinstance(history, str) and history.strip().lower() not in ("", "none"):
        meta["history"] = history.strip()
    elif isinstance(history, list) and history:
        meta["history"] = [str(step) for step in history]
    image = columns["image"]
    row = {
        "task": "gui_action",
        "prompt": str(columns["instruction"]),
        "images": [str(images / image) if images is not None and isinstance(image, str) else image],
        "answer": answer,
        "boxes": {"space": "norm_1"},
        "meta": {**meta, "actions": list(GUI_R1)},
    }
    return row, flags


def _place(columns: Mapping[str, Any], where: str) -> tuple[dict[str, Any] | None, list[str]]:
    """`box` or `point` of the action, None where it has no area, and what is odd about it."""
    given = columns.get("gt_bbox")
    numbers = isinstance(given, list) and all(isinstance(v, int | float) for v in given)
    if not numbers or len(given or ()) not in (2, 4):
        raise SampleError(where, f"gt_bbox {given!r:.120} is neither a point nor a box; correct the row")
    values = [float(v) for v in given or ()]
    if not all(-0.5 < v < 1.5 for v in values):
        raise SampleError(
            where, f"gt_bbox {values} is not in fractions of the screenshot, as GUI-R1 writes it; divide by its size"
        )
    if len(values) == 2:
        inside = [min(max(v, 0.0), 1.0) for v in values]
        return {"point": inside}, [] if inside == values else [f"point {values} is outside the screenshot"]
    box, flags = settled_box(values, (1, 1), slack=1e-6)
    return None if box is None else {"box": box}, flags
