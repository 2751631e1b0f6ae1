"""LISA's ReasonSeg: implicit questions with masks -> reasoning grounding. Written from documentation.

Layout: folders `train`, `val`, `test`, each with `<name>.jpg` and `<name>.json`: `{"text": [question, ...],
"is_sentence": bool, "shapes": [{"label", "points": [[x, y], ...], "shape_type": "polygon"}]}`, points in pixels of the
stored image. Shapes labelled `target` are the object, `ignore` are regions that do not count,
`flag` marks carry no region. Files are UTF-8 or, some of them, Windows-1252.

The target is the box around all target polygons, cut to the image; `meta.mask` has them as `[[x, y, x, y, ...]]`, and
`meta.ignore` those of the ignored regions. Training: a row for each text. With `keep_published`: one row per image with
its first text, as LISA evaluates; the others are in `meta.texts`. Left out: images with a polygon of fewer than three
points, or without a target; with `keep_published` the former are flagged and only that polygon is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrft.data.images import image_size
from vlrft.data.prep.published import admitted, needed, settled_box
from vlrft.data.problems import DataError, Quarantine, SampleError, of_row
from vlrft.types import MediaRef

Ring = list[float]


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, keep_published: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, reasoning_grounding row) of the folder `path`, or its folder `split`; pictures lie beside the files."""
    folder = _folder(path, split)
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"no .json file in {folder}; name a split (train, val, test), or the folder of one")
    for file in files:
        try:
            with of_row(str(file)):
                yield from _of_file(file, images if images is not None else folder, keep_published, quarantine)
        except SampleError as error:
            quarantine.bad(error)


def _folder(path: Path, split: str | None) -> Path:
    if split is None or (path.name == split and not (path / split).is_dir()):
        return path
    if not (path / split).is_dir():
        held = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir())) if path.is_dir() else ""
        raise DataError(f"{path} has no folder {split!r}; folders here: {held or 'none'}")
    return path / split


def _of_file(
    file: Path, folder: Path, keep_published: bool, quarantine: Quarantine
) -> Iterator[tuple[str, dict[str, Any]]]:
    where = str(file)
    content = _load(file)
    needed(content, ("text", "shapes"), where)
    texts = [content["text"]] if isinstance(content["text"], str) else [str(text) for text in content["text"]]
    target, ignored, flags = _polygons(content["shapes"], where)
    if not texts or not target:
        quarantine.published(
            where, "has no text" if not texts else "; ".join([*flags, "no polygon of a target is left"])
        )
        return
    picture = folder / f"{file.stem}.jpg"
    size = image_size(MediaRef(path=str(picture)))
    xs, ys = [x for ring in target for x in ring[::2]], [y for ring in target for y in ring[1::2]]
    # A polygon drawn past the edge is no error of the annotation: it is the image that ends there.
    box, _ = settled_box((min(xs), min(ys), max(xs), max(ys)), size)
    if box is None:
        quarantine.published(where, "its target polygons have no area inside the image")
        return
    meta: dict[str, Any] = {"mask": target, "is_sentence": bool(content.get("is_sentence"))}
    if ignored:
        meta["ignore"] = ignored
    if keep_published and len(texts) > 1:
        meta["texts"] = texts
    for number, text in enumerate(texts[:1] if keep_published else texts, start=1):
        row = {
            "id": file.stem if len(texts) == 1 or keep_published else f"{file.stem}-{number}",
            "task": "reasoning_grounding",
            "prompt": text,
            "images": [str(picture)],
            "answer": box,
            "boxes": {"space": "abs_original"},
            "meta": meta,
        }
        made = admitted(row, flags, where=where, keep_published=keep_published, quarantine=quarantine)
        if made is not None:
            yield where, made


def _load(file: Path) -> Any:
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(str(file), f"is not valid JSON ({error}); fetch the file again") from error


def _polygons(shapes: Any, where: str) -> tuple[list[Ring], list[Ring], list[str]]:
    """(rings of the target, rings to be ignored, what is odd)."""
    target: list[Ring] = []
    ignored: list[Ring] = []
    flags = []
    for number, shape in enumerate(shapes if isinstance(shapes, list) else []):
        needed(shape, ("label", "points"), f"{where}: shape {number}")
        label = str(shape["label"]).lower()
        if "flag" in label:
            continue
        ring = _ring(shape, f"{where}: shape {number}")
        if len(ring) < 6:
            flags.append(f"shape {number} ({label}) has {len(ring) // 2} points, which is no polygon")
        else:
            (ignored if "ignore" in label else target).append(ring)
    return target, ignored, flags


def _ring(shape: Mapping[str, Any], where: str) -> Ring:
    points = shape["points"]
    sound = isinstance(points, list) and all(
        isinstance(p, list) and len(p) == 2 and all(isinstance(v, int | float) for v in p) for p in points
    )
    if not sound:
        raise SampleError(where, f"points {points!r:.120} are not [[x, y], ...]; correct the file")
    return [float(v) for point in points for v in point]
