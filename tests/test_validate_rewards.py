"""`vlrft validate`: rewards on reference answers and on tricks, and what the processor adds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from task_rows import CASES, IMAGE_SIZE, INPUT_SIZE, Case, sample_of
from videos import write_video

from vlrft.compose import ConfigError, compose
from vlrft.config import DataConfig, RewardSpec, TinyModelConfig
from vlrft.data.tasks import build_task
from vlrft.models import FAMILIES
from vlrft.models.tiny import save_tiny
from vlrft.rewards import Judge
from vlrft.types import Sample, TextPart
from vlrft.validate import Report, scoring, validate
from vlrft.validate.answers import adversarial, boxes_of
from vlrft.validate.report import Finding
from vlrft.validate.unread import with_other_problems

Check = Callable[..., Report]
MINE = """
def one(parsed, target, meta):
    return 1.0

def raises(parsed, target, meta):
    if "left" in str(target):
        raise KeyError("the left one")
    return float(str(target) in (parsed.answer or ""))

def counted(completions, completion_ids, **columns):
    return [float(len(ids) > 40) for ids in completion_ids]
"""


def meta_of(_: Sample) -> dict[str, Any]:
    return {"coord_space": "norm_1000", "image_size": list(IMAGE_SIZE), "input_size": list(INPUT_SIZE)}


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.task}-{case.name}") for case in CASES])
def test_the_rewards_of_every_task_pass(case: Case, tmp_path: Path) -> None:
    """No false alarm: references score, and no trick but the whole picture or clip is paid."""
    sample = sample_of(case, tmp_path)
    specs = [RewardSpec(**spec) for spec in case.rewards] or build_task(case.task).reward_specs()
    for mode in case.modes:
        judge = Judge(specs, mode, 0)
        data = DataConfig(task=case.task, output_mode=mode)
        scores, findings = scoring.judge_samples([sample], data, judge, meta_of, where="x")
        judge.close()
        assert scores is not None
        assert [f for f in findings if "answer `whole`" not in f.what and "its `when` wants" not in f.what] == []
        assert all(f.level == ("note" if "its `when` wants" in f.what else "warning") for f in findings)


@pytest.mark.parametrize(
    ("target", "boxes"),
    [
        ([1, 2, 3, 4], [[1, 2, 3, 4]]),
        ([{"bbox": [1, 2, 3, 4], "label": "cat"}], [[1, 2, 3, 4]]),
        ([[1, 2, 3, 4], None], [[1, 2, 3, 4]]),
        ({"action": "click", "box": [1, 2, 3, 4]}, [[1, 2, 3, 4]]),
        *[(other, []) for other in ([1, 2], "1 2 3 4", 7, [], None, ["a"], {"action": "wait"}, [["f", 1, 2, 3]])],
    ],
)
def test_boxes_are_known_by_their_form(target: Any, boxes: list[Any]) -> None:
    assert boxes_of(target) == boxes


def test_what_the_tricks_say() -> None:
    sample = Sample(id="s", task="grounding", parts=(TextPart(text="the cat"),), target=[64.0, 48.0, 320.0, 240.0],
                    meta={"labels": ["cat", "dog"], "image_size": list(IMAGE_SIZE)})  # fmt: skip

    def say(space: str, mode: Any = "think") -> dict[str, str]:
        return adversarial(
            sample, build_task("grounding"), space=space, image_size=IMAGE_SIZE, input_size=INPUT_SIZE, mode=mode
        )

    answers = say("norm_1000")
    assert answers["empty"] == ""
    assert answers["whole"].endswith('<answer>{"bbox_2d": [0, 0, 1000, 1000]}</answer>')
    assert say("abs_input", "direct")["whole"] == '{"bbox_2d": [0, 0, 448, 336]}'
    assert say("norm_1", "direct")["labels"] == "cat, dog"
    assert say("norm_1", "direct")["question"] == "the cat"
    dumped = json.loads(say("abs_original", "direct")["boxes"])
    assert len(dumped) == 2 * (1 + 4 + 9 + 16)
    assert {box["bbox_2d"][2] for box in dumped} <= set(range(641))
    assert all(text.count("<answer>") == 1 for kind, text in answers.items() if kind != "empty")


@pytest.fixture
def check(recipe: Any, tmp_path: Path) -> Check:
    """`check(rows, **blocks)`: the report on these rows; `render` and `n` are `validate`'s."""

    def run(rows: list[dict[str, Any]], *, render: bool = False, n: int | None = None, **blocks: Any) -> Report:
        (tmp_path / "mine.py").write_text(MINE)
        for i in range(4):
            Image.new("RGB", (112, 84), (50 * i, 90, 200)).save(tmp_path / f"{i}.png")
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"format": "native", "path": "rows.jsonl"}
        own = {"output_mode": "think", "prompt_template": None, "train": source, "eval": None}
        data = {"root": str(tmp_path), "task": "open_qa", **own, **blocks.pop("data", {})}
        return validate(compose(recipe(data=data, **blocks)), render=render, rows=n)

    return run


