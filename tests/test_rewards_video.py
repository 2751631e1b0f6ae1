"""video.*: the temporal bonus and the semantic consistency, in a run and alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse import parse
from vlrft.rewards import RewardError, TargetError, check_target, score
from vlrft.rewards.base import Judged
from vlrft.rewards.video import Semantic, temporal_contrast

NAME = "video.temporal_contrast"


def group(
    texts: Sequence[str],
    parts: Sequence[Mapping[str, float | None]] = (),
    target: Any = None,
    mode: str = "think",
    **meta: Any,
) -> Judged:
    return Judged(
        parsed=tuple(parse(text, mode) for text in texts),
        parts=tuple(parts or [{}] * len(texts)),
        target=target,
        meta=tuple([meta] * len(texts)),
    )


def values(judged: Judged, **options: Any) -> list[float | None]:
    return [each.value for each in temporal_contrast(judged, **options)]


# -------------------------------------------------------------------------------- temporal contrast


@pytest.mark.parametrize(
    ("ordered", "control", "expected"),
    [
        ([1, 1, 0, 0], [1, 0, 0, 0], [0.3, 0.3, 0.0, 0.0]),
        ([1, 0], [0, 0, 0, 1, 1], [0.3, 0.0]),
        # equal means are no gain, however they are rounded
        ([1, 0], [0, 1], [0.0, 0.0]),
        ([0.1, 0.1, 0.1], [0.1], [0.0, 0.0, 0.0]),
        ([0, 1], [1, 1], [0.0, 0.0]),
        ([0, 0], [0, 0], [0.0, 0.0]),
        ([0.05, 0.9], [0.2], [0.3, 0.3]),
    ],
)
def test_golden_numbers(ordered: list[float], control: list[float], expected: list[float]) -> None:
    assert values(group(["a"] * len(ordered), target=ordered, control=control)) == expected
    parts = [{"accuracy": value} for value in ordered]
    assert values(group(["a"] * len(ordered), parts, target="B", control=control)) == expected
    for index, value in enumerate(expected):
        assert score(NAME, "a", ordered, {"control": control, "index": index}).value == value
    alone = score(NAME, "a", ordered, {"control": control})
    assert alone.value == max(expected), "what a right answer gets"
    assert [alone.parts[f"rollout_{i}"] for i in range(len(expected))] == expected


def test_margin_bonus_and_what_is_correct() -> None:
    meta = {"control": [0.5], "index": 0}
    assert score(NAME, "", [0.7, 0.7], meta, margin=0.2).value == 0.0
    assert score(NAME, "", [0.7, 0.7], meta, margin=0.1).value == 0.3
    assert score(NAME, "", [0.7, 0.7], {**meta, "margin": 0.2}, margin=0.1).value == 0.0
    assert score(NAME, "", [0.7, 0.7], {**meta, "bonus": 1}).value == 1.0
    assert score(NAME, "", [0.05, 1, 1], meta, correct_above=0.1).value == 0.0
    assert score(NAME, "", [0.05, 1, 1], meta).value == 0.3


def test_in_a_run() -> None:
    parts = [
        {"mcq.letter": 1.0, "format": 0.0},
        {"mcq.letter": None, "format": 1.0},
        {"mcq.letter": 0.0, "format": 1.0},
    ]
    judged = group(["a", "b", "c"], parts, target="B", control=[0.0])
    assert values(judged, accuracy="mcq.letter") == [0.3, None, 0.0]
    with pytest.raises(TargetError, match=r"no reward named 'accuracy'.*one of mcq\.letter, format"):
        values(judged)
    with pytest.raises(TargetError, match=r"meta\['control'\]"):
        values(group(["a"], [{"accuracy": 1.0}], target="B"))


def test_a_probe_before_the_run_knows_no_accuracies_yet() -> None:
    assert values(group([""], [{"accuracy": None}], target="B")) == [None]
    with pytest.raises(TargetError, match="no reward named"):
        values(group([""], [{"other": None}], target="B"))


@pytest.mark.parametrize(
    ("target", "meta", "message"),
    [
        (None, {"control": [0]}, "the target of video.temporal_contrast is a list of accuracies.*got None"),
        ([], {"control": [0]}, "the target"),
        ("B", {"control": [0]}, "the target"),
        ([2], {"control": [0]}, "the target"),
        ([math.nan], {"control": [0]}, "the target"),
        ([True], {"control": [0]}, "the target"),
        ([1], {}, r"meta\['control'\] is a list of accuracies.*got None"),
        ([1], {"control": []}, r"meta\['control'\]"),
        ([1], {"control": [-0.5]}, r"meta\['control'\]"),
        ([1], {"control": [math.inf]}, r"meta\['control'\]"),
        ([1, 0], {"control": [0], "index": 2}, r"meta\['index'\].*the 2 rollouts"),
        ([1, 0], {"control": [0], "index": "first"}, r"meta\['index'\]"),
        ([1, 0], {"control": [0], "margin": math.nan}, r"meta\['margin'\]"),
        ([1, 0], {"control": [0], "bonus": 2}, r"meta\['bonus'\]"),
    ],
)
def test_bad_targets(target: Any, meta: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        check_target(NAME, target, meta)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match=r"bonus of .* must lie"):
        score(NAME, "", [1], {"control": [0]}, bonus=1.5)


shares = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(shares, shares)
def test_bounded_and_never_for_both_orders(ordered: list[float], control: list[float]) -> None:
    forth = score(NAME, "", ordered, {"control": control}).value
    back = score(NAME, "", control, {"control": ordered}).value
    assert forth is not None
    assert back is not None
    assert 0.0 <= forth <= 0.3
    assert min(forth, back) == 0.0


# ----------------------------------------------------------------------------------------- semantic


class Fake:
    """An embedder that says what it is told to, and counts."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls: list[tuple[list[str], Any]] = []

    def __call__(self, texts: Sequence[str], media: Any) -> Any:
        self.calls.append((list(texts), media))
        return self.answer(texts) if callable(self.answer) else self.answer


