"""`rewards.check`: what a recipe may say of its rewards, without a model; and the page that explains it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrft import rewards
from vlrft.compose import ConfigError, compose
from vlrft.config import Config, ModelConfig, RewardsConfig, RewardSpec, TinyModelConfig
from vlrft.log import UserError
from vlrft.registry import UnknownNameError
from vlrft.rewards import Judge, check, score
from vlrft.rollout import evaluation_judge, training_judge
from vlrft.types import Sample, TextPart

PAGE = Path(__file__).parents[1] / "docs" / "composing.md"


def test_good_lists_pass() -> None:
    check(["box.iou", {"func": "format.think_answer", "weight": 0.1, "gate": "box.iou > 0"}])
    check([RewardSpec(func="box.iou"), "length.overlong"], correct="box.iou >= 0.5", combine="sum")
    check(RewardsConfig())
    check({"funcs": ["box.iou"], "correct": "box.iou > 0.9", "lenient_extraction": True})
    judge = Judge(["yesno", {"func": "format.think_answer", "weight": 0.0}])
    assert judge.score("<answer>yes</answer>", Sample(id="a", task="t", parts=(), target="yes")).value == 1.0


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], r"^rewards\.funcs is empty; name at least one reward \('vlrft rewards ls'"),
        (["box.iou", {"func": "yesno", "gate": "box.io > 0"}], r"names 'box\.io', which is no reward of the list; did"),
        ([{"func": "box.iou", "weight": -1}], r"^rewards\.funcs\[0\]: reward 'box\.iou' has weight -1"),
        ([{"func": "box.iou", "weight": []}], r"^rewards\.funcs\[0\]: reward 'box\.iou': weight: a schedule is a list"),
        ([{"func": "box.iou", "weight": "much"}], r"^rewards\.funcs\[0\]\.weight: should be a number, or a schedule"),
        (["yesno", "box.iuo"], r"^rewards\.funcs\[1\]: unknown reward 'box\.iuo'; did you mean 'box\.iou'"),
        (["yesno", {"func": "box.giou", "kwargs": {"flor": 1}}], r"^rewards\.funcs\[1\]: .*did you mean 'floor'"),
        (["yesno", "yesno"], r"lists yesno twice"),
        (["box.acc"], r"^rewards\.funcs\[0\]: .*write the threshold as box\.acc@0\.5"),
        (["/none/mine.py:f"], r"^rewards\.funcs\[0\]: '/none/mine\.py:f': no file"),
        ([{"weight": 1}], r"^rewards\.funcs\[0\]\.func is missing"),
        ([{"func": "box.iou", "options": {}}], r"^unknown key rewards\.funcs\[0\]\.options; did you mean .*\.kwargs\?"),
        ([3], r"^rewards\.funcs\[0\]: expected the name of a reward or a mapping"),
        ("box.iou", r"^rewards\.funcs: expected a list of rewards, got 'box\.iou'"),
        ({"func": ["box.iou"]}, r"unknown key rewards\.func; did you mean rewards\.funcs"),
        ({"funcs": ["box.iou"], "combine": "max"}, r"rewards\.combine: input should be 'mean' or 'sum'"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(specs: Any, message: str) -> None:
    with pytest.raises((ValueError, ImportError), match=message) as caught:
        check(specs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("func", "kwargs", "message"),
    [
        ("box.acc", {"t": 5}, r"reward 'box\.acc' with t=5: .*threshold must lie in \(0, 1\], got 5"),
        ("box.acc@5", {}, r"reward 'box\.acc@5' with t=5\.0: .*threshold must lie in"),
        ("box.giou", {"floor": "x"}, r"reward 'box\.giou': option 'floor' must be a number, got 'x'"),
        ("det.f1@0.5", {"matching": "best"}, r"reward 'det\.f1@0\.5' with .*matching='best'"),
        ("num.exact", {"abs_tol": -1}, r"reward 'num\.exact' with abs_tol=-1: abs_tol is a tolerance"),
        ("num.exact", {"take": "first"}, r"option 'take' must be one of 'only', 'last', got 'first'"),
        ("box.iou_step", {"lo": {"schedule": [[0, 0.5], [10, 2]]}}, r"reward 'box\.iou_step' with lo=2: .*lo=2"),
        ("box.iou_step", {"lo": {"schedul": [[0, 0.5]]}}, r"option 'lo': .*is no schedule; write {schedule: \[\["),
        ("box.iou_step", {"lo": {"schedule": [[0, 0.5], [9, "x"]]}}, r"option 'lo' must be a number, got 'x'"),
        ("math.verify", {"timeout_s": -1}, r"reward 'math\.verify' with timeout_s=-1: .*positive"),
        ("semantic.rescaled", {"embedder": "vlrft.rewards.semantic:trigrams", "quantile": 2}, "quantile must lie in"),
    ],
)
def test_values_of_options_are_tried_at_every_step(func: str, kwargs: dict[str, Any], message: str) -> None:
    spec = {"func": func, "kwargs": kwargs}
    with pytest.raises(ValueError, match=rf"^rewards\.funcs\[1\]: .*{message}") as caught:
        check(["yesno", spec])
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        Judge([RewardSpec(**spec)])


def test_options_that_only_fit_other_rows_pass() -> None:
    check([{"func": "agent.step_kind", "kwargs": {"kinds": ["look", "tell"]}}])
    check(["yesno", {"func": "length.budget", "kwargs": {"max_len": 400}}])
    check([{"func": "box.iou_step", "kwargs": {"lo": {"schedule": [[0, 0.5], [9, 0.7]]}}}])


def test_all_problems_are_said_at_once() -> None:
    specs = ["box.iuo", {"func": "box.acc", "kwargs": {"t": 5}}, {"func": "yesno", "weight": -1.0}]
    with pytest.raises(ValueError, match=r"^4 problems in rewards\.funcs:") as caught:
        check(specs, correct="yesno")
    lines = str(caught.value).splitlines()[1:]
    assert [line.partition(":")[0].strip() for line in lines[:3]] == [f"rewards.funcs[{i}]" for i in range(3)]
    assert "rewards.correct: the condition 'yesno' is not" in lines[3]


def test_no_problem_hides_another() -> None:
    """Unknown keys, unknown names, several mistakes in one entry and what the entries say of each other."""
    specs: list[Any] = [
        {"func": "box.iuo", "weight": -1, "gate": "yesno >"},
        {"func": "yesno", "optoins": {}, "wieght": 2},
        {"func": "num.exact", "kwargs": {"abs_tol": "x", "take": "first", "tol": 1}},
        {"func": "box.iou", "gate": "num.exat > 0"},
    ]
    with pytest.raises(ValueError, match=r"^11 problems in rewards\.funcs:") as caught:
        check({"funcs": specs, "combin": "mean", "correct": "nothing"})
    for said in (
        r"unknown key rewards\.combin; did you mean rewards\.combine",
        r"unknown key rewards\.funcs\[1\]\.optoins",
        r"unknown key rewards\.funcs\[1\]\.wieght; did you mean rewards\.funcs\[1\]\.weight",
        r"funcs\[0\]: unknown reward 'box\.iuo'",
        r"funcs\[0\]: reward 'box\.iuo' has weight -1",
        r"funcs\[0\]: reward 'box\.iuo': gate: the condition 'yesno >'",
        r"funcs\[2\]: reward 'num\.exact': option 'abs_tol' must be a number",
        r"funcs\[2\]: reward 'num\.exact': option 'take' must be one of",
        r"funcs\[2\]: reward 'num\.exact' cannot be called.*'tol'",
        r"rewards\.correct: the condition 'nothing' is not",
        r"the condition of 'box\.iou' names 'num\.exat', which is no reward of the list; did you mean 'num\.exact'",
    ):
        assert len(re.findall(said, str(caught.value))) == 1, said
    with pytest.raises(ValueError, match=r"^2 problems") as caught:
        Judge([{"func": "box.iuo"}, {"func": "yesno", "when": 3}])
    assert "rewards.funcs[1].when" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("alone", r"it is alone\(x\): write \(parsed, target, meta, \*\*options\) -> float, TRL's \(completions"),
        (
            "lacks",
            r"argument: 't'; its options: t; give t: by keyword, in a recipe kwargs: {t: \.\.\.}",
        ),
        ("strict", r"its options: word, t; give word: by keyword"),
    ],
)
def test_what_own_functions_lack_is_said_of_them(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "def alone(x):\n    return 1.0\ndef lacks(parsed, target, meta, *, t):\n    return t\n"
        "def strict(parsed, target, meta, *, word, t=1):\n    return t\n"
    )
    with pytest.raises(ValueError, match=said) as caught:
        check([f"{path}:{name}"])
    assert "box.acc" not in str(caught.value)


def test_a_threshold_that_is_lacking_is_written_behind_the_rewards_own_name() -> None:
    with pytest.raises(ValueError, match=r"; write the threshold as tg\.recall@0\.5$"):
        check(["tg.recall"])


def test_one_problem_keeps_its_kind() -> None:
    with pytest.raises(UnknownNameError):
        check(["box.iuo"])
    with pytest.raises(ImportError):
        check(["/none/mine.py:f"])


@pytest.mark.parametrize(("name", "trainer"), [("verl_style", "verl"), ("easyr1_style", "easyr1")])
def test_functions_of_other_trainers_are_to_be_wrapped(tmp_path: Path, name: str, trainer: str) -> None:
    path = tmp_path / "theirs.py"
    path.write_text(
        "def verl_style(data_source, solution_str, ground_truth, extra_info=None):\n    return 1.0\n"
        "def easyr1_style(reward_inputs):\n    return [{'overall': 1.0}]\n"
    )
    for call in (lambda ref: check([ref]), lambda ref: score(ref, "x", "y")):
        with pytest.raises(ValueError, match=rf"signature of {trainer}'s compute_score: wrap it.*from_{trainer}\("):
            call(f"{path}:{name}")


def config(**blocks: Any) -> Config:
    return Config(model=ModelConfig(tiny=TinyModelConfig()), **blocks)


def test_a_recipe_says_it_as_one_line_for_the_user() -> None:
    bad = {"funcs": [{"func": "box.acc", "kwargs": {"t": 5}}]}
    with pytest.raises(UserError, match=r"^rewards\.funcs\[0\]: reward 'box\.acc' with t=5"):
        training_judge(config(rewards=bad))
    with pytest.raises(UserError, match=r"^eval\.metrics is empty; name at least one reward"):
        evaluation_judge(config(eval={"metrics": []}))
    with pytest.raises(UserError, match=r"^eval\.metrics\[1\]: .*write the threshold as box\.acc@0\.5"):
        evaluation_judge(config(eval={"metrics": ["box.iou", "box.acc"]}))


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("rewards.funcs[0].options={t: 1}", r"did you mean rewards\.funcs\[0\]\.kwargs\?"),
        ("rewards.reward_weights=[1, 2]", r"did you mean rewards\.funcs\[0\]\.weight\? \(every entry has its own\)"),
        ("reward_weights=[1, 2]", r"did you mean rewards\.funcs\[0\]\.weight\?"),
    ],
)
def test_names_of_other_trainers_lead_to_the_keys_of_an_entry(override: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=meant):
        compose({"model": {"tiny": {}}}, [override])


# --------------------------------------------------------------------------------- docs/composing.md


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Blocks of code of the page by language; those that name a file are written into the current folder."""
    text = PAGE.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, body in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL):
        Path(name).write_text(body)
    return lambda language: re.findall(rf"```{language}\n(?!# \w+\.py)(.*?)```", text, re.DOTALL)


