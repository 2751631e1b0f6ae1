"""Which format a file or folder is in, by what it holds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlrft.data.hub import is_saved
from vlrft.data.layouts import LAYOUTS, REST, matches_native
from vlrft.data.prep import FORMS
from vlrft.data.prep.coco import annotation_files, is_coco
from vlrft.data.prep.signs import Told, rows_within, told_by_name, told_by_rows
from vlrft.data.problems import DataError, SampleError
from vlrft.data.tables import FOLDER_SUFFIXES, HUB, SUFFIXES, RowStream, load_json, rows_of_json
from vlrft.registry import nearest

GENERATED = ("shapes", "synthetic")
"""Formats that are drawn, not read from files of the user's."""
BUILT_IN = ("auto", "native", "coco", "voc", *GENERATED)
LOOKED_AT = 32
"""Rows at the start of a source by whose columns its layout is told."""


def formats() -> list[str]:
    """Every name that a source's `format` may have."""
    return list(dict.fromkeys([*BUILT_IN, *LAYOUTS, *FORMS]))


def check_format(name: str, what: str) -> None:
    """Raises DataError with the nearest name when `name` is no format; `what` names the setting."""
    if name not in formats():
        raise DataError(
            f"{what}: unknown format {name!r}{nearest(name, formats())}; `auto` tells by what is there, `native` are "
            "our own rows, 'vlrft data ls' lists published forms and row layouts"
        )


def detect_format(path: Path | str, split: str | None = None) -> tuple[str, str]:
    """The format of `path`, and the sign by which it was told.

    Raises DataError when the path does not exist, shows no sign of a known format or signs of several, or is a
    published file: its form, asked for by name, reads its task, units and options as they are published.
    """
    if str(path).startswith(HUB):
        return _of_rows(path, split, f"dataset {path}")
    path = Path(path)
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        hint = f"; a dataset of the hub is given as {HUB}org/name" if str(path).count("/") else ""
        raise DataError(f"no file or folder {path}; check data.root and the source's path{hint}")
    if (path / "Annotations").is_dir() and (path / "ImageSets").is_dir():
        return "voc", "folders Annotations and ImageSets"
    if annotation_files(path):
        return "coco", "annotations/instances_*.json"
    if is_saved(path):
        return _of_rows(path, split, "saved dataset")
    folders = (path, path / "data")
    files = [p for folder in folders if folder.is_dir() for p in sorted(folder.iterdir())]
    rows = [p for p in files if p.suffix.lower() in FOLDER_SUFFIXES]
    if rows:
        return _of_rows(path, split, rows[0].name)
    refuse_published(path, told_by_name(path) or _told_by_first_json(path))
    held = sorted(p.name for p in path.iterdir())
    shown = ", ".join(held[:8]) + (", ..." if len(held) > 8 else "")
    raise DataError(
        f"{path} has none of the known layouts (it holds: {shown or 'nothing'}); "
        f"point path at a {', '.join(SUFFIXES)} file or a folder of them, at a COCO .json file or a VOC folder, or set "
        "format to the form of a published file ('vlrft data ls' lists them)"
    )


def detect_layout(rows: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """The row layout of `rows`, and its sign. Native rows go first: they are what everything else is converted to.

    Raises DataError that lists columns and candidates when no layout or several fit.
    """
    looked = [{key: value for key, value in row.items() if value is not None} for row in rows]
    sign = next((sign for row in looked if (sign := matches_native(row))), "")
    if sign:
        return "native", sign
    found: dict[str, str] = {}
    for row in looked:
        for name, layout in LAYOUTS.items():
            if name not in found and (sign := layout.matches(row)):
                found[name] = sign
    if set(found) <= {"openrlhf"} and any({"prompt", "answer"} <= row.keys() for row in looked):
        # Beside a label of OpenRLHF it is not clear which of the two is the truth.
        found["native"] = "columns prompt, answer"
    if len(found) == 1:
        return next(iter(found.items()))
    columns = ", ".join(dict.fromkeys(str(name) for row in looked for name in row))
    if not found:
        raise DataError(
            f"the rows are in no known layout; their columns: {columns}. Set format to one of: native, "
            f"{', '.join(LAYOUTS)}, or to the form of a published file ('vlrft data ls' lists them)"
        )
    candidates = "; ".join(f"{name} (by {sign})" for name, sign in found.items())
    raise DataError(f"the rows fit several layouts: {candidates}; their columns: {columns}. Set format to one of them")


def refuse_published(path: Path | str, told: Told | None, layout: str | None = None) -> None:
    """Raise DataError that names the form, where `path` looks like a published one.

    layout: the row layout whose columns it has too.
    """
    if told is None:
        return
    first, *others = told.names
    also = f" (or {', '.join(others)}, which is laid out alike)" if others else ""
    as_rows = f"; to read it by its columns alone, say `format: {layout}`" if layout is not None else ""
    raise DataError(
        f"{path}: this looks like the published form {first}{also}, by {told.by}: use `format: {first}`, in a command "
        f"'vlrft data convert {first}'{as_rows}"
    )


def _told_by_first_json(folder: Path) -> Told | None:
    """The form of the first JSON file of a folder that holds no rows otherwise."""
    found = (p for place in (folder, folder / "annotations") for p in sorted(place.glob("*.json")))
    first = next(found, None)
    if first is None:
        return None
    try:
        # Not every published file is in UTF-8; the names of columns are in any case.
        return told_by_name(first) or _told_by_content(json.loads(first.read_bytes().decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return None  # no sign of a form; the caller says what the folder holds


def _told_by_content(content: Any) -> Told | None:
    rows, keys = rows_within(content)
    return told_by_rows(rows[:LOOKED_AT], keys[:LOOKED_AT])


def _of_file(path: Path) -> tuple[str, str]:
    if path.suffix.lower() == ".json":
        content = load_json(path)
        if is_coco(content):
            refuse_published(path, _told_by_content(content), "coco")
            return "coco", "lists images, annotations, categories"
        told = told_by_name(path) or _told_by_content(content)
        if told is not None and not isinstance(content, list):
            refuse_published(path, told)
        rows = [row for row in rows_of_json(content, path)[:LOOKED_AT] if isinstance(row, Mapping)]
        if not rows:
            raise DataError(f"{path} is JSON, but no COCO detection file, and its list holds no rows with columns")
        return _named(rows, path, "list in JSON")
    if path.suffix.lower() not in SUFFIXES:
        refuse_published(path, told_by_name(path))
        raise DataError(f"{path} has the unknown suffix {path.suffix!r}; known: {', '.join(SUFFIXES)}")
    return _of_rows(path, None, f"suffix {path.suffix}")


def _of_rows(path: Path | str, split: str | None, container: str) -> tuple[str, str]:
    raw = itertools.islice(RowStream(path, split=split), LOOKED_AT)
    rows = [row.columns for row in raw if not isinstance(row.columns, SampleError)]
    if not rows:
        # Nothing to tell by: the native reader says of each line what is wrong.
        return "native", container
    return _named(rows, path, container)


def _named(rows: list[Any], path: Path | str, container: str) -> tuple[str, str]:
    if "vlmevalkit" in FORMS and {"index", "question", "answer", "image"} <= rows[0].keys():
        return "vlmevalkit", f"{container}, columns index, question, answer, image"
    written_from_native = any(REST in row for row in rows)
    told = None if written_from_native else told_by_rows(rows)
    try:
        name, sign = detect_layout(rows)
    except DataError as error:
        refuse_published(path, told)
        raise DataError(f"{path}: {error}") from error
    if name != "native":
        refuse_published(path, told, name)
    return name, f"{container}, {sign}"
