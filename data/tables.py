"""Raw rows of files and datasets, one after the other: whatever the container, a row is its columns.

JSONL, parquet, CSV and TSV are read in pieces, so a file may be larger than memory; JSON is read whole. A stream of
rows can be dealt to ranks and stopped at any row to go on from there.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vlrft.data.problems import DataError, SampleError

SUFFIXES = (".jsonl", ".parquet", ".json", ".csv", ".tsv")
FOLDER_SUFFIXES = (".jsonl", ".parquet", ".csv", ".tsv")
"""Suffixes that a folder's files are picked by: a .json file in it is as often something else."""
HUB = "hf://"
"""Start of a path that names a dataset of the hub: hf://org/name, hf://org/name/config."""

_JSON_CELLS = (
    *("images", "videos", "boxes", "meta", "prompt", "messages", "conversations"),
    *("reward_model", "extra_info", "objects", "options", "_vlrft"),
)
"""CSV columns whose cells are read as JSON where they begin like it. A truth never is: it may be text like `[1, 2]`."""
_NUMBER_CELLS = ("width", "height", "duration", "fps")
_CELL_LIMIT = 2**31 - 1
"""Characters of one CSV cell: base64 pictures are far longer than the csv module's default allows."""
_PARQUET_BUFFER = 2**20
"""Bytes read from a parquet file at a time."""

Columns = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as its file has it."""

    where: str
    """File and number, for messages."""
    stem: str
    """File name without suffix: with `number` the id of a row that states none."""
    number: int
    """Line of a JSONL file, else place of the row in the file; from 1."""
    columns: Columns | SampleError
    """Columns that are not null, or what is wrong with this row."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file (or dataset split) of a stream."""

    name: str
    """File, or what messages call it."""
    stem: str
    read: Callable[[int], Iterable[tuple[int, Any]]]
    """(number, columns or SampleError) of the rows whose number is above the given one."""


class RowStream:
    """The rows of `path`: a file, a folder of files, a folder saved by HF datasets, or `hf://org/name`.

    Files of a folder come in the order of their names, those that start with `split` where one is given. `rank` and
    `world`: every row goes to exactly one rank, in turn. `state_dict` is the position; a stream of the same files that
    gets it by `load_state_dict` continues with the next row. Raises DataError when there is nothing to read.
    """

    def __init__(self, path: Path | str, *, split: str | None = None, rank: int = 0, world: int = 1) -> None:
        self.parts = parts_of(path, split)
        check_rank(rank, world)
        self.rank, self.world = rank, world
        self._part, self._number, self._index = 0, 0, 0

    def __iter__(self) -> Iterator[RawRow]:
        while self._part < len(self.parts):
            part = self.parts[self._part]
            for number, columns in part.read(self._number):
                mine = self._index % self.world == self.rank
                self._number, self._index = number, self._index + 1
                if mine:
                    yield RawRow(f"{part.name}:{number}", part.stem, number, columns)
            self._part, self._number = self._part + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-like position: after the row that came last."""
        parts = [part.name for part in self.parts]
        return {"parts": parts, "part": self._part, "number": self._number, "index": self._index, "world": self.world}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises DataError when the state belongs to other files or another number of ranks."""
        here = self.state_dict()
        for key, what in (("parts", "other files"), ("world", "another number of ranks")):
            if state[key] != here[key]:
                raise DataError(f"the saved position belongs to {what}: {state[key]!r}, not {here[key]!r}; start anew")
        self._part, self._number, self._index = int(state["part"]), int(state["number"]), int(state["index"])


def shard(rows: Iterable[T], rank: int, world: int) -> Iterator[T]:
    """Every `world`-th of `rows`, from `rank` on: over all ranks each row once."""
    check_rank(rank, world)
    return itertools.islice(rows, rank, None, world)


def parts_of(path: Path | str, split: str | None) -> list[Part]:
    """What `path` stands for. Raises DataError when that is nothing."""
    from vlrft.data.hub import hub_part, is_saved, saved_part

    if str(path).startswith(HUB):
        return [hub_part(str(path), split)]
    path = Path(path)
    if is_saved(path):
        return [saved_part(path, split)]
    return [_file_part(file) for file in table_files(path, split)]


def table_files(path: Path, split: str | None) -> list[Path]:
    """The files of rows that `path` stands for; a folder's may lie in its folder `data`, as hubs keep them.

    Raises DataError when there is none.
    """
    if path.is_file():
        return [path]
    for folder in (path, path / "data"):
        found = (p for p in folder.glob(f"{split or ''}*") if p.suffix.lower() in FOLDER_SUFFIXES and p.is_file())
        files = sorted(p for p in found if not p.name.startswith("."))
        if files:
            return files
    named = f" whose name starts with {split!r}" if split else ""
    raise DataError(f"no {', '.join(FOLDER_SUFFIXES)} file{named} in {path}; check the source's path and split")


