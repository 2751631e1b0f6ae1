"""The native layout: rows as the tasks read them, in any container of `tables.py`."""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrft.data.problems import Quarantine, SampleError, of_row
from vlrft.data.tables import RawRow, RowStream

_DATA_URI = "data:"
Rows = Iterator[tuple[str, dict[str, Any]]]


def read_native(path: Path | str, *, split: str | None, images: Path, quarantine: Quarantine) -> Rows:
    """(where, row) for each row, with `where` = file and line (other files than JSONL: row), both counted from 1.

    `path` is a file, or a folder whose files are read in the order of their names (those that start with `split`), or
    what else `RowStream` takes. Relative media paths are taken from `images`. A row without `id` gets
    `<file stem>-<line>`; null columns count as absent. A line that is not a JSON object goes to `quarantine`.
    """
    return rows_of(RowStream(path, split=split), lambda row, _: row, images=images, quarantine=quarantine)


def rows_of(
    stream: Iterator[RawRow] | RowStream,
    to_native: Callable[[dict[str, Any], str], dict[str, Any]],
    *,
    images: Path,
    quarantine: Quarantine,
    own_ids: bool = True,
) -> Rows:
    """(where, native row) for each raw row, media found from the folder `images`; bad rows go to `quarantine`.

    own_ids: ids are as the rows state them. Files of other frameworks often number pictures, not rows: without
    `own_ids`, a row whose id is taken already gets another, as `free_id` says.
    """
    taken: set[str] = set()
    for raw in stream:
        if isinstance(raw.columns, SampleError):
            quarantine.bad(raw.columns)
            continue
        try:
            with of_row(raw.where):
                row = with_media(to_native(raw.columns, raw.where), images, where=raw.where)
                if not own_ids or row.get("id") is None:
                    wanted = row.get("id")
                    row["id"] = free_id(f"{raw.stem}-{raw.number}" if wanted is None else wanted, raw.number, taken)
                taken.add(str(row["id"]))
        except SampleError as error:
            quarantine.bad(error)
            continue
        yield raw.where, row


def free_id(wanted: Any, number: int, taken: Collection[str]) -> Any:
    """`wanted`, or where that is `taken` already the first of `<wanted>-<number>`, `<wanted>-<number>-2`, ... that is
    not."""
    if str(wanted) not in taken:
        return wanted
    numbered = f"{wanted}-{number}"
    others = (f"{numbered}-{count}" for count in itertools.count(2))
    return next(name for name in itertools.chain([numbered], others) if name not in taken)


def with_media(row: Mapping[str, Any], folder: Path, *, where: str) -> dict[str, Any]:
    """The row with its media paths made absolute and its data URIs decoded; all else is left for the task to judge.

    Raises SampleError for a data URI that is not base64.
    """
    made = dict(row)
    if isinstance(made.get("prompt"), list):
        made["prompt"] = _without_nulls(made["prompt"])
    for name in ("images", "videos"):
        if isinstance(made.get(name), list):
            made[name] = [_located(item, folder, where) for item in made[name]]
    return made


def relative_to(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The row with the media paths that lie in `folder` written relative to it, others as they are."""

    def shorten(item: Any) -> Any:
        if isinstance(item, str) and not item.startswith(_DATA_URI):
            path = Path(item)
            return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else item
        if isinstance(item, Mapping):
            return {key: shorten(value) if key in ("path", "frames") else value for key, value in item.items()}
        return [shorten(part) for part in item] if isinstance(item, list | tuple) else item

    return {name: shorten(value) if name in ("images", "videos") else value for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    """Messages without the keys that parquet fills with nulls where a part does not use them."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _located(item: Any, folder: Path, where: str) -> Any:
    if isinstance(item, str):
        if item.startswith(_DATA_URI):
            return {"bytes": _decoded(item, where)}
        return str(folder / item) if item and "://" not in item else item
    if not isinstance(item, Mapping):
        return item
    # Parquet fills the keys that a row does not use with nulls.
    held = {key: value for key, value in item.items() if value is not None}
    if "bytes" not in held and isinstance(held.get("path"), str):
        held["path"] = _located(held["path"], folder, where)
        if isinstance(held["path"], Mapping):
            held |= held.pop("path")
        elif held.keys() == {"path"}:
            return held["path"]
    if isinstance(held.get("frames"), list):
        held["frames"] = [_located(frame, folder, where) for frame in held["frames"]]
    return held


def _decoded(uri: str, where: str) -> bytes:
    head, comma, payload = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise SampleError(where, f"{uri[:60]!r} is a data URI without base64 content; correct the row")
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise SampleError(where, f"{uri[:60]!r} is not valid base64 ({error}); write the row again") from error
