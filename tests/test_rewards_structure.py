"""struct.*: golden numbers worked out by hand, properties of the alignments, and the hacks that must not pay."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score
from vlrft.rewards.structure import align_in_order, assign

CALLS = [["move", "1", "left"], ["paint", "2", "red"]]
NAMES = ["struct.calls", "struct.exact", "struct.json"]
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text("abC ", max_size=3)
TREES = st.recursive(
    SCALARS, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.sampled_from("xyz"), t, max_size=3), max_leaves=8
)
WEIGHTS = st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=4, max_size=4), min_size=1, max_size=4)


def judge(name: str, answer: Any, target: Any, meta: dict[str, Any] | None = None, **options: Any) -> float:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    found = score(name, f"<think>hm</think><answer>{text}</answer>", target, meta, **options)
    assert found.value is not None
    return found.value


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("move(1, 'left'), paint(2, 'red')", 1.0),
        ('paint(2, "red")\nmove(1, left)', 1.0),
        ("move(1.0, LEFT) paint('2', 'red')", 1.0),
        ('[["move", 1, "left"], ["paint", 2, "red"]]', 1.0),
        ("move(1, 'left')", 0.5),
        ("move(1, 'right'), paint(2, 'red')", 0.75),
        ("move(3, 'left'), paint(2, 'red')", 0.75),
        ("move(3, 'up'), paint(2, 'red')", 0.625),
        ("paint(1, 'left'), move(2, 'red')", 0.25),
        ("jump(1, 'left')", 0.0),
        # a third call that fits nothing costs a third
        ("move(1, 'left'), paint(2, 'red'), move(9, 'up')", 2 / 3),
        ("move(1, 'left'), move(1, 'left'), move(1, 'left'), move(1, 'left')", 0.25),
    ],
)
def test_golden_calls(answer: str, value: float) -> None:
    assert judge("struct.calls", answer, CALLS) == pytest.approx(value)


def test_the_assignment_is_the_best_not_the_first() -> None:
    # greedy by order would pair the first with the second truth's half
    truth = [["move", "1", "up"], ["move", "1", "left"]]
    assert judge("struct.calls", "move(1, left), move(2, up)", truth) == pytest.approx(0.75)


def test_order_when_it_matters() -> None:
    swapped = "paint(2, 'red'), move(1, 'left')"
    assert judge("struct.calls", swapped, CALLS, {"ordered": True}) == 0.5
    assert judge("struct.calls", swapped, CALLS, ordered=True) == 0.5
    assert judge("struct.calls", swapped, CALLS, {"ordered": True}, ordered=False) == 1.0
    # the middle call is extra, the others keep their order
    inserted = "move(1, 'left'), stop(), paint(2, 'blue')"
    assert judge("struct.calls", inserted, CALLS, {"ordered": True}) == pytest.approx(1.5 / 3)


@pytest.mark.parametrize(("answer", "value"), [("[]", 1.0), ("None.", 1.0), ("move(1, 'a')", 0.0), ("not sure", 0.0)])
def test_nothing_to_do(answer: str, value: float) -> None:
    assert judge("struct.calls", answer, []) == value


@given(WEIGHTS)
@settings(max_examples=50, deadline=None)
def test_alignments_are_optimal(weights: list[list[float]]) -> None:
    n, m = len(weights), 4

    def worth(a: int, b: int) -> float:
        return weights[a][b]

    best = max(sum(weights[a][b] for a, b in enumerate(chosen)) for chosen in itertools.permutations(range(m), n))
    assert assign(range(n), range(m), worth) == pytest.approx(best)
    kept = max(sum(weights[a][b] for a, b in enumerate(chosen)) for chosen in itertools.combinations(range(m), n))
    assert align_in_order(range(n), range(m), worth) >= kept - 1e-12
    assert align_in_order(range(n), range(m), worth) <= best + 1e-12


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ("paint(2,  'red' )", 'paint(2, "red")', 1.0),
        ("paint(-2)", "paint(2)", 0.0),
        ("Paint(2)", "paint(2)", 0.0),
        ("go left", "go  left", 1.0),
        ("goleft", "go left", 0.0),
        ("paint(2, 'red'), move(1, 'left')", CALLS, 0.0),
        ("move(1, 'left'); paint(2, \"red\")", CALLS, 1.0),
        ("move(1, 'left')", CALLS, 0.0),
        ("move(1, left) paint(2, red)", ["move(1, 'left')", "paint(2, 'red')"], 1.0),
        ('["a", "b"]', ["a", "b"], 1.0),
        ("['a', 'b']", ["a", "b"], 1.0),
        ('["b", "a"]', ["a", "b"], 0.0),
        ('[{"a": 1}, [2]]', [{"A": "1"}, [2.0]], 1.0),
        ('[{"a": 1}, [2], 3]', [{"a": 1}, [2]], 0.0),
        ("[]", [], 1.0),
        ("a", ["a"], 0.0),
    ],
)
def test_exact(answer: str, target: Any, value: float) -> None:
    assert judge("struct.exact", answer, target) == value


def test_exact_in_any_order() -> None:
    assert judge("struct.exact", '["b", "a"]', ["a", "b"], {"ordered": False}) == 1.0
    assert judge("struct.exact", '["b", "b"]', ["a", "b"], {"ordered": False}) == 0.0


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, 1.0),
        ({"a": 1, "b": 3}, {"a": 1, "b": 2}, 0.5),
        ({"a": 1}, {"a": 1, "b": 2}, 2 / 3),
        ({"a": "1"}, {"A": 1.0}, 1.0),
        ({"a": True}, {"a": 1}, 0.0),
        ({"a": {}}, {"a": []}, 0.0),
        ({"a": {}}, {"a": {}}, 1.0),
        ([], [], 1.0),
        ({}, {"a": 1}, 0.0),
        ([1, 2, 3], [3, 2, 1], 1.0),
        ([1, 1], [1, 2], 0.5),
        # records stay together: the second record's price does not pair with the first's name
        ([{"n": "x", "p": 2}, {"n": "y", "p": 1}], [{"n": "x", "p": 1}, {"n": "y", "p": 2}], 0.5),
        ([{"n": "y", "p": 2}, {"n": "x", "p": 1}], [{"n": "x", "p": 1}, {"n": "y", "p": 2}], 1.0),
        (3, 3, 1.0),
        ("'text'", "text", 0.0),
        ('"Text "', "text", 1.0),
    ],
)
def test_golden_trees(answer: Any, target: Any, value: float) -> None:
    assert judge("struct.json", answer, target) == pytest.approx(value)


def test_lists_in_order_when_it_matters() -> None:
    # the longest common subsequence of 1 2 3 and 3 1 2 is 1 2
    assert judge("struct.json", [1, 2, 3], [3, 1, 2], {"ordered": True}) == pytest.approx(2 / 3)


@given(TREES, TREES)
@settings(max_examples=50, deadline=None)
def test_trees_range_identity_symmetry(a: Any, b: Any) -> None:
    for ordered in (False, True):
        value = judge("struct.json", json.dumps([a]), [b], ordered=ordered)
        assert 0.0 <= value <= 1.0
        assert judge("struct.json", json.dumps([a]), [a], ordered=ordered) == 1.0
        assert judge("struct.json", json.dumps([b]), [a], ordered=ordered) == pytest.approx(value)
    free = judge("struct.json", json.dumps([a]), [b], ordered=False)
    assert judge("struct.json", json.dumps([a]), [b], ordered=True) <= free + 1e-12


# ------------------------------------------------------------------------------------------- hacks


@pytest.mark.parametrize("name", NAMES)
def test_no_answer(name: str) -> None:
    for completion in ("", "[]", "<answer></answer>", "<think><answer>[]</answer></think>"):
        found = score(name, completion, CALLS)
        assert (found.value, found.flags) == (0.0, ("no_answer",))
    found = score(name, "<answer>no idea</answer>", CALLS)
    assert (found.value, found.flags) == (0.0, ("unparsable",))


def test_dumping_does_not_pay() -> None:
    dump = ", ".join(f"{f}({o}, '{v}')" for f in ("move", "paint") for o in range(10) for v in ("left", "red"))
    assert judge("struct.calls", dump, CALLS) == pytest.approx(2 / 40)
    assert judge("struct.json", {"a": 1, **{f"k{i}": i for i in range(100)}}, {"a": 1}) == pytest.approx(2 / 102)
    many = ", ".join(f"move({i}, 'left')" for i in range(10_000))
    assert judge("struct.calls", many, CALLS * 20) < 0.01
    assert judge("struct.json", list(range(50_000)), list(range(100))) == 0.0


def test_several_answers_in_one() -> None:
    assert judge("struct.json", '{"a": 1} or {"a": 2}', {"a": 1}) == 0.5
    assert judge("struct.json", '{"a": 1, "a": 2}', {"a": 1}) == pytest.approx(2 / 3)
    assert judge("struct.exact", '["a"] ["b"]', ["a"]) == 0.0


@pytest.mark.parametrize(
    "answer",
    ["[" * 50_000, '{"a":' * 5000, "NaN", '{"a": Infinity}', '{"a": NaN}', "9" * 5000, '{"a": 1e999}', "f(" * 50_000],
)
def test_hostile_answers(answer: str) -> None:
    for name in NAMES:
        assert judge(name, answer, [["f", "1", "2"]]) == 0.0


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("struct.calls", None),
        ("struct.calls", "move(1)"),
        ("struct.calls", [["move", 1]]),
        ("struct.calls", [["", 1, 2]]),
        ("struct.calls", [["move", [1], 2]]),
        ("struct.calls", [["move", math.nan, 2]]),
        ("struct.exact", None),
        ("struct.exact", 3),
        ("struct.exact", " '' "),
        ("struct.exact", [math.inf]),
        ("struct.json", None),
        ("struct.json", math.nan),
        ("struct.json", {"a": {1, 2}}),
        ("struct.json", {"a": 1, "A": 2}),
        ("struct.json", 10**400),
    ],
)
def test_bad_targets(name: str, target: Any) -> None:
    with pytest.raises(TargetError, match=name):
        check_target(name, target)


def test_bad_order_and_depth() -> None:
    for name in NAMES:
        with pytest.raises(TargetError, match="ordered must be true or false"):
            check_target(name, [], {"ordered": "yes"})
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(TargetError, match="nested deeper than 32"):
        check_target("struct.json", deep)
