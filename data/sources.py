"""Stop 1: the rows of one split, in whatever layout, as checked Samples."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from vlrft.config import Block, DataConfig, SourceConfig
from vlrft.data.detect import Format, detect_format
from vlrft.data.native import read_native
from vlrft.data.prep.coco import read_coco
from vlrft.data.prep.single_box import SingleBoxRule, single_box_rows
from vlrft.data.prep.voc import read_voc
from vlrft.data.problems import DataError, Quarantine, SampleError, Skipped
from vlrft.data.shapes import shapes_options, write_shapes
from vlrft.data.tasks import build_task
from vlrft.registry import nearest
from vlrft.types import Sample

log = logging.getLogger(__name__)

Role = Literal["train", "eval"]
Rows = Iterator[tuple[str, dict[str, Any]]]


class RowOptions(Block):
    """`options` of a source that is read from files."""

    answer_style: Literal["json", "plain"] | None = None
    """How boxes are asked for and answered, for rows that do not say it in `meta.answer_style`; None = json."""
    names: dict[str, str] = Field(default_factory=dict)
    """COCO and VOC: class name -> phrase used in the question, such as WBC: the white blood cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came of a source."""

    samples: list[Sample]
    skipped: list[Skipped]
    """Bad rows (with `data.on_bad_sample="skip"`) and rows that a rule of the recipe filtered."""


def load_samples(data: DataConfig, source: SourceConfig, *, role: Role) -> Loaded:
    """The samples of `source`, checked as far as that goes without decoding pixels.

    Every image's header is read, every box checked against it. Nothing of a bad row gets through: it is a SampleError
    naming file, line and next step, or with `data.on_bad_sample="skip"` an entry of `skipped`. Raises DataError for
    what is wrong with the source as a whole: files missing, options unknown, duplicate ids, no sample left.
    """
    quarantine = Quarantine(policy=data.on_bad_sample)
    rows = _rows(data, source, role, quarantine)
    samples: list[Sample] = []
    seen: dict[str, str] = {}
    for where, row in rows:
        try:
            sample = build_task(row.get("task", data.task)).to_sample(row, where=where)
        except SampleError as error:
            quarantine.bad(error)
            continue
        if sample.id in seen:
            raise DataError(
                f"{where}: id {sample.id!r} is taken already by {seen[sample.id]}; give every row its own id"
            )
        seen[sample.id] = where
        samples.append(sample)
        if len(samples) == source.limit:
            break
    if not samples:
        first = f"; first of {len(quarantine.skipped)} skipped: {quarantine.skipped[0]}" if quarantine.skipped else ""
        raise DataError(f"data.{role} holds no usable sample{first}; check its path, split and classes")
    log.info("data.%s: %d samples, %d skipped or filtered", role, len(samples), len(quarantine.skipped))
    return Loaded(samples=samples, skipped=quarantine.skipped)


def _rows(data: DataConfig, source: SourceConfig, role: Role, quarantine: Quarantine) -> Rows:
    root = Path(data.root).expanduser().resolve()
    path = root / source.path if source.path else root
    layout = _layout(path, source, role)
    if layout == "shapes":
        folder = write_shapes(shapes_options(source, role=role), path)
        return read_native(folder / "rows.jsonl", split=None, images=folder, quarantine=quarantine)
    options = _row_options(source, role)
    images = root / source.images if source.images else None
    if images is not None and not images.is_dir():
        raise DataError(f"data.{role}.images: no folder {images}; check data.root and the source's images")
    if layout == "native":
        if options.names or source.classes:
            raise DataError(
                f"data.{role}: classes and options.names are for COCO and VOC files; native rows state prompts"
            )
        rows = read_native(path, split=source.split, images=images or root, quarantine=quarantine)
        return _with_style(rows, options.answer_style)
    read = read_coco if layout == "coco" else read_voc
    annotated = list(read(path, split=source.split, images=images, quarantine=quarantine))
    rule = SingleBoxRule(
        classes=source.classes,
        instances=source.instances,
        names=options.names,
        answer_style=options.answer_style or "json",
    )
    return single_box_rows(annotated, rule, quarantine)


def _layout(path: Path, source: SourceConfig, role: Role) -> Format:
    if source.format == "auto":
        layout, sign = detect_format(path)
        log.info("data.%s: %s read as %s, by %s", role, path, layout, sign)
        return layout
    if source.format != "shapes" and not path.exists():
        raise DataError(f"data.{role}: no file or folder {path}; check data.root and data.{role}.path")
    return source.format


def _row_options(source: SourceConfig, role: Role) -> RowOptions:
    known = list(RowOptions.model_fields)
    for key in source.options:
        if key not in known:
            raise DataError(f"data.{role}.options: unknown {key!r}{nearest(key, known)}; known: {', '.join(known)}")
    try:
        return RowOptions(**source.options)
    except ValidationError as error:
        raise DataError(f"data.{role}.options: {error.errors()[0]['msg']} ({source.options!r})") from error


def _with_style(rows: Rows, style: str | None) -> Rows:
    """Rows whose meta lacks an answer style get the source's."""
    for where, row in rows:
        if style is not None and isinstance(row.get("meta", {}), dict):
            row["meta"] = {"answer_style": style, **row.get("meta", {})}
        yield where, row