def think(text: str) -> str:
    return f"<think>{text}</think><answer>B</answer>"


def one(
    embedder: Any, text: str = think("Let me see. A cat runs."), mode: str = "think", **options: Any
) -> float | None:
    reward = Semantic(embedder, **options)
    return reward(group([text], mode=mode, media="clip.mp4", accuracy=1.0))[0].value


@pytest.mark.parametrize(
    ("similarities", "value"),
    [
        ([0.2], 0.4),
        ([0.5], 1.0),
        ([0.9], 1.0),
        ([-0.3], 0.0),
        # frames are averaged before the clip
        ([[0.1, 0.3, 0.2]], 0.4),
        ([[0.9, -0.9]], 0.0),
        # vectors: cosines 0.6 and 0
        (([[3.0, 4.0]], [[1.0, 0.0], [4.0, -3.0]]), 0.6),
        (([[0.0, 0.0]], [[1.0, 0.0]]), 0.0),
    ],
)
def test_golden_similarities(similarities: Any, value: float) -> None:
    assert one(Fake(similarities)) == pytest.approx(value)


def test_weight() -> None:
    assert one(Fake([0.2]), weight=1.0) == pytest.approx(0.2)


def test_the_text_is_the_reasoning_after_its_first_sentence() -> None:
    fake = Fake(lambda texts: [0.1] * len(texts))
    assert one(fake, think("It is 0.5 s long. A cat runs. It jumps.")) == pytest.approx(0.2)
    assert fake.calls == [(["A cat runs. It jumps."], "clip.mp4")]


@pytest.mark.parametrize(
    "text", ["", "<answer>A cat. It runs.</answer>", think(""), think("A cat runs and jumps"), think("A cat runs.")]
)
def test_no_reasoning_is_worth_nothing_and_costs_no_call(text: str) -> None:
    fake = Fake([1.0])
    assert one(fake, text) == 0.0
    assert fake.calls == []


def test_it_does_not_apply_without_a_reasoning_mode() -> None:
    assert one(Fake([1.0]), "B", mode="direct") is None


def test_one_call_for_the_right_answers_of_a_group() -> None:
    fake = Fake(lambda texts: [0.1 * len(text) for text in texts])
    parts = [{"accuracy": value} for value in (1.0, 0.0, None, 0.2)]
    found = Semantic(fake)(group([think("A. b"), think("A. bb"), think("A. bbb"), think("A. bbbb")], parts, media=7))
    assert [each.value for each in found] == [pytest.approx(0.2), 0.0, None, pytest.approx(0.8)]
    assert fake.calls == [(["b", "bbbb"], 7)]


def test_by_name() -> None:
    meta = {"media": ["a cat runs", "a dog"], "accuracy": 1}
    found = score("video.semantic", think("See. A cat runs"), None, meta, embedder="words")
    # cosines 1 and 1 / sqrt(3 * 2)
    assert found.value == pytest.approx(min(1.0, 1 + 1 / math.sqrt(6)))
    assert found.parts == {"video.semantic": found.value}
    by_reference = score("video.semantic", think("See. A cat"), None, meta, embedder="vlrft.rewards.video:word_cosines")
    assert by_reference.value == pytest.approx(min(1.0, 2 / math.sqrt(6) + 1 / 2))
    assert score("video.semantic", think("See. A cat"), None, {**meta, "accuracy": 0}, embedder="words").value == 0.0


@pytest.mark.parametrize(
    "answer", [[math.nan], [math.inf], [], [0.1, 0.2], [[]], [[[0.1]]], 0.5, ([[1.0, 0.0]], [[1.0]]), [[0.1, math.nan]]]
)
def test_a_broken_embedder_is_an_error(answer: Any) -> None:
    with pytest.raises(RewardError, match="the embedder must return"):
        one(Fake(answer))


def test_what_is_missing_is_named() -> None:
    said = r"needs the option embedder \(in a recipe under kwargs, on the command line in --options\)"
    with pytest.raises(ValueError, match=said):
        score("video.semantic", "", None)
    with pytest.raises(ValueError, match="is a int, not a callable"):
        Semantic(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight must be"):
        Semantic("words", weight=0)
    with pytest.raises(ValueError, match="unknown embedder"):
        Semantic("siglip")
    with pytest.raises(TargetError, match=r"meta\['media'\]"):
        check_target("video.semantic", None, {"accuracy": 1}, embedder="words")
    with pytest.raises(TargetError, match=r"meta\['accuracy'\]"):
        check_target("video.semantic", None, {"media": "x"}, embedder="words")
    with pytest.raises(TargetError, match="no reward named 'accuracy'"):
        Semantic("words")(group(["a"], [{"mcq.letter": 1.0}], media="x"))


def test_state() -> None:
    reward = Semantic("words")
    assert reward.state_dict() == {}
    reward.load_state_dict({})
    with pytest.raises(ValueError, match="keeps no state"):
        reward.load_state_dict({"memory": []})
