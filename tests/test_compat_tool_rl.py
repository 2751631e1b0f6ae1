"""compat.tool_rl.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, score


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.tool_rl.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


F = {"name": "f", "parameters": {"x": 1, "y": "a"}}
G = {"name": "g", "parameters": {}}


def calls(*items: Any) -> str:
    lines = "\n".join(item if isinstance(item, str) else json.dumps(item) for item in items)
    return f"<think>t</think>\n<tool_call>\n{lines}\n</tool_call>"


@pytest.mark.parametrize(
    ("made", "truth", "expected"),
    [
        ([F], [F], 3.0),
        # names 1 + keys 1/2 + one equal value, of 1 + 3
        ([{"name": "f", "parameters": {"x": 1}}], [F], 6 * 2.5 / 4 - 3),
        # "1" is not 1
        ([{"name": "f", "parameters": {"x": "1", "y": "a"}}], [F], 6 * 3 / 4 - 3),
        ([G], [F], -3.0),
        # an extra call hurts through the names alone: 1/2 + 1 + 2, of 4
        ([F, G], [F], 6 * 3.5 / 4 - 3),
        # half of two: names 1/2 + 1 + 2, of 1 + 3 + 1
        ([F], [F, G], 6 * 3.5 / 5 - 3),
        # order counts for the shortcut only; the sum reaches the most too
        ([G, F], [F, G], 3.0),
        # each prediction serves once, the better one first
        ([{"name": "f", "parameters": {}}, F], [F], 6 * 3.5 / 4 - 3),
        ([G], [G], 3.0),
    ],
)
def test_correctness(made: list[Any], truth: list[Any], expected: float) -> None:
    assert value("correctness", calls(*made), truth) == pytest.approx(expected)


def test_correctness_of_unreadable_and_unneeded_calls() -> None:
    for text in (calls(F, "oops"), calls(F, "[1]"), calls({"name": "f"}), "no call", "<tool_call>", calls("[" * 9999)):
        assert value("correctness", text, [F]) == -3.0
        assert value("correctness", text, []) == 0.0
    assert value("correctness", calls(F), []) == 0.0
    assert value("correctness", calls(F), calls(F)) == value("correctness", calls(F), json.dumps([F])) == 3.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([F, G, {"name": "f", "parameters": {"x": None}}]), max_size=4),
    st.lists(st.sampled_from([F, G]), min_size=1, max_size=3),
)
def test_correctness_stays_in_its_range(made: list[Any], truth: list[Any]) -> None:
    found = value("correctness", calls(*made), truth)
    assert found is not None
    assert -3.0 <= found <= 3.0


def test_format_follows_the_kind_of_the_truth() -> None:
    response, both = "<think>t</think>\n<response>r</response>", calls(F) + "\n<response>r</response>"
    truths = [[F], [], both, "<think>only</think>"]
    completions = [calls(F), response, both, "<think>t</think>"]
    for i, truth in enumerate(truths):
        assert [value("format", text, truth) for text in completions] == [float(i == j) for j in range(4)]
    assert value("format", both, [F], {"response": True}) == 1.0
    for text in (calls(F) + "\n", " " + calls(F), calls(F).replace("</think>\n", "</think>"), calls(F) * 2):
        assert value("format", text, [F]) == 0.0


def test_length_counts_the_words_of_the_reasoning() -> None:
    assert value("length", "<think>" + "w " * 128 + "</think> and so on", None) == 0.25
    assert value("length", "<think>" + "w " * 2000 + "</think>", None) == 1.0
    assert value("length", "w " * 600, None) == value("length", "<think>" + "w " * 600, None) == 0.0


@pytest.mark.parametrize("target", [None, 3, [{"name": "f"}], [3], "no tags at all"])
def test_bad_targets(target: Any) -> None:
    for name in ("format", "correctness"):
        with pytest.raises(TargetError, match=f"compat.tool_rl.{name}"):
            value(name, "", target)
