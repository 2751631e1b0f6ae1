"""The sources of one split, each with its place, and their rows as native ones, whatever the format."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from vlrft.config import Block, DataConfig, RowsConfig, SourceConfig
from vlrft.data.answers import checked_space, settled
from vlrft.data.detect import GENERATED, check_format, detect_format
from vlrft.data.forms import form_options, read_form
from vlrft.data.layouts import LAYOUTS, REST, to_native
from vlrft.data.mixture import entry_names
from vlrft.data.native import Rows, read_native, rows_of, with_media
from vlrft.data.prep import FORMS
from vlrft.data.prep.coco import read_coco
from vlrft.data.prep.single_box import SingleBoxRule, single_box_rows
from vlrft.data.prep.voc import read_voc
from vlrft.data.problems import DataError, Quarantine
from vlrft.data.shapes import shapes_options, write_shapes
from vlrft.data.synthetic import GENERATORS, build_generator
from vlrft.data.synthetic.base import parse_options, write_scenes
from vlrft.data.tables import HUB, RowStream
from vlrft.registry import nearest

log = logging.getLogger(__name__)

Role = Literal["train", "eval"]


class RowOptions(Block):
    """`options` of a source that is read from files."""

    answer_style: Literal["json", "plain", "box", "box_points", "clock", "brackets", "glue"] | None = None
    """How the answer is asked for and written, for rows that do not say it in `meta.answer_style`; None = its own."""
    names: dict[str, str] = Field(default_factory=dict)
    """COCO and VOC: class name -> phrase used in the question, such as WBC: the white blood cell."""
    space: str | None = None
    """Layouts of other frameworks: coordinate space of the answers, which these layouts do not state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One source: its settings, where it is, and what messages call it."""

    source: RowsConfig
    role: Role
    what: str
    task: str
    root: Path
    prefix: str = ""
    """Start of its sample ids in a mixture."""

    @property
    def path(self) -> Path | str:
        given = self.source.path
        if given is not None and given.startswith(HUB):
            return given
        return self.root / given if given else self.root

    @property
    def images(self) -> Path | None:
        return self.root / self.source.images if self.source.images else None


def places(data: DataConfig, source: SourceConfig, role: Role) -> list[Place]:
    """One place, or those of a mixture. Raises DataError for names that are alike and weights of held-out rows."""
    root = Path(data.root).expanduser().resolve()
    what = f"data.{role}"
    if not source.mixture:
        return [Place(source=source, role=role, what=what, task=source.task or data.task, root=root)]
    if role == "eval" and source.mixture[0].weight is not None:
        raise DataError(f"{what}: weights are for drawing training samples; held-out rows are all used, take them out")
    names = entry_names(source.mixture, what)
    return [
        Place(
            source=entry, role=role, what=f"{what}.mixture[{i}]", task=entry.task or data.task, root=root, prefix=name
        )
        for i, (name, entry) in enumerate(zip(names, source.mixture, strict=True))
    ]  # fmt: skip


def rows_at(place: Place, quarantine: Quarantine) -> Rows:
    """(where, native row) with absolute media paths; `quarantine` gets what a reader leaves out. Raises DataError."""
    source = place.source
    check_format(source.format, f"{place.what}.format")
    name = _format(place)
    if name in GENERATED:
        folder = _drawn(place, name)
        return read_native(folder / "rows.jsonl", split=None, images=folder, quarantine=quarantine)
    if place.images is not None and not place.images.is_dir():
        raise DataError(f"{place.what}.images: no folder {place.images}; check data.root and the source's images")
    if name in ("coco", "voc") and place.task == "grounding":
        return _single_boxes(place, name, quarantine)
    if source.instances != RowsConfig.model_fields["instances"].default:
        raise DataError(
            f"{place.what}.instances is for the task grounding on COCO and VOC files, not for {place.task} on {name}"
        )
    if name == "native" or name in LAYOUTS:
        return _table_rows(place, name, quarantine)
    return _form_rows(place, name, quarantine)


def _drawn(place: Place, name: str) -> Path:
    """The folder of the generated scenes, drawn unless they are there already."""
    if name == "shapes":
        return write_shapes(shapes_options(place.source, role=place.role), Path(place.path))
    options = dict(place.source.options)
    generator = options.pop("generator", None)
    if not isinstance(generator, str):
        raise DataError(f"{place.what}.options: needs `generator`, one of: {', '.join(GENERATORS)}")
    task = build_generator(generator)
    return write_scenes(task, parse_options(task.options, options, place.role), Path(place.path))


def _format(place: Place) -> str:
    stated = place.source.format
    if stated == "auto":
        name, sign = detect_format(place.path, place.source.split)
        log.info("%s: %s read as %s, by %s", place.what, place.path, name, sign)
        return name
    if stated not in GENERATED and isinstance(place.path, Path) and not place.path.exists():
        raise DataError(f"{place.what}: no file or folder {place.path}; check data.root and {place.what}.path")
    return stated


def _table_rows(place: Place, name: str, quarantine: Quarantine) -> Rows:
    """Rows in the native layout, or in that of another framework."""
    source, options = place.source, _row_options(place)
    if options.names or source.classes:
        raise DataError(
            f"{place.what}: classes and options.names are for COCO and VOC files; native rows state prompts"
        )
    images = place.images or place.root
    if name == "native":
        if options.space is not None:
            raise DataError(f"{place.what}.options: native rows state their space in `boxes`, not in the options")
        rows = read_native(place.path, split=source.split, images=images, quarantine=quarantine)
    else:
        space = checked_space(options.space, f"{place.what}.options")
        read = functools.partial(_from_layout, name, place.task, space)
        stream = RowStream(place.path, split=source.split)
        rows = rows_of(stream, read, images=images, quarantine=quarantine, own_ids=False)
    return _with_style(rows, options.answer_style)


def _from_layout(name: str, task: str, space: str | None, row: dict[str, Any], where: str) -> dict[str, Any]:
    made = to_native(name, row, where=where)
    if row.get(REST) is not None:
        # Written from a native row: it states what it means.
        return made
    return settled(made, task=str(made.get("task", task)), space=space, where=where)


def _single_boxes(place: Place, name: str, quarantine: Quarantine) -> Rows:
    """Detection files as questions for one box."""
    source, options = place.source, _row_options(place)
    read = read_coco if name == "coco" else read_voc
    annotated = list(read(Path(place.path), split=source.split, images=place.images, quarantine=quarantine))
    rule = SingleBoxRule(
        classes=source.classes,
        instances=source.instances,
        names=options.names,
        answer_style=options.answer_style or "json",
    )
    return single_box_rows(annotated, rule, quarantine)


def _form_rows(place: Place, name: str, quarantine: Quarantine) -> Rows:
    """Rows of a published form; `classes` and `options` go to its reader."""
    source = place.source
    if name not in FORMS:
        raise DataError(f"{place.what}: files in {name} are read for the task grounding only, not for {place.task}")
    if isinstance(place.path, str):
        raise DataError(f"{place.what}: the form {name} is read from files, not from {place.path}; fetch them first")
    options = dict(source.options)
    style = None if "answer_style" in form_options(name) else options.pop("answer_style", None)
    if source.classes is not None:
        options["classes"] = source.classes
    rows = read_form(
        name, place.path, split=source.split, images=place.images, quarantine=quarantine, options=options,
        what=f"{place.what}.options",
    )  # fmt: skip
    folder = place.images or place.root
    return _with_style(((where, with_media(row, folder, where=where)) for where, row in rows), style)


def _row_options(place: Place) -> RowOptions:
    known, options = list(RowOptions.model_fields), place.source.options
    for key in options:
        if key not in known:
            raise DataError(f"{place.what}.options: unknown {key!r}{nearest(key, known)}; known: {', '.join(known)}")
    try:
        return RowOptions(**options)
    except ValidationError as error:
        raise DataError(f"{place.what}.options: {error.errors()[0]['msg']} ({options!r})") from error


def _with_style(rows: Rows, style: str | None) -> Rows:
    """Rows whose meta lacks an answer style get the source's."""
    for where, row in rows:
        if style is not None and isinstance(row.get("meta", {}), dict):
            row["meta"] = {"answer_style": style, **row.get("meta", {})}
        yield where, row
