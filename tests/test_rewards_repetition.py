"""Repetition: shares worked out by hand, and the ways around a word count."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import score


def ngram(text: str, **options: int) -> float | None:
    return score("repetition.ngram", text, None, {"output_mode": "direct"}, **options).value


def items(answer: str) -> float | None:
    return score("repetition.items", f"<answer>{answer}</answer>", None).value


def test_ngrams_of_six_words() -> None:
    seven = "one two three four five six seven"
    assert ngram(seven) == 1.0
    # 14 words: 9 six-grams, the first 2 come again at the end.
    assert ngram(f"{seven} {seven}") == pytest.approx(7 / 9)
    assert ngram("a b a b a", n=2) == 0.5
    assert ngram("a b c") == 1.0


def test_case_punctuation_and_tags_do_not_matter() -> None:
    assert ngram("Left, of it. LEFT of it!", n=3) == pytest.approx(3 / 4)
    assert ngram("<think>a b</think><answer>a b</answer>", n=2) == pytest.approx(2 / 3)
    assert ngram("\uff21 b a b", n=2) == pytest.approx(2 / 3), "full-width letters"


def test_cjk_by_characters() -> None:
    assert ngram("\u732b\u5728\u5de6\u8fb9\u732b\u5728\u5de6\u8fb9", n=4) == pytest.approx(4 / 5)
    assert ngram("\u732b" * 100) == pytest.approx(1 / 95)
    assert ngram("\u306d\u3053" * 50, n=2) == pytest.approx(2 / 99)


@pytest.mark.parametrize(
    "text", ["a" * 5000, "ha" * 3000, "wait " * 2000, "\u54c8" * 5000, "1" * 5000, "so, so; " * 900]
)
def test_degenerate_texts_are_worth_next_to_nothing(text: str) -> None:
    found = ngram(text)
    assert found is not None
    assert found < 0.01


@pytest.mark.parametrize("text", ["", "  ", "\u200b", "...", "<think></think><answer></answer>"])
def test_texts_without_words(text: str) -> None:
    assert ngram(text) == 0.0


@pytest.mark.parametrize("n", [0, -1, True, 2.0])
def test_bad_n(n: int) -> None:
    with pytest.raises(ValueError, match=r"repetition\.ngram.* '?n'? must be a whole number"):
        ngram("a", n=n)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('["cat", "dog", "Cat"]', 2 / 3),
        ("[[0, 0, 9, 9], [0.0, 0, 9, 9.00], [1, 1, 5, 5]]", 2 / 3),
        ("[0, 0, 9, 9]", 1.0),
        ("[0, 0, 9, 9], [0, 0, 9, 9]", 0.5),
        ("[1, 1, 1]", 1 / 3),
        ('[{"bbox": [0, 0, 9, 9], "label": "cat"}, {"label": "Cat", "bbox": [0, 0, 9, 9]}]', 0.5),
        ('{"label": "cat"}', 1.0),
        ("boxes: [0, 0, 9, 9] and [0, 0, 9, 9] again", 0.5),
        ("1. cat\n2. dog\n3. cat", 2 / 3),
        ("- red_cell\n- red cell", 0.5),
        ("cat; dog; cat; cat", 0.5),
        ("cat", 1.0),
        ("[]", 0.0),
        ("", 0.0),
    ],
)
def test_items(answer: str, expected: float) -> None:
    assert items(answer) == pytest.approx(expected)


def test_a_dump_of_one_box_is_worth_next_to_nothing() -> None:
    assert items(str([[0, 0, 9, 9]] * 500)) == pytest.approx(1 / 500)


def test_no_answer() -> None:
    assert score("repetition.items", "[1, 2, 3]", None).flags == ("no_answer",)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=200), n=st.integers(1, 8))
def test_values_are_in_range(text: str, n: int) -> None:
    for found in (ngram(text, n=n), items(text)):
        assert found is not None
        assert 0.0 <= found <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", "a ", "\u54c8", "[", "[1,", "- a\n", "<think>", '"', "1;"])
def test_long_texts_are_read_in_linear_time(unit: str) -> None:
    text = unit * (2**18 // len(unit))
    start = time.process_time()
    ngram(text)
    items(text)
    assert time.process_time() - start < 2.0, "a megabyte takes a second or two on a slow core"
