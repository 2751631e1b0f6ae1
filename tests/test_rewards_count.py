"""count.boxes, count.exact, count.soft."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score

IMAGE = {"image_size": [100, 50]}


def say(answer: Any) -> str:
    return f"<think>there are 99 of them</think><answer>{answer}</answer>"


def boxes(n: int) -> list[list[int]]:
    return [[i, 0, i + 1, 1] for i in range(n)]


def target(n: int) -> list[dict[str, Any]]:
    return [{"bbox": box, "label": "cell"} for box in boxes(n)]


@pytest.mark.parametrize(
    ("given_boxes", "true", "value"),
    [(3, 3, 1.0), (2, 4, 0.5), (4, 2, 0.5), (1, 3, 1 / 3), (0, 0, 1.0), (0, 2, 0.0), (2, 0, 0.0), (30, 3, 0.1)],
)
def test_boxes(given_boxes: int, true: int, value: float) -> None:
    assert score("count.boxes", say(boxes(given_boxes)), target(true), IMAGE).value == pytest.approx(value)


def test_gibberish_is_not_zero_objects() -> None:
    found = score("count.boxes", say("0 of them"), [])
    assert (found.value, found.flags) == (0.0, ("unparsable",))
    assert score("count.boxes", say("No Objects"), []).value == 1.0


@pytest.mark.parametrize("junk", ["[5, 5, 5, 5]", "[9, 9, 1, 1]", "[0, 0, NaN, 1]", "[200, 0, 210, 10]"])
def test_what_can_be_no_object_does_not_help(junk: str) -> None:
    assert score("count.boxes", say(f"[{junk}, {junk}]"), target(2), IMAGE).value == 0.0
    assert score("count.boxes", say(f"[[0, 0, 1, 1], {junk}]"), target(1), IMAGE).value == 0.5


def test_labels_outside_the_set_do_not_help() -> None:
    found = score("count.boxes", say("{'box': [0, 0, 1, 1], 'label': 'ox'}"), target(1), {"labels": ["cell"]})
    assert (found.value, found.flags) == (0.0, ("unknown_label",))


@pytest.mark.parametrize(
    ("answer", "true", "exact", "soft"),
    [
        ("5", 5, 1, 1.0),
        ("5.0", 5, 1, 1.0),
        ("There are 5 cells.", "5", 1, 1.0),
        ("4", 5, 0, 0.8),
        ("6", 5, 0, 0.8),
        ("4.5", 5, 0, 0.9),
        ("11", 5, 0, 0.0),
        ("0", 0, 1, 1.0),
        ("1", 0, 0, 0.0),
        ("-5", 5, 0, 0.0),
        ("minus 5", 5, 0, 0.0),
        ("There are 5 squares", 5, 1, 1.0),
        ("1,000", 1000, 1, 1.0),
        ("4 or 5", 5, 0, 0.0),
        ("many", 5, 0, 0.0),
        ("nan", 5, 0, 0.0),
        ("inf", 5, 0, 0.0),
        ("1e999", 5, 0, 0.0),
        ("9" * 5000, 5, 0, 0.0),
        ("[]", 0, 0, 0.0),
    ],
)
def test_numbers(answer: str, true: Any, exact: float, soft: float) -> None:
    assert score("count.exact", say(answer), true).value == exact
    assert score("count.soft", say(answer), true).value == pytest.approx(soft)


@pytest.mark.parametrize("name", ["count.exact", "count.soft"])
def test_a_number_in_the_reasoning_does_not_count(name: str) -> None:
    assert score(name, "<think>5</think>", 5).flags == ("no_answer",)
    assert score(name, "<think>5</think><answer>none</answer>", 5).value == 0.0
    assert score(name, say("first 4, then 5"), 5, take="last").value == 1.0


@pytest.mark.parametrize("name", ["count.exact", "count.soft"])
@pytest.mark.parametrize("bad", [None, "many", -1, 2.5, "1/2", math.nan, math.inf, [3], True, ""])
def test_bad_targets(name: str, bad: Any) -> None:
    with pytest.raises(TargetError, match="target"):
        check_target(name, bad)


@pytest.mark.parametrize("bad", [None, 3, [3], [{"bbox": [0, 0, 1], "label": "a"}]])
def test_bad_box_targets(bad: Any) -> None:
    with pytest.raises(TargetError, match="detection target"):
        check_target("count.boxes", bad)


@settings(max_examples=80, deadline=None)
@given(text=st.text(max_size=30), true=st.integers(0, 10**6))
def test_every_answer_has_a_value(text: str, true: int) -> None:
    for name in ("count.exact", "count.soft"):
        assert 0.0 <= score(name, say(text), true).value <= 1.0  # type: ignore[operator]
    assert 0.0 <= score("count.boxes", say(text), target(2)).value <= 1.0  # type: ignore[operator]


@settings(max_examples=100, deadline=None)
@given(said=st.integers(0, 10**4), true=st.integers(0, 10**4))
def test_nearer_is_never_worse(said: int, true: int) -> None:
    value = score("count.soft", say(said), true).value
    nearer = said + (said < true) - (said > true)
    assert score("count.soft", say(nearer), true).value >= value  # type: ignore[operator]
    assert value == pytest.approx(max(0.0, 1 - abs(said - true) / max(true, 1)))
