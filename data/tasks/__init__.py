"""Tasks: how a row becomes a Sample, how the question is put to a model, and what a right answer looks like."""

from __future__ import annotations

from functools import cache

from vlrft.data.tasks.base import Task
from vlrft.registry import resolve

TASKS: dict[str, str] = {
    "grounding": "vlrft.data.tasks.grounding:Grounding",
}
"""Task classes by name; built without arguments."""


@cache
def build_task(name: str) -> Task:
    """The task called `name` (in TASKS, or `module:attr`). Raises UnknownNameError with the valid names."""
    task: Task = resolve(name, TASKS, kind="task")()
    return task
