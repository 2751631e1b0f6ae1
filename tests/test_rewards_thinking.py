"""Reasoning: there at all, of a sensible length, and not the question once more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score

PROMPT = "Where is the left red cell in this picture of a blood smear?"


def completion(think: str) -> str:
    return f"<think>{think}</think><answer>B</answer>"


def min_max(text: str, mode: str = "think", **options: Any) -> float | None:
    return score("thinking.min_max", text, None, {"output_mode": mode}, **options).value


def copied(think: str, prompt: Any = PROMPT, **options: Any) -> float | None:
    meta = {"output_mode": "think", "prompt": prompt}
    return score("thinking.no_copy_of_prompt", completion(think), None, meta, **options).value


@pytest.mark.parametrize("think", ["", " ", "...", "?!", "\u200b", "--- ---", "\u3002\uff1f"])
def test_empty_reasoning(think: str) -> None:
    assert min_max(completion(think)) == 0.0
    assert copied(think) == 0.0


def test_length_in_words() -> None:
    text = completion("It is left, of the other one.")
    assert [min_max(text, min_words=n) for n in (1, 7, 8)] == [1.0, 1.0, 0.0]
    assert [min_max(text, max_words=n) for n in (6, 7)] == [0.0, 1.0]
    assert min_max(completion("\u732b\u5728\u5de6\u8fb9"), min_words=4) == 1.0
    assert min_max(completion("a" * 1000), max_words=999) == 0.0, "one letter a thousand times is no single word"


def test_output_modes() -> None:
    for text, mode, expected in [
        ("B", "direct", None),
        ("B", "adaptive", None),
        ("<answer>B</answer>", "adaptive", None),
        (completion("left"), "adaptive", 1.0),
        (completion("."), "adaptive", 0.0),
        (completion(" "), "adaptive", None),
        ("<answer>B</answer>", "think", 0.0),
        ("<answer>B</answer><think>left</think>", "answer_then_think", 1.0),
        ("<answer>B</answer>", "answer_then_think", 0.0),
    ]:
        assert min_max(text, mode) == expected, (text, mode)


def test_copying_the_question() -> None:
    assert copied(PROMPT) == 0.0
    assert copied("where IS the 'left red cell' in this picture of a blood smear") == 0.0
    assert copied("Find the red cell") == 1.0
    assert copied("the left red cell") == 0.0, "short and copied whole"
    assert copied("I see it at once on the far side") == 1.0
    # 14 words: 9 six-grams, of which 7 words of the question in a row give 2.
    assert copied("first second third fourth fifth sixth seventh " + "where is the left red cell in") == pytest.approx(
        7 / 9
    )
    assert copied("left red one", n=2) == 0.5


def test_without_a_question_it_does_not_apply() -> None:
    text = completion("left")
    assert score("thinking.no_copy_of_prompt", text, None).value is None
    assert score("thinking.no_copy_of_prompt", text, None, {"question": "left"}).value == 0.0
    assert score("thinking.no_copy_of_prompt", text, None, {"prompt": ""}).value == 1.0
    with pytest.raises(TargetError, match=r"meta\['prompt'\] is a list"):
        check_target("thinking.no_copy_of_prompt", None, {"prompt": [{"role": "user"}]})


@pytest.mark.parametrize("options", [{"min_words": 0}, {"min_words": 5, "max_words": 4}])
def test_bad_bounds(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 <= min_words <= max_words"):
        min_max("", **options)


@pytest.mark.parametrize("n", [0, True, 1.5])
def test_bad_n(n: Any) -> None:
    with pytest.raises(ValueError, match=r"\bn'? must be a whole number"):
        copied("left", n=n)


@settings(max_examples=100, deadline=None)
@given(think=st.text(max_size=120), prompt=st.text(max_size=120), n=st.integers(1, 8))
def test_values_are_in_range(think: str, prompt: str, n: int) -> None:
    assert min_max(completion(think)) in (0.0, 1.0)
    found = copied(think, prompt, n=n)
    assert found is not None
    assert 0.0 <= found <= 1.0
