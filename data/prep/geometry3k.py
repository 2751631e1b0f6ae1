r"""Geometry3K: plane geometry from textbooks (Lu et al., 2021).

The release (layout seen in the authors' repository; from documentation here): folders `<split>/<number>/` with
`data.json` and `img_diagram.png`. Of data.json are read: `problem_text` (points spaced, `A B = 30`), `compact_text`
(`AB = 30`), `annotat_text` (LaTeX between `$`), `choices` (four texts, LaTeX), `answer` (letter), `id`,
`problem_type_graph`, `problem_type_goal`, `unit`. EasyR1's parquet table (from documentation): `images` (list of one),
`problem` with `<image>` where it stands, `answer` (text).

Not read: `logic_form.json`, the diagram's other renderings, `precise_value` and `rough_value`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrft.data.prep.medical import kept_columns
from vlrft.data.prep.source_rows import Made, Rows, converted, media_folder, picture_of, prompt_of, text_of
from vlrft.data.problems import DataError, Quarantine, SampleError
from vlrft.data.tables import RawRow, RowStream, load_json
from vlrft.parse.choices import LETTERS

_TEXTS = ("problem_text", "compact_text", "annotat_text")
_META = {
    "problem_type_graph": "graph", "problem_type_goal": "goal", "data_type": "split",
}  # fmt: skip
_DIAGRAM = "img_diagram.png"


def rows(
    path: Path,
    *,
    split: str | None,
    images: Path | None,
    quarantine: Quarantine,
    text: str = "problem_text",
    keep_published: bool = False,
) -> Rows:
    """(where, row of choice) of the release, with `meta.options`; rows of math of the parquet table.

    path: the folder that holds `train`, `val` and `test`, one of them, or the table. text: which wording of the release
    is the question. Left out: problems in which another choice reads like the right one (with `keep_published` kept and
    flagged), and those without diagram, question or a letter of the choices as answer.
    """
    if text not in _TEXTS:
        raise DataError(f"text is {text!r}; Geometry3K has {', '.join(_TEXTS)}")
    problems = _problems(path, split)
    folder = media_folder(path, images)

    def convert(columns: dict[str, Any], where: str) -> Made:
        if problems:
            return _problem(columns, text, where)
        row: dict[str, Any] = {
            "prompt": prompt_of(text_of(columns, ("problem",), where), "image", where),
            "images": picture_of(columns, ("images", "image"), folder, where),
            "answer": text_of(columns, ("answer",), where),
            "task": "math",
            "meta": {},
        }
        return row, []

    stream: Any = _read(problems) if problems else RowStream(path, split=split)
    return converted(stream, convert, quarantine=quarantine, keep_published=keep_published)


def _problems(path: Path, split: str | None) -> list[Path]:
    """The data.json of every problem, in the order of their numbers; [] where `path` is a table."""
    base = path / split if split is not None and (path / split).is_dir() else path
    files = list(base.glob("*/data.json"))
    if not files and path.is_dir() and list(path.glob("*/*/data.json")):
        held = sorted({file.parent.parent.name for file in path.glob("*/*/data.json")})
        raise DataError(f"{path} holds the splits {', '.join(held)}; set split to one of them")
    return sorted(files, key=lambda file: (len(file.parent.name), file.parent.name))


def _read(files: list[Path]) -> Iterator[RawRow]:
    for number, file in enumerate(files, start=1):
        content = load_json(file)
        sound = isinstance(content, Mapping)
        columns = {**content, "folder": file.parent} if sound else SampleError(str(file), "is no JSON object")
        yield RawRow(str(file), "geometry3k", number, columns)


def _problem(columns: Mapping[str, Any], text: str, where: str) -> Made:
    choices = columns.get("choices")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise SampleError(where, f"choices are {choices!r:.200}, not a list of texts; correct the file")
    answer = text_of(columns, ("answer",), where)
    if len(answer) != 1 or answer not in LETTERS[: len(choices)]:
        raise SampleError(where, f"the answer {answer!r:.100} is no letter of {len(choices)} choices; correct the file")
    diagram = columns["folder"] / _DIAGRAM
    if not diagram.is_file():
        raise SampleError(where, f"no {_DIAGRAM} beside it; unpack the release again")
    right = choices[LETTERS.index(answer)].strip()
    same = sum(choice.strip() == right for choice in choices)
    row: dict[str, Any] = {
        "prompt": text_of(columns, (text,), where),
        "images": [str(diagram)],
        "answer": answer,
        "task": "choice",
        "meta": {**kept_columns(columns, _META), "options": choices},
    }
    if "id" in columns:
        row["id"] = str(columns["id"])
    if str(columns.get("unit") or "").strip():
        row["meta"]["unit"] = columns["unit"]
    return row, [f"{same} choices have the text of the answer"] if same > 1 else []
