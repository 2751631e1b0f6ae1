"""Tasks: how a row becomes a Sample, how the question is put to a model, and what a right answer looks like."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from vlrft.config import DataConfig
from vlrft.data.tasks.base import Task
from vlrft.data.tasks.templates import check_mode, check_question, whole_templates
from vlrft.registry import resolve

TASKS: dict[str, str] = {
    "grounding": "vlrft.data.tasks.grounding:Grounding",
    "detection": "vlrft.data.tasks.detection:Detection",
    "reasoning_grounding": "vlrft.data.tasks.reasoning_grounding:ReasoningGrounding",
    "classification": "vlrft.data.tasks.classification:Classification",
    "gui_grounding": "vlrft.data.tasks.gui_grounding:GuiGrounding",
    "gui_action": "vlrft.data.tasks.gui_action:GuiAction",
    "temporal_grounding": "vlrft.data.tasks.temporal_grounding:TemporalGrounding",
    "grounded_video_qa": "vlrft.data.tasks.grounded_video_qa:GroundedVideoQA",
    "tracking": "vlrft.data.tasks.tracking:Tracking",
    "video_qa": "vlrft.data.tasks.video_qa:VideoQA",
    "medical_qa": "vlrft.data.tasks.medical_qa:MedicalQA",
    "chart_to_code": "vlrft.data.tasks.chart_to_code:ChartToCode",
    "counting": "vlrft.data.tasks.counting:Counting",
    "math": "vlrft.data.tasks.math:Math",
    "spatial_transformation": "vlrft.data.tasks.spatial_transformation:SpatialTransformation",
    "choice": "vlrft.data.tasks.choice:Choice",
    "open_qa": "vlrft.data.tasks.open_qa:OpenQA",
}
"""Task classes by name; built without arguments."""


@cache
def build_task(name: str) -> Task:
    """The task called `name` (in TASKS, or `module:attr`). Raises UnknownNameError with the valid names."""
    task: Task = resolve(name, TASKS, kind="task")()
    return task


def tasks_of(data: DataConfig) -> dict[str, Task]:
    """The tasks that a data block or its sources name, by the name that their samples state."""
    return {task.name: task for task in map(build_task, data.task_names())}


def check_templates(data: DataConfig) -> None:
    """Find the tasks of a data block and their prompt templates.

    Raises UnknownNameError for an unknown task or template, DataError for a template of another output mode, one that
    does not compile and one that leaves the question out.
    """
    named = data.prompt_template if isinstance(data.prompt_template, Mapping) else {}
    templates = whole_templates(data, {*tasks_of(data), *(build_task(task).name for task in named)})
    for task, text in templates.items():
        check_mode(text, data.output_mode)
        check_question(text, task)
