"""cls.*: golden numbers, the peers' faults, bad targets, and the hacks that must not pay."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.text import boxed, normalise
from vlrft.rewards import TargetError, check_target, score
from vlrft.types import Score

LABELS = ["dog", "cat", "hot dog", "rose", "salt and pepper", "C", "C++"]
CLOSED = {"labels": LABELS}
PATH = ["animal", "dog", "pug"]
TAXONOMY = {"labels": [PATH, ["animal", "dog", "beagle"], ["animal", "cat"], ["plant", "rose"]]}


def say(answer: Any) -> str:
    return f"<think>looking</think><answer>{answer}</answer>"


def judge(name: str, answer: Any, target: Any, meta: dict[str, Any] | None = None, **options: Any) -> Score:
    return score(name, say(answer), target, meta, **options)


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ("Golden Retriever", "golden retriever", 1.0),
        (" the golden_retriever. ", "Golden-Retriever", 1.0),
        ('"A golden  retriever"', "golden retriever", 1.0),
        ("**golden retriever**", "golden retriever", 1.0),
        ("\uff47olden retriever", "golden retriever", 1.0),
        ("retriever", "golden retriever", 0.0),
        ("golden retriever dog", "golden retriever", 0.0),
        ("goldenretriever", "golden retriever", 0.0),
        ("car", ["automobile", "car"], 1.0),
        ("primrose", "rose", 0.0),
        ("r", "rose", 0.0),
        ("Airbus 172", "Cessna 172", 0.0),
        ("172", "Cessna 172", 0.0),
        ("BMW X5 2012", "Ford F-150 2012", 0.0),
        ("Boeing-737", "boeing 737", 1.0),
        ("Boeing 737-200", "Boeing 737-300", 0.0),
        ("rosé", "rose", 0.0),
    ],
)
def test_label(answer: str, target: Any, value: float) -> None:
    assert judge("cls.label", answer, target).value == value


@pytest.mark.parametrize(
    ("answer", "strict", "sentence", "flags"),
    [
        ("dog", 1.0, 1.0, ()),
        ("It looks like a dog.", 0.0, 1.0, ()),
        ("hot dog", 0.0, 0.0, ()),
        ("a hot dog, I think", 0.0, 0.0, ()),
        ("dog or cat", 0.0, 0.0, ("several_answers",)),
        (", ".join(LABELS), 0.0, 0.0, ("several_answers",)),
        ("dog dog dog", 0.0, 1.0, ()),
        ("it is not a dog", 0.0, 0.0, ()),
        ("dogs", 0.0, 0.0, ("unknown_label",)),
        ("a wolf", 0.0, 0.0, ("unknown_label",)),
    ],
)
def test_label_of_a_closed_set(answer: str, strict: float, sentence: float, flags: tuple[str, ...]) -> None:
    assert judge("cls.label", answer, "dog", CLOSED) == Score(value=strict, parts={"cls.label": strict}, flags=flags)
    found = judge("cls.label", answer, "dog", CLOSED, allow_sentence=True)
    assert (found.value, found.flags) == (sentence, flags)


def test_synonyms_are_one_label() -> None:
    found = judge("cls.label", "a puppy, that is a dog", ["dog", "puppy"], CLOSED, allow_sentence=True)
    assert (found.value, found.flags) == (1.0, ())


def test_labels_of_the_same_words_are_not_told_apart_in_sentences() -> None:
    assert judge("cls.label", "C++", "C++", CLOSED).value == 1.0
    assert judge("cls.label", "C++", "C", CLOSED).value == 0.0
    assert judge("cls.label", "it is C++", "C", CLOSED, allow_sentence=True).value == 0.0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("dog, cat", 1.0),
        ("['dog', 'cat']", 1.0),
        ('["cat", "dog"]', 1.0),
        ("[dog, cat]", 1.0),
        ("dog and cat", 1.0),
        ("a dog; the cat.", 1.0),
        ("- dog\n- cat", 1.0),
        ("1. dog\n2. cat", 1.0),
        ("Labels: dog, cat", 1.0),
        ("dog, cat, dog, dog", 1.0),
        ("dog", 2 / 3),
        ("dog, rose", 0.5),
        ("dog, cat, and rose", 0.8),
        ("dog, cat, salt and pepper", 0.8),
        ("dog, cat, wolf", 0.8),
        (", ".join(LABELS), 4 / 9),
        ("rose", 0.0),
        ("none", 0.0),
        ("[]", 0.0),
    ],
)
def test_multilabel(answer: str, value: float) -> None:
    assert judge("cls.multilabel", answer, ["cat", "dog"], CLOSED).value == pytest.approx(value)


def test_multilabel_of_nothing() -> None:
    assert judge("cls.multilabel", "none", []).value == 1.0
    assert judge("cls.multilabel", "[]", [], CLOSED).value == 1.0
    assert judge("cls.multilabel", "dog", []).value == 0.0
    assert judge("cls.multilabel", ",,", []).flags == ("unparsable",)
    assert score("cls.multilabel", "", []).value == 0.0


def test_multilabel_flags_unknown_labels() -> None:
    assert judge("cls.multilabel", "dog, wolf", ["dog"], CLOSED).flags == ("unknown_label",)
    assert judge("cls.multilabel", "dog, wolf", ["dog"]).flags == ()


@pytest.mark.parametrize(
    ("answer", "value", "with_taxonomy"),
    [
        ("animal > dog > pug", 1.0, 1.0),
        ("Animal / Dog / Pug", 1.0, 1.0),
        ('["animal", "dog", "pug"]', 1.0, 1.0),
        ("animal\ndog\npug", 1.0, 1.0),
        ("animal, dog, pug", 1.0, 1.0),
        ("pug", 1.0, 1.0),
        ("animal -> dog", 2 / 3, 2 / 3),
        ("dog", 2 / 3, 2 / 3),
        ("animal > dog > beagle", 2 / 3, 2 / 3),
        ("beagle", 0.0, 2 / 3),
        ("cat", 0.0, 1 / 3),
        ("animal > cat > pug", 1 / 3, 1 / 3),
        ("animal", 1 / 3, 1 / 3),
        ("animal > dog > pug > fawn", 0.75, 0.75),
        ("plant > dog > pug", 0.0, 0.0),
        ("rose", 0.0, 0.0),
        ("wolf", 0.0, 0.0),
        ("dog > pug", 0.0, 0.0),
        ("animal > dog > pug\nplant > rose", 0.0, 0.0),
    ],
)
def test_hierarchy(answer: str, value: float, with_taxonomy: float) -> None:
    assert judge("cls.hierarchy", answer, PATH).value == pytest.approx(value)
    assert judge("cls.hierarchy", answer, PATH, TAXONOMY).value == pytest.approx(with_taxonomy)


def test_hierarchy_flags() -> None:
    assert judge("cls.hierarchy", "a > b\nc > d", PATH).flags == ("several_answers",)
    assert judge("cls.hierarchy", "wolf", PATH, TAXONOMY).flags == ("unknown_label",)
    ambiguous = {"labels": [["x", "jaguar"], ["y", "jaguar"], PATH]}
    assert judge("cls.hierarchy", "jaguar", PATH, ambiguous).flags == ("unknown_label",)


CASES: list[tuple[str, Any]] = [("cls.label", "dog"), ("cls.multilabel", ["dog"]), ("cls.hierarchy", ["dog"])]


@pytest.mark.parametrize(("name", "target"), CASES)
@pytest.mark.parametrize(
    "completion",
    [
        "",
        "dog",
        say(""),
        say("  "),
        say("."),
        say('""'),
        "<think>a dog</think><answer>it</answer>",
        "<think><answer>dog</answer></think>",
        "<answer>dog</answer><think>x</think>",
        "\uff1canswer\uff1edog\uff1c/answer\uff1e",
        say("d\u043eg"),
        say("nan"),
        say("["),
        say("[" * 100_000),
        say("x" * 1_000_000),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_worth_nothing(name: str, target: Any, completion: str) -> None:
    assert score(name, completion, target).value == 0.0


@pytest.mark.parametrize(
    ("name", "target", "meta", "message"),
    [
        ("cls.label", None, {}, "a label or a list of its synonyms, got None"),
        ("cls.label", "", {}, "got ''"),
        ("cls.label", " . ", {}, "got ' . '"),
        ("cls.label", [], {}, r"got \[\]"),
        ("cls.label", ["dog", 3], {}, "got"),
        ("cls.label", 3, {}, "got 3"),
        ("cls.label", "wolf", CLOSED, "'wolf' is not among the labels"),
        ("cls.label", "dog", {"labels": "dog"}, "meta 'labels' is a non-empty list"),
        ("cls.label", "dog", {"labels": []}, "meta 'labels' is a non-empty list"),
        ("cls.label", "dog", {"labels": ["dog", 1]}, "meta 'labels' is a non-empty list"),
        ("cls.multilabel", "dog", {}, "a list of labels, got 'dog'"),
        ("cls.multilabel", ["dog", ""], {}, "a list of labels"),
        ("cls.multilabel", ["wolf"], CLOSED, "'wolf' is not among the labels"),
        ("cls.hierarchy", "dog", {}, "a path of names, root first, got 'dog'"),
        ("cls.hierarchy", [], {}, "a path of names"),
        ("cls.hierarchy", ["animal", None], {}, "a path of names"),
        ("cls.hierarchy", ["animal", "wolf"], TAXONOMY, "no path of meta 'labels'"),
        ("cls.hierarchy", PATH, {"labels": ["dog"]}, "is a list of paths"),
        ("cls.hierarchy", PATH, {"labels": [[]]}, "is a list of paths"),
    ],
)
def test_bad_targets_stop_before_any_completion(name: str, target: Any, meta: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        check_target(name, target, meta)
    with pytest.raises(TargetError, match=message):
        score(name, say("dog"), target, meta)


def test_a_sentence_without_a_set_of_labels() -> None:
    for answer, value in (("This is a rose.", 1.0), ("This is not a rose.", 0.0), ("This is a primrose.", 0.0)):
        assert score("cls.label", f"<answer>{answer}</answer>", ["rose", "rosa"], allow_sentence=True).value == value


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.text(alphabet="dogcat,;>/[]'\"\n -&:.", max_size=30))
def test_bounded_for_any_answer(answer: str) -> None:
    for name, target in CASES:
        for meta in ({}, CLOSED if name != "cls.hierarchy" else {"labels": [["dog"], ["cat", "x"]]}):
            value = judge(name, answer, target, meta).value
            assert value is not None
            assert 0.0 <= value <= 1.0


names = st.sets(st.sampled_from(["ant", "bee", "cow", "doe", "elk", "fox"]), min_size=1)


@settings(max_examples=100, deadline=None)
@given(said=names, true=names)
def test_multilabel_is_symmetric(said: set[str], true: set[str]) -> None:
    there = judge("cls.multilabel", ", ".join(sorted(said)), sorted(true)).value
    back = judge("cls.multilabel", ", ".join(sorted(true)), sorted(said)).value
    assert there == back
    assert (there == 1.0) == (said == true)


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["dog, ", " ", "and ", "> ", "dog ", ",", "[", "\n", "-", ".", "*", "a:", "'."])
def test_a_hostile_megabyte_is_read_in_linear_time(piece: str) -> None:
    completion = say(piece * (150_000 // len(piece)))
    for name, target in CASES:
        started = time.process_time()
        score(name, completion, target, CLOSED if name != "cls.hierarchy" else None)
        assert time.process_time() - started < 2.0


def test_a_thousand_labels_are_looked_up_not_searched() -> None:
    meta = {"labels": [f"class number {i}" for i in range(1000)]}
    completion = say("it is class number 7")
    assert score("cls.label", completion, "class number 7", meta, allow_sentence=True).value == 1.0
    started = time.process_time()
    for _ in range(100):
        score("cls.label", completion, "class number 8", meta)
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (' "Red_Blood-Cell." ', "red blood cell"),
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("x = -.5", "x = -.5"),
        ("Boeing-737", "boeing 737"),
        ("5 - 3", "5 3"),
        ("- item", "item"),
        ("wi\u2013fi", "wi fi"),
        ("...", ""),
        ("'a.'.", "a"),
    ],
)
def test_normalise_keeps_a_minus_sign(text: str, normal: str) -> None:
    assert normalise(text) == normal
    assert normalise(normal) == normal


def test_boxed_braces() -> None:
    assert boxed(r"so \boxed{\frac{1}{2}} or \fbox{3} or \boxed {x}") == [r"\frac{1}{2}", "x"]
    assert boxed(r"\boxed{a \boxed{b}}") == [r"a \boxed{b}"]
    assert boxed(r"\boxed{open") == []
