"""Rows to files: JSONL or parquet, whole or not at all, and never over a file that is there.

Parquet columns get plain types where all rows agree on one; columns that do not (answers of several forms, `meta`) are
JSON text, marked in the schema so that they are read back as what they were. Encoded media stay bytes in parquet and
become data URIs in JSONL; what stands beside them (the range of a clip) stays.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from vlrft.data.problems import DataError, SampleError

SUFFIXES = (".jsonl", ".parquet")
MEDIA_COLUMNS = ("images", "image", "videos", "video")
MESSAGE_COLUMNS = ("prompt", "messages", "conversations")
_MARK = {b"vlrft": b"json"}
"""Field metadata of a parquet column whose cells are JSON text."""
_MIXED = "mixed"
Rule = Literal["strict", "keys", "media"]
_MAGIC = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"\x1aE\xdf\xa3": "video/x-matroska",
}
_ROWS_AT_ONCE = 64


class RowWriter:
    """Writes rows to `out` (.jsonl or .parquet) when the `with` block ends without an error.

    Raises DataError for another suffix, and for an existing file unless `force`.
    """

    def __init__(self, out: Path, *, force: bool = False) -> None:
        if out.suffix not in SUFFIXES:
            raise DataError(f"{out} has the suffix {out.suffix!r}; rows are written as {' or '.join(SUFFIXES)}")
        if out.exists() and not force:
            raise DataError(f"{out} exists already; choose another name, or say --force to replace it")
        self.out = out
        self.count = 0
        self._shapes: dict[str, Any] = {}
        self._temporary: Path | None = None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{self.out.name}-", dir=self.out.parent)
        self._temporary, self._file = Path(name), os.fdopen(handle, "w+b")
        return self

    def write(self, row: Mapping[str, Any], *, where: str) -> None:
        """Add a row. Raises SampleError for values that the file cannot hold, and then leaves the row out."""
        assert self._file is not None, "write inside the with block"
        if self.out.suffix == ".jsonl":
            self._file.write(json_line(row, where))
        else:
            for name, value in row.items():
                rule = _rule_of(name)
                self._shapes[name] = _merge(self._shapes.get(name), _shape(value, rule, where), rule)
            pickle.dump(dict(row), self._file)
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._file is not None
        assert self._temporary is not None
        try:
            if kind is None:
                self._finish(self._file, self._temporary)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _finish(self, file: IO[bytes], temporary: Path) -> None:
        if self.out.suffix == ".parquet":
            spool, parquet = file, temporary.with_name(temporary.name + ".table")
            try:
                _write_parquet(parquet, spool, self._shapes, self.count)
                os.replace(parquet, temporary)
            finally:
                parquet.unlink(missing_ok=True)
        else:
            file.flush()
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, self.out)


def json_line(row: Mapping[str, Any], where: str) -> bytes:
    """The row as a line of JSON, encoded media as data URIs. Raises SampleError for what JSON cannot hold."""
    plain = {name: _uris(value) if name in MEDIA_COLUMNS else value for name, value in row.items()}
    try:
        return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise SampleError(where, f"cannot be written as JSON ({error}); correct the row") from error


def data_uri(data: bytes) -> str:
    """`data:image/png;base64,...` with the kind of file that the first bytes show."""
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if kind is None and data[:4] == b"RIFF":
        kind = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}.get(data[8:12])
    if kind is None and data[4:8] == b"ftyp":
        kind = "video/mp4"
    return f"data:{kind or 'application/octet-stream'};base64,{base64.b64encode(data).decode()}"


def decode_marked(rows: list[dict[str, Any]], schema: Any) -> Iterator[dict[str, Any]]:
    """Rows of a parquet batch with their JSON columns read. `schema`: the file's pyarrow schema."""
    marked = [field.name for field in schema if (field.metadata or {}).get(b"vlrft") == b"json"]
    for row in rows:
        yield {**row, **{name: json.loads(row[name]) for name in marked if row[name] is not None}}


