"""Coordinate spaces: golden numbers, round trips, and the errors that name the next step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.coords import (
    SPACES,
    CoordError,
    InvalidBoxError,
    clip_box,
    convert,
    to_original,
    validate_box,
)

IMAGE, INPUT = (640, 480), (1288, 952)

spaces = st.sampled_from(SPACES)
sides = st.integers(min_value=1, max_value=8192)
coordinates = st.floats(min_value=-5000, max_value=5000, allow_nan=False)


@pytest.mark.parametrize(
    ("space", "box", "expected"),
    [
        ("abs_original", [1, 2, 3, 4], (1, 2, 3, 4)),
        ("abs_input", [644, 238, 1288, 952], (320, 120, 640, 480)),
        ("norm_1000", [0, 250, 500, 1000], (0, 120, 320, 480)),
        ("norm_999", [0, 333, 999, 999], (0, 160, 640, 480)),
        ("norm_1", [0.25, 0.5, 1, 1], (160, 240, 640, 480)),
    ],
)
def test_to_original_by_hand(space: str, box: list[float], expected: tuple[float, ...]) -> None:
    assert to_original(box, space, image_size=IMAGE, input_size=INPUT) == expected


def test_points_and_polygons_convert_like_boxes() -> None:
    assert convert([500, 500], "norm_1000", "norm_1") == (0.5, 0.5)
    assert convert([0, 0, 10, 0, 10, 20], "norm_1000", "abs_original", image_size=(100, 50)) == (0, 0, 1, 0, 1, 1)


def test_nothing_is_clipped_or_rounded() -> None:
    assert to_original([-100, 1, 1500, 333], "norm_1000", image_size=(100, 10)) == (-10, 0.01, 150, 3.33)


def test_not_finite_stays_not_finite() -> None:
    x1, y1, x2, _ = to_original([math.nan, math.inf, -math.inf, 1], "norm_1000", image_size=IMAGE)
    assert math.isnan(x1)
    assert (y1, x2) == (math.inf, -math.inf)


@settings(deadline=None)
@given(
    src=spaces,
    dst=spaces,
    image=st.tuples(sides, sides),
    seen=st.tuples(sides, sides),
    box=st.tuples(*[coordinates] * 4),
)
def test_round_trip(
    src: str, dst: str, image: tuple[int, int], seen: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    there = convert(box, src, dst, image_size=image, input_size=seen)
    back = convert(there, dst, src, image_size=image, input_size=seen)
    assert back == pytest.approx(box, rel=1e-12, abs=1e-300)


@settings(deadline=None)
@given(src=spaces, via=spaces, dst=spaces, box=st.tuples(*[coordinates] * 4))
def test_a_detour_changes_nothing(src: str, via: str, dst: str, box: tuple[float, float, float, float]) -> None:
    direct = convert(box, src, dst, image_size=IMAGE, input_size=INPUT)
    detour = convert(
        convert(box, src, via, image_size=IMAGE, input_size=INPUT), via, dst, image_size=IMAGE, input_size=INPUT
    )
    assert detour == pytest.approx(direct, rel=1e-12, abs=1e-300)


def test_an_input_as_large_as_the_image_moves_nothing() -> None:
    box = (0.1, 0.2, 0.3, 629.7)
    assert convert(box, "abs_input", "abs_original", image_size=(641, 487), input_size=(641, 487)) == box


def test_unknown_space_lists_the_five() -> None:
    with pytest.raises(CoordError, match=r"norm_100'.*did you mean 'norm_1000'") as caught:
        convert([0, 0], "norm_100", "norm_1")
    assert all(space in str(caught.value) for space in SPACES)
    with pytest.raises(CoordError, match="unknown coordinate space 'pixels'"):
        convert([0, 0], "norm_1", "pixels")


@pytest.mark.parametrize(("space", "name"), [("abs_input", "input_size"), ("abs_original", "image_size")])
def test_missing_size_is_named(space: str, name: str) -> None:
    with pytest.raises(CoordError, match=f"{space}.*needs {name}"):
        convert([0, 0, 1, 1], space, "norm_1")


@pytest.mark.parametrize("size", [(0, 10), (10, -1), (10, math.nan), (10, 10, 3)])
def test_impossible_size(size: tuple[float, ...]) -> None:
    with pytest.raises(CoordError, match=r"image_size must be \(width, height\)"):
        convert([0, 0, 1, 1], "norm_1", "abs_original", image_size=size)


def test_odd_number_of_coordinates() -> None:
    with pytest.raises(CoordError, match="got 3 numbers"):
        convert([1, 2, 3], "norm_1", "norm_1000")


@pytest.mark.parametrize(
    ("box", "flag"),
    [
        ([0, 0, math.nan, 1], "non_finite"),
        ([-math.inf, 0, 1, 1], "non_finite"),
        ([10, 0, 1, 1], "invalid_box"),
        ([0, 10, 1, 1], "invalid_box"),
        ([0, 0, 0, 1], "invalid_box"),
        ([0, 0, 1], "invalid_box"),
    ],
)
def test_invalid_boxes_say_which_flag(box: list[float], flag: str) -> None:
    with pytest.raises(InvalidBoxError) as caught:
        validate_box(box)
    assert caught.value.flag == flag


def test_swap_only_when_asked() -> None:
    assert validate_box([10, 1, 2, 5], allow_swap=True) == (2, 1, 10, 5)
    with pytest.raises(InvalidBoxError, match="no area"):
        validate_box([3, 1, 3, 5], allow_swap=True)


def test_clip() -> None:
    assert clip_box((-5, 10, 700, 500), IMAGE) == (0, 10, 640, 480)
    assert clip_box((700, 10, 800, 20), IMAGE) == (640, 10, 640, 20)
