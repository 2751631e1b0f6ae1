"""docs/tasks.md: its generated parts are up to date, and every recipe text on it works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from task_rows import CASES, sample_of

from vlrft.compose import compose
from vlrft.config import RewardSpec
from vlrft.data.tasks import TASKS, build_task
from vlrft.data.tasks.pages import main, recipe_text, with_blocks
from vlrft.data.tasks.row_task import RowTask
from vlrft.rollout import evaluation_judge, training_judge

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tasks.md"
TEXT = PAGE.read_text()
SNIPPETS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_the_page_is_up_to_date(tmp_path: Path) -> None:
    assert with_blocks(TEXT) == TEXT, "write it anew: python -m vlrft.data.tasks.pages docs/tasks.md"
    copy = tmp_path / "tasks.md"
    copy.write_text(TEXT.replace("| `grounding` | 1 image", "| `grounding` | none"))
    main(str(copy))
    assert copy.read_text() == TEXT
    for task in TASKS:
        assert f"| `{task}` |" in TEXT


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[str(i) for i in range(len(SNIPPETS))])
def test_every_recipe_text_composes_and_judges(snippet: str, tmp_path: Path) -> None:
    config = compose({"model": {"tiny": {}}, **yaml.safe_load(snippet)}).config
    styles = [style for style in ("box_points", "glue") if style in snippet]
    samples = [
        sample_of(case, tmp_path)
        for case in CASES
        if case.task == config.data.task and case.row["meta"].get("answer_style") in (styles or [None])
    ]
    assert samples
    for judge in (training_judge(config), evaluation_judge(config)):
        for sample in samples:
            judge.check(sample, {"coord_space": "norm_1000"})
        judge.check_when()
        judge.close()


@pytest.mark.parametrize("name", TASKS)
def test_recipe_texts_say_what_the_class_says(name: str) -> None:
    task = build_task(name)
    assert isinstance(task, RowTask)
    funcs = yaml.safe_load(recipe_text(task))["rewards"]["funcs"]
    assert [RewardSpec(**spec) for spec in funcs] == task.reward_specs()
    metrics = yaml.safe_load(recipe_text(task))["eval"]["metrics"]
    assert task.metric in [metric if isinstance(metric, str) else metric["func"] for metric in metrics]
