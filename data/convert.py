"""Files of other forms and layouts to native rows, and native rows to other layouts: what `vlrft data convert` does."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrft.data.answers import checked_space, settled
from vlrft.data.detect import check_format, detect_format
from vlrft.data.forms import read_form
from vlrft.data.layouts import LAYOUTS, REST, from_native, in_order, to_native
from vlrft.data.native import Rows, relative_to, rows_of, with_media
from vlrft.data.prep import FORMS
from vlrft.data.problems import DataError, Quarantine, SampleError, Skipped, of_row
from vlrft.data.tables import HUB, RowStream
from vlrft.data.tasks import build_task
from vlrft.data.tasks.targets import published_flags
from vlrft.data.write import RowWriter, data_uri, json_line
from vlrft.registry import nearest

_VARIABLE = re.compile(r"""'[^']*'|"[^"]*"|[-+]?\d[\d.,]*|\[[^\]]*\]""")
"""What differs between reasons of one kind: quoted text, numbers, lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be converted, and how."""

    form: str
    """Name of a form or layout, `native`, or `auto`."""
    source: str
    """File, folder, or hf://org/name."""
    out: Path
    """.jsonl or .parquet."""
    images: Path | None = None
    """Folder of the media; None = the source's own folder. Paths are written relative to it."""
    split: str | None = None
    to: str | None = None
    """Layout to write; None = native."""
    task: str | None = None
    """Task of rows that state none: their answers are brought into its form, and it is written into them."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of a form: its reader's. Of a layout: `space`, the coordinate space of the answers."""
    extract: Path | None = None
    """Write encoded media as files into this folder; None = keep them in the rows."""
    force: bool = False
    """Replace `out`."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What a conversion did."""

    form: str
    sign: str = ""
    """By what the form was told; empty where it was stated."""
    written: int = 0
    left_out: list[Skipped] = field(default_factory=list)
    """Rows, and parts of written rows (`whole` is False), such as a box without area."""
    listing: Path | None = None
    """File of JSON lines with every row that was left out and why; None when all were written."""
    flagged: list[Skipped] = field(default_factory=list)
    """Written rows that break their form's rules and are kept as published, with what is odd about them."""
    folder: Path = field(default_factory=Path)
    """Folder that the written media paths are relative to."""
    aside: Counter[str] = field(default_factory=Counter)
    """Native field -> rows that keep it under `_vlrft`, since the layout cannot hold it."""

    @property
    def rows_left_out(self) -> list[Skipped]:
        """What was left out whole: with `written`, all rows of the source."""
        return [item for item in self.left_out if item.whole]

    @property
    def parts_left_out(self) -> list[Skipped]:
        """Parts of written rows, such as a box without area."""
        return [item for item in self.left_out if not item.whole]


def convert(request: Request) -> Report:
    """Read `request.source` and write `request.out`, whole or not at all.

    Rows that cannot be used are left out, counted and listed in `<out>.left_out`, a line of JSON each. Raises DataError
    for what is wrong as a whole: names, files, options, nothing to write.
    """
    if request.to is not None and request.to not in LAYOUTS:
        hint = nearest(request.to, list(LAYOUTS)) or ";"
        raise DataError(f"--to: unknown layout {request.to!r}{hint} known: {', '.join(LAYOUTS)}")
    writer = RowWriter(request.out, force=request.force)
    listing = request.out.with_name(request.out.name + ".left_out")
    if listing.exists() and not request.force:
        raise DataError(f"{listing} exists already; choose another --out, or say --force to replace it")
    if request.task is not None:
        build_task(request.task)
    report = Report(form=request.form, folder=_folder(request))
    quarantine = Quarantine(policy="skip")
    written: dict[str, str] = {}
    """Where each id stands."""
    with writer:
        for where, row in _native_rows(request, report, quarantine):
            try:
                if (first := written.get(str(row.get("id")))) is not None:
                    raise SampleError(where, f"id {row['id']!r:.100} is taken already by {first}; give it its own id")
                with of_row(where):
                    _write(writer, row, where, request, report)
            except SampleError as error:
                quarantine.bad(error)
                continue
            written[str(row.get("id"))] = where
            if flags := published_flags(row):
                report.flagged.append(Skipped(where=where, reason="; ".join(flags), kind="published"))
        report.written, report.left_out = writer.count, quarantine.skipped
        if not writer.count:
            first = f"; the first of {len(report.left_out)}: {report.left_out[0]}" if report.left_out else ""
            raise DataError(f"{request.source}: no row could be used, nothing is written{first}")
    _write_listing(listing, report)
    return report


def grouped(left_out: Sequence[Skipped]) -> list[tuple[int, Skipped]]:
    """(how many, the first of them) for each kind of reason, the most frequent first."""
    counts: Counter[str] = Counter()
    first: dict[str, Skipped] = {}
    for item in left_out:
        kind = _VARIABLE.sub("_", item.reason)
        counts[kind] += 1
        first.setdefault(kind, item)
    return [(count, first[kind]) for kind, count in counts.most_common()]


def _folder(request: Request) -> Path:
    if request.images is not None:
        if not request.images.is_dir():
            raise DataError(f"--images: no folder {request.images}")
        return request.images.resolve()
    if request.source.startswith(HUB):
        return Path.cwd()
    source = Path(request.source).resolve()
    return source if source.is_dir() else source.parent


