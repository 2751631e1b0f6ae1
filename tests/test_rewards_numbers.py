"""num.*: golden numbers worked out by hand, the peers' faults, bad targets, and the hacks that must not pay."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score
from vlrft.types import Score

NAMES = ["num.exact", "num.tolerance", "num.relative", "num.mra"]


def say(answer: Any) -> str:
    return f"<think>counting</think><answer>{answer}</answer>"


def judge(name: str, answer: Any, target: Any, meta: dict[str, Any] | None = None, **options: Any) -> Score:
    return score(name, say(answer), target, meta, **options)


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ("5", 5, 1.0),
        ("5.0", 5, 1.0),
        ("5", "5.00", 1.0),
        ("1,000", 1000, 1.0),
        ("0.004", 0.001, 0.0),
        ("0.1", 0.1, 1.0),
        ("1/3", "2/6", 1.0),
        ("0.3333333333", "1/3", 0.0),
        ("50%", 0.5, 1.0),
        ("50", "50%", 0.0),
        ("-5", 5, 0.0),
        ("-0", 0, 1.0),
        ("It is 7.", 7, 1.0),
        ("minus 12", -12, 1.0),
        ("minus 12", 12, 0.0),
        ("negative 12", 12, 0.0),
        ("-(12)", 12, 0.0),
        ("12 hundred", 1200, 1.0),
        ("12 hundred", 12, 0.0),
        ("half of 12", 12, 0.0),
        ("<12", 12, 0.0),
        ("not 12", 12, 0.0),
    ],
)
def test_exact(answer: str, target: Any, value: float) -> None:
    assert judge("num.exact", answer, target).value == value


def test_exact_tolerances() -> None:
    # 0.1 + 0.2 against 0.3: tolerances are decimals too, so the edge itself is inside
    assert judge("num.exact", "0.3", 0.1, {"abs_tol": 0.2}).value == 1.0
    assert judge("num.exact", "0.31", 0.1, {"abs_tol": 0.2}).value == 0.0
    assert judge("num.exact", "105", 100, {"rel_tol": 0.05}).value == 1.0
    assert judge("num.exact", "95", -100, {"rel_tol": 0.05}).value == 0.0
    assert judge("num.exact", "106", 100, {"rel_tol": 0.05, "abs_tol": 6}).value == 1.0
    assert judge("num.exact", "6", 5, abs_tol=1.0).value == 1.0
    assert judge("num.exact", "6", 5, {"abs_tol": 0}, abs_tol=1.0).value == 0.0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("100", 1.0),
        ("104.9", 1.0),
        ("105", 1.0),
        ("112.5", 0.5),  # half way: cos(pi / 2) = 0
        ("87.5", 0.5),
        ("110", 0.75),  # a third of the way: cos(pi / 3) = 1/2
        ("115", 0.25),
        ("120", 0.0),
        ("121", 0.0),
        ("-100", 0.0),
        ("9e300", 0.0),
    ],
)
def test_tolerance_curve(answer: str, value: float) -> None:
    assert judge("num.tolerance", answer, 100).value == pytest.approx(value, abs=1e-12)


def test_a_target_of_zero() -> None:
    for name in NAMES:
        assert judge(name, "0", 0).value == 1.0
        assert judge(name, "0.5", 0).value == 0.0
        assert judge(name, "0.5", 0, {"abs_tol": 0.5}).value == 1.0
        assert judge(name, "0.6", 0, {"abs_tol": 0.5}).value == 0.0


@pytest.mark.parametrize(("answer", "value"), [("75", 0.75), ("125", 0.75), ("100", 1.0), ("200", 0.0), ("-1", 0.0)])
def test_relative(answer: str, value: float) -> None:
    assert judge("num.relative", answer, 100).value == value


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("100", 1.0),
        ("104", 1.0),
        ("105", 0.9),  # 0.05 < 1 - t fails for t = 0.95 only: the comparison is strict
        ("80", 0.6),  # 0.2 < 0.5 ... 0.25: t from 0.50 to 0.75
        ("140", 0.2),
        ("150", 0.0),
        ("151", 0.0),
    ],
)
def test_mean_relative_accuracy(answer: str, value: float) -> None:
    assert judge("num.mra", answer, 100).value == pytest.approx(value, abs=1e-15)


def test_units_are_dropped_only_where_declared() -> None:
    for name in NAMES:
        assert judge(name, "12 cm", 12, {"unit": "cm"}).value == 1.0
        assert judge(name, "12 cm", "12 cm", {"unit": "cm"}).value == 1.0
        assert judge(name, "12 cm", 12, unit="cm").value == 1.0
        for meta in ({}, {"unit": "m"}):
            found = judge(name, "12 cm", 12, meta)
            assert (found.value, found.flags) == (0.0, ("unparsable",))


def test_take_last() -> None:
    assert judge("num.exact", "3 + 4 = 7", 7).flags == ("several_answers",)
    assert judge("num.exact", "3 + 4 = 7", 7, take="last").value == 1.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("completion", "flags"),
    [
        ("", ("no_answer",)),
        (say(" "), ("no_answer",)),
        ("<think>5</think>", ("no_answer",)),
        ("<think>it is 5</think><answer>as said</answer>", ("unparsable",)),
        ("<think><answer>5</answer></think>", ("no_answer",)),
        (say("five"), ("unparsable",)),
        (say("nan"), ("non_finite",)),
        (say("-inf"), ("non_finite",)),
        (say("1e999999999"), ("non_finite",)),
        (say("1/0"), ("non_finite",)),
        (say("4, 5, 6"), ("several_answers",)),
        (say("4 or 5"), ("several_answers",)),
        (say(" ".join(map(str, range(1000)))), ("several_answers",)),
        (say("±5"), ("unparsable",)),
        (say("5" * 1_000_000), ("non_finite",)),
        ("\uff1canswer\uff1e5\uff1c/answer\uff1e", ("no_answer",)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_worth_nothing(name: str, completion: str, flags: tuple[str, ...]) -> None:
    found = score(name, completion, 5)
    assert (found.value, found.flags) == (0.0, flags)


@pytest.mark.parametrize(
    ("target", "meta", "message"),
    [
        (None, {}, "a finite number, got None"),
        (True, {}, "got True"),
        ([5], {}, r"got \[5\]"),
        (math.nan, {}, "got nan"),
        (math.inf, {}, "got inf"),
        (10**400, {}, "that a float can hold"),
        ("", {}, "got ''"),
        ("about 5", {}, "nothing but one, got 'about 5'"),
        ("5 cm", {}, "declare what follows the number as meta 'unit'"),
        ("3 or 4", {}, "got '3 or 4'"),
        (5, {"unit": 3}, "meta 'unit' is a string"),
        (5, {"abs_tol": -1}, "abs_tol is a tolerance of 0 or more, got -1"),
        (5, {"abs_tol": "one"}, "abs_tol .* got 'one'"),
        (5, {"rel_tol": math.nan}, "rel_tol .* got nan"),
    ],
)
def test_bad_targets_stop_before_any_completion(target: Any, meta: dict[str, Any], message: str) -> None:
    for name in NAMES:
        if "rel_tol" in meta and name != "num.exact":
            continue
        with pytest.raises(TargetError, match=message):
            check_target(name, target, meta)
        with pytest.raises(TargetError, match=message):
            score(name, say("5"), target, meta)


def test_least_denominators_are_checked() -> None:
    for name, option in (("num.tolerance", "eps_abs"), ("num.relative", "eps"), ("num.mra", "eps")):
        with pytest.raises(ValueError, match="least denominator"):
            judge(name, "5", 5, **{option: 0.0})


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None)
@given(answer=finite, target=finite)
def test_bounded_and_never_above_the_exact_one(answer: float, target: float) -> None:
    for name in NAMES:
        value = judge(name, repr(answer), target).value
        assert value is not None
        assert 0.0 <= value <= 1.0
        assert value == 1.0 or answer != target


@settings(max_examples=100, deadline=None)
@given(target=st.integers(1, 10**6), near=st.integers(0, 500), further=st.integers(0, 500))
def test_a_worse_answer_never_earns_more(target: int, near: int, further: int) -> None:
    close, far = target + Fraction(target * near, 1000), target + Fraction(target * (near + further), 1000)
    for name in NAMES:
        better, worse = judge(name, str(close), target).value, judge(name, str(far), target).value
        assert better is not None
        assert worse is not None
        assert better >= worse