def check_rank(rank: int, world: int) -> None:
    """Raise DataError unless `rank` is one of 0 to `world` - 1."""
    if not 0 <= rank < world:
        raise DataError(f"rank {rank} of {world}: a rank is a number from 0 to {world - 1}")


def _file_part(file: Path) -> Part:
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet, ".json": _read_json, ".csv": _read_csv}
    suffix = file.suffix.lower()
    reader = readers.get(".csv" if suffix == ".tsv" else suffix)
    if reader is None:
        raise DataError(f"{file} has the unknown suffix {file.suffix!r}; known: {', '.join(SUFFIXES)}")

    def read(after: int) -> Iterator[tuple[int, Any]]:
        for number, columns in reader(file, after):
            if isinstance(columns, dict):
                columns = {key: value for key, value in columns.items() if value is not None}
            elif not isinstance(columns, SampleError):
                kind = type(columns).__name__
                reason = f"is JSON, but a {kind} and not an object with columns"
                columns = SampleError(f"{file}:{number}", reason)
            yield number, columns

    return Part(name=str(file), stem=file.stem, read=read)


def _read_jsonl(file: Path, after: int) -> Iterator[tuple[int, Any]]:
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if number <= after or not raw.strip():
                continue
            try:
                yield number, json.loads(raw.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                reason = f"is not valid JSON ({error}); write one object per line"
                yield number, SampleError(f"{file}:{number}", reason)


def _read_json(file: Path, after: int) -> Iterator[tuple[int, Any]]:
    rows = rows_of_json(load_json(file), file)
    yield from itertools.islice(enumerate(rows, start=1), after, None)


def load_json(file: Path) -> Any:
    """Parsed content of a JSON file. Raises DataError."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON ({error}); one row per line belongs in a .jsonl file") from error


def rows_of_json(content: Any, file: Path) -> list[Any]:
    """The rows of parsed JSON: a list, or an object with exactly one list. Raises DataError for anything else."""
    if isinstance(content, list):
        return content
    lists = [key for key, value in content.items() if isinstance(value, list)] if isinstance(content, dict) else []
    if len(lists) == 1:
        rows: list[Any] = content[lists[0]]
        return rows
    held = f"an object with the keys {_some(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
    raise DataError(
        f"{file} is JSON, but no COCO detection file, no list of rows and no object with one list; it is {held}. "
        "If a benchmark publishes it, 'vlrft data ls' names its form"
    )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(map(str, listed[:6])) + (", ..." if len(listed) > 6 else "")


def _read_parquet(file: Path, after: int) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlrft.data.write import decode_marked

    try:
        # Column by column in pages: the defaults would hold a whole row group, and each page twice.
        with pq.ParquetFile(file, buffer_size=_PARQUET_BUFFER, pre_buffer=False) as table:
            number = 0
            groups: list[int] = []
            for group in range(table.num_row_groups):
                size = table.metadata.row_group(group).num_rows
                if groups or number + size > after:
                    groups.append(group)
                else:
                    number += size
            for batch in table.iter_batches(batch_size=16, row_groups=groups) if groups else ():
                for columns in decode_marked(batch.to_pylist(), table.schema_arrow):
                    number += 1
                    if number > after:
                        yield number, columns
    except pa.ArrowInvalid as error:
        raise DataError(f"{file} is not a readable parquet file ({error}); write or fetch it again") from error


def _read_csv(file: Path, after: int) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(_CELL_LIMIT)
    number = 0
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        try:
            for number, cells in enumerate(rows, start=1):
                if number <= after:
                    continue
                if None in cells:
                    reason = f"has more cells than the header has columns ({len(rows.fieldnames or ())}); quote them"
                    yield number, SampleError(f"{file}:{number}", reason)
                else:
                    yield number, {name: _cell(name, text) for name, text in cells.items()}
        except (csv.Error, UnicodeDecodeError) as error:
            # Text is decoded ahead of the rows: only the bytes themselves tell the line.
            line = _undecodable_line(file) if isinstance(error, UnicodeDecodeError) else rows.line_num
            kind = file.suffix[1:].upper()
            raise DataError(
                f"{file} is not readable as {kind} in UTF-8, at line {line}, after row {number} ({error}); save it as "
                "UTF-8, or correct that line"
            ) from error


def _undecodable_line(file: Path) -> int:
    """The first line of `file` that is not UTF-8, from 1."""
    with file.open("rb") as lines:
        for line, raw in enumerate(lines, start=1):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError:
                return line
    return 0


def _cell(name: str, text: str | None) -> Any:
    """A cell's value; None for an empty one."""
    if text is None or not text.strip():
        return None
    if name in _JSON_CELLS and text.lstrip()[0] in "[{":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    if name in _NUMBER_CELLS:
        try:
            number = float(text)
        except ValueError:
            return text
        return int(number) if number.is_integer() else number
    return text
