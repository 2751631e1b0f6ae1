"""The judge of a group: gates, masks, schedules, two passes, and bad recipes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewards_of_mine import (
    BARE,
    GROUP,
    HALF,
    HERE,
    RIGHT,
    SAMPLE,
    WRONG,
    judge_of,
    values,
)

from vlrft.rewards import RewardError, TargetError
from vlrft.rewards.gates import Gate, read_gate
from vlrft.rewards.schedule import options_by_step, weight_at
from vlrft.types import Sample

# ------------------------------------------------------------------------------------------- group


def test_a_group_is_scored_like_its_completions_one_by_one() -> None:
    judge = judge_of({"func": "box.iou", "weight": 0.9}, {"func": "format.think_answer", "weight": 0.1})
    group = judge.score_group(GROUP, SAMPLE)
    assert group == [judge.score(text, SAMPLE) for text in GROUP]
    assert [s.value for s in group] == pytest.approx([1.0, 0.55, 0.1, 0.9])
    assert judge.score_group([], SAMPLE) == []


def test_columns_get_the_whole_group_in_one_call(calls: list[Any]) -> None:
    assert values(judge_of(f"{HERE}shares"), num_tokens=4) == [0.0, None, 0.5, 0.75]
    ((completions, prompts, kind, columns),) = calls
    assert (completions, prompts, kind) == (GROUP, ["Where is it?"] * 4, ["cell"] * 4)
    assert columns["num_tokens"] == [4] * 4
    assert columns["target"] == [SAMPLE.target] * 4


def test_one_bad_completion_costs_only_its_own_part(caplog: pytest.LogCaptureFixture) -> None:
    judge = judge_of("box.iou", f"{HERE}picky")
    with caplog.at_level(logging.WARNING, logger="vlrft.rewards"):
        found = judge.score_group(GROUP, SAMPLE)
    assert [s.parts[f"{HERE}picky"] for s in found] == [1.0, None, 1.0, 1.0]
    assert (found[1].value, judge.errors) == (0.5, 1)
    assert caplog.text.count("raised on sample row-7: KeyError: 'colour'") == 1


def test_group_rewards_see_the_parts_of_the_others(calls: list[Any]) -> None:
    judge = judge_of({"func": f"{HERE}ranks", "name": "rank"}, {"func": "box.iou", "weight": 0.0})
    found = judge.score_group(GROUP, SAMPLE, [{"num_tokens": n} for n in (5, 6, 7, 8)])
    assert [s.value for s in found] == [1.0, 0.5, 0.25, 1.0]
    assert found[1].parts == {"rank": 0.5, "box.iou": 0.5, "rank/best": 1.0}
    (group,) = calls
    assert [p["box.iou"] for p in group.parts] == [1.0, 0.5, 0.0, 1.0]
    assert [m["num_tokens"] for m in group.meta] == [5, 6, 7, 8]
    assert [m["correct"] for m in group.meta] == [True, True, False, True]


def test_a_group_reward_that_returns_too_little_is_an_error() -> None:
    judge = judge_of("box.iou", f"{HERE}short_of_one", max_errors=3)
    with pytest.raises(RewardError, match=r"short_of_one must return a list with one Score per completion \(4\)"):
        judge.score_group(GROUP, SAMPLE)


def test_a_bad_target_stops_at_once() -> None:
    judge = judge_of("format.think_answer", "box.iou", max_errors=99)
    with pytest.raises(TargetError, match=r"sample 'bad', reward 'box\.iou': a box target is"):
        judge.score(RIGHT, Sample(id="bad", task="t", parts=(), target="left"))


# ------------------------------------------------------------------------------------------- gates


def test_a_closed_gate_counts_as_zero_and_keeps_its_weight() -> None:
    judge = judge_of("box.iou", {"func": "format.think_answer", "gate": "box.iou > 0"})
    assert values(judge) == [1.0, 0.75, 0.0, 0.5]
    assert judge.score(WRONG, SAMPLE).parts == {"box.iou": 0.0, "format.think_answer": 1.0}, "parts stay as they are"


@pytest.mark.parametrize(
    ("gate", "expected"),
    [("box.iou>=0.5", [1, 1, 0, 0]), ("box.iou == 1", [1, 0, 0, 0]), ("box.iou<0.5", [0, 0, 1, 0]),
     ("box.iou <= 0.5", [0, 1, 1, 0])],
)  # fmt: skip
def test_operators(gate: str, expected: list[int]) -> None:
    judge = judge_of({"func": "box.iou", "weight": 0.0}, {"func": "format.think_answer", "gate": gate})
    assert values(judge) == expected


def test_a_gate_on_what_does_not_apply_leaves_the_mean() -> None:
    judge = judge_of(
        {"func": "box.iou", "when": {"kind": "car"}}, {"func": "format.think_answer", "gate": "box.iou > 0"}, "box.giou"
    )
    found = judge.score(BARE, SAMPLE)
    assert (found.value, found.parts["box.iou"]) == (1.0, None)


@pytest.mark.parametrize(
    ("funcs", "message"),
    [
        ([{"func": "box.iou", "gate": "box.iou > 0"}], r"'box\.iou' is its own gate"),
        (["box.iou", {"func": "box.giou", "gate": "box.io > 0"}],
         r"condition of 'box\.giou' names 'box\.io', which is no reward of the list; did you mean 'box\.iou'"),
        ([{"func": "box.iou", "gate": "box.giou > 0"}, {"func": "box.giou", "gate": "box.iou > 0"}],
         r"which has a gate itself"),
        (["box.iou", {"func": "box.giou", "gate": "box.iou"}], r"reward 'box\.giou': gate: .*'part op number'"),
        (["box.iou", {"func": "box.giou", "gate": "box.iou != 0"}], "'part op number'"),
        (["box.iou", {"func": "box.giou", "gate": "box.iou > nan"}], "'part op number'"),
        (["box.iou", {"func": "box.giou", "gate": "box.iou > much"}], "'part op number'"),
    ],
)  # fmt: skip
def test_gates_that_cannot_work(funcs: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge_of(*funcs)


def test_gates_on_any_name() -> None:
    assert read_gate("x", "box.acc@0.5 == 1") == Gate("box.acc@0.5", "==", 1.0)
    assert read_gate("x", "/a/b.py:f<=-1e-3") == Gate("/a/b.py:f", "<=", -0.001)


# ------------------------------------------------------------------------------------------- masks


def test_rewards_apply_to_the_samples_that_the_recipe_says() -> None:
    judge = judge_of(
        {"func": "box.iou", "when": {"task": "grounding"}},
        {"func": "format.think_answer", "when": {"kind": ["car", "cell"]}},
        {"func": "box.giou", "when": {"task": "grounding", "kind": "car"}},
    )
    assert judge.score(HALF, SAMPLE).parts == {"box.iou": 0.5, "format.think_answer": 1.0, "box.giou": None}
    other = Sample(id="o", task="choice", parts=(), target="B", meta={"kind": "tree"})
    assert (judge.score(HALF, other).value, set(judge.score(HALF, other).parts.values())) == (None, {None})
    judge.check(other)
    keyless = Sample(id="k", task="choice", parts=(), target="B")
    assert judge.score(HALF, keyless).value is None


def test_a_key_that_no_sample_has() -> None:
    judge = judge_of("box.iou", {"func": "format.think_answer", "when": {"knid": "cell"}})
    judge.check_when()
    judge.check(SAMPLE)
    with pytest.raises(
        ValueError, match=r"'format\.think_answer': when names 'knid', which no sample has; did you mean"
    ):
        judge.check_when()
    judge.check(Sample(id="b", task="t", parts=(), target=[0, 0, 1, 1], meta={"knid": "cell"}))
    judge.check_when()


def test_a_reward_that_no_sample_wants_is_told(caplog: pytest.LogCaptureFixture) -> None:
    judge = judge_of("box.iou", {"func": "format.think_answer", "when": {"kind": "sell"}})
    judge.check(SAMPLE)
    with caplog.at_level(logging.WARNING, logger="vlrft.rewards"):
        judge.check_when()
    assert "reward format.think_answer applies to none of 1 samples" in caplog.text


# --------------------------------------------------------------------------------------- schedules


def test_weights_glide() -> None:
    judge = judge_of({"func": "box.iou", "weight": [[0, 1.0], [100, 0.0]]}, {"func": "format.think_answer"})
    found = []
    for step in (0, 50, 100, 500):
        judge.step = step
        found.append(judge.score(HALF, SAMPLE).value)
    assert found == pytest.approx([0.75, (0.5 * 0.5 + 1) / 1.5, 1.0, 1.0])


@settings(max_examples=50, deadline=None)
@given(step=st.integers(0, 300))
def test_weights_lie_between_their_points(step: int) -> None:
    points = [(10, 1.0), (20, 3.0), (200, 0.5)]
    assert 0.5 <= weight_at(points, step) <= 3.0
    assert weight_at(points, 10) == weight_at(points, 0) == 1.0
    assert weight_at(points, 15) == 2.0
    assert weight_at(points, 200 + step) == 0.5


def test_options_jump() -> None:
    schedule = {"t": {"schedule": [[0, 0.5], [1500, 0.75]]}}
    judge = judge_of({"func": f"{HERE}threshold", "kwargs": schedule})
    found = []
    for step in (0, 1499, 1500, 9999):
        judge.step = step
        found.append(judge.score(RIGHT, SAMPLE).value)
    assert found == [0.5, 0.5, 0.75, 0.75]
    assert options_by_step("f", {"a": 1, "t": {"schedule": [[5, 2], [9, 3]]}}) == [
        (0, {"a": 1, "t": 2}), (5, {"a": 1, "t": 2}), (9, {"a": 1, "t": 3}),
    ]  # fmt: skip


def test_rewards_know_the_step() -> None:
    judge = judge_of(f"{HERE}step_of")
    judge.step = 25
    assert judge.score(RIGHT, SAMPLE).value == 0.25


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"weight": [[100, 1.0], [50, 0.5]]},
            r"'box\.iou': weight: the steps of the schedule must ascend.*50 follows 100",
        ),
        ({"weight": [[0, 1.0], [0, 0.5]]}, "must ascend"),
        ({"weight": []}, "a schedule is a list"),
        ({"weight": [[-1, 1.0]]}, "step -1"),
        ({"weight": [[0, 1.0], [10, -1.0]]}, "weight -1.0"),
        ({"weight": [[0, 1.0], [10, 0.0]]}, "no reward a weight above 0 at step 10"),
        ({"kwargs": {"t": {"schedule": [[9, 1], [3, 2]]}}}, r"option 't': the steps of the schedule must ascend"),
        ({"kwargs": {"t": {"schedule": 3}}}, "a schedule is a list"),
        ({"kwargs": {"t": {"schedule": [3]}}}, "is not .step, value."),
        ({"func": "box.acc", "kwargs": {"t": {"schedule": [[0, 0.5], [9, 0.7]]}, "q": 1}}, "unexpected keyword"),
    ],
)
def test_schedules_that_cannot_work(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge_of({"func": "box.iou", **spec})


# ----------------------------------------------------------------------------------------- combine


def test_sum() -> None:
    funcs: list[Any] = [{"func": "box.iou", "weight": 2.0}, {"func": "format.think_answer", "weight": 0.5}]
    assert values(judge_of(*funcs, combine="sum")) == [2.5, 1.5, 0.5, 2.0]
    with pytest.raises(ValueError, match=r"rewards\.combine is 'max'"):
        judge_of(*funcs, combine="max")


def test_names() -> None:
    judge = judge_of({"func": "box.iou", "name": "accuracy"}, {"func": "box.iou", "gate": "accuracy >= 0.5"})
    assert judge.score(HALF, SAMPLE).parts == {"accuracy": 0.5, "box.iou": 0.5}
    with pytest.raises(ValueError, match=r"lists a twice.*give one a `name`"):
        judge_of({"func": "box.iou", "name": "a"}, {"func": "box.giou", "name": "a"})


# ---------------------------------------------------------------------------------------- correct


def test_length_pays_right_answers_only() -> None:
    judge = judge_of({"func": "box.iou", "weight": 0.0}, {"func": "length.overlong", "kwargs": {"max_len": 10}})
    assert values(judge, num_tokens=5) == [1.0, 1.0, 0.0, 1.0], "right from an IoU of 0.5 on"
    strict = judge_of(
        {"func": "box.iou", "weight": 0.0}, "length.overlong", correct="box.iou > 0.9", meta={"max_tokens": 10}
    )
    assert values(strict, num_tokens=5) == [1.0, 0.0, 0.0, 1.0]
    assert strict.score("", SAMPLE, {"num_tokens": 0}).value == 0.0


def test_where_no_task_reward_applies_nobody_knows_what_is_right() -> None:
    judge = judge_of({"func": "box.iou", "when": {"kind": "car"}}, "length.overlong", meta={"max_tokens": 10})
    assert judge.score(RIGHT, SAMPLE, {"num_tokens": 5}).value is None


def test_the_first_task_reward_that_applies_decides() -> None:
    judge = judge_of(
        "format.think_answer", {"func": "box.acc@0.9", "when": {"kind": "car"}}, {"func": "box.iou", "weight": 0.0},
        {"func": "length.group_kimi"},
    )  # fmt: skip
    found = judge.score_group(GROUP, SAMPLE, [{"num_tokens": n} for n in (10, 20, 30, 20)])
    assert [s.parts["length.group_kimi"] for s in found] == [1.0, 0.5, 0.0, 0.5]


@pytest.mark.parametrize("name", ["length.overlong", "length.budget"])
def test_somebody_must_say_what_is_right(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' pays right answers only.*rewards\.correct"):
        judge_of("format.think_answer", name)
    judge_of("format.think_answer", {"func": name, "kwargs": {"correct_only": False}})
    with pytest.raises(ValueError, match=r"condition of 'rewards\.correct' names 'box\.giou'"):
        judge_of("box.iou", name, correct="box.giou > 0")


def test_length_rewards_pass_the_check_before_a_run() -> None:
    judge = judge_of("box.iou", "length.group_kimi", "length.budget", "length.cosine", meta={"max_tokens": 9})
    judge.check(SAMPLE)
    with pytest.raises(TargetError, match=r"sample 'row-7', reward 'length\.overlong': meta\['max_tokens'\]"):
        judge_of("box.iou", "length.overlong").check(SAMPLE)