def asked(i: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"q{i}", "prompt": f"What is on picture {i}?", "images": [f"{i % 4}.png"], "answer": f"thing {i}",
            **changes}  # fmt: skip


def finding(report: Report, text: str, level: str = "problem") -> Finding:
    [found] = [f for f in report.findings if text in f.what and f.level == level]
    return found


def test_a_reward_that_does_not_fit_the_answers(check: Check) -> None:
    """Free text judged by word error rate is fine; by another task's reward its target is refused."""
    rows = [asked(i) for i in range(4)]
    assert check(rows, rewards={"funcs": [{"func": "text.wer"}]}).ok
    found = finding(check(rows, rewards={"funcs": [{"func": "num.exact"}]}), "num.exact")
    assert found.count == 4
    assert found.where == "rewards.funcs on data.train"


def test_a_reference_that_does_not_score(check: Check) -> None:
    """A format that the output mode does not ask for."""
    specs = [{"func": "text.wer"}, {"func": "format.think_answer", "kwargs": {"mode": ["think", "answer", "glue"]}}]
    found = finding(check([asked(i) for i in range(4)], rewards={"funcs": specs}), "below 0.5 by format.think_answer")
    assert found.count == 4
    assert "vlrft rewards show format.think_answer" in found.next
    assert "<answer>thing 0</answer>" in found.what
    specs[1]["weight"] = 0.0
    logged = check([asked(i) for i in range(4)], rewards={"funcs": specs})
    assert finding(logged, "below 0.5 by format.think_answer", "warning").count == 4
    assert logged.ok, "a reward of weight 0 is logged only"


def test_rounding_excuses_small_boxes(check: Check, tmp_path: Path) -> None:
    """Nine pixels of a wide picture are three of a thousand."""
    Image.new("RGB", (3000, 80)).save(tmp_path / "wide.png")
    rows = [
        asked(i, task="grounding", answer=None, images=["wide.png"], boxes={"box": [10 * i, 2, 10 * i + 7, 60]})
        for i in range(4)
    ]
    report = check(rows, rewards={"funcs": [{"func": "box.iou"}]})
    assert "no answer can score more" in finding(report, "below 0.95 by box.iou", "warning").what
    assert report.ok


def test_rewards_of_ones_own(check: Check, tmp_path: Path) -> None:
    rows = [asked(i) for i in range(4)]
    found = finding(check(rows, rewards={"funcs": [{"func": f"{tmp_path}/mine.py:one"}]}), "the answer `empty`")
    assert "the rewards do not tell them apart" in found.what
    rows[2]["answer"] = "the left one"
    report = check(rows, rewards={"funcs": [{"func": f"{tmp_path}/mine.py:raises"}]})
    raised = finding(report, "the left one")
    assert "raises" in raised.what
    assert "KeyError" in raised.what
    assert raised.examples == ("q2",)
    with_lengths = [{"func": "text.wer"}, {"func": f"{tmp_path}/mine.py:counted", "weight": 0.1}]
    assert check(rows, rewards={"funcs": with_lengths}).ok, "a reward is told token ids"


