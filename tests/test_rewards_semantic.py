"""semantic.rescaled: the map worked out by hand, its state, and embedders that misbehave."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse import parse
from vlrft.rewards import TargetError, score
from vlrft.rewards.semantic import Rescaled, trigrams
from vlrft.types import Score


def angle(texts: Sequence[str]) -> list[list[float]]:
    """A text "0.8" is at cosine 0.8 from any text that is no number."""
    cosines = [float(t) if t.replace(".", "").replace("-", "").isdigit() else 1.0 for t in texts]
    return [[c, math.sqrt(1.0 - c * c)] for c in cosines]


def small(**options: Any) -> Rescaled:
    return Rescaled(**({"embedder": angle, "memory": 8, "warm_up": 4, "quantile": 0.5, "epsilon": 0.1} | options))


def ask(reward: Rescaled, answer: str, sample: str | None = None, target: Any = "truth") -> Score:
    meta = {} if sample is None else {"sample_id": sample}
    return reward(parse(f"<answer>{answer}</answer>"), target, meta)


def test_the_map_by_hand() -> None:
    reward = small()
    for raw in (0.2, 0.4, 0.6, 0.8):
        assert ask(reward, str(raw)).value == pytest.approx(raw)
    # median 0.5, quartiles 0.35 and 0.65, slope 4 / (0.3 + 0.1) = 10
    found = ask(reward, "0.7")
    assert found.value == pytest.approx(1 / (1 + math.exp(-2)))
    assert found.parts["semantic.raw"] == pytest.approx(0.7)
    assert found.parts["semantic.threshold"] == pytest.approx(0.5)
    # now 0.2 0.4 0.6 0.7 0.8: median 0.6, quartiles 0.4 and 0.7, slope again 10
    assert ask(reward, "0.5").value == pytest.approx(1 / (1 + math.exp(1)))


def test_the_memory_forgets_the_oldest() -> None:
    reward = small()
    for raw in [0.1] * 8 + [0.9] * 8:
        ask(reward, str(raw))
    assert ask(reward, "0.9").parts["semantic.threshold"] == pytest.approx(0.9)
    assert reward.state_dict()["memory"] == pytest.approx([0.9] * 8)


def test_a_collapsed_similarity_is_spread() -> None:
    reward = Rescaled(embedder=angle)
    raws = [0.86 + 0.0005 * (i * 37 % 101) for i in range(800)]
    scores = [ask(reward, f"{raw:.6f}", sample=f"s{i // 8}") for i, raw in enumerate(raws)]
    late = [s.value for s in scores[400:] if s.value is not None]
    assert statistics.pstdev(raws) < 0.02
    assert statistics.pstdev(late) > 0.1
    last = scores[-1].parts
    assert last["semantic.raw_spread"] == pytest.approx(statistics.pstdev(raws[784:792]))
    assert last["semantic.spread"] == pytest.approx(statistics.pstdev(v.value or 0.0 for v in scores[784:792]))
    assert last["semantic.collapsed"] == 1.0


def test_equal_answers_of_a_group_are_worth_the_same() -> None:
    reward = small()
    for i, raw in enumerate((0.2, 0.9, 0.4, 0.3, 0.8)):
        ask(reward, str(raw), sample=f"s{i}")
    values = {ask(reward, "0.7", sample="s").value for _ in range(6)}
    assert len(values) == 1


def test_order_is_kept() -> None:
    reward = small()
    for raw in (0.2, 0.9, 0.4, 0.3, 0.8):
        ask(reward, str(raw))
    values = [ask(reward, str(i / 20), sample="s").value or 0.0 for i in range(20)]
    assert values == sorted(values)
    assert len(set(values)) == 20


def test_spreads_wait_for_a_finished_group() -> None:
    reward = small()
    ask(reward, "0.2", sample="a")
    assert ask(reward, "0.6", sample="a").parts["semantic.raw_spread"] is None
    found = ask(reward, "0.5", sample="b").parts
    assert found["semantic.raw_spread"] == pytest.approx(0.2)
    assert found["semantic.collapsed"] == 0.0
    ask(reward, "0.5")
    assert ask(reward, "0.5", sample="c").parts["semantic.raw_spread"] == pytest.approx(0.2)


def test_the_state_survives_a_checkpoint() -> None:
    reward, twin = small(), small()
    for i in range(11):
        ask(reward, f"0.{i % 9 + 1}", sample=str(i // 3))
    twin.load_state_dict(json.loads(json.dumps(reward.state_dict())))
    for i in range(9):
        assert ask(reward, f"0.{i + 1}", sample=str(i // 2)) == ask(twin, f"0.{i + 1}", sample=str(i // 2))
    assert reward.state_dict() == twin.state_dict()


def test_a_state_that_is_none() -> None:
    with pytest.raises(ValueError, match="lacks group, memory, sample, slope, threshold"):
        small().load_state_dict({"finished": None})
    with pytest.raises(ValueError, match="not finite"):
        small().load_state_dict({**small().state_dict(), "memory": [math.nan]})
    shorter = small(memory=4)
    shorter.load_state_dict({**small().state_dict(), "memory": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]})
    assert shorter.state_dict()["memory"] == [0.3, 0.4, 0.5, 0.6]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_range(raws: list[float]) -> None:
    reward = small(epsilon=1e-9)
    for raw in raws:
        value = ask(reward, f"{raw:.12f}").value
        assert value is not None
        assert 0.0 <= value <= 1.0


def test_the_nearest_reference_counts() -> None:
    assert ask(small(), "truth", target=["0.2", "0.9"]).value == pytest.approx(0.9)
    assert ask(small(), "-0.5").value == 0.0


# ------------------------------------------------------------------------------------------- hacks


def test_no_answer_leaves_the_memory_alone() -> None:
    reward = small()
    found = reward(parse("nothing"), "truth", {"sample_id": "a"})
    assert (found.value, found.flags) == (0.0, ("no_answer",))
    assert reward.state_dict()["memory"] == []


def test_stuffing_does_not_pay() -> None:
    found = ask(Rescaled(embedder=lambda texts: [[1.0]] * len(texts)), "left lung " * 100, target="left lung")
    assert found.value == pytest.approx(11 / 200)
    assert found.flags == ("over_length",)


@pytest.mark.parametrize(
    "vectors", [[1.0, 2.0], [[1.0]], [[1.0], [math.nan]], [[1.0], [math.inf]], [[1.0], [1.0], [1.0]], [[["x"]]]]
)
def test_an_embedder_that_misbehaves(vectors: Any) -> None:
    with pytest.raises(ValueError, match=r"one finite vector per text|could not convert"):
        ask(Rescaled(embedder=lambda _: vectors), "a", target="b")


def test_vectors_of_any_size() -> None:
    for scale in (1e-200, 1.0, 1e200):
        reward = Rescaled(embedder=lambda texts, s=scale: np.array([[s, 0.0], [s, s]]))  # type: ignore[misc]
        assert ask(reward, "a", target="b").value == pytest.approx(math.sqrt(0.5))
    assert ask(Rescaled(embedder=lambda texts: np.zeros((2, 3))), "a", target="b").value == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"embedder": None},
        {"embedder": "math:pi"},
        {"quantile": 0.0},
        {"quantile": math.nan},
        {"warm_up": 9},
        {"warm_up": 0},
        {"steepness": 0.0},
        {"epsilon": math.inf},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"semantic\.rescaled"):
        small(**options)


@pytest.mark.parametrize("target", [None, "", 3, []])
def test_bad_targets(target: Any) -> None:
    with pytest.raises(TargetError, match=r"semantic\.rescaled"):
        score("semantic.rescaled", "", target, embedder=angle)


def test_the_stand_in() -> None:
    same, other = (
        score("semantic.rescaled", f"<answer>{a}</answer>", "left lung", embedder=trigrams).value
        for a in ("Left lung.", "kidney")
    )
    assert same == pytest.approx(1.0)
    assert other is not None
    assert other < 0.3
