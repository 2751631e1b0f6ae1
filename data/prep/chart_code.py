"""Charts with the programs that draw them, as ChartMimic and ReachQA publish them, for chart_to_code.

Three layouts, all from documentation. A folder with pairs of one name, `bar_1.py` and `bar_1.png` (ChartMimic's
`ori_500`, `direct_600`); ChartMimic's table with `ExampleID`, `Task`, `InputFigurePreview`, `Instruction`,
`GroundTruthFigurePreview`, `GroundTruthFigureCode` (a program, or the path of one from the table's folder); and tables
with a column for the chart (`image`, `chart`, `image_path`) and one for its program (`code`, `python_code`, `program`),
as ReachQA and the synthetic sets have them. Programs are Python; nothing here runs them.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrft.data.prep.source_rows import Made, Rows, Unasked, converted, media_folder, picture_of, text_of
from vlrft.data.problems import Quarantine, SampleError
from vlrft.data.tables import RawRow, RowStream
from vlrft.parse.program import read_program

_PICTURES = ("InputFigurePreview", "GroundTruthFigurePreview", "image", "chart", "image_path", "images")
_PROGRAMS = ("GroundTruthFigureCode", "code", "python_code", "program")
_SUFFIXES = (".png", ".jpg", ".jpeg")
QUESTION = "Write the program that draws this chart."
_META = ("Task", "Difficulty", "Domain", "chart_type", "type")


def rows(
    path: Path,
    *,
    split: str | None,
    images: Path | None,
    quarantine: Quarantine,
    question: str | None = None,
    task: str | None = None,
) -> Rows:
    """(where, row of chart_to_code).

    question: asked of every chart; None = the row's `Instruction`, else a standing sentence. task: only rows whose
    `Task` is this, since ChartMimic also asks to redraw a chart with other data. Left out: other tasks, programs
    without a chart, charts without a program, a program that is not Python, and one that came already (ReachQA asks
    several questions about a chart).
    """
    folder = media_folder(path, images)
    seen: dict[str, str] = {}
    pairs = sorted(path.glob("*.py")) if path.is_dir() else []

    def convert(columns: dict[str, Any], where: str) -> Made:
        if task is not None and columns.get("Task") != task:
            return None, Unasked([f"Task is {columns.get('Task')!r}, not {task!r}"])
        program = _program(text_of(columns, _PROGRAMS, where), path if pairs else folder, where)
        if program in seen:
            return None, Unasked([f"has the program of {seen[program]}"])
        asked = question or columns.get("Instruction")
        row = {
            "prompt": asked.strip() if isinstance(asked, str) and asked.strip() else QUESTION,
            "images": picture_of(columns, _PICTURES, folder, where)[:1],
            "answer": program,
            "task": "chart_to_code",
            "meta": {name: columns[name] for name in _META if columns.get(name) is not None},
        }
        seen[program] = where
        name = columns.get("ExampleID", columns.get("id"))
        return {"id": str(name), **row} if name is not None else row, []

    stream: Any = _pairs(pairs, images or path) if pairs else RowStream(path, split=split)
    return converted(stream, convert, quarantine=quarantine)


def _pairs(programs: list[Path], charts: Path) -> Iterator[RawRow]:
    for number, file in enumerate(programs, start=1):
        where = str(file)
        found = [charts / (file.stem + suffix) for suffix in _SUFFIXES if (charts / (file.stem + suffix)).is_file()]
        columns: Mapping[str, Any] | SampleError
        if found:
            columns = {"id": file.stem, "image": found[0].name, "code": file.name}
        else:
            columns = SampleError(where, f"no picture {file.stem}{_SUFFIXES[0]} in {charts}; render it, or drop it")
        yield RawRow(where, file.stem, number, columns)


def _program(text: str, folder: Path, where: str) -> str:
    """The bare program that `text` is, has between fences, or names as a file. Raises SampleError."""
    if text.endswith(".py") and "\n" not in text:
        file = folder / text
        if not file.is_file():
            raise SampleError(where, f"no program {file}; set the source's images to the folder that holds it")
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise SampleError(where, f"its program {file} is not UTF-8 text ({error}); drop it") from error
    program = read_program(text)[0] if "```" in text else text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in somebody's program is not ours to report
            ast.parse(program or "")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SampleError(where, f"its program is not Python ({error}); drop the row") from error
    if not (program or "").strip():
        raise SampleError(where, "holds no program; drop the row")
    return str(program).strip()
