"""VLMEvalKit's benchmark files: TSV with base64 pictures.

Columns: `index`, `question`, `image` (base64; of several pictures a Python list of them; or, to save space, the index
of another row whose picture it is), `image_path` in its place, `answer`, options `A`, `B`, ... for choices, `hint`,
`category`, `split`. Written from VLMEvalKit's documentation and code of its dataset classes.
"""

from __future__ import annotations

import base64
import binascii
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrft.data.problems import Quarantine, SampleError, of_row
from vlrft.data.tables import RawRow, RowStream
from vlrft.parse import read_values

_SHORTEST_PICTURE = 64
"""Characters: a shorter cell of `image` is the index of another row."""
_USED = ("index", "question", "image", "image_path", "answer", "hint")


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row): `choice` rows where a row has options and a letter as answer, else `open_qa` rows.

    The hint stands before the question, as VLMEvalKit shows it. `split` keeps rows whose column `split` says so. The
    file is read several times, so that only pictures that other rows refer to are kept in memory. Rows without an
    answer, as in test splits, are filtered.
    """
    wanted = {cell for raw in RowStream(path) if (cell := _reference(raw)) is not None}
    shared: dict[str, list[Any]] = {}
    for raw in RowStream(path):
        if isinstance(raw.columns, SampleError) or str(raw.columns.get("index")) not in wanted:
            continue
        try:
            with of_row(raw.where):
                shared[str(raw.columns["index"])] = _pictures(raw.columns, shared, raw.where)
        except SampleError as error:
            quarantine.bad(error)
    for raw in RowStream(path):
        if isinstance(raw.columns, SampleError):
            quarantine.bad(raw.columns)
        elif split is not None and raw.columns.get("split") not in (None, split):
            continue
        elif raw.columns.get("answer") is None:
            quarantine.published(raw.where, "states no answer")
        else:
            try:
                with of_row(raw.where):
                    yield raw.where, {"id": f"{raw.stem}-{raw.number}", **_row(raw.columns, shared, raw.where)}
            except SampleError as error:
                quarantine.bad(error)


def _reference(raw: RawRow) -> str | None:
    """The index that the row's cell refers to, None where it holds a picture itself."""
    cell = None if isinstance(raw.columns, SampleError) else raw.columns.get("image")
    return cell.strip() if isinstance(cell, str) and len(cell) < _SHORTEST_PICTURE and cell[:1] != "[" else None


def _row(columns: Mapping[str, Any], shared: Mapping[str, list[Any]], where: str) -> dict[str, Any]:
    question = columns.get("question")
    if not isinstance(question, str):
        raise SampleError(where, "has no `question`; correct the row")
    letters = [letter for letter in string.ascii_uppercase if columns.get(letter) is not None]
    in_order = list(string.ascii_uppercase[: len(letters)])
    if letters != in_order:
        raise SampleError(where, f"has the options {', '.join(letters)}, which leave one out; correct the row")
    answer = str(columns["answer"]).strip()
    choice = bool(letters) and answer in letters
    hint = columns.get("hint")
    others = {name: value for name, value in columns.items() if name not in (*_USED, *letters)}
    return {
        **({"id": str(columns["index"])} if columns.get("index") is not None else {}),
        "prompt": f"{hint}\n{question}" if hint else question,
        "images": _pictures(columns, shared, where),
        "answer": answer,
        "task": "choice" if choice else "open_qa",
        "meta": {**others, **({"options": [str(columns[letter]) for letter in letters]} if letters else {})},
    }


def _pictures(columns: Mapping[str, Any], shared: Mapping[str, list[Any]], where: str) -> list[Any]:
    cell = columns.get("image")
    if cell is None:
        paths = columns.get("image_path")
        return [str(path) for path in (_listed(paths) if isinstance(paths, str) else [])]
    if len(cell) < _SHORTEST_PICTURE and cell[:1] != "[":
        held = shared.get(cell.strip())
        if held is None:
            raise SampleError(where, f"its image is that of the row with index {cell!r}, which the file has not")
        return held
    return [{"bytes": _decoded(text, where)} for text in _listed(cell)]


def _listed(cell: str) -> list[str]:
    """The texts of a cell that is one text or a Python list of texts."""
    if not cell.lstrip().startswith("["):
        return [cell]
    values = read_values(cell)
    return [str(item) for item in values[0]] if len(values) == 1 and isinstance(values[0], list) else [cell]


def _decoded(text: str, where: str) -> bytes:
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except binascii.Error as error:
        raise SampleError(where, f"its image is not base64 ({error}); fetch the file again") from error
