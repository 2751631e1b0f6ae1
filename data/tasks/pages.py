"""The generated blocks of docs/tasks.md: what the task classes and template files say of themselves.

`python -m vlrft.data.tasks.pages docs/tasks.md` writes them anew, each between its two marks.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from vlrft.config import RewardSpec
from vlrft.data.tasks import TASKS, build_task
from vlrft.data.tasks.media_fields import MediaRule
from vlrft.data.tasks.row_task import FORMAT, RowTask
from vlrft.data.tasks.templates import FOLDER, SHARED, about, modes_of, whole_template

_BLOCK = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_blocks(page: str) -> str:
    """`page` with every generated block as it should be. Raises KeyError for a mark without a block."""
    made = {"tasks": task_table(), "templates": template_table(), "rewards": reward_blocks()}
    return _BLOCK.sub(lambda match: f"{match[1]}{made[match[2]]}{match[3]}", page)


def task_table() -> str:
    """One row per task: media, what `answer` is, default rewards, main metric, answer styles."""
    lines = ["| task | media | `answer` | rewards | metric | answer styles |", "| --- | --- | --- | --- | --- | --- |"]
    for task in _tasks():
        rewards = ", ".join(f"`{name}`" for name in task.rewards if name != FORMAT)
        styles = ", ".join(f"`{style}`" for style in task.styles) or "-"
        cells = (f"`{task.name}`", _media(task.media), _target(task), rewards, f"`{task.metric}`", styles)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def template_table() -> str:
    """One row per shipped template."""
    lines = ["| template | tasks | output modes | |", "| --- | --- | --- | --- |"]
    for owner in (SHARED, *TASKS):
        task = next(iter(TASKS)) if owner == SHARED else owner
        for path in sorted((FOLDER / owner).glob("*.jinja")):
            modes = ", ".join(modes_of(whole_template(path.stem, task))) or "all"
            who = "all" if owner == SHARED else f"`{owner}`"
            lines.append(f"| `{path.stem}` | {who} | {modes} | {about(task, path.stem)} |")
    return "\n".join(lines) + "\n"


def reward_blocks() -> str:
    """The rewards and metrics of each task as a recipe says them."""
    return "\n".join(f"```yaml\n{recipe_text(task)}```\n" for task in _tasks())


def recipe_text(task: RowTask) -> str:
    """`data.task`, `rewards.funcs` and `eval.metrics` of a recipe that judges `task` by its defaults."""
    specs = task.reward_specs()
    mixed = [spec for spec in specs if spec.when or spec.target]
    metrics: list[Any] = [spec for spec in specs if spec.func != FORMAT] if mixed else [task.metric]
    lines = [f"data: {{task: {task.name}}}", "rewards:", "  funcs:"]
    lines += [f"    - {_flow(spec, weight=True)}" for spec in specs]
    lines += ["eval:", "  metrics:"]
    lines += [f"    - {_flow(metric, weight=False)}" for metric in [*metrics, FORMAT]]
    return "\n".join(lines) + "\n"


def _flow(spec: RewardSpec | str, *, weight: bool) -> str:
    if isinstance(spec, str):
        return spec
    said = {"func": spec.func} | ({"weight": f"{spec.weight:g}"} if weight else {})
    said |= {"target": spec.target} if spec.target else {}
    said |= {"when": f"{{{', '.join(f'{key}: {value}' for key, value in spec.when.items())}}}"} if spec.when else {}
    return f"{{{', '.join(f'{key}: {value}' for key, value in said.items())}}}" if len(said) > 1 else spec.func


def _tasks() -> list[RowTask]:
    return [task for name in TASKS if isinstance(task := build_task(name), RowTask)]


def _media(rule: MediaRule) -> str:
    kinds = [
        "1 " + kind[:-1] if limits == (1, 1) else kind
        for kind, limits in (("images", rule.images), ("videos", rule.videos))
        if limits != (0, 0)
    ]
    kinds += ["none"] if rule.least == 0 else []
    return " or ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)


def _target(task: RowTask) -> str:
    """The first sentence after "Target:" of the module's docstring, without what only the code needs to know."""
    text = " ".join((sys.modules[type(task).__module__].__doc__ or "").split())
    _, _, rest = text.partition("Target: ")
    sentence = re.split(r"(?<=[\w`)\]])\. (?=[A-Z`])|\.$|; the reference", rest, maxsplit=1)[0]
    return sentence.strip()


def main(path: str) -> None:
    """Write the generated blocks of the page at `path` anew."""
    page = Path(path)
    page.write_text(with_blocks(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
