"""ranked.*: golden numbers worked out by hand, list syntaxes, and the hacks that must not pay."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score

NAMES = ["ranked.rr", "ranked.recall@5", "ranked.ndcg@5", "ranked.map", "ranked.composite"]
ITEMS = st.lists(st.sampled_from("abcdefgh"), max_size=14)


def judge(name: str, items: list[str] | str, target: Any, meta: dict[str, Any] | None = None, **options: Any) -> float:
    answer = items if isinstance(items, str) else "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
    found = score(name, f"<think>hm</think><answer>{answer}</answer>", target, meta, **options)
    assert found.value is not None
    return found.value


@pytest.mark.parametrize(
    ("name", "items", "target", "value"),
    [
        ("ranked.rr", "abc", ["a"], 1.0),
        ("ranked.rr", "abc", ["c", "b"], 1 / 2),
        ("ranked.rr", "abc", [["x", "c"]], 1 / 3),
        ("ranked.rr", "abc", ["x"], 0.0),
        ("ranked.rr", "ab", [{"item": "a", "gain": 0}, "b"], 1 / 2),
        ("ranked.recall", "abc", ["a", "c", "x"], 2 / 3),
        ("ranked.recall@2", "abc", ["a", "c", "x"], 1 / 3),
        ("ranked.recall@1", "abc", ["a"], 1.0),
        ("ranked.recall", "ab", ["a", {"item": "x", "gain": 0}], 1.0),
        ("ranked.ndcg", "ab", ["a", "b"], 1.0),
        ("ranked.ndcg", "xa", ["a"], 1 / math.log2(3)),
        (
            "ranked.ndcg",
            "ba",
            [{"item": "a", "gain": 3}, {"item": ["b", "y"], "gain": 1}],
            (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)),
        ),
        ("ranked.ndcg@1", "ba", [{"item": "a", "gain": 3}, {"item": "b", "gain": 1}], 1 / 3),
        ("ranked.map", "axb", ["a", "b"], (1 + 2 / 3) / 2),
        ("ranked.map", "xax", ["a"], 1 / 2),
        ("ranked.map@2", "axb", ["a", "b", "c"], 1 / 2),
        ("ranked.composite", "ab", ["b"], 0.6),
        ("ranked.composite", "ab", ["a"], 1.0),
    ],
)
def test_golden_numbers(name: str, items: str, target: Any, value: float) -> None:
    distinct = [f"{c}{i}" if c == "x" else c for i, c in enumerate(items)]
    assert judge(name, distinct, target) == pytest.approx(value)


@pytest.mark.parametrize(
    "answer",
    [
        "1. flu\n2. COPD",
        "- flu\n- **COPD**",
        '["flu", "COPD"]',
        "['flu', 'COPD.']",
        "flu; copd",
        "flu\nCOPD",
        "1) flu\n2) C.O.P.D",
    ],
)
def test_syntaxes(answer: str) -> None:
    assert judge("ranked.rr", answer, [["COPD", "c.o.p.d"]]) == 0.5


def test_the_form_of_the_list() -> None:
    assert judge("ranked.composite", "COPD", ["COPD"]) == 0.8
    assert judge("ranked.composite", '["COPD"]', ["COPD"]) == 1.0
    assert judge("ranked.composite", "The list:\n1. COPD", ["COPD"]) == 0.8
    assert judge("ranked.composite", "flu\nCOPD", ["COPD"]) == pytest.approx(0.4)
    # by definition the form is paid without a hit as well; the page says so
    assert judge("ranked.composite", "1. flu", ["COPD"]) == pytest.approx(0.2)
    assert judge("ranked.rr", "1. flu", ["COPD"]) == 0.0


def test_k_comes_from_the_name_then_from_meta() -> None:
    items = list("abcdefghijkl")
    assert judge("ranked.rr", items, ["j"], {"max_len": 20}) == 1 / 10
    assert judge("ranked.rr", items, ["k"], {"max_len": 20}) == 0.0
    assert judge("ranked.rr", items, ["k"], {"max_len": 20, "k": 11}) == 1 / 11
    assert judge("ranked.rr@3", items, ["k"], {"max_len": 20, "k": 11}) == 0.0


@given(ITEMS, st.sets(st.sampled_from("abcdefgh"), min_size=1))
@settings(max_examples=80, deadline=None)
def test_range(items: list[str], golds: set[str]) -> None:
    for name in NAMES:
        assert 0.0 <= judge(name, items, sorted(golds)) <= 1.0


@given(st.permutations("abcdefgh"), st.sets(st.sampled_from("abcdefgh"), min_size=1))
@settings(max_examples=40, deadline=None)
def test_golds_first_is_best(items: list[str], golds: set[str]) -> None:
    best = sorted(items, key=lambda item: item not in golds)
    for name in ("ranked.rr", "ranked.recall@8", "ranked.ndcg@8", "ranked.map@8"):
        assert judge(name, best, sorted(golds)) == pytest.approx(1.0)
        assert judge(name, items, sorted(golds)) <= 1.0


# ------------------------------------------------------------------------------------------- hacks


@pytest.mark.parametrize("name", NAMES)
def test_no_answer(name: str) -> None:
    for completion in ("", "a", "<answer> </answer>", "<think><answer>a</answer></think>"):
        found = score(name, completion, ["a"])
        assert (found.value, found.flags) == (0.0, ("no_answer",))
    found = score(name, "<answer>[]</answer>", ["a"])
    assert (found.value, found.flags) == (0.0, ("unparsable",))


@pytest.mark.parametrize("name", NAMES)
def test_duplicates_are_removed_and_cost(name: str) -> None:
    plain = judge(name, ["x", "a"], ["a"])
    assert judge(name, ["x", "X.", "a", " A"], ["a"]) == pytest.approx(plain * 0.81)


@pytest.mark.parametrize("name", NAMES)
def test_dumping_all_labels_does_not_pay(name: str) -> None:
    labels = ["a", *(f"label {i}" for i in range(99))]
    assert judge(name, labels, ["a"]) == pytest.approx(0.1)
    assert score(name, f"<answer>{'; '.join(labels)}</answer>", ["a"]).flags == ("over_length",)
    assert judge(name, labels, ["a"], {"max_len": 200}) == pytest.approx(1.0)
    assert judge(name, "; ".join(["a"] * 10_000), ["a"]) < 1e-9


@pytest.mark.parametrize(
    "answer", ["a or b", "a, b", "a/b", "1. a or b", '[["a", "b"]]', "1. a; b", '[{"item": ["a", "b"]}]', '["a"] ["b"]']
)
def test_an_entry_of_several_candidates_matches_none(answer: str) -> None:
    for name in NAMES[:-1]:
        assert judge(name, answer, ["a", "b"]) == 0.0
    assert judge("ranked.composite", answer, ["a", "b"]) <= 0.2


def test_entries_without_a_name_keep_their_ranks() -> None:
    assert judge("ranked.rr", '[null, null, "a"]', ["a"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "target",
    [
        None,
        "a",
        [],
        [3],
        [""],
        [[]],
        [["a", " "]],
        [{"gain": 1}],
        [{"item": "a", "gain": -1}],
        [{"item": "a", "gain": math.nan}],
        [{"item": "a", "gain": True}],
        [{"item": "a", "gain": 0}],
        ["a", "A"],
        [["a", "b"], ["c", "b."]],
    ],
)
def test_bad_targets(name: str, target: Any) -> None:
    with pytest.raises(TargetError, match=r"ranked\."):
        check_target(name, target)


@pytest.mark.parametrize("meta", [{"k": 0}, {"k": 2.5}, {"k": True}, {"max_len": "nine"}, {"max_len": -1}])
def test_bad_meta(meta: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match="whole number of at least 1"):
        check_target("ranked.rr", ["a"], meta)


def test_bad_rank() -> None:
    with pytest.raises(ValueError, match="k must be at least 1"):
        judge("ranked.recall@0", "a", ["a"])


def test_huge_gains_stay_finite() -> None:
    golds = [{"item": c, "gain": 1e308} for c in "abc"]
    assert judge("ranked.ndcg", ["a", "b", "c"], golds) == pytest.approx(1.0)
