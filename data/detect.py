"""Which layout a file or folder is in, by what it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from vlrft.data.native import SUFFIXES
from vlrft.data.prep.coco import annotation_files, is_coco
from vlrft.data.problems import DataError

Format = Literal["native", "coco", "voc", "shapes"]


def detect_format(path: Path) -> tuple[Format, str]:
    """The layout of `path`, and the sign by which it was told.

    Raises DataError when the path does not exist or shows no sign of a known layout.
    """
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise DataError(f"no file or folder {path}; check data.root and the source's path")
    if (path / "Annotations").is_dir() and (path / "ImageSets").is_dir():
        return "voc", "folders Annotations and ImageSets"
    if annotation_files(path):
        return "coco", "annotations/instances_*.json"
    rows = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)
    if rows:
        return "native", rows[0]
    held = sorted(p.name for p in path.iterdir())
    shown = ", ".join(held[:8]) + (", ..." if len(held) > 8 else "")
    raise DataError(
        f"{path} has none of the known layouts (it holds: {shown or 'nothing'}); "
        "point path at a .jsonl, .parquet or COCO .json file, or at a VOC folder, or set format"
    )


def _of_file(path: Path) -> tuple[Format, str]:
    if path.suffix in SUFFIXES:
        return "native", f"suffix {path.suffix}"
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not valid JSON ({error}); one row per line belongs in a .jsonl file") from error
        if is_coco(content):
            return "coco", "lists images, annotations, categories"
        raise DataError(f"{path} is JSON, but no COCO detection file; write rows one per line into a .jsonl file")
    raise DataError(f"{path} has the unknown suffix {path.suffix!r}; known: .jsonl, .parquet, .json (COCO)")
