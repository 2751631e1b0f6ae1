"""ScreenSpot, ScreenSpot-v2 and ScreenSpot-Pro: one instruction, one element -> GUI grounding. From documentation.

ScreenSpot and v2: `screenspot_{mobile,desktop,web}[_v2].json`, lists of `{"img_filename", "bbox", "instruction",
"data_type": "text" | "icon", "data_source"}`; `bbox` is `[x, y, width, height]` in pixels of the stored screenshot.
Pro: `annotations/*.json`, lists of `{"id", "img_filename", "bbox", "instruction", "instruction_cn", "img_size",
"ui_type", "group", "application", "platform"}`; `bbox` is `[x1, y1, x2, y2]` in pixels.

Tables of hubs keep other forms (many hold fractions): for rows without `img_filename` the options `bbox` (xywh, xyxy)
and `space` have to say how boxes are written, since nothing in the file does. `meta.source` is the name of the file,
such as screenspot_web. Left out: boxes without area; boxes that reach outside the screenshot or have swapped sides,
which `keep_published` keeps and flags.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrft.coords import SPACES
from vlrft.data.images import image_size
from vlrft.data.prep.published import UNJUDGED, corners, four_numbers, needed, settled_box
from vlrft.data.prep.source_rows import Made, Rows, converted
from vlrft.data.problems import DataError, Quarantine, SampleError
from vlrft.data.tables import RowStream
from vlrft.registry import nearest
from vlrft.types import MediaRef

_META = ("data_type", "data_source", "ui_type", "group", "application", "platform", "instruction_cn")


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, bbox: str | None = None,
    space: str | None = None, keep_published: bool = False,
) -> Rows:  # fmt: skip
    """(where, gui_grounding row) of ScreenSpot or -v2: a JSON file, a table, or the folder of several.

    `split` picks files by what their name holds (mobile, desktop, web). `images` defaults to the folder
    `screenspot_imgs` or `screenspotv2_image` beside the files.
    """
    return _rows("xywh", path, split, images, quarantine, bbox, space, keep_published)


def pro_rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, bbox: str | None = None,
    space: str | None = None, keep_published: bool = False,
) -> Rows:  # fmt: skip
    """(where, gui_grounding row) of ScreenSpot-Pro. `images` defaults to the folder `images` beside `annotations`."""
    return _rows("xyxy", path, split, images, quarantine, bbox, space, keep_published)


def _rows(
    published: str, path: Path, split: str | None, images: Path | None, quarantine: Quarantine, bbox: str | None,
    space: str | None, keep_published: bool,
) -> Rows:  # fmt: skip
    if bbox not in (None, "xywh", "xyxy"):
        raise DataError(f"bbox is {bbox!r}; write xywh (corner and extent) or xyxy (two corners)")
    if space is not None and space not in SPACES:
        raise DataError(f"space is {space!r}{nearest(space, list(SPACES))}; known: {', '.join(SPACES)}")
    for file in _files(path, split):
        read = functools.partial(_row, published, bbox, space, images if images is not None else _pictures(file))
        for where, row in converted(RowStream(file), read, quarantine=quarantine, keep_published=keep_published):
            yield where, {**row, "meta": {"source": file.stem, **row["meta"]}}


def _row(
    published: str, bbox: str | None, space: str | None, folder: Path, columns: Mapping[str, Any], where: str
) -> Made:
    needed(columns, ("bbox", "instruction"), where)
    own = "img_filename" in columns
    if not own and (bbox is None or space is None):
        raise SampleError(
            where,
            "has no img_filename, so it is not the published JSON, and does not say how its boxes are written; set the "
            "options bbox (xywh or xyxy) and space",
        )
    space = space or "abs_original"
    box = corners(four_numbers(columns["bbox"], where), bbox or published)
    size = _stated_size(columns, where)
    image = columns["img_filename"] if own else columns.get("image") or columns.get("file_name")
    if image is None:
        raise SampleError(where, "names no screenshot: none of img_filename, image, file_name; correct the row")
    image = str(folder / image) if isinstance(image, str) else image
    settled, flags = settled_box(box, size or _measured(image) if space == "abs_original" else None)
    if settled is None:
        return None, [*flags, UNJUDGED]
    row: dict[str, Any] = {
        "task": "gui_grounding",
        "prompt": str(columns["instruction"]),
        "images": [image],
        "answer": settled,
        "boxes": {"space": space},
        "meta": {key: columns[key] for key in _META if key in columns},
    }
    if columns.get("id") is not None:
        row["id"] = str(columns["id"])
    if size is not None:
        row["width"], row["height"] = size
    return row, flags


def _stated_size(columns: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    size = columns.get("img_size")
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(v, int) and v > 0 for v in size):
        raise SampleError(where, f"img_size {size!r} is not [width, height]; correct the row")
    return size[0], size[1]


def _measured(image: Any) -> tuple[int, int] | None:
    """(width, height) by the header of a file that is there; the task says so where it is not."""
    return image_size(MediaRef(path=image)) if isinstance(image, str) and Path(image).is_file() else None


def _files(path: Path, split: str | None) -> list[Path]:
    if path.is_file():
        return [path]
    folders = (path, path / "annotations", path / "data")
    found = [file for folder in folders for file in sorted((*folder.glob("*.json"), *folder.glob("*.parquet")))]
    files = [file for file in found if split is None or split in file.stem.split("_") or file.stem == split]
    if not files:
        named = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{path} has no .json or .parquet file{f' of {split}' if split else ''}; files here: {named}")
    return files


def _pictures(file: Path) -> Path:
    base = file.parent
    candidates = [base / "screenspot_imgs", base / "screenspotv2_image", base / "images", base.parent / "images"]
    return next((folder for folder in candidates if folder.is_dir()), base)