def _uris(value: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        # A path beside bytes is the name that they had.
        rest = {key: item for key, item in value.items() if key not in ("bytes", "path") and item is not None}
        uri = data_uri(value["bytes"])
        return {"path": uri, **rest} if rest else uri
    return [_uris(item) for item in value] if isinstance(value, list | tuple) else value


def _rule_of(column: str) -> Rule:
    if column in MEDIA_COLUMNS:
        return "media"
    return "keys" if column in MESSAGE_COLUMNS else "strict"


def _shape(value: Any, rule: Rule, where: str) -> Any:
    """The type of a value: a name, ["list", shape], {key: shape}; None for null and _MIXED for what has no one type."""
    if value is None or isinstance(value, str | bool | bytes | float):
        return None if value is None else type(value).__name__
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else _MIXED
    if isinstance(value, Mapping):
        shapes = {str(key): _shape(item, rule, where) for key, item in value.items()}
        return _MIXED if not shapes or _MIXED in shapes.values() else shapes
    if isinstance(value, list | tuple):
        inner: Any = None
        for item in value:
            inner = _merge(inner, _shape(item, rule, where), rule)
        return _MIXED if inner == _MIXED else ["list", inner]
    raise SampleError(where, f"holds a {type(value).__name__}, which no file of rows can hold; correct the row")


def _merge(a: Any, b: Any, rule: Rule) -> Any:
    """The type that holds both.

    Rules: in `strict` columns objects have the same keys; in `keys` columns (messages) a key may be missing; in
    `media` columns also text may stand for an object with that path, and a whole number for any.
    """
    if a is None or b is None:
        return b if a is None else a
    if rule == "media" and {type(a), type(b)} == {dict, str}:
        a, b = ({"path": "str"} if x == "str" else x for x in (a, b))
    if rule == "media" and (a, b) in (("int", "float"), ("float", "int")):
        return "float"
    if isinstance(a, dict) and isinstance(b, dict) and (rule != "strict" or a.keys() == b.keys()):
        merged = {key: _merge(a.get(key), b.get(key), rule) for key in {**a, **b}}
        return _MIXED if _MIXED in merged.values() else merged
    if isinstance(a, list) and isinstance(b, list):
        inner = _merge(a[1], b[1], rule)
        return _MIXED if inner == _MIXED else ["list", inner]
    return a if a == b else _MIXED


def _fitted(value: Any, shape: Any) -> Any:
    """A value as its column's type wants it: text to objects, missing keys to nulls."""
    if isinstance(shape, dict) and isinstance(value, str):
        value = {"path": value}
    if isinstance(shape, dict) and isinstance(value, Mapping):
        return {key: _fitted(value.get(key), inner) for key, inner in shape.items()}
    if isinstance(shape, list) and isinstance(value, list | tuple):
        return [_fitted(item, shape[1]) for item in value]
    return value


def _arrow(shape: Any) -> Any:
    import pyarrow as pa

    if isinstance(shape, dict):
        return pa.struct([(key, _arrow(inner)) for key, inner in shape.items()])
    if isinstance(shape, list):
        return pa.list_(_arrow(shape[1]))
    types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "bytes": pa.binary()}
    return types.get(shape, pa.string())


def _write_parquet(out: Path, spool: IO[bytes], shapes: Mapping[str, Any], count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    marked = {name for name, shape in shapes.items() if shape == _MIXED or name in ("meta", "_vlrft")}
    schema = pa.schema(
        [
            pa.field(name, pa.string(), metadata=_MARK) if name in marked else pa.field(name, _arrow(shape))
            for name, shape in shapes.items()
        ]
    )
    spool.seek(0)
    with pq.ParquetWriter(out, schema) as writer:
        for start in range(0, count, _ROWS_AT_ONCE):
            rows = [pickle.load(spool) for _ in range(min(_ROWS_AT_ONCE, count - start))]
            columns = {name: [_stored(row.get(name), name, shapes, marked) for row in rows] for name in shapes}
            writer.write_table(pa.table(columns, schema=schema))


def _stored(value: Any, name: str, shapes: Mapping[str, Any], marked: set[str]) -> Any:
    if name not in marked or value is None:
        return _fitted(value, shapes[name])
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        raise DataError(
            f"the column {name!r} holds values of several types, bytes among them, which parquet cannot; write .jsonl"
        ) from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
