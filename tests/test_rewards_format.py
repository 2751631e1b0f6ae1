"""format.think_answer: the whole completion has the shape or it has not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import check_target, score


def value(completion: str, output_mode: str = "think", **kwargs: object) -> float | None:
    return score("format.think_answer", completion, None, {"output_mode": output_mode}, **kwargs).value


@pytest.mark.parametrize(
    "completion",
    [
        "<think>a</think><answer>b</answer>",
        "  <think>a\nb</think>\n\n<answer>\nb\n</answer>\n",
        "<think>1 < 2 and <b>bold</b></think><answer>b</answer>",
        "<think>a</think>\n<tool_response>pixels</tool_response>\n<answer>b</answer>",
    ],
)
def test_good_shape(completion: str) -> None:
    assert value(completion) == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "b",
        "<answer>b</answer>",
        "<think>a</think>",
        "<think>a</think><answer></answer>",
        "<think>a</think><answer> \n</answer>",
        "<think>a</think><answer>\u200b</answer>",
        "<think></think><answer>b</answer>",
        "<think> </think><answer>b</answer>",
        "<think>a</think><answer>b</answer> and more",
        "So: <think>a</think><answer>b</answer>",
        "<think>a</think>so<answer>b</answer>",
        "<answer>b</answer><think>a</think>",
        "<think>a<answer>b</answer></think>",
        "<think>a <answer>c</answer></think><answer>b</answer>",
        "<think>a</think><answer>b</answer><answer>b</answer>",
        "<think>a</think><think>a</think><answer>b</answer>",
        "<think>a</think><answer><answer>b</answer></answer>",
        "<think>a</think><answer><think>b</think></answer>",
        "<think>a<answer>b</answer>",
        "<think>a</think><answer>b",
        "</think><answer>b</answer>",
        "<Think>a</Think><Answer>b</Answer>",
        "<think>a</think><\u0430nswer>b</\u0430nswer>",
        "<thi<tool_response></tool_response>nk>a</think><answer>b</answer>",
        "<think>a</think>" * 50_000,
    ],
    ids=lambda text: repr(text)[:50],
)
def test_bad_shape(completion: str) -> None:
    assert value(completion) == 0.0


def test_output_modes() -> None:
    forwards, backwards = "<think>a</think><answer>b</answer>", "<answer>b</answer><think>a</think>"
    assert (value(forwards), value(backwards)) == (1.0, 0.0)
    assert (value(forwards, "answer_then_think"), value(backwards, "answer_then_think")) == (0.0, 1.0)
    assert value(forwards, "direct") is None
    adaptive = [forwards, "<answer>b</answer>", "b", backwards, "<think>a</think>b", "  "]
    assert [value(text, "adaptive") for text in adaptive] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("mode", "completion", "expected"),
    [
        ("answer_only", "<answer>b</answer>", 1.0),
        ("answer_only", "<think>a</think><answer>b</answer>", 0.0),
        ("think_boxed", r"<think>a</think> \boxed{2}", 1.0),
        ("think_boxed", r"<think>a</think> \boxed{}", 0.0),
        ("think_boxed", r"<think>a</think> \boxed{1}, \boxed{2}", 0.0),
        ("think_tool", '<think>a</think><tool_call>{"name": "crop"}</tool_call>', 1.0),
        ("think_tool", "<think>a</think><answer>b</answer>", 0.0),
        (["caption", "think", "answer"], "<caption>c</caption><think>a</think><answer>b</answer>", 1.0),
        (["caption", "think", "answer"], "<think>a</think><caption>c</caption><answer>b</answer>", 0.0),
    ],
)
def test_named_and_own_shapes(mode: str | list[str], completion: str, expected: float) -> None:
    assert value(completion, mode=mode) == expected


def test_least_length_of_the_reasoning() -> None:
    text = "<think> abc </think><answer>b</answer>"
    assert value(text, min_think_chars=3) == 1.0
    assert value(text, min_think_chars=4) == 0.0
    assert value("<think></think><answer>b</answer>", min_think_chars=0) == 1.0


@pytest.mark.parametrize("mode", ["thinking", [], ["think", "think"], ["<think>"], [3]])
def test_bad_mode_is_an_error(mode: object) -> None:
    with pytest.raises(ValueError, match=r"format\.think_answer"):
        value("", mode=mode)


def test_bad_output_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown output mode 'thinking'"):
        value("", "thinking")


def test_any_target_will_do() -> None:
    check_target("format.think_answer", None)
    check_target("format.think_answer", [1, 2])


@settings(deadline=None)
@given(text=st.text(), mode=st.sampled_from(["think", "answer_then_think", "adaptive"]))
def test_total(text: str, mode: str) -> None:
    assert value(text, mode) in (0.0, 1.0)
