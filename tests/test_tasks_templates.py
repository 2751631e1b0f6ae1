"""Shipped prompt templates, how a recipe names them, and that a run keeps the wording that it started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from task_rows import CASES, INPUT_SIZE, media_of, sample_of

import vlrft
from vlrft.compose import compose, stage_configs
from vlrft.config import DataConfig, OutputMode
from vlrft.data.problems import DataError
from vlrft.data.tasks import TASKS, build_task, check_templates, templates
from vlrft.data.tasks.templates import (
    FOLDER,
    about,
    chosen_template,
    modes_of,
    template_names,
    whole_template,
    whole_templates,
)
from vlrft.registry import UnknownNameError
from vlrft.rollout import evaluation_judge
from vlrft.runfolder import with_templates
from vlrft.types import Sample, TextPart

MODES = get_args(OutputMode)
FIRST = {case.task: case for case in reversed(CASES)}
"""One case per task."""
PRIOR = {"labels": ["cat", "dog"], "object_size": "a tenth of the image's width", "duration": 4.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


def _text(sample: Sample, template: str | None, mode: OutputMode = "think") -> str:
    parts = build_task(sample.task).user_parts(
        sample, space="norm_1000", output_mode=mode, template=template, input_size=INPUT_SIZE
    )
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def _with_prior(task: str, folder: Path) -> Sample:
    case = FIRST[task]
    meta = {**{k: v for k, v in PRIOR.items() if k != "labels"}, **case.row["meta"], "answer_style": None}
    sample = sample_of(case, folder)
    return Sample(
        id=sample.id, task=sample.task, parts=sample.parts, media=sample.media, target=sample.target,
        meta={**PRIOR, "image_size": [640, 480], **sample.meta, **meta},
    )  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_every_shipped_template_works_for_every_task(task: str, folder: Path) -> None:
    sample = _with_prior(task, folder)
    names = template_names(task)
    assert {"default", "thinking", "direct", "plan", "knowledge", "class_list"} <= set(names)
    texts = {}
    for name in names:
        whole = whole_template(name, task)
        modes = modes_of(whole) or MODES
        assert set(modes) <= set(MODES)
        assert len(about(task, name)) > 15
        for mode in modes:
            texts[name, mode] = _text(sample, name, mode)
            assert "What is asked" in texts[name, mode]
            assert not any(mark in texts[name, mode] for mark in ("{{", "{%", "{#", "  ", "\n\n"))
        assert whole_template(whole, task) == whole
    assert len(set(texts.values())) == len(texts)


def test_headers_say_the_modes() -> None:
    assert modes_of(whole_template("direct", "counting")) == ("direct",)
    assert modes_of(whole_template("plan", "counting")) == ("think", "adaptive")
    assert modes_of(whole_template(None, "counting")) == ()
    assert modes_of("{#- modes: think, direct. Mine. -#}{{ question }}") == ("think", "direct")
    assert modes_of("{# the modes: of travel #}{{ question }}") == ()


def test_every_piece_is_used() -> None:
    used: set[str] = set()
    for task in TASKS:
        for name in template_names(task):
            whole = whole_template(name, task)
            used |= {f"{task}/{piece}" for piece in _set_blocks(whole)}
    pieces = {(path.parent.parent.name, path.stem) for path in FOLDER.glob("*/pieces/*.jinja")}
    for owner, piece in pieces:
        tasks = TASKS if owner == "any" else [owner]
        own = [task for task in tasks if owner != "any" or (task, piece) not in pieces]
        assert any(f"{task}/{piece}" in used for task in own), (owner, piece)


def _set_blocks(text: str) -> list[str]:
    return [part.split(" %}")[0] for part in text.split("{% set ")[1:]]


def test_a_whole_template_needs_no_other_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = _with_prior("detection", folder)
    before = {name: (whole_template(name, "detection"), _text(sample, name)) for name in ("default", "confidence")}
    monkeypatch.setattr(templates, "FOLDER", tmp_path)
    templates._with_pieces.cache_clear()
    assert {name: _text(sample, whole) for name, (whole, _) in before.items()} == {
        name: text for name, (_, text) in before.items()
    }
    templates._with_pieces.cache_clear()


def test_templates_are_named_written_or_read_from_a_file(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "mine.jinja").write_text("Look: {{ question }} {{ mode_hint }}\n")
    sample = sample_of(FIRST["counting"], folder)
    data = DataConfig(root=str(tmp_path), task="counting", prompt_template="mine.jinja")
    (whole,) = whole_templates(data, ["counting"]).values()
    assert _text(sample, whole, "direct") == (
        "Look: What is asked Give the answer alone, with nothing before or after it."
    )
    assert _text(sample, "{{ question }}: {{ space }}") == "What is asked: norm_1000"
    assert _text(sample, "direct", "direct") == "What is asked\nThe answer is a whole number. Write nothing else."
    by_task = DataConfig(task="counting", prompt_template={"counting": "plan", "math": "{{ question }}"})
    assert chosen_template(by_task, "counting") == "plan"
    assert chosen_template(by_task, "choice") is None
    assert set(whole_templates(by_task, ["counting", "choice", "my_own"])) == {"counting", "choice"}
    assert whole_templates(DataConfig(prompt_template="{{ question }}"), ["my_own"]) == {"my_own": "{{ question }}"}


@pytest.mark.parametrize(
    ("setting", "mode", "error", "says"),
    [
        ("plann", "think", UnknownNameError, "'plann'; did you mean 'plan'.*shipped for counting:.*jinja"),
        ("confidence", "think", UnknownNameError, "unknown template 'confidence'"),
        ("nowhere.jinja", "think", DataError, r"nowhere\.jinja cannot be read \(No such file"),
        ("binary.jinja", "think", DataError, "is not UTF-8 text"),
        ("direct", "think", DataError, "written for output mode direct, and data.output_mode is 'think'"),
        ("plan", "direct", DataError, "written for output mode think or adaptive"),
        ({"coutning": "plan"}, "think", UnknownNameError, "unknown task 'coutning'; did you mean 'counting'"),
        ({"math": "plann"}, "think", UnknownNameError, "unknown template 'plann'"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_told_before_anything_is_loaded(
    setting: Any, mode: OutputMode, error: type[Exception], says: str, tmp_path: Path
) -> None:
    (tmp_path / "binary.jinja").write_bytes(b"\xff\xfe")
    data = DataConfig(root=str(tmp_path), task="counting", prompt_template=setting, output_mode=mode)
    with pytest.raises(error, match=says):
        check_templates(data)


def test_a_row_without_the_prior_that_a_template_tells(folder: Path) -> None:
    sample = sample_of(FIRST["counting"], folder)
    with pytest.raises(DataError, match=r"fails on sample number .*no attribute 'object_size'.*keys of meta.*'object_"):
        _text(sample, "object_size")


MINE = """
from vlrft.data.tasks.counting import Counting
class Fingers(Counting):
    name = "fingers"
