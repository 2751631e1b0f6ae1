"""Boxes and sizes as several peers' rewards share them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlrft.parse import Parsed
from vlrft.rewards.base import Reward, TargetError
from vlrft.rewards.compat import ui_r1, vision_r1, vlm_r1
from vlrft.rewards.compat.places import overlap, overlaps, read_box, read_upright, scale


def test_scale_is_stored_over_input_by_axis() -> None:
    sizes = {"image_size": (200, 50), "input_size": [100, 100]}
    assert scale(sizes) == (2.0, 0.5)
    assert scale({"input_size": [100, 100]}, [200, 50]) == (2.0, 0.5)
    assert scale(sizes, [1, 1]) == (2.0, 0.5), "image_size goes before the columns"
    assert scale({"image_size": [200, 50]}) == scale({"input_size": [1, 1]}) == scale({}) == (1.0, 1.0)


@pytest.mark.parametrize("size", [0, "x", [], [100], [100, 0], [100, -1], [100, float("nan")], [True, 1], [1, 2, 3]])
@pytest.mark.parametrize("key", ["image_size", "input_size"])
@pytest.mark.parametrize(
    ("reward", "target"),
    [
        (vlm_r1.iou, [0, 0, 9, 9]),
        (vision_r1.precision, [["cat", [0, 0, 9, 9]]]),
        (ui_r1.coord, {"action": "click", "box": [0, 0, 9, 9]}),
    ],
)
def test_a_bad_size_is_a_bad_target_whatever_was_answered(reward: Reward, target: Any, key: str, size: Any) -> None:
    sizes = {"image_size": [100, 100], "input_size": [100, 100], key: size}
    with pytest.raises(TargetError, match=r"must be \[width, height\]"):
        reward(Parsed(text=""), target, sizes)


def test_four_finite_numbers_are_a_box() -> None:
    assert read_box([3, 2, 1.5, 0]) == (3.0, 2.0, 1.5, 0.0)
    assert read_box((1, 2, 3, 4)) == read_upright([1, 2, 3, 4]) == (1.0, 2.0, 3.0, 4.0)
    for bad in (None, "1234", [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, True], [1, 2, 3, float("inf")], [1, 2, 3, 1e15]):
        assert read_box(bad) is None
    assert read_upright([3, 2, 1, 4]) is None
    assert read_upright([1, 2, 3, 2]) is None


def test_an_inverted_box_overlaps_with_nothing() -> None:
    upright, half, inverted = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 5.0), (10.0, 10.0, 0.0, 0.0)
    assert overlap(upright, half) == 0.5
    assert overlap(inverted, inverted) == overlap(upright, inverted) == 0.0
    assert np.array_equal(overlaps([half, inverted], [upright, inverted]), [[0.5, 0.0], [0.0, 0.0]])
    assert overlaps([], [upright]).shape == (0, 1)
