"""track.mean_iou: golden numbers, alignment of frames, and what must not pay."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score
from vlrft.types import Score

A, HALF_A, B = [0, 0, 10, 10], [0, 0, 10, 5], [50, 20, 60, 30]
TRACK = [A, A, None, B]


def judge(answer: Any, target: Any = TRACK, **meta: Any) -> Score:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return score("track.mean_iou", f"<think>it moves</think><answer>{text}</answer>", target, meta)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([A, A, None, B], 1.0),
        ([A, HALF_A, None, B], 3.5 / 4),
        ([A, HALF_A, None], 2.5 / 4),
        ([A], 1 / 4),
        ([A, A, None, B, A], 4 / 5),
        ([A, A, None, B, *[A] * 12], 4 / 16),
        # absence must be said, and said where it is true
        ([A, A, B, B], 3 / 4),
        ([A, None, None, B], 3 / 4),
        ([None] * 4, 1 / 4),
        # frames are aligned by index, not matched
        ([B, None, A, A], 0.0),
    ],
)
def test_golden_numbers(answer: Any, expected: float) -> None:
    assert judge(answer).value == pytest.approx(expected)
    assert judge(str(answer)).value == pytest.approx(expected)


def test_by_frame_number() -> None:
    frames = [
        {"frame": 3, "bbox": B},
        {"frame": 0, "bbox": A},
        {"frame": 2, "bbox": None},
        {"frame": 1, "bbox": HALF_A},
    ]
    assert judge(frames).value == pytest.approx(3.5 / 4)
    assert judge(frames[:1]).value == pytest.approx(1 / 4)
    assert judge({"frame 0": A, "frame 3": B}).value == pytest.approx(2 / 4)
    counted_from_one = [{"frame": f["frame"] + 1, "bbox": f["bbox"]} for f in frames]
    assert judge(counted_from_one, first_frame=1).value == pytest.approx(3.5 / 4)


def test_by_timestamp() -> None:
    timed = [{"timestamp": 1.52, "bbox": B}, {"timestamp": 0.0, "bbox": A}, {"timestamp": 0.5, "bbox": A}]
    assert judge(timed, timestamps=[0.0, 0.5, 1.0, 1.5]).value == pytest.approx(3 / 4)
    # farther than half a frame from any frame
    assert judge([{"timestamp": 1.8, "bbox": B}], timestamps=[0.0, 0.5, 1.0, 1.5]).value == 0.0
    # without the frames' times the order counts
    assert judge([{"timestamp": 7, "bbox": A}, {"timestamp": 9, "bbox": A}]).value == pytest.approx(2 / 4)


def test_given_frames_are_neither_paid_nor_counted() -> None:
    assert judge([A, HALF_A, None, B], given_frames=1).value == pytest.approx(2.5 / 3)
    assert judge([B, HALF_A, None, B], given_frames=1).value == pytest.approx(2.5 / 3)
    assert judge([A, HALF_A, None, B], given_frames=[0, 3]).value == pytest.approx(1.5 / 2)
    assert judge([A], given_frames=1).value == 0.0


def test_spaces_and_clipping() -> None:
    meta = {"image_size": [100, 50], "coord_space": "norm_1000"}
    assert judge([[0, 0, 100, 200]], [A], **meta).value == pytest.approx(1.0)
    found = judge([[-50, -50, 10, 10]], [A], image_size=[100, 50])
    assert (found.value, found.flags) == (1.0, ("out_of_range",))


# ------------------------------------------------------------------------------------------- hacks


@pytest.mark.parametrize(
    ("answer", "flags"),
    [
        ("", ("no_answer",)),
        ("it is gone", ("unparsable",)),
        ("[]", ("unparsable",)),
        ("[" * 100_000, ("unparsable",)),
        ([[10, 10, 0, 0]], ("invalid_box",)),
        ([[5, 5, 5, 5]], ("invalid_box",)),
        ([[1, 2]] * 2 + [None], ("invalid_box",)),
        ("[[NaN, 0, 10, 10]]", ("non_finite",)),
        ("[[0, 0, 1e999, 10]]", ("non_finite",)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_worth_nothing(answer: Any, flags: tuple[str, ...]) -> None:
    found = judge(answer, [A, A, A])
    assert (found.value, found.flags) == (0.0, flags)


def test_a_second_box_for_a_frame_only_costs() -> None:
    twice = [{"frame": 0, "bbox": B}, {"frame": 0, "bbox": A}]
    assert judge(twice, [A]).value == 0.0
    assert judge(twice[::-1], [A]).value == pytest.approx(1 / 2)
    assert judge('{"frame": 0, "bbox": [0, 0, 10, 10], "bbox": [50, 20, 60, 30]}', [A]).value == pytest.approx(1 / 2)


def test_frames_that_do_not_exist_only_cost() -> None:
    for frame in (-1, 7, 0.5, 1e300):
        assert judge([{"frame": 0, "bbox": A}, {"frame": frame, "bbox": A}], [A]).value == pytest.approx(1 / 2)


def test_a_bad_box_costs_its_frame_only() -> None:
    found = judge([A, [9, 9, 1, 1], None, B])
    assert (found.value, found.flags) == (3 / 4, ("invalid_box",))


boxes = st.tuples(*[st.floats(0, 40)] * 2, *[st.floats(50, 100)] * 2).map(list)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | boxes, min_size=1, max_size=9), st.lists(st.none() | boxes, max_size=9))
def test_bounded_and_best_for_the_truth(truth: list[Any], answer: list[Any]) -> None:
    value = judge(answer, truth).value
    assert value is not None
    assert 0.0 <= value <= 1.0
    assert judge(truth, truth).value == pytest.approx(1.0)
    longer = judge([*truth, *answer], truth).value
    assert longer == pytest.approx(len(truth) / (len(truth) + len(answer)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(), min_size=3, max_size=5), max_size=5))
def test_in_range_for_every_number(answer: list[Any]) -> None:
    for meta in ({}, {"image_size": [100, 50]}):
        value = judge(answer, **meta).value
        assert value is not None
        assert 0.0 <= value <= 1.0


# ----------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("target", "meta", "message"),
    [
        (None, {}, "a track target is a list of boxes.*got None"),
        ([], {}, "a track target is a list of boxes"),
        ({"0": A}, {}, "a track target"),
        (A, {}, "frame 0 of the track target: a box target is"),
        ([A, [5, 5, 5, 9]], {}, "frame 1 of the track target.*no area"),
        ([A, [0, 0, math.nan, 9]], {}, "not finite"),
        ([A, None], {"given_frames": 2}, "given_frames.*fewer than the 2 frames"),
        ([A, None], {"given_frames": [2]}, "given_frames"),
        ([A, None], {"given_frames": -1}, "given_frames"),
        ([A, None], {"given_frames": "first"}, "given_frames"),
        ([A, None], {"timestamps": [0.0]}, "timestamps.*each of the 2 frames"),
        ([A, None], {"timestamps": [1.0, 0.0]}, "ascending"),
        ([A, None], {"timestamps": [0.0, math.nan]}, "ascending"),
        ([A, None], {"first_frame": "one"}, "first_frame"),
        ([A, None], {"target_space": "norm_1000", "coord_space": "abs_original"}, "needs image_size"),
        ([A, None], {"coord_space": "pixel"}, "unknown coordinate space"),
    ],
)
def test_bad_targets_stop_before_any_completion(target: Any, meta: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        check_target("track.mean_iou", target, meta)
    with pytest.raises(TargetError, match=message):
        judge([A], target, **meta)
