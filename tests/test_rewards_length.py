"""Length rewards: the curves worked out by hand, nothing paid to wrong or empty answers, groups alone and in a run."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse import parse
from vlrft.rewards import TargetError, check_target, score
from vlrft.rewards.base import Judged
from vlrft.rewards.length import budget, group_kimi

GOOD = "<think>a</think><answer>B</answer>"
NAMES = ["length.cosine", "length.window", "length.overlong", "length.group_kimi", "length.budget"]


def value(name: str, tokens: float, completion: str = GOOD, **meta: Any) -> float | None:
    options = {
        key: meta.pop(key) for key in ("correct_only", "max_len", "buffer", "low", "high", "short") if key in meta
    }
    meta = {"max_tokens": 1000, "group_lengths": [100, 500], "group_correct": [True, False], **meta}
    return score(name, completion, None, {"num_tokens": tokens, **meta}, **options).value


def test_cosine_falls_from_one_to_a_half_and_stays_there() -> None:
    curve = [value("length.cosine", n) for n in (0, 250, 500, 1000, 1500, 2000)]
    quarter = 0.5 + 0.5 * (1 + math.sqrt(0.5)) / 2
    assert curve == pytest.approx([1.0, quarter, 0.75, 0.5, 0.5, 0.5]), "no wrap past the limit"
    assert value("length.cosine", 512, max_tokens=None, max_len=1024) == pytest.approx(0.75)
    assert score("length.cosine", GOOD, None, {"num_tokens": 512}).value == pytest.approx(0.75), "VLM-R1's 1024"
    assert value("length.cosine", 0, short=0.5) == 0.5


def test_window_includes_its_ends() -> None:
    assert [value("length.window", n) for n in (319, 320, 400, 512, 513)] == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert value("length.window", 7, low=5, high=7) == 1.0


def test_overlong_is_the_soft_punishment_plus_one() -> None:
    assert [value("length.overlong", n) for n in (0, 800, 900, 950, 1000, 5000)] == [1.0, 1.0, 0.5, 0.25, 0.0, 0.0]
    assert value("length.overlong", 900, buffer=400) == pytest.approx(0.25)
    assert score("length.overlong", GOOD, None, {"num_tokens": 1001, "max_tokens": 1000}).flags == ("over_length",)


def test_group_kimi_alone() -> None:
    assert [value("length.group_kimi", n) for n in (100, 200, 500, 900, 1)] == [1.0, 0.75, 0.0, 0.0, 1.0]
    assert value("length.group_kimi", 7, group_lengths=[7, 7]) == 0.5


def test_budget_alone() -> None:
    # p = 1/2, Lr = 100, Lmax = 1000: Lb = 550.
    assert value("length.budget", 550) == pytest.approx(0.5)
    assert value("length.budget", 110) == pytest.approx(0.5 - 0.5 * (110 - 550) / 550)
    assert value("length.budget", 0) == pytest.approx(1.0)
    assert value("length.budget", 5000) == pytest.approx(0.1)
    assert value("length.budget", 500, group_correct=[False, False]) == pytest.approx(0.5 - 0.5 * (500 - 1000) / 1000)
    assert value("length.budget", 110, correct=False) == 0.0


def test_budget_of_a_group_of_which_only_the_lengths_are_known() -> None:
    # p = correct, Lr = the mean of all lengths = 300, Lmax = 1000.
    for correct, planned in ((True, 300), (0.75, 0.75 * 300 + 0.25 * 1000)):
        expected = max(0.1, 0.5 - 0.5 * (400 - planned) / planned)
        assert value("length.budget", 400, correct=correct, group_correct=None) == pytest.approx(expected)
    assert value("length.budget", 400, group_correct=None) == value("length.budget", 400, group_correct=[True, True],
                                                                    group_lengths=[300, 300])  # fmt: skip
    assert value("length.budget", 400, correct=False, group_correct=None) == 0.0
    wrong = value("length.budget", 275, correct=False, group_correct=None, correct_only=False)
    assert wrong == pytest.approx((1 + 0.9 * (275 - 1000) / 1000 - 0.1) / 2)


def test_a_completion_alone_is_a_group_of_one() -> None:
    assert score("length.group_kimi", GOOD, None, num_tokens=50).value == 0.5
    assert score("length.budget", GOOD, None, num_tokens=50, correct=True).value == 0.5
    assert score("length.budget", GOOD, None, num_tokens=50, correct=False).value == 0.0


def test_budget_with_its_wrong_half() -> None:
    full = {"correct_only": False}
    assert value("length.budget", 550, correct=True, **full) == pytest.approx((1 + 0.5) / 2)
    assert value("length.budget", 275, correct=False, **full) == pytest.approx((1 + 0.9 * -0.5 - 0.1) / 2)
    assert value("length.budget", 5000, correct=False, **full) == pytest.approx(0.45)
    assert value("length.budget", 0, correct=False, **full) == pytest.approx(0.0)
    assert value("length.budget", 275, correct=None, **full) is None


def group_of(*rows: tuple[str, int, Any]) -> Judged:
    return Judged(
        parsed=tuple(parse(text) for text, _, _ in rows),
        parts=tuple({"box.iou": 1.0} for _ in rows),
        target=None,
        meta=tuple({"num_tokens": tokens, "correct": correct, "max_tokens": 400} for _, tokens, correct in rows),
    )


def test_groups_in_a_run() -> None:
    group = group_of((GOOD, 100, True), (GOOD, 200, True), (GOOD, 300, False), (GOOD, 150, None))
    assert [s.value for s in group_kimi(group)] == [1.0, 0.5, 0.0, None]
    # p = 2/4, Lr = 150, Lmax = 400: Lb = 275.
    expected = [0.5 - 0.5 * (n - 275) / 275 for n in (100, 200)]
    assert [s.value for s in budget(group)] == [pytest.approx(expected[0]), pytest.approx(expected[1]), 0.0, None]
    assert [s.value for s in group_kimi(group, correct_only=False)] == [1.0, 0.5, 0.0, 0.75]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_answers_are_not_paid_for_being_short(name: str) -> None:
    tokens = 400 if name == "length.window" else 100
    right = value(name, tokens, correct=True)
    assert right is not None
    assert right > 0.5
    assert value(name, tokens) == right, "nobody says whether it is right"
    assert value(name, tokens, correct=0.5) == right
    assert value(name, tokens, correct=False) == 0.0
    assert value(name, tokens, correct=0.49) == 0.0
    assert value(name, tokens, correct=None) is None
    assert value(name, tokens, correct=False, correct_only=False) is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "completion", ["", " \n", "\u200b", "<think></think><answer></answer>", "<think>why</think><answer> </answer>"]
)
def test_empty_answers_are_not_paid_for_being_short(name: str, completion: str) -> None:
    found = score(
        name, completion, None,
        {"num_tokens": 400, "max_tokens": 1000, "group_lengths": [400, 900], "group_correct": [True, True]},
    )  # fmt: skip
    assert (found.value, "no_answer" in found.flags) == (0.0, True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("num_tokens", None), ("num_tokens", -1), ("num_tokens", math.nan), ("num_tokens", math.inf),
        ("num_tokens", "many"), ("num_tokens", True), ("correct", "yes"), ("correct", 2), ("correct", math.nan),
    ],
)  # fmt: skip
def test_bad_meta_is_named_before_the_completion_is_looked_at(name: str, field: str, bad: Any) -> None:
    meta = {"num_tokens": 9, "max_tokens": 99, "group_lengths": [9], "group_correct": [True], field: bad}
    with pytest.raises(TargetError, match=field):
        check_target(name, None, meta)


@pytest.mark.parametrize(
    ("name", "field", "bad"),
    [
        ("length.overlong", "max_tokens", None),
        ("length.cosine", "max_tokens", 0),
        ("length.cosine", "max_tokens", "many"),
        ("length.group_kimi", "group_lengths", []),
        ("length.group_kimi", "group_lengths", 3),
        ("length.group_kimi", "group_lengths", [3, math.nan]),
        ("length.budget", "group_correct", [True]),
        ("length.budget", "group_correct", "all"),
        ("length.budget", "group_correct", [True, "no"]),
    ],
)
def test_bad_limits_and_groups(name: str, field: str, bad: Any) -> None:
    meta = {"num_tokens": 9, "max_tokens": 99, "group_lengths": [9, 8], "group_correct": [True, False], field: bad}
    with pytest.raises(TargetError, match=field):
        check_target(name, None, {key: item for key, item in meta.items() if item is not None})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("length.cosine", {"short": 2.0}),
        ("length.cosine", {"max_len": 0}),
        ("length.window", {"low": 9, "high": 3}),
        ("length.overlong", {"buffer": 0}),
        ("length.overlong", {"buffer": 2000}),
    ],
)
def test_options_that_cannot_work(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        score(name, GOOD, None, {"num_tokens": 9, "max_tokens": 1000}, **options)


def test_trls_column_of_token_ids_will_do() -> None:
    assert score("length.window", GOOD, None, {"completion_ids": [1, 2, 3]}, low=3, high=3).value == 1.0


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.floats(0, 1e14), min_size=1, max_size=6),
    right=st.lists(st.booleans(), min_size=6, max_size=6),
    limit=st.floats(1e-6, 1e14),
    correct_only=st.booleans(),
)
def test_values_are_finite_and_in_range(
    lengths: list[float], right: list[bool], limit: float, correct_only: bool
) -> None:
    meta = {"max_tokens": limit, "group_lengths": lengths, "group_correct": right[: len(lengths)], "correct": right[0]}
    for name in NAMES:
        found = score(name, GOOD, None, {"num_tokens": lengths[0], **meta}, correct_only=correct_only).value
        assert found is not None
        assert 0.0 <= found <= 1.0


@settings(max_examples=100, deadline=None)
@given(a=st.integers(0, 5000), b=st.integers(0, 5000))
def test_shorter_right_answers_are_never_worth_less(a: int, b: int) -> None:
    for name in ("length.cosine", "length.overlong", "length.group_kimi", "length.budget"):
        short, long = value(name, min(a, b)), value(name, max(a, b))
        assert short is not None
        assert long is not None
        assert short >= long