"""


@pytest.mark.parametrize("setting", [None, "plan"])
def test_a_task_derived_from_a_shipped_one_has_its_wording(setting: str | None, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    data = DataConfig(task=f"{tmp_path / 'mine.py'}:Fingers", prompt_template=setting)
    check_templates(data)
    assert ("fingers" in whole_templates(data, ["fingers"])) == (setting is not None)
    case = FIRST["counting"]
    sample = build_task(data.task).to_sample({**case.row, **media_of(folder, case.media)}, where="x")
    assert sample.task == "fingers"
    parts = build_task(data.task).user_parts(
        sample, space="norm_1000", output_mode="think", template=setting, input_size=None
    )
    assert "The answer is a whole number. First reason" in "".join(p.text for p in parts if isinstance(p, TextPart))


def test_config_yaml_keeps_the_whole_wording(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ question }} {{ mode_hint }}\n")
    composed = compose(
        {
            "model": {"tiny": {}},
            "data": {"root": str(tmp_path), "task": "counting", "prompt_template": "plan"},
            "stages": [
                {"kind": "sft", "data": {"prompt_template": "mine.jinja"}},
                {"kind": "grpo"},
                {"kind": "grpo", "name": "more", "data": {"prompt_template": {"math": "steps"}}},
            ],
        }
    )
    kept = with_templates(composed.config, {"counting", "choice"})
    first, second, third = (stage.config.data for stage in stage_configs(compose(kept).config))
    assert first.prompt_template == {
        task: whole_template("{{ question }} {{ mode_hint }}", task) for task in ("choice", "counting", "math")
    }
    assert second.prompt_template == {task: whole_template("plan", task) for task in ("choice", "counting", "math")}
    assert third.prompt_template is not None
    assert third.prompt_template["math"] == whole_template("steps", "math")  # type: ignore[index]
    assert third.prompt_template["counting"] == whole_template(None, "counting")  # type: ignore[index]
    assert composed.config.data.prompt_template == "plan"
    assert with_templates(composed.config.model_copy(update={"stages": composed.config.stages[1:2]}), ()) is not None


@pytest.mark.slow
def test_a_finished_run_is_evaluated_with_the_wording_that_it_was_trained_with(
    recipe: Any, scenes: Path, tmp_path: Path
) -> None:
    path = scenes / "wording.jinja"
    path.write_text("{{ question }} {{ units }}\n")
    run = vlrft.train(recipe(data={"prompt_template": "wording.jinja"}, eval={"limit": 3}))
    path.unlink()
    saved = yaml.safe_load((run.path / "config.yaml").read_text())
    text = saved["data"]["prompt_template"]["grounding"]
    assert text.startswith("{% set units %}")
    assert text.endswith("{{ question }} {{ units }}")
    assert "fractions from 0 to 1" in text
    assert vlrft.evaluate(run).metrics["eval/n"] == 3


def test_metrics_may_be_limited_to_some_samples_and_have_their_own_target(folder: Path) -> None:
    metrics = [
        "format.think_answer",
        {"func": "tg.multi_iou", "target": "spans", "when": {"task": "grounded_video_qa"}, "name": "spans"},
    ]
    config = compose({"model": {"tiny": {}}, "eval": {"metrics": metrics}}).config
    judge = evaluation_judge(config)
    case = FIRST["grounded_video_qa"]
    sample = sample_of(case, folder)
    completion = "<think>so</think><answer>(B) [[0.5, 1.0]]</answer>"
    assert judge.score(completion, sample).parts == {"format.think_answer": 1.0, "spans": pytest.approx(0.5 / 1.75)}
    other = sample_of(FIRST["counting"], folder)
    assert judge.score(completion, other).parts == {"format.think_answer": 1.0, "spans": None}
