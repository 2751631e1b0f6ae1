"""mcq.letter, mcq.multi and yesno: golden numbers, bad targets, and the hacks that must not pay."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.rewards import TargetError, check_target, score
from vlrft.types import Score

OPTIONS = ["a dog", "a cat", "a bird", "a fish"]


def say(answer: Any) -> str:
    return f"<think>looking</think><answer>{answer}</answer>"


def judge(name: str, answer: Any, target: Any, meta: dict[str, Any] | None = None, **options: Any) -> Score:
    return score(name, say(answer), target, meta, **options)


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B)", "B.", "B: a cat", "B. a cat", "**B**", r"\boxed{B}", "cat"])
@pytest.mark.parametrize("target", ["B", "b", "(B)"])
def test_letter(answer: str, target: str) -> None:
    options = ["dog", "cat", "bird", "fish"]
    meta = {"options": ["a dog", "a cat", "a bird", "a fish"]} if "a cat" in answer else {"options": options}
    assert judge("mcq.letter", answer, target, meta) == Score(value=1.0, parts={"mcq.letter": 1.0})
    if answer != "cat":
        assert judge("mcq.letter", answer, target, {"num_options": 4}).value == 1.0
        assert judge("mcq.letter", answer, target).value == 1.0
        assert judge("mcq.letter", answer, "C", meta).value == 0.0


def test_a_dog_is_an_article_unless_the_option_agrees() -> None:
    assert judge("mcq.letter", "A dog", "A", {"num_options": 4}).value == 0.0
    assert judge("mcq.letter", "A dog", "A").value == 0.0
    assert judge("mcq.letter", "A dog", "A", {"options": ["dog", "cat"]}).value == 1.0
    assert judge("mcq.letter", "A dog", "B", {"options": ["cat", "a dog"]}).value == 1.0
    assert judge("mcq.letter", "A dog", "A", {"options": ["cat", "dog"]}).value == 0.0


@pytest.mark.parametrize("answer", ["A or B", "A, B, C, D", "(A) (B)", "A. B. C. D.", "B, not A", "B. a dog", "ABCD"])
def test_several_letters_are_worth_nothing(answer: str) -> None:
    for target in "ABCD":
        assert judge("mcq.letter", answer, target, {"options": OPTIONS}).value == 0.0
        if answer != "B. a dog":
            assert judge("mcq.letter", answer, target).value == 0.0


def test_letters_come_from_the_number_of_options() -> None:
    assert judge("mcq.letter", "H", "H", {"num_options": 8}).value == 1.0
    assert judge("mcq.letter", "H", "B", {"num_options": 4}).flags == ("out_of_range",)
    assert judge("mcq.letter", "Z", "Z").value == 1.0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("A, C", 1.0),
        ("CA", 1.0),
        ("A", 2 / 3),
        ("A, B", 0.5),
        ("A, B, C", 0.8),
        ("B, D", 0.0),
        ("A, C, E", 0.8),
        ("A, B, C, D", 0.0),
        ("ABCDE", 0.0),
        ("A or C", 0.0),
        ("a dog and a bird", 1.0),
    ],
)
def test_multi(answer: str, value: float) -> None:
    assert judge("mcq.multi", answer, ["A", "C"], {"options": OPTIONS}).value == pytest.approx(value)
    assert judge("mcq.multi", answer, ["C", "A"], {"options": OPTIONS}, exact=True).value == float(value == 1.0)


def test_naming_every_option_pays_only_where_all_are_right() -> None:
    everything = "A, B, C, D"
    assert judge("mcq.multi", everything, list("ABCD"), {"num_options": 4}).value == 1.0
    for target in (["A"], ["A", "B"], ["A", "B", "C"]):
        assert judge("mcq.multi", everything, target, {"num_options": 4}).value == 0.0
    alphabet = ", ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert judge("mcq.multi", alphabet, ["A"]).value == 0.0


def test_yesno() -> None:
    assert judge("yesno", "Yes, there is no dog.", "yes").value == 1.0
    assert judge("yesno", "No.", " No ").value == 1.0
    assert judge("yesno", "No.", "yes") == Score(value=0.0, parts={"yesno": 0.0})
    assert judge("yesno", "yes and no", "yes").flags == ("several_answers",)
    for answer in ("cannot", "know", "None", "nothing", "yesterday"):
        for target in ("yes", "no"):
            assert judge("yesno", answer, target).value == 0.0


CASES: list[tuple[str, Any]] = [("mcq.letter", "A"), ("mcq.multi", ["A"]), ("yesno", "yes")]


@pytest.mark.parametrize(("name", "target"), CASES)
@pytest.mark.parametrize(
    ("completion", "flags"),
    [
        ("", ("no_answer",)),
        (say(" "), ("no_answer",)),
        ("A yes", ("no_answer",)),
        ("<think>A yes</think><answer>it is there</answer>", ("unparsable",)),
        ("<think><answer>A</answer><answer>yes</answer></think>", ("no_answer",)),
        (say("..."), ("unparsable",)),
        (say("nan"), ("unparsable",)),
        (say("\u0391 \u0443es"), ("unparsable",)),
        (say("x" * 1_000_000), ("unparsable",)),
        (say("A yes " * 100_000), ("unparsable",)),
        ("\uff1canswer\uff1eA yes\uff1c/answer\uff1e", ("no_answer",)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_worth_nothing(name: str, target: Any, completion: str, flags: tuple[str, ...]) -> None:
    found = score(name, completion, target, {"num_options": 4})
    assert (found.value, found.flags) == (0.0, flags)


@pytest.mark.parametrize(
    ("name", "target", "meta", "message"),
    [
        ("mcq.letter", None, {}, "one letter such as 'B', got None"),
        ("mcq.letter", "", {}, "got ''"),
        ("mcq.letter", "AB", {}, "got 'AB'"),
        ("mcq.letter", "1", {}, "got '1'"),
        ("mcq.letter", 1, {}, "got 1"),
        ("mcq.letter", "a dog", {"options": OPTIONS}, "use cls.label for option texts"),
        ("mcq.letter", "E", {"options": OPTIONS}, "beyond the last of 4 options"),
        ("mcq.letter", "E", {"num_options": 4}, "beyond the last of 4 options"),
        ("mcq.letter", "A", {"options": "ABCD"}, "'options' is a list of 2 to 26"),
        ("mcq.letter", "A", {"options": [1, 2]}, "'options' is a list of 2 to 26"),
        ("mcq.letter", "A", {"options": ["x"] * 27}, "'options' is a list of 2 to 26"),
        ("mcq.letter", "A", {"num_options": 0}, "from 2 to 26, got 0"),
        ("mcq.letter", "A", {"num_options": 4.0}, "from 2 to 26, got 4.0"),
        ("mcq.letter", "A", {"num_options": 3, "options": OPTIONS}, "but there are 4 'options'"),
        ("mcq.multi", "A", {}, "non-empty list of letters"),
        ("mcq.multi", [], {}, "non-empty list of letters"),
        ("mcq.multi", ["A", "E"], {"num_options": 4}, "beyond the last"),
        ("yesno", True, {}, "'yes' or 'no', got True"),
        ("yesno", "maybe", {}, "got 'maybe'"),
        ("yesno", None, {}, "got None"),
    ],
)
def test_bad_targets_stop_before_any_completion(name: str, target: Any, meta: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        check_target(name, target, meta)
    with pytest.raises(TargetError, match=message):
        score(name, say("A"), target, meta)


@pytest.mark.parametrize("answer", ["B, i.e. a bird", "B, a bird", "B is wrong", "B is not the answer"])
def test_a_letter_that_is_contradicted_is_worth_nothing(answer: str) -> None:
    options = {"options": ["A dog", "A cat", "A bird"]}
    assert judge("mcq.letter", answer, "B", options).value == 0.0
    assert judge("mcq.letter", "B, i.e. a cat and no bird", "B", options).value == 1.0
