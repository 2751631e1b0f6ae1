"""What is read off paint commands in the trusted process, and how elements of two charts are compared."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards.chart.colour import ciede2000, similarity
from vlrft.rewards.chart.elements import agreement, multiset_f1
from vlrft.rewards.chart.likeness import structural
from vlrft.rewards.chart.points import series_likeness
from vlrft.rewards.chart.reading import NotADrawingError, read


def test_colour_difference_is_the_standards() -> None:
    # Pairs 1, 5, 17 and 34 of the test data of Sharma, Wu and Dalal.
    first = np.array([[50, 2.6772, -79.7751], [50, -1.1848, -84.8006], [50, 2.5, 0], [2.0776, 0.0795, -1.1350]])
    second = np.array([[50, 0, -82.7485], [50, 0, -82.7485], [73, 25, -18], [0.9033, -0.0636, -0.5514]])
    assert ciede2000(first, second) == pytest.approx([2.0425, 1.0000, 27.1492, 0.9082], abs=1e-4)
    assert ciede2000(second, first) == pytest.approx(ciede2000(first, second), abs=1e-9)
    assert similarity(["#ffffff"], ["#000000", "#ffffff"]) == pytest.approx(np.array([[0.0, 1.0]]), abs=1e-9)


def test_multiset_f1_by_hand() -> None:
    assert multiset_f1(["a", "a", "b"], ["a", "c"]) == pytest.approx(2 / 5)
    assert multiset_f1([], ["a"]) == 0.0


def test_colours_are_matched_within_their_type() -> None:
    truth = {"colour": [["bar", "#ff0000"], ["line", "#0000ff"]]}
    assert agreement({"colour": [["line", "#0000ff"], ["bar", "#ff0000"]]}, truth, 0.05)["colour"] == pytest.approx(1.0)
    assert agreement({"colour": [["line", "#ff0000"], ["bar", "#0000ff"]]}, truth, 0.05)["colour"] < 0.6
    assert agreement({"colour": [["pie", "#ff0000"]]}, truth, 0.05)["colour"] == 0.0


def test_series_agree_within_the_tolerance() -> None:
    truth = np.array([[2020.0, 100.0], [2021.0, 200.0], [2022.0, 0.0]])
    assert series_likeness(truth, truth, 0.05, positions=1) == 1.0
    assert series_likeness(truth * [1, 1.04], truth, 0.05, positions=1) == 1.0
    assert series_likeness(truth * [1, 1.06], truth, 0.05, positions=1) == pytest.approx(1 / 3)
    # A year late is not "within 5 % of 2020".
    assert series_likeness(truth + np.array([1, 0]), truth, 0.05, positions=1) == 0.0
    assert series_likeness(truth[::-1], truth, 0.05, positions=1) == 1.0
    assert series_likeness(truth[:2], truth, 0.05, positions=1) == pytest.approx(2 / 3)
    assert series_likeness(np.repeat(truth, 5, axis=0), truth, 0.05, positions=1) == pytest.approx(1 / 5)


def test_structural_similarity() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    blank = np.full((60, 80, 3), 255, np.uint8)
    assert structural(noise, noise) == pytest.approx(1.0)
    assert structural(blank, blank) == 1.0
    assert structural(noise, blank) < 0.2
    assert structural(noise, noise[:, ::-1]) < 0.6


def test_structural_similarity_sees_colour() -> None:
    def drawn(colour: tuple[int, int, int]) -> np.ndarray:
        made = np.full((256, 256, 3), 255, np.uint8)
        made[[0, -1]] = made[:, [0, -1]] = 0  # so that nothing is trimmed
        made[100:104, 20:200] = colour
        return made

    red, blue, green = drawn((255, 0, 0)), drawn((0, 0, 255)), drawn((0, 128, 0))
    assert structural(red, red) == pytest.approx(1.0)
    # Of the windows over the line, those of green agree and those of red and of blue do not; the rim agrees in all.
    assert structural(red, blue) == pytest.approx(structural(blue, red))
    assert structural(red, blue) < 0.85
    assert structural(red, green) < 0.85
    assert structural(red, drawn((250, 5, 5))) > 0.95


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_hostile_result_is_elements_or_no_drawing(data: st.DataObject) -> None:
    """A real page with one place replaced by anything: never another exception, never a value outside [0, 1]."""
    page = json.loads(PAGE)
    holder: Any = page
    for _ in range(data.draw(st.integers(0, 5))):
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(holder[key], dict | list) or data.draw(st.booleans()):
            holder[key] = data.draw(JSON)
            break
        holder = holder[key]
    try:
        found = read([page])
    except NotADrawingError:
        return
    for value in agreement(found, TRUTH, 0.05).values():
        assert value is None or (math.isfinite(value) and 0.0 <= value <= 1.0)


PAGE = json.dumps(
    {
        "size": [100, 100],
        "dpi": 100.0,
        "axes": [
            {"frame": [10, 10, 90, 90], "slot": [10, 10, 90, 90], "x": ["linear", 0.0, 1.0], "y": ["log", 1.0, 10.0]}
        ],
        "owners": [["figure", -1, -1], ["line", 0, 1], ["bar", 0, 2], ["wedge", 0, 3], ["scatter", 0, 4]],
        "clips": [],
        "ops": [
            {"op": "path", "owner": 1, "edge": [0, 0, 0, 1], "width": 1.0, "path": [[[10, 10], [50, 50]], [1, 2]]},
            {
                "op": "path", "owner": 2, "fill": [1, 0, 0, 1], "width": 1.0,
                "path": [[[10, 10], [20, 10], [20, 30], [10, 30], [0, 0]], [1, 2, 2, 2, 79]],
            },
            {"op": "path", "owner": 3, "fill": [0, 1, 0, 1], "width": 1.0,
             "path": [[[10, 10], [20, 10], [20, 30], [10, 30], [0, 0]], [1, 4, 4, 4, 79]]},
            {
                "op": "many", "owner": 4, "paths": [[[[0, 0], [1, 1]], None]], "matrices": [[1, 0, 0, 1, 0, 0]],
                "at": [[20, 20], [40, 40]], "fills": [[0, 0, 1, 1]], "edges": [], "widths": [1.0], "dashes": [None],
            },
            {"op": "text", "owner": 0, "at": [[20, 20]], "text": "Sales", "edge": [0, 0, 0, 1], "font": {"size": 10.0}},
        ],
    }
)  # fmt: skip
TRUTH = read([json.loads(PAGE)])


def test_the_page_by_hand() -> None:
    assert TRUTH["text"] == ["Sales"]
    assert TRUTH["type"] == ["line", "bar", "pie", "scatter"]
    assert TRUTH["layout"] == [[1, 1, 0, 0, 0, 0]]
    # 40 of 80 pixels: half of the linear side, the square root of the logarithmic one.
    assert np.allclose(TRUTH["data"][0]["points"], [[0.0, 1.0], [0.5, math.sqrt(10.0)]])
    assert np.allclose(TRUTH["data"][2]["points"], [[1.0]])


def test_marks_without_a_shape_are_no_marks() -> None:
    page = json.loads(PAGE)
    page["ops"][3]["paths"] = []
    page["ops"][0]["path"] = [[[10, 10], [10, 10]], [1, 2]]
    assert read([page])["type"] == ["bar", "pie"]


def test_a_picture_bomb_is_no_drawing() -> None:
    page = json.loads(PAGE)
    page["ops"] = [{"op": "image", "owner": 0, "at": [[0, 0]], "shape": [16_000, 16_000], "pixels": ""}] * 40
    with pytest.raises(NotADrawingError):
        read([page])
    with pytest.raises(NotADrawingError):
        read([json.loads(PAGE)] * 17)