def test_the_recipe_of_the_page_works(page: Callable[[str], list[str]]) -> None:
    (recipe,) = page("yaml")
    Path("mine.yaml").write_text(recipe)
    judge = training_judge(compose("./mine.yaml").config)
    sample = Sample(id="a", task="grounding", parts=(TextPart(text="Where?"),), target=[0, 0, 10, 10])
    judge.check(sample, {"max_tokens": 100})
    texts = ["<think>a</think><answer>[0, 0, 10, 8]</answer>", "please", "<answer>[0, 0, 10, 8]</answer>"]
    judge.step = 100
    found = judge.score_group(texts, sample, [{"num_tokens": 10, "max_tokens": 100}] * 3)
    judge.close()
    total = 0.8 + 0.3 + 0.1 + 0.1 + 0.05
    assert [s.value for s in found] == pytest.approx(
        [(0.8 * 0.8 + 0.3 + 0.1 + 0.1) / total, 0.05 / total, (0.8 * 0.8 + 0.3 + 0.1) / total]
    )
    assert found[1].parts["polite"] == 1.0
    assert judge.metrics([s.parts for s in found]) == {
        "reward_weight/accuracy": 0.8, "gate_closed/format.think_answer": pytest.approx(1 / 3),
    }  # fmt: skip


def test_the_python_of_the_page_works(page: Callable[[str], list[str]]) -> None:
    names: dict[str, Any] = {}
    for block in page("python"):
        exec(block, names)
    text, truth = "<think>a</think><answer>[0, 0, 10, 10]</answer>", [0, 0, 10, 10]
    columns = {"completions": [text], "target": [truth], "completion_ids": [[1] * 5]}
    assert names["composed"](**columns) == pytest.approx([(1 + 0.1 + 0.05) / 1.2])
    separate = [f(**columns, max_tokens=[10]) for f in names["separate"]]
    assert separate == [[1.0], [1.0], [1.0]]
    assert names["one"]([text], solution=[truth], image_size=[[1000, 1000]]) == [1.0]
    assert names["compute_score"]("", text, "[0, 0, 10, 10]") == 1.0
    assert names["batch_score"]([{"response": text, "ground_truth": "[0, 0, 10, 10]"}])[0]["overall"] == 1.0
    assert names["orm"]()([text], solution=[truth]) == [1.0]
    assert names["varied"] == [0.0, 0.0, 1.0]
    specs = [RewardSpec(func=f"theirs.py:from_one_of_{name}", name=name) for name in ("verl", "easyr1", "swift")]
    for spec in specs:
        assert rewards.score(spec.func, "<answer>B</answer>", "B").value == 1.0
        assert rewards.score(spec.func, "<answer>C</answer>", "B").value == 0.0
    found = Judge(specs).score_group(["B", "C"], Sample(id="a", task="t", parts=(), target="B"))
    assert [s.value for s in found] == [1.0, 0.0]
