"""Rewards given as functions themselves: in lists, alone, in other trainers, with processes."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from vlrft.parse import Parsed
from vlrft.rewards import Judge, as_trl, check, scorer
from vlrft.rewards.adapters import to_easyr1, to_swift, to_verl
from vlrft.rewards.base import Judged
from vlrft.rewards.given import FunctionSpec, spec_of
from vlrft.types import Sample, Score

SAMPLE = Sample(id="a", task="t", parts=(), target="B")


def polite(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, word: str = "please") -> float:
    return float(word in parsed.text)


def yesno(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> float:
    """Called as one of the table is."""
    return 0.25


async def later(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> float:
    return 0.75


def columns(completions: list[str], target: list[str], **_: Any) -> list[float]:
    return [float(t in c) for c, t in zip(completions, target, strict=True)]


class Counting:
    def __init__(self, start: int = 0) -> None:
        self.seen = start

    def __call__(self, parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> float:
        self.seen += 1
        return float(self.seen)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]


def longest(group: Judged) -> list[Score]:
    most = max(len(parsed.text) for parsed in group)
    assert len(group) == len(group.parsed)
    return [Score(value=float(len(parsed.text) == most)) for parsed in group]


def test_every_adapter_takes_a_function() -> None:
    assert as_trl(polite)(["please", "no"], target=[1, 1]) == [1.0, 0.0]
    assert as_trl(polite, word="no")(["please", "no"], target=[1, 1]) == [0.0, 1.0]
    assert as_trl(polite, word="no").__name__ == "polite"
    assert as_trl(yesno)(["yes"], target=["yes"]) == [0.25], "not the reward of that name"
    assert as_trl(later)(["x"]) == [0.75]
    assert as_trl(longest)(["a", "ab"], prompts=["p", "p"]) == [0.0, 1.0]
    assert as_trl(lambda parsed, target, meta: 1.0)(["x"]) == [1.0]
    assert as_trl(functools.partial(polite, word="x"))(["x"]) == [1.0]
    assert to_verl(polite)("", "please", 1) == 1.0
    assert to_easyr1(polite)([{"response": "please", "ground_truth": 1}]) == [{"overall": 1.0, "polite": 1.0}]
    assert to_swift(polite)()(["please"], solution=[1]) == [1.0]
    with pytest.raises(ValueError, match="has TRL's signature already"):
        as_trl(columns)
    with pytest.raises(ValueError, match="option 'word' must be a text, got 3"):
        as_trl(polite, word=3)


def test_a_list_may_hold_functions() -> None:
    specs: list[Any] = [{"func": polite, "weight": 3.0, "kwargs": {"word": "B"}}, columns, "yesno"]
    check(specs)
    check({"funcs": specs})
    check([{"func": polite, "name": "manners"}, {"func": "format.think_answer", "gate": "manners > 0"}])
    score = Judge([{"func": polite, "weight": 3.0, "kwargs": {"word": "B"}}, columns]).score("B", SAMPLE)
    assert (score.value, score.parts) == (1.0, {"polite": 1.0, "columns": 1.0})
    assert as_trl({polite: 0.5, "format.think_answer": 0.5})(["please"], target=["B"]) == [0.5]
    counting = as_trl([Counting, {"func": Counting, "name": "from_ten", "kwargs": {"start": 10}}])
    assert counting(["x", "x"], target=[1, 1]) == [6.0, 7.0]
    with pytest.raises(ValueError, match="lists polite twice"):
        check([polite, {"func": polite}])
    with pytest.raises(ValueError, match=r"unknown key rewards\.funcs\[0\]\.wieght; did you mean .*weight"):
        check([{"func": polite, "wieght": 1}])


def test_functions_pickle_by_reference_with_their_state() -> None:
    again = pickle.loads(pickle.dumps(as_trl([{"func": polite, "weight": 2.0}, later])))
    assert again(["please"], target=[1]) == [pytest.approx((2.0 + 0.75) / 3)]
    counting = as_trl(Counting)
    counting(["x"])
    assert pickle.loads(pickle.dumps(counting))(["x"]) == [2.0]
    assert isinstance(pickle.loads(pickle.dumps(spec_of(polite))), FunctionSpec)


def test_processes_load_a_function_of_a_module_and_refuse_one_of_the_session() -> None:
    assert as_trl([{"func": polite, "workers": 1}])(["please"], target=[1]) == [1.0]

    def local(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> float:
        return 1.0

    for function in (local, lambda parsed, target, meta: 1.0):
        with pytest.raises(ValueError, match=r"rewards\[0\]: reward .* cannot load a function of this session; put it"):
            as_trl([{"func": function, "timeout_s": 1.0}])
    assert as_trl([local])(["x"]) == [1.0]


def test_scorer_takes_options_by_keyword() -> None:
    half, truth = "<answer>[0, 0, 10, 5]</answer>", [0, 0, 10, 10]
    assert scorer("box.acc", t=0.5)(half, truth).value == 1.0
    assert scorer("box.acc", {"t": 0.9})(half, truth).value == 0.0
    assert scorer(polite, word="box")("box").value == 1.0
    with pytest.raises(ValueError, match="did you mean 't'"):
        scorer("box.acc", threshold=0.5)


def test_a_group_has_a_length_and_yields_its_completions() -> None:
    group = Judged(parsed=(Parsed(text="a"), Parsed(text="b")), parts=({}, {}), target=None, meta=({}, {}))
    assert (len(group), [parsed.text for parsed in group]) == (2, ["a", "b"])
