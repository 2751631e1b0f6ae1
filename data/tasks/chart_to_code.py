"""Chart to code: the Python program that draws a chart.

Target: a reference program, which chart.render runs in its sandbox. The default reward needs the extra `charts`.
"""

from __future__ import annotations

import ast
import warnings
from typing import Any

from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.media_fields import ONE_IMAGE
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.data.tasks.targets import check_text
from vlrft.parse.program import read_program
from vlrft.types import Sample


class ChartToCode(RowTask):
    """The task `chart_to_code`."""

    name = "chart_to_code"
    rewards = ("chart.render", FORMAT)
    metric = "chart.render"
    media = ONE_IMAGE
    thought = "I read off the kind of chart, its values, texts and colours, and write the program that draws it."

    def read_target(self, fields: Fields) -> Any:
        text = check_text(fields.answer(), where=fields.where)
        program, _ = read_program(text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an invalid escape in somebody's program is not ours to report
                ast.parse(program or "")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise fields.error(f"`answer` is not a Python program ({error}); correct it or drop the row") from error
        if program is None or "```" in program:
            raise fields.error("`answer` holds no program, or one with ``` in it; give the bare program")
        return program

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        return f"```python\n{sample.target}\n```"
