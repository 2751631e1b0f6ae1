"""The native layout: rows in JSONL or parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlrft.data.problems import DataError, Quarantine, SampleError

SUFFIXES = (".jsonl", ".parquet")


def read_native(
    path: Path, *, split: str | None, images: Path, quarantine: Quarantine
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for each row, with `where` = file and line (parquet: row), both counted from 1.

    `path` is a file, or a folder whose .jsonl and .parquet files are read in the order of their names (those that start
    with `split`). Relative image paths are taken from `images`. A row without `id` gets `<file stem>-<line>`; null
    columns count as absent. A line that is not a JSON object goes to `quarantine`.
    """
    for file in native_files(path, split):
        for number, row in _read_parquet(file) if file.suffix == ".parquet" else _read_jsonl(file, quarantine):
            row = {key: value for key, value in row.items() if value is not None}
            row.setdefault("id", f"{file.stem}-{number}")
            if isinstance(row.get("images"), list):
                row["images"] = [_from_folder(image, images) for image in row["images"]]
            yield f"{file}:{number}", row


def native_files(path: Path, split: str | None) -> list[Path]:
    """The files that `path` stands for. Raises DataError when there is none."""
    if path.is_file():
        return [path]
    files = sorted(p for p in path.glob(f"{split or ''}*") if p.suffix in SUFFIXES)
    if not files:
        named = f" whose name starts with {split!r}" if split else ""
        raise DataError(f"no .jsonl or .parquet file{named} in {path}; check the source's path and split")
    return files


def _read_jsonl(file: Path, quarantine: Quarantine) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            where = f"{file}:{number}"
            try:
                row = json.loads(raw.decode("utf-8-sig"))
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                quarantine.bad(SampleError(where, f"is not valid JSON ({error}); write one object per line"))
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                quarantine.bad(
                    SampleError(where, f"is JSON, but a {type(row).__name__} and not an object with columns")
                )


def _read_parquet(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowInvalid as error:
        raise DataError(f"{file} is not a readable parquet file ({error}); write or fetch it again") from error


def _from_folder(image: Any, folder: Path) -> Any:
    """Relative paths made absolute; everything else is left for the task to judge."""
    if isinstance(image, str) and image and "://" not in image:
        return str(folder / image)
    if isinstance(image, dict) and image.get("bytes") is None and isinstance(image.get("path"), str):
        return str(folder / image["path"])
    return image
