"""Spatial transformation (TRANCE): which changes lead from the first scene to the last.

Target: a list of `[func, object, value]`, `[]` where nothing changes; texts or numbers. The reference writes one call a
line, `func(object, 'value')`.
"""

from __future__ import annotations

import json
from typing import Any

from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.media_fields import IMAGES
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.data.tasks.targets import check_tags
from vlrft.parse.calls import parse_triples
from vlrft.types import Sample


class SpatialTransformation(RowTask):
    """The task `spatial_transformation`."""

    name = "spatial_transformation"
    rewards = ("struct.calls", FORMAT)
    metric = "struct.calls"
    media = IMAGES
    thought = "I compare the scenes object by object and note what has changed."

    def read_target(self, fields: Fields) -> Any:
        steps = fields.answer(decode=True)
        if not isinstance(steps, list | tuple):
            raise fields.error(f"`answer` is {steps!r:.200}; list [func, object, value], [] where nothing changes")
        for i, step in enumerate(steps):
            triple = isinstance(step, list | tuple) and len(step) == 3
            if not triple or not all(isinstance(x, str | int | float) and not isinstance(x, bool) for x in step):
                raise fields.error(f"step {i} of `answer` is {step!r:.200}; write [func, object, value]")
            for value in step:
                check_tags(str(value), f"step {i} of `answer`", fields.where)
            if not str(step[0]).strip():
                raise fields.error(f"step {i} of `answer` names no function: {step!r:.200}")
        return [list(step) for step in steps]

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        if not sample.target:
            return "[]"
        calls = "\n".join(_call(*step) for step in sample.target)
        # A name or value that a call cannot hold as it is goes into JSON, which is read as well.
        wanted = [tuple(str(value).strip() for value in step) for step in sample.target]
        return calls if parse_triples(calls) == wanted else json.dumps(sample.target, ensure_ascii=False)


def _call(function: Any, thing: Any, value: Any) -> str:
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"{function}({thing}, '{escaped}')"