def test_answers_that_the_question_gives_away(check: Check) -> None:
    rows = [asked(i, prompt=f"thing {i}") for i in range(4)]
    found = finding(check(rows, rewards={"funcs": [{"func": "text.wer"}]}), "`question` earns 1.000 of text.wer")
    assert found.count == 4


def test_a_key_of_when_that_no_sample_has(check: Check) -> None:
    specs = [{"func": "text.wer"}, {"func": "text.rouge", "when": {"kind": "long"}}]
    report = check([asked(i) for i in range(3)], rewards={"funcs": specs})
    assert "when names 'kind'" in finding(report, "when names").what


def test_a_value_of_when_that_no_sample_has(check: Check) -> None:
    rows = [asked(i, meta={"kind": "short"}) for i in range(6)]
    for when, said in (
        ({"task": "open_qaa"}, "wants task to be 'open_qaa'; did you mean 'open_qa'?; samples have: 'open_qa'"),
        ({"task": "grounding"}, "applies to none of 6 samples: its `when` wants task to be 'grounding'; samples have"),
        ({"kind": ["long", "tall"]}, "wants kind to be 'long' or 'tall'; samples have: 'short'"),
    ):
        specs = [{"func": "text.wer"}, {"func": "text.rouge", "when": when}]
        report = check(rows, rewards={"funcs": specs})
        assert said in finding(report, "applies to none").what
        assert not report.ok


def test_rewards_for_other_kinds_of_rows_may_wait(check: Check) -> None:
    """Of several rewards by one key those that apply to nothing are a note, unless their value is a slip."""
    rows = [asked(i, meta={"kind": "short"}) for i in range(6)]

    def judged(other: str) -> Report:
        specs = [{"func": "text.wer", "when": {"kind": "short"}}, {"func": "text.rouge", "when": {"kind": other}}]
        return check(rows, rewards={"funcs": specs})

    assert judged("long").ok
    assert "samples have: 'short'" in finding(judged("long"), "applies to none", "note").what
    assert "did you mean 'short'?" in finding(judged("shortt"), "applies to none").what


def test_a_wrong_target_raises_no_false_alarm_about_others(check: Check, caplog: pytest.LogCaptureFixture) -> None:
    rows = [asked(i) for i in range(3)]
    with caplog.at_level("WARNING", logger="vlrft"):
        report = check(rows, rewards={"funcs": [{"func": "num.exact"}, {"func": "text.wer"}]})
    assert "num.exact" in finding(report, "num.exact").what
    assert "applies to none" not in caplog.text + report.as_text()


def test_every_mistake_of_a_list_is_shown_whole(check: Check) -> None:
    """One finding for each, not cut off."""
    specs = [{"func": "text.werr"}, {"func": "text.rouge", "weight": -1}, {"func": "yesno", "gate": "text.wer > 0"}]
    report = check([asked(0)], rewards={"funcs": [*specs, {"func": "num.exact", "kwargs": {"abs_tol": "x" * 60}}]})
    found = [f.what for f in report.of("problem") if f.where == "rewards.funcs"]
    assert [what.partition(":")[0] for what in found] == [
        "rewards.funcs[0]", "rewards.funcs[1]", "rewards.funcs[3]", "the condition of 'yesno' names 'text.wer', which "
        "is no reward of the list; did you mean 'text.werr'?; the list has",
    ]  # fmt: skip
    assert all(what in report.as_text() for what in found)
    assert "'path/to/file.py:attr'" in report.as_text(), "the end of the longest"
    long = Finding(level="problem", where="x", what="first\n" + "second " * 100)
    assert "  " + "second " * 99 + "second" in Report(recipe="r", findings=[long]).as_text()


