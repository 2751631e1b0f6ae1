"""GUI action: what to do next on a screen.

Target: `{"action": name}` with `"box"` or `"point"` (in `target_space`) where the screen is touched, `"text"`,
`"direction"` or `"key"`, as gui.step wants it. `meta.history` lists what was done before, `meta.actions` the names of
the action space (default ACTIONS).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vlrft.data.boxes import check_box
from vlrft.data.tasks.coordinates import Canvas
from vlrft.data.tasks.media_fields import ONE_IMAGE
from vlrft.data.tasks.row_task import FORMAT, Fields, RowTask
from vlrft.data.tasks.targets import check_point, check_text
from vlrft.registry import nearest
from vlrft.types import Sample

ACTIONS = (
    "click", "double_click", "long_press", "type", "select", "open_app", "scroll", "swipe", "key", "press_back",
    "press_home", "press_enter", "wait", "complete", "impossible",
)  # fmt: skip
"""Names that the prompt offers where the row has no list of its own."""

_KEYS = ("action", "box", "point", "text", "direction", "key")
_TEXTS = ("text", "direction", "key")


class GuiAction(RowTask):
    """The task `gui_action`."""

    name = "gui_action"
    rewards = ("gui.step", FORMAT)
    metric = "gui.action"
    media = ONE_IMAGE
    thought = "I compare the screen with the task and choose the action that brings it forward."

    def read_target(self, fields: Fields) -> Any:
        answer = fields.answer(decode=True)
        if not isinstance(answer, Mapping):
            raise fields.error(f'`answer` is {answer!r:.200}; write {{"action": name, "box": [x1, y1, x2, y2]}}')
        # Parquet fills the keys that a row does not use with nulls.
        target = {key: value for key, value in answer.items() if value is not None}
        for key in target:
            if key not in _KEYS:
                hint = nearest(str(key), list(_KEYS)) or f"; known: {', '.join(_KEYS)}"
                raise fields.error(f"`answer` has the unknown key {key!r}{hint}")
        check_text(target.get("action"), where=fields.where, what="`answer.action`")
        for key in _TEXTS:
            if key in target:
                check_text(target[key], where=fields.where, what=f"`answer.{key}`")
        if "box" in target:
            target["box"] = check_box(target["box"], space=fields.space, image_size=fields.size, where=fields.where)
        if "point" in target:
            target["point"] = check_point(
                target["point"], space=fields.space, image_size=fields.size, where=fields.where
            )
        _check_names(fields, target["action"])
        return target

    def variables(self, sample: Sample, canvas: Canvas) -> dict[str, Any]:
        history = sample.meta.get("history") or ()
        return {
            "history": [history] if isinstance(history, str) else list(history),
            "actions": list(sample.meta.get("actions") or ACTIONS),
        }

    def answer(self, sample: Sample, canvas: Canvas) -> str:
        target = sample.target
        fields = [f'"action": {json.dumps(target["action"], ensure_ascii=False)}']
        if "box" in target:
            fields.append(f'"point": {canvas.centre(sample, target["box"])}')
        elif "point" in target:
            fields.append(f'"point": {canvas.point(sample, target["point"])}')
        fields += [f'"{key}": {json.dumps(target[key], ensure_ascii=False)}' for key in _TEXTS if key in target]
        return f"{{{', '.join(fields)}}}"


def _check_names(fields: Fields, action: str) -> None:
    """Raise SampleError unless `meta.history` and `meta.actions` are lists of texts that fit."""
    history, actions = fields.meta.get("history"), fields.meta.get("actions")
    texts = isinstance(history, list | tuple) and all(isinstance(item, str) for item in history)
    if history is not None and not isinstance(history, str) and not texts:
        raise fields.error(f"meta.history is {history!r:.200}; write a text, or a list with one text for each action")
    if actions is None:
        return
    if not isinstance(actions, list | tuple) or not actions or not all(isinstance(item, str) for item in actions):
        raise fields.error(f"meta.actions is {actions!r:.200}; list the names of the action space")
    if action not in actions:
        raise fields.error(f"`answer.action` is {action!r}, which meta.actions does not offer; add it there")
