"""What the readers of published tables share: where the file is, its rows, and the columns that hold text and media."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrft.data.layouts.columns import unwrap
from vlrft.data.native import free_id
from vlrft.data.prep.published import admitted
from vlrft.data.problems import DataError, Quarantine, SampleError, of_row
from vlrft.data.tables import RawRow, RowStream
from vlrft.parse import has_tags
from vlrft.parse.choices import LETTERS

Rows = Iterator[tuple[str, dict[str, Any]]]
Made = tuple[dict[str, Any] | None, list[str]]
"""(row, what is odd about it); without a row the second part says why there is none."""


class Unasked(list[str]):
    """In place of what is odd: the row is left out by an option of the form, so that nobody misses it."""


VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def annotation_file(path: Path, split: str | None, names: Sequence[str]) -> Path:
    """`path` itself when it is a file, else the first of `names` in it.

    `{split}` in a name is filled in; names without it are for sources that name no split. Raises DataError when there
    is none.
    """
    if path.is_file():
        return path
    found = _named_file(path, split, names)
    if found is not None:
        return found
    if split is None:
        raise DataError(f"{path} is a folder: set split, or give the file as path (names: {', '.join(names)})")
    wanted = [name.format(split=split) for name in names if "{split}" in name]
    raise DataError(f"none of {', '.join(wanted)} is in {path}; check path and split, or give the file as path")


def row_stream(path: Path, split: str | None, names: Sequence[str]) -> RowStream:
    """The rows of `path`, or of the file in it that `annotation_file` finds, or of the tables in it."""
    if path.is_file():
        return RowStream(path)
    found = _named_file(path, split, names)
    if found is not None:
        return RowStream(found)
    try:
        return RowStream(path, split=split)
    except DataError as error:
        raise DataError(f"{error}; the published file may be {', '.join(names)}") from error


def _named_file(folder: Path, split: str | None, names: Sequence[str]) -> Path | None:
    wanted = [name.format(split=split) for name in names if ("{split}" in name) == (split is not None)]
    return next((folder / name for name in wanted if (folder / name).is_file()), None)


def media_folder(path: Path, images: Path | None, *below: str) -> Path:
    """Folder that media paths start from: `images`, or that of the annotations, or the first of `below` in it."""
    if images is not None:
        return images
    base = path if path.is_dir() else path.parent
    return next((base / name for name in below if (base / name).is_dir()), base)


def video_file(folder: Path, name: str) -> str:
    """The file of the video called `name`, whose suffix the annotations do not state; .mp4 where there is none."""
    found = (folder / (name + suffix) for suffix in VIDEO_SUFFIXES)
    return str(next((file for file in found if file.is_file()), folder / (name + VIDEO_SUFFIXES[0])))


def converted(
    raws: Iterable[RawRow],
    convert: Callable[[dict[str, Any], str], Made],
    *,
    quarantine: Quarantine,
    keep_published: bool = False,
) -> Rows:
    """(where, native row) for each raw row that `convert` makes one of; oddities as `admitted` has it.

    A row without `id` gets `<file stem>-<number>`, and one whose id is taken another, as `free_id` says. What `convert`
    raises as SampleError goes to `quarantine`, and so does what it raises for values of a type that it does not expect.
    """
    taken: set[str] = set()
    for raw in raws:
        if isinstance(raw.columns, SampleError):
            quarantine.bad(raw.columns)
            continue
        try:
            with of_row(raw.where):
                row, odd = convert(raw.columns, raw.where)
        except SampleError as error:
            quarantine.bad(error)
            continue
        if row is None:
            leave_out = quarantine.filtered if isinstance(odd, Unasked) else quarantine.published
            leave_out(raw.where, "; ".join(odd))
            continue
        row = admitted(row, odd, where=raw.where, keep_published=keep_published, quarantine=quarantine)
        if row is None:
            continue
        row = {"id": f"{raw.stem}-{raw.number}", **row}
        row["id"] = free_id(str(row["id"]), raw.number, taken)
        taken.add(row["id"])
        yield raw.where, row


def text_of(columns: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """The first of the columns `names` that holds text, without white space around it. Raises SampleError."""
    for name in names:
        value = columns.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    held = ", ".join(map(str, columns)) or "none"
    raise SampleError(where, f"no text in {' or '.join(map(repr, names))} (columns: {held}); correct the row")


def truth_of(columns: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[str, dict[str, str]]:
    """(answer, `{"think": reasoning}` where there is some) of a text that may have both in tags. Raises SampleError."""
    text = text_of(columns, names, where)
    answer, think = unwrap(text)
    if not answer.strip() or has_tags(answer):
        raise SampleError(where, f"{text[:100]!r} holds no answer between its tags; correct the row")
    return answer.strip(), {"think": think.strip()} if think and think.strip() else {}


def picture_of(columns: Mapping[str, Any], names: Sequence[str], folder: Path, where: str) -> list[Any]:
    """`images` of a row: each a path from `folder`, or the encoded picture that a parquet file holds."""
    value = next((columns[name] for name in names if columns.get(name) is not None), None)
    items = value if isinstance(value, list | tuple) else [value]
    made: list[Any] = []
    for item in items:
        held = item if isinstance(item, Mapping) else {"path": item}
        if isinstance(held.get("bytes"), bytes):
            made.append({"bytes": held["bytes"]})
        elif isinstance(held.get("path"), str) and held["path"]:
            made.append(str(folder / held["path"]))
        else:
            raise SampleError(where, f"no picture in {' or '.join(map(repr, names))}: {item!r:.100}; correct the row")
    return made


def prompt_of(text: str, kind: str, where: str) -> str | list[dict[str, Any]]:
    """`text` as a prompt for one medium of `kind`: where it marks the medium's place, a message with typed parts."""
    marker = f"<{kind}>"
    if marker not in text:
        return text
    pieces = text.split(marker)
    if len(pieces) != 2:
        raise SampleError(where, f"the question marks {len(pieces) - 1} {kind}s, but has one; correct the row")
    parts: list[dict[str, Any]] = [{"type": "text", "text": piece.strip()} for piece in pieces]
    parts.insert(1, {"type": kind})
    return [{"role": "user", "content": [part for part in parts if part.get("text") != ""]}]


def letter_of(answer: str, options: Sequence[str], where: str) -> tuple[str, list[str]]:
    """(letter of the option whose text is `answer`, what is odd). Raises SampleError where no option has it."""
    same = [i for i, option in enumerate(options) if option.strip() == answer.strip()]
    if not same:
        raise SampleError(where, f"the answer {answer!r:.100} is none of the options {list(options)!r:.200}")
    odd = [f"{len(same)} options have the text of the answer"] if len(same) > 1 else []
    return LETTERS[same[0]], odd