def _native_rows(request: Request, report: Report, quarantine: Quarantine) -> Rows:
    """Rows of the source with absolute media paths."""
    check_format(request.form, "FORM")
    _check_split(request)
    hub = request.source.startswith(HUB)
    path: Path | str = request.source if hub else Path(request.source).expanduser().resolve()
    if not hub and not Path(path).exists():
        raise DataError(f"no file or folder {path}; check the path")
    if request.form == "auto":
        report.form, report.sign = detect_format(path, request.split)
    name = report.form
    if name == "native" or name in LAYOUTS:
        return _table_rows(request, name, path, quarantine)
    if name not in FORMS:
        raise DataError(f"{name} has no annotation files to convert; known: {', '.join([*LAYOUTS, *FORMS])}")
    if hub:
        raise DataError(f"the form {name} is read from files, not from {path}; fetch them first")
    rows = read_form(
        name, Path(path), split=request.split, images=request.images and request.images.resolve(),
        quarantine=quarantine, options=request.options, what="--option",
    )  # fmt: skip
    return ((where, with_media(_of_form(row, name, request), report.folder, where=where)) for where, row in rows)


def _check_split(request: Request) -> None:
    """Raise DataError for a split that would do nothing; a form's own reader judges that of a form."""
    rows = request.form in ("auto", "native") or request.form in LAYOUTS
    source = Path(request.source).expanduser()
    if request.split is not None and rows and source.is_file() and request.split not in source.name:
        raise DataError(f"--split {request.split}: {source} is one file of rows, which has no splits; take --split out")


def _table_rows(request: Request, name: str, path: Path | str, quarantine: Quarantine) -> Rows:
    unknown = [key for key in request.options if key != "space" or name == "native"]
    if unknown:
        takes = "none" if name == "native" else "space"
        raise DataError(f"--option: {name} rows have no option {unknown[0]!r}; they take: {takes}")
    space = checked_space(request.options.get("space"), "--option")
    read = functools.partial(_read, name, request.task, space)
    stream = RowStream(path, split=request.split)
    return rows_of(stream, read, images=_folder(request), quarantine=quarantine, own_ids=name == "native")


def _read(name: str, task: str | None, space: str | None, row: dict[str, Any], where: str) -> dict[str, Any]:
    if name == "native":
        return _with_task(row, task)
    made = _with_task(to_native(name, row, where=where), task)
    if row.get(REST) is not None:
        # Written from a native row: it states what it means.
        return made
    if "task" in made:
        return settled(made, task=str(made["task"]), space=space, where=where)
    if space is not None:
        made.setdefault("boxes", {"space": space})
    return made


def _of_form(row: dict[str, Any], name: str, request: Request) -> dict[str, Any]:
    """The row of a form, whose reader states the task. Raises DataError where the request asks for another."""
    if request.task is not None and row.get("task", request.task) != request.task:
        single = name in ("coco", "voc") and request.task == "grounding"
        other = f"; a recipe asks these files for one box each: format: {name}, task: grounding" if single else ""
        raise DataError(
            f"--task {request.task}: the form {name} is read for the task {row['task']}; take --task out{other}"
        )
    return _with_task(row, request.task)


def _with_task(row: dict[str, Any], task: str | None) -> dict[str, Any]:
    return row if task is None or row.get("task") is not None else {**row, "task": task}


def _write(writer: RowWriter, row: dict[str, Any], where: str, request: Request, report: Report) -> None:
    if request.extract is not None:
        row = {name: _extracted(value, request.extract) if name in ("images", "videos") else value
               for name, value in row.items()}  # fmt: skip
    made = in_order(relative_to(row, report.folder))
    if request.to is not None:
        made = from_native(request.to, made, where=where)
        report.aside.update((made.get(REST) or {}).get("fields", {}).keys())
    writer.write(made, where=where)


def _extracted(item: Any, folder: Path) -> Any:
    """Media entries with their bytes in a file of `folder`, named after its contents."""
    if isinstance(item, list | tuple):
        return [_extracted(part, folder) for part in item]
    data = item.get("bytes") if isinstance(item, Mapping) else None
    if not isinstance(data, bytes):
        return item
    kind = data_uri(data[:16])[5:].partition(";")[0]
    suffix = {"image/jpeg": ".jpg", "video/x-matroska": ".mkv", "video/x-msvideo": ".avi"}.get(kind)
    path = folder.resolve() / (hashlib.sha256(data).hexdigest()[:24] + (suffix or f".{kind.rpartition('/')[2]}"))
    if not path.exists():
        _write_whole(path, [data])
    rest = {key: value for key, value in item.items() if key not in ("bytes", "path")}
    return {"path": str(path), **rest} if rest else str(path)


def _write_listing(listing: Path, report: Report) -> None:
    """The rows that were left out, or none of a listing that an earlier conversion left."""
    if report.left_out:
        lines = (json_line({"where": item.where, "reason": item.reason}, item.where) for item in report.left_out)
        _write_whole(listing, lines)
        report.listing = listing
    else:
        listing.unlink(missing_ok=True)


def _write_whole(path: Path, pieces: Any) -> None:
    """Write a file under another name, then give it its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
        Path(name).chmod(0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
