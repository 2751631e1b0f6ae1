"""text.*: golden numbers worked out by hand, the library's own numbers, and the hacks that must not pay."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from vlrft.rewards import TargetError, check_target, score
from vlrft.types import Score

NAMES = ["text.wer", "text.rouge", "text.bleu1", "text.edit"]
WORDS = st.lists(st.sampled_from(["the", "cat", "cats", "sat", "on", "running", "runs"]), min_size=1, max_size=10)


def judge(name: str, answer: str, target: Any, meta: dict[str, Any] | None = None, **options: Any) -> Score:
    return score(name, f"<think>hm</think><answer>{answer}</answer>", target, meta, **options)


@pytest.mark.parametrize(
    ("name", "answer", "target", "value"),
    [
        ("text.wer", "the cat sat", "The cat sat.", 1.0),
        ("text.wer", "the dog sat", "the cat sat", 2 / 3),
        ("text.wer", "cat sat", "the cat sat", 2 / 3),
        ("text.wer", "the big cat sat", "the cat sat", 2 / 3),
        ("text.wer", "one two three", "cat", 0.0),
        ("text.bleu1", "the the the", "the cat", 1 / 3),
        ("text.bleu1", "the", "the cat", math.exp(-1)),
        ("text.bleu1", "the cat", "the cat", 1.0),
        ("text.edit", "kitten", "sitting", 8 / 13),
        ("text.edit", "CAT.", '"cat"', 1.0),
        ("text.rouge", "cat", "cat", 1.0),
        # rouge1 4/6, rouge2 0, rougeL 2/6 * 2: "the sat" against "the cat sat"
        ("text.rouge", "the sat", "the cat sat", (0.8 + 0.0 + 0.8) / 3),
        ("text.rouge", "running cats", "runs cat", 1.0),
    ],
)
def test_golden_numbers(name: str, answer: str, target: str, value: float) -> None:
    assert judge(name, answer, target).value == pytest.approx(value, abs=1e-12)


def test_kinds_of_rouge() -> None:
    assert judge("text.rouge", "sat cat the", "the cat sat", kinds=["rouge1"]).value == 1.0
    assert judge("text.rouge", "sat cat the", "the cat sat", kinds=["rouge2"]).value == 0.0
    assert judge("text.rouge", "sat cat the", "the cat sat", kinds="rougeL").value == pytest.approx(1 / 3)
    assert judge("text.rouge", "cat", "cat", kinds=["rouge2"]).value is None
    with pytest.raises(ValueError, match="kinds must be some of rouge1, rouge2, rougeL"):
        judge("text.rouge", "cat", "cat", kinds=["rouge9"])


@given(WORDS, WORDS)
@settings(max_examples=100, deadline=None)
def test_rouge_is_the_librarys(answer: list[str], reference: list[str]) -> None:
    guard = min(1.0, (3 * len(reference) + 5) / len(answer))
    for kind in ("rouge1", "rouge2", "rougeL"):
        scorer = RougeScorer([kind], use_stemmer=True)
        wanted = scorer.score(" ".join(reference), " ".join(answer))[kind].fmeasure
        found = judge("text.rouge", " ".join(answer), " ".join(reference), kinds=[kind]).value
        assert found == (None if kind == "rouge2" and len(reference) < 2 else pytest.approx(wanted * guard))


@pytest.mark.parametrize("name", NAMES)
@given(answer=WORDS, reference=WORDS)
@settings(max_examples=40, deadline=None)
def test_range_and_identity(name: str, answer: list[str], reference: list[str]) -> None:
    value = judge(name, " ".join(answer), " ".join(reference)).value
    assert value is not None
    assert 0.0 <= value <= 1.0
    assert judge(name, " ".join(reference), " ".join(reference)).value == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_the_best_reference_counts(name: str) -> None:
    assert judge(name, "a dog", ["a cat", "a dog", "something else"]).value == 1.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "synonyms",
    [
        {"MI": "heart attack"},
        {"myocardial infarction": ["MI", "heart attack"]},
        [["heart attack", "MI"], ["x", "y"]],
        [["heart attack", "cardiac arrest"], ["cardiac arrest", "MI"]],
    ],
)
def test_synonyms(name: str, synonyms: Any) -> None:
    found = judge(name, "acute heart attack", "acute MI", {"synonyms": synonyms}).value
    assert found == 1.0
    plain = judge(name, "acute heart attack", "acute MI").value
    assert plain is not None
    assert plain < 0.7


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [("肺炎", "肺炎", 1.0), ("肺癌", "肺炎", 0.5), ("CT 肺", "CT 肺炎", 2 / 3), ("!!!", "!!!", 1.0), ("?", "!!!", 0.0)],
)
def test_other_scripts(answer: str, target: str, value: float) -> None:
    assert judge("text.wer", answer, target).value == pytest.approx(value)


def test_a_latin_word_alone_does_not_match_a_chinese_reference() -> None:
    value = judge("text.rouge", "CT", "CT 显示肺炎").value
    assert value is not None
    assert value < 0.5


# ------------------------------------------------------------------------------------------- hacks


@pytest.mark.parametrize("name", NAMES)
def test_no_answer(name: str) -> None:
    for completion in ("", "a cat", "<answer> </answer>", "<think><answer>a cat</answer></think>"):
        found = score(name, completion, "a cat")
        assert (found.value, found.flags) == (0.0, ("no_answer",))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answer", ["left lung " * 200, " ".join(f"word{i}" for i in range(500)) + " left lung"])
def test_stuffing_does_not_pay(name: str, answer: str) -> None:
    found = judge(name, answer, "left lung")
    assert found.value is not None
    assert found.value < 0.02
    assert found.flags == ("over_length",)


def test_the_length_guard_is_exact() -> None:
    # 12 tokens against 2: (3 * 2 + 5) / 12; unigram precision 2 / 12, no brevity penalty
    assert judge("text.bleu1", "left lung" + " x" * 10, "left lung").value == pytest.approx(2 / 12 * 11 / 12)
    assert judge("text.bleu1", "left lung" + " x" * 9, "left lung").flags == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_megabyte_is_not_read(name: str) -> None:
    found = judge(name, "cat " * 250_000, "cat")
    assert (found.value, found.flags) == (0.0, ("over_length",))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", [None, 3, "", "  ", "\u200b", [], ["a", ""], [["a"]], {"answer": "a"}])
def test_bad_targets(name: str, target: Any) -> None:
    with pytest.raises(TargetError, match=name):
        check_target(name, target)


@pytest.mark.parametrize("synonyms", ["a", 3, ["a"], {"a": 3}, {"a": [3]}, [["a", None]], {"!": "a"}])
def test_bad_synonyms(synonyms: Any) -> None:
    with pytest.raises(TargetError, match=r"text\.wer: synonyms"):
        check_target("text.wer", "a", {"synonyms": synonyms})
