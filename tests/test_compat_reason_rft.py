"""compat.reason_rft.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vlrft.parse import parse
from vlrft.rewards import TargetError, score
from vlrft.rewards.base import Judged
from vlrft.rewards.compat.reason_rft import length


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.reason_rft.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


TRUTH = [["move", "a", "left"], ["paint", "b", "red"]]


@pytest.mark.parametrize(
    ("text", "func", "full", "penalty"),
    [
        ("move(a, left) paint(b, red)", 1.0, 1.0, 1.0),
        ("paint(b, red), move(a,left)", 1.0, 1.0, 1.0),  # order does not count
        ("move(a, left)", 0.5, 0.5, 0.5),
        ("move(a, right) paint(b, red)", 0.75, 0.5, 0.375),
        ("move(c, left) paint(b, red)", 0.75, 0.5, 0.375),
        ("move(c, right) paint(b, red)", 0.625, 0.5, 0.25),
        # a duplicate: unique / all = 2/3
        ("move(a, left) move(a, left) paint(b, red)", 2 / 3, 2 / 3, 2 / 3),
        # a third call: of three
        ("move(a, left) paint(b, red) move(z, up)", 2 / 3, 2 / 3, 2 / 3),
        ('move(a, \'left\') paint("b", "red")', 1.0, 1.0, 1.0),
        ("", 0.0, 0.0, 0.0),
        ("move a left", 0.0, 0.0, 0.0),
    ],
)
def test_calls(text: str, func: float, full: float, penalty: float) -> None:
    found = [value(name, answer(text), TRUTH) for name in ("func", "func_full", "func_penalty")]
    assert found == [pytest.approx(func), pytest.approx(full), pytest.approx(penalty)]


def test_calls_as_the_peer_writes_them_and_without_tags() -> None:
    assert value("func", "move(a, left) paint(b, red)", "<answer>move(a, left), paint(b, red)</answer>") == 1.0


@pytest.mark.parametrize(
    ("text", "truth", "expected"),
    [
        ("100", 100, 1),
        ("104.9", 100, 1),
        ("112.5", 100, 0.5),
        ("121", 100, 0),
        ("88", 100, None),
        ("0", 0, 1),
        ("0.1", 0, 0),
        ("nan", 100, 0),
        ("inf", 100, 0),
        ("about 100", 100, 0),
        ("-100", "-100", 1),
    ],
)
def test_tolerance(text: str, truth: Any, expected: float | None) -> None:
    if expected is None:  # 12 off: (1 + cos(pi 7 / 15)) / 2
        expected = (1 + math.cos(math.pi * 7 / 15)) / 2
    assert value("tolerance", answer(text), truth) == pytest.approx(expected)


def test_length() -> None:
    meta = {"group_lengths": [2, 6, 10], "correct": True}
    assert value("length", "ab", None, meta) == pytest.approx(0.025)
    assert value("length", "abcdef", None, meta) == 0.0
    assert value("length", "a" * 10, None, meta) == pytest.approx(-0.025)
    assert value("length", "ab", None, {**meta, "correct": False}) == 0.0  # wrong answers can only lose
    assert value("length", "a" * 10, None, {**meta, "correct": 0.2}) == pytest.approx(-0.025)
    assert value("length", "ab", None, {**meta, "step": 799}) == 0.0
    assert value("length", "ab", None, {**meta, "group_lengths": [2, 2]}) == 0.0


def test_length_of_a_run_measures_the_group_itself() -> None:
    texts = ("ab", "abcdef", "a" * 10)
    judged = Judged(
        parsed=tuple(parse(text, "direct") for text in texts),
        parts=({}, {}, {}),
        target=None,
        meta=({"correct": 1.0}, {"correct": 1.0}, {"correct": 0.0}),
    )
    assert [score.value for score in length(judged)] == [pytest.approx(0.025), 0.0, pytest.approx(-0.025)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("Step 1: look", 1 / 3),
        ("1. look", 1 / 3),
        ("a\n- b\n* c", 2 / 3),
        ("First, a. Next, b. Finally, c. Next, d", 1),
        ("look 2. there", 0),
        ("first, look", 0),
        ("Second, look", 1 / 3),
    ],
)
def test_steps(text: str, expected: float) -> None:
    assert value("steps", text, None) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "target", "meta"),
    [
        ("func", None, {}),
        ("func", [], {}),
        ("func_full", [["a", "b"]], {}),
        ("tolerance", "x", {}),
        ("tolerance", True, {}),
        ("length", None, {}),
        ("length", None, {"group_lengths": []}),
        ("length", None, {"group_lengths": ["a"]}),
    ],
)
def test_bad_targets(name: str, target: Any, meta: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=r"compat\.reason_rft"):
        value(name, "", target, meta)