def test_an_unknown_key_hides_no_other_mistake(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: {tiny: {}}\ndata: {task: grounding, outputmode: think}\neval: {metrics: [box.iuo]}\n"
        "rewards:\n  funcs: [{func: box.ac}, {func: box.iou, weight: x, optoin: 1}, {func: yesno, weight: -1}]\n"
    )
    with pytest.raises(ConfigError) as caught:
        compose(str(path))
    said = str(with_other_problems(str(path), caught.value))
    assert said.startswith("6 problems in the config:")
    for text in (
        "unknown key data.outputmode", "rewards.funcs[1].weight: should be", "unknown key rewards.funcs[1].optoin",
        "rewards.funcs[0]: unknown reward 'box.ac'", "rewards.funcs[2]: reward 'yesno' has weight -1",
        "eval.metrics[0]: unknown reward 'box.iuo'",
    ):  # fmt: skip
        assert said.count(text) == 1, text
    alone = ConfigError("unknown key x; did you mean y?")
    path.write_text("model: {tiny: {}}\n")
    assert with_other_problems(str(path), alone) is alone


FAILS = """
import time

def always(parsed, target, meta):
    raise KeyError("always")

def blank(parsed, target, meta):
    return float(len(parsed.answer) > 3)

def sleeps(parsed, target, meta):
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["always", "blank", "sleeps"])
def test_a_reward_that_raises_is_soon_left_out(
    check: Check, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    mine: dict[str, Any] = {"func": f"{tmp_path}/fails.py:{name}", "name": name, "weight": 0.1}
    if name == "sleeps":
        mine["timeout_s"] = 0.2
    with caplog.at_level("WARNING", logger="vlrft"):
        report = check([asked(i) for i in range(8)], rewards={"funcs": [{"func": "text.wer"}, mine]})
    told = [record for record in caplog.records if f"reward {name} raised" in record.getMessage()]
    assert len(told) == 1
    problem = finding(report, f"reward '{name}' raised on sample")
    assert (problem.count, problem.examples) == (3, ("q0", "q1", "q2"))
    assert f"left out from there on: {name}" in finding(report, "left out from there on", "note").what
    [scores] = report.scores
    reference = next(line for line in scores.lines if line.answer == "reference")
    assert reference.parts["text.wer"] == 1.0, "the others go on"
    assert reference.count >= 5


def test_what_tricks_get_of_the_whole(check: Check, tmp_path: Path) -> None:
    """Parts that are low, or are meant to be paid for form alone, may together be much."""
    rows = [asked(i) for i in range(4)]

    def judged(weight: float, **block: Any) -> Report:
        form = {"func": "format.think_answer", "weight": weight}
        return check(rows, rewards={"funcs": [{"func": "text.wer", "weight": 1.0}, form], **block})

    report = judged(1.0)
    found = finding(report, "answer `gibberish` is worth", "warning")
    assert (
        "is worth 0.500 in all, 50% of the reference answer's 1.000 (its parts: format.think_answer 1.000)"
        in found.what
    )
    assert report.ok, "that form is paid is no mistake as such"
    assert "50% of the reference answer's 2.000" in finding(
        judged(1.0, combine="sum"), "answer `gibberish` is worth", "warning"
    ).what  # fmt: skip
    assert not [f for f in judged(0.1).findings if "is worth" in f.what]


def test_the_whole_picture_is_paid_by_giou(check: Check, tmp_path: Path) -> None:
    rows = [asked(i, task="grounding", answer=None, boxes={"box": [0, 0, 40, 28 + i]}) for i in range(4)]
    report = check(rows, rewards={"funcs": [{"func": "box.giou"}]})
    assert "56% of the reference answer's" in finding(report, "answer `whole` is worth 0.56", "warning").what
    small = check(rows, rewards={"funcs": [{"func": "box.iou"}]})
    assert not [f for f in small.findings if "`whole` is worth" in f.what]


def test_slow_rewards_judge_fewer(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "SECONDS", 0.0)
    report = check([asked(i) for i in range(4)], rewards={"funcs": [{"func": "text.wer"}]})
    assert report.ok
    assert report.scores == []
    monkeypatch.setattr(scoring, "SECONDS", 30.0)
    monkeypatch.setattr(scoring, "TRICKED", 2)
    report = check([asked(i) for i in range(9)], rewards={"funcs": [{"func": "text.wer"}]})
    assert {line.answer: line.count for line in report.scores[0].lines} == {
        "reference": 9, **dict.fromkeys(("empty", "blank", "gibberish", "numbers", "labels", "boxes", "question"), 2)
    }  # fmt: skip


def mixed_rows(tmp_path: Path) -> list[dict[str, Any]]:
    write_video(tmp_path / "v.mp4", 20)
    rows = [asked(i) for i in range(4)]
    rows.append(asked(4, images=[], videos=["v.mp4"]))
    rows.append(asked(5, task="math", images=[], answer="12"))
    rows.append(asked(6, images=["0.png", "1.png"], prompt="Compare."))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_rendering_shows_and_measures(family: str, check: Check, tmp_path: Path) -> None:
    pytest.importorskip("av")
    settings: dict[str, Any] = {"rewards": {"funcs": [{"func": "text.wer"}]}, "model": {"tiny": {"family": family}}}
    settings |= {"engine": {"max_completion_length": 300}}
    report = check(mixed_rows(tmp_path), render=True, **settings, data={"video": {"num_frames": 4}})
    assert report.ok, report.as_text()
    assert [shown.sample for shown in report.prompts] == ["q0", "q4", "q5"]
    image, video, text = report.prompts
    assert "What is on picture 0?" in image.text
    assert [shown.text.count("pad|>") + shown.text.count("<IMG_CONTEXT>") + shown.text.count("<video>")
            for shown in (image, video, text)] == [1, 1, 0]  # fmt: skip
    assert "0.png: 112x84, shown at " in image.media[0]
    assert "v.mp4: 128x64, 2.00 s, shown at " in video.media[0]
    assert f"prompt of sample q0, {image.tokens} tokens" in report.as_text()
    lengths = finding(report, "prompts have", "note").what
    longest = int(lengths.split(" to ")[1].split(" ")[0])
    limit = {"max_prompt_length": longest - 1, "video": {"num_frames": 4}}
    long = check(mixed_rows(tmp_path), render=True, **settings, data=limit)
    assert f"the longest {longest}" in finding(long, "prompts of more than data.max_prompt_length").what
    assert check(mixed_rows(tmp_path), render=True, **settings, data={**limit, "on_bad_sample": "skip"}).ok


def test_reference_answers_over_the_limit(check: Check) -> None:
    settings: dict[str, Any] = {"rewards": {"funcs": [{"func": "text.wer"}]}}
    report = check([asked(i) for i in range(4)], render=True, **settings, engine={"max_completion_length": 20})
    found = finding(report, "reference answers of more than engine.max_completion_length=20")
    assert found.count == 4
    control = asked(4, prompt="What does <|im_end|> mean?")
    report = check([*(asked(i) for i in range(4)), control], render=True, **settings)
    assert finding(report, "is a control token").examples == ("q4",)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_rendered_without_its_weights(family: str, check: Check, tmp_path: Path) -> None:
    folder = save_tiny(TinyModelConfig(family=family), tmp_path / "model")
    pytest.importorskip("av")
    settings: dict[str, Any] = {"rewards": {"funcs": [{"func": "text.wer"}]}, "engine": {"max_completion_length": 300}}
    settings["data"] = {"video": {"num_frames": 4}}
    tiny = check(mixed_rows(tmp_path), render=True, **settings, model={"tiny": {"family": family}})
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    model = {"tiny": None, "model_name_or_path": str(folder)}
    saved = check(mixed_rows(tmp_path), render=True, **settings, model=model)
    assert saved.ok, saved.as_text()
    assert saved.prompts == tiny.prompts
    gone = check(mixed_rows(tmp_path), render=True, **settings, model={**model, "model_name_or_path": "./none"})
    assert "model.model_name_or_path" in finding(gone, "./none").what
