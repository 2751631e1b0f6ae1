"""Points in an answer: every syntax, and text that is none."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.points import read_points


@pytest.mark.parametrize(
    "answer",
    [
        "[12, 30.5]",
        "(12,30.5)",
        "12, 30.5",
        "12 30.5",
        "The button is at (12, 30.5).",
        "```json\n[12, 30.5]\n```",
        '{"point": [12, 30.5]}',
        "{'point_2d': [12, 30.5], 'label': 'OK'}",
        '[{"coordinate": [12, 30.5]}]',
        '{"Position": [12, 30.5]}',
        '{"x": 12, "y": 30.5}',
        '{"point": {"x": 12, "y": 30.5}}',
        "x=12, y=30.5",
        "X: 12; Y: 30.5",
        "<point>12 30.5</point>",
        "<point>(12, 30.5)</point>",
        '<point x="12" y="30.5" alt="OK">OK</point>',
        "<|box_start|>(12,30.5)<|box_end|>",
        "click(12, 30.5)",
        "click(start_box='(12,30.5)')",
        "[[12, 30.5]]",
    ],
)
def test_one_point_in_every_syntax(answer: str) -> None:
    assert read_points(answer) == [(12.0, 30.5)]


@pytest.mark.parametrize(
    "answer",
    [
        "[1, 2, 3, 4]",
        "1, 2, 3, 4",
        '{"bbox_2d": [1, 2, 3, 4]}',
        '{"bbox": [[1, 2], [3, 4]]}',
        '{"coordinate": [1, 2, 3, 4]}',
        "<|box_start|>(1,2),(3,4)<|box_end|>",
    ],
)
def test_four_numbers_are_a_box(answer: str) -> None:
    assert read_points(answer) == [(1.0, 2.0, 3.0, 4.0)]


@pytest.mark.parametrize(
    "answer",
    [
        "[1, 2], [3, 4]",
        "(1,2),(3,4)",
        "[[1, 2], [3, 4]]",
        "first [1, 2], then [3, 4]",
        '{"points": [[1, 2], [3, 4]]}',
        '{"point": [1, 2], "coordinate": [3, 4]}',
        '{"point": [1, 2], "point": [3, 4]}',
        '{"x": 1, "y": 2, "x": 3, "y": 4}',
        "x=1, y=2 or x=3, y=4",
        "<point>1 2</point><point>3 4</point>",
    ],
)
def test_every_point_is_found(answer: str) -> None:
    assert read_points(answer) == [(1.0, 2.0), (3.0, 4.0)]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "nothing",
        "[]",
        "[1]",
        "[1, 2, 3]",
        "1 of 2 buttons",
        "[1, 2",
        '{"label": [1, 2]}',
        "max=1, y=2",
        "x=1",
        "[a, b]",
    ],
)
def test_no_point(answer: str) -> None:
    assert read_points(answer) == []


def test_not_finite_coordinates_are_kept() -> None:
    ((x, y),) = read_points("[NaN, 1e999]")
    assert math.isnan(x)
    assert y == math.inf


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["1", "2.5", ",", "[", "]", "(", ")", "{", "}", '"x"', ":", "<point>", "x=", "<|box_start|>"])
        | st.text(max_size=3),
        max_size=30,
    ).map("".join)
)
def test_never_raises(answer: str) -> None:
    for point in read_points(answer):
        assert len(point) in (2, 4)
        assert all(isinstance(c, float) for c in point)


@pytest.mark.parametrize("piece", ["[", "x=", "<point>", "[1,2]", "x=1 ", "1", "<|box_start|>"])
def test_a_hostile_text_costs_little(piece: str) -> None:
    begun = time.process_time()
    read_points(piece * (200_000 // len(piece)))
    assert time.process_time() - begun < 2.0
