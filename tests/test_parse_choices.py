"""Option letters and yes or no: every accepted form, what is ambiguous, and hostile text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.choices import LETTERS, ChoiceReading, read_choice, read_choices, read_yes_no

OPTIONS = ["cat", "dog", "Vitamin C", "both A and B"]


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        "B.",
        "B..",
        "(B)",
        "( B )",
        "[B]",
        "B)",
        "B: text",
        "B. text",
        "b. text",
        "b) text",
        "B - text",
        "B, because",
        "B because the sky is blue",
        "- B",
        "**B**",
        "_B_",
        "`B`",
        "'B'",
        '"B"',
        "\u201cB\u201d",
        "<B>",
        "$B$",
        r"\boxed{B}",
        r"\boxed{\text{B}}",
        r"\boxed{(B)}",
        r"So \boxed{B. dog}",
        "answer is B",
        "The answer is B.",
        "The correct answer is option (B)",
        "the answer is **B**",
        "Answer: b",
        "Option B is correct",
        "**Answer: B**",
        "Answer: B\nExplanation: A dog runs",
        "B. Vitamin C",
        "B. X-ray of a hand",
        "B. It has a T-shirt and I like it",
        "\uff22",
        "Ⓑ",
        "B\n\nExplanation: it barks",
        "B\nB",
        "B B",
        "I think B",
        "It must be B.",
        "So B.",
        "I'd go with B",
        "B (dog)",
    ],
)
def test_one_letter(text: str) -> None:
    assert read_choice(text, count=4) == ChoiceReading(("B",))


@pytest.mark.parametrize(
    "text",
    [
        "A dog",
        "a dog",
        "A dog is there",
        "I think so",
        "Because it barks",
        "AB",
        "cannot",
        "f(b)",
        "Vitamin C",
        "В",
        "none",
        "",
        "?",
        "1",
        "B52",
        "all of them",
        "It's",
        "Α",
        "I don't think B",
        "It is not B.",
        "it must not be B",
        "I think B or C",
        "It is A dog",
    ],
)
def test_no_choice(text: str) -> None:
    assert read_choice(text, count=4) == ChoiceReading((), "unparsable")


@pytest.mark.parametrize(
    "text",
    [
        "A or B",
        "A, B",
        "A and B",
        "A B",
        "A/B",
        "(A)(B)",
        "(A) (B)",
        "B, not A",
        "B. or maybe C",
        "B or c",
        "B.\n\nC.",
        "The answer is B. But it could be C.",
        r"A \boxed{B}",
        r"\boxed{A}\boxed{B}",
        "**A** or **B**",
        "A;B;C;D",
    ],
)
def test_two_letters(text: str) -> None:
    assert read_choice(text, count=4).flag == "several_answers"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("cat", "A"),
        ("  Cat. ", "A"),
        ("vitamin-c", "C"),
        ("both A and B", "D"),
        ("The answer is dog.", "B"),
        ("A cat", "A"),
        ("B dog", "B"),
        ("D. both A and B", "D"),
        ("C. Vitamin C, since it is sour", "C"),
        ("(C) Vitamin C", "C"),
    ],
)
def test_option_texts(text: str, letter: str) -> None:
    assert read_choice(text, options=OPTIONS) == ChoiceReading((letter,))
    lettered = [f"{known}. {option}" for known, option in zip("ABCD", OPTIONS, strict=True)]
    assert read_choice(text, options=lettered) == ChoiceReading((letter,))


def test_a_letter_with_another_options_text_is_ambiguous() -> None:
    for text in ("B. cat", "The answer is B: cat", "(B) cat", "A dog", "C. both A and B"):
        assert read_choice(text, options=OPTIONS).letters != ("B",)
        assert read_choice(text, options=OPTIONS).letters != ("C",)


@pytest.mark.parametrize("options", [["A dog", "A cat", "A bird"], ["dog", "cat", "bird"]])
def test_a_letter_beside_a_text_that_is_not_its_own(options: list[str]) -> None:
    for text in (
        *(
            "B, i.e. a bird",
            "B, a bird",
            "B (a bird)",
            "B, that is, a bird",
            "B, namely the bird",
            "B: a bird. It flies",
        ),
        *("B. A bird, because it flies", "The answer is B, which is a bird"),
    ):
        assert read_choice(text, options=options) == ChoiceReading(("B", "C"), "several_answers"), text
    for text in (
        *(
            "B, i.e. a cat",
            "B, a cat",
            "B (a cat)",
            "B, it is a cat",
            "B: a cat, not a bird",
            "B since there is no dog",
        ),
        *("B because it is not a bird", "B - a cat that sits near a bird", "The answer is B, which is a cat"),
    ):
        assert read_choice(text, options=options) == ChoiceReading(("B",)), text


def test_a_denied_letter_chooses_nothing() -> None:
    for text in ("B is wrong", "B is not correct", "(B) is incorrect.", "Option B is wrong", "B is not the answer"):
        assert read_choice(text, count=4) == ChoiceReading((), "unparsable")
        assert read_choices(f"A and {text}", count=4).letters != ("A", "B")
    for text in ("B is correct", "B is right", "B is not in doubt", "B, because the other one is wrong"):
        assert read_choice(text, count=4) == ChoiceReading(("B",))


def test_a_text_that_two_options_share_chooses_neither() -> None:
    assert read_choice("cat", options=["cat", "Cat", "dog"]).flag == "unparsable"


def test_minus_signs_tell_options_apart() -> None:
    assert read_choice("-5", options=["5", "-5", "0"]).letters == ("B",)
    assert read_choice("5", options=["5", "-5", "0"]).letters == ("A",)
    assert read_choice("-5", options=["5", "6", "0"]).flag == "unparsable"


def test_letters_beyond_the_last_option() -> None:
    assert read_choice("E", count=4) == ChoiceReading((), "out_of_range")
    assert read_choice("E", count=5) == ChoiceReading(("E",))
    assert read_choice("Z") == ChoiceReading(("Z",))
    assert read_choices("A, E", count=4) == ChoiceReading(("A", "E"), "out_of_range")


@pytest.mark.parametrize(
    "text",
    [
        "A, C",
        "C and A",
        "AC",
        "A C",
        "a, c",
        "(A)(C)",
        "(A), (C)",
        '["A", "C"]',
        "A/C",
        "A & C",
        "A;C.",
        "A, C, A",
        "A. text\nC. text",
        "The answers are A and C",
        "**A**, **C**",
        r"\boxed{A, C}",
        r"\boxed{A}\boxed{C}",
        "- A\n- C",
    ],
)
def test_sets_of_letters(text: str) -> None:
    assert read_choices(text, count=4) == ChoiceReading(("A", "C"))


def test_sets_of_texts() -> None:
    assert read_choices("cat, vitamin C", options=OPTIONS) == ChoiceReading(("A", "C"))
    assert read_choices("cat and dog", options=OPTIONS) == ChoiceReading(("A", "B"))
    assert read_choices("both A and B", options=OPTIONS) == ChoiceReading(("D",))
    assert read_choices("A: cat; C: Vitamin C", options=OPTIONS) == ChoiceReading(("A", "C"))


@pytest.mark.parametrize("text", ["", "A or C", "not A", "all", "neither A nor B", "everything except A", "BBB"])
def test_no_set(text: str) -> None:
    assert read_choices(text, count=4) == ChoiceReading((), "unparsable")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yes", ("yes", None)),
        ("Yes.", ("yes", None)),
        ("**NO**", ("no", None)),
        ("\uff39\uff25\uff33", ("yes", None)),
        (r"\boxed{no}", ("no", None)),
        ("The answer is yes.", ("yes", None)),
        ("Answer: no", ("no", None)),
        ("No, it cannot.", ("no", None)),
        ("Yes, there is no dog.", ("yes", None)),
        ("I would say no", ("no", None)),
        ("yes yes", ("yes", None)),
        ("yes or no", (None, "several_answers")),
        ("yes and no", (None, "several_answers")),
        ("Yes. No.", (None, "several_answers")),
        ("yes/no", (None, "several_answers")),
        ("no, yes", (None, "several_answers")),
        ("Yes no", (None, "several_answers")),
        ("", (None, "unparsable")),
        ("cannot", (None, "unparsable")),
        ("know", (None, "unparsable")),
        ("None", (None, "unparsable")),
        ("yesno", (None, "unparsable")),
        ("not yes", (None, "unparsable")),
        ("There is no dog", (None, "unparsable")),
        ("maybe", (None, "unparsable")),
        ("Yes! No dog is visible", ("yes", None)),
        ("Yes, no doubt", ("yes", None)),
        ("Yes, no it is not", (None, "several_answers")),
    ],
)
def test_yes_and_no(text: str, said: tuple[str | None, str | None]) -> None:
    assert read_yes_no(text) == said


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ABCDabci .,()[]:-\n*$\\{}'\"orand", max_size=40) | st.text(max_size=40))
def test_never_raises_and_names_known_letters(text: str) -> None:
    one, several = read_choice(text, count=4), read_choices(text, options=OPTIONS)
    assert len(one.letters) == 1 or one.flag
    assert several.letters or several.flag
    assert set(one.letters) | set(several.letters) <= set(LETTERS)
    assert read_yes_no(text)[0] in (None, "yes", "no")


@pytest.mark.parametrize("piece", ["A", "A ", "A,", "(A)", "answer is ", "**", r"\boxed{", "yes ", " ", "\n", "or "])
def test_hostile_texts_are_cheap(piece: str) -> None:
    for size in (9_900, 1_000_000):
        text = piece * (size // len(piece))
        started = time.process_time()
        read_choice(text, options=OPTIONS)
        read_choices(text, options=OPTIONS)
        read_yes_no(text)
        assert time.process_time() - started < 1.0
