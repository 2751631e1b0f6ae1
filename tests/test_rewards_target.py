"""Rewards that compare with something other than the sample's target: `target` names a key of its meta."""

from __future__ import annotations

from typing import Any

import pytest
from rewards_of_mine import HERE, SAMPLE, judge_of

from vlrft.rewards import TargetError
from vlrft.types import Sample

BOTH = Sample(
    id="row-3", task="x", parts=(), target="B", target_space="norm_1",
    meta={"spans": [[2, 4]], "num_options": 3, "box": [0.0, 0.0, 0.5, 1.0], "image_size": [20, 10]},
)  # fmt: skip
LETTER = {"func": "mcq.letter", "weight": 0.5}
SPANS = {"func": "tg.multi_iou", "weight": 0.5, "target": "spans"}
ANSWER = "<think>a</think><answer>(B) [[2, 3]]</answer>"


def test_each_reward_has_its_own_target() -> None:
    judge = judge_of(LETTER, SPANS)
    judge.check(BOTH)
    scores = judge.score_group([ANSWER, ANSWER.replace("(B)", "(A)"), "nothing"], BOTH)
    assert [s.parts for s in scores] == [
        {"mcq.letter": 1.0, "tg.multi_iou": 0.5},
        {"mcq.letter": 0.0, "tg.multi_iou": 0.5},
        {"mcq.letter": 0.0, "tg.multi_iou": 0.0},
    ]
    assert [s.value for s in scores] == [0.75, 0.25, 0.0]


def test_it_is_in_the_space_of_the_samples_target() -> None:
    judge = judge_of({"func": "box.iou", "target": "box"})
    known = {"coord_space": "abs_original"}
    assert judge.score("<answer>[0, 0, 10, 10]</answer>", BOTH, known).value == 1.0
    assert judge.score("<answer>[0, 0, 0.5, 1]</answer>", BOTH, known).value == pytest.approx(0.5 / 100)


def test_groups_and_columns_get_it_too(calls: list[Any]) -> None:
    judge = judge_of(
        SPANS, {"func": f"{HERE}ranks", "target": "box", "kwargs": {"of": "tg.multi_iou"}},
        {"func": f"{HERE}shares", "target": "spans"},
    )  # fmt: skip
    judge.check(BOTH, {"kind": "cell"})
    judge.score_group([ANSWER, "nothing"], BOTH, [{"kind": "cell"}] * 2)
    (_, _, _, columns), group = calls
    assert columns["target"] == [[[2, 4]]] * 2
    assert group.target == [0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize("func", ["tg.multi_iou", f"{HERE}shares", f"{HERE}picky"])
def test_a_sample_without_it_is_named_before_compute_is_spent(func: str) -> None:
    judge = judge_of({"func": func, "target": "span"})
    with pytest.raises(
        TargetError, match=r"sample 'row-3'.*meta 'span'.*did you mean 'spans'.*limit the reward by `when`"
    ):
        judge.check(BOTH)
    with pytest.raises(TargetError, match=r"sample 'row-7'.*meta 'span', which the sample does not have; it has: kind"):
        judge.score(ANSWER, SAMPLE)


def test_a_target_that_the_reward_cannot_use_is_named() -> None:
    with pytest.raises(TargetError, match=r"sample 'row-3', reward 'tg.multi_iou'.*list of"):
        judge_of({**SPANS, "target": "num_options"}).check(BOTH)


def test_rewards_that_do_not_apply_need_none() -> None:
    judge = judge_of(LETTER, {**SPANS, "target": "elsewhere", "when": {"task": "y"}})
    judge.check(BOTH)
    assert judge.score(ANSWER, BOTH).parts == {"mcq.letter": 1.0, "tg.multi_iou": None}
