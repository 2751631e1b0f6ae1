"""compat.ui_r1.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.parse import parse
from vlrft.rewards import TargetError, score
from vlrft.rewards.base import Judged
from vlrft.rewards.compat.ui_r1 import dast


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.ui_r1.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


BOX = {"action": "click", "box": [10, 10, 20, 20]}


def click(x: float, y: float) -> str:
    return answer(f"[{{'action': 'click', 'coordinate': [{x}, {y}]}}]")


def test_action() -> None:
    assert value("action", click(0, 0), BOX) == value("action", answer('{"action": "Click"}'), BOX) == 1.0
    assert value("action", answer("[{'action': 'scroll'}]"), BOX) == value("action", "click", BOX) == 0.0


@pytest.mark.parametrize(
    ("x", "y", "right"), [(10, 20, 1), (20, 10, 1), (20.9, 15, 1), (21, 15, 0), (9.9, 15, 0), (1e308, 15, 0)]
)
def test_coord_is_cut_to_whole_numbers_and_includes_the_edges(x: float, y: float, right: int) -> None:
    assert value("coord", click(x, y), BOX) == right


def test_coord_is_scaled_and_boxes_of_floats_are_read() -> None:
    sizes = {"image_size": [200, 100], "input_size": [100, 100]}
    assert value("coord", click(7.6, 15), BOX, sizes) == 1.0
    assert value("coord", click(15, 15), BOX, sizes) == 0.0
    assert value("coord", click(15, 15), {"action": "click", "bbox": [10.5, 10.5, 20.5, 20.5]}) == 1.0


def test_other_actions_get_the_point_for_free() -> None:
    assert value("coord", answer("{'action': 'scroll'}"), {"action": "scroll"}) == 1.0
    assert value("coord", click(1, 1), {"action": "scroll"}) == value("coord", "", {"action": "scroll"}) == 0.0


@pytest.mark.parametrize(
    ("tokens", "right", "expected"),
    # p = 1/2, Lr = 50, Lmax = 150: Lb = 100
    [
        (50, True, 0.75),
        (100, True, 0.5),
        (150, True, 0.25),
        (500, True, 0.1),
        (0, False, -1.0),
        (100, False, -0.1),
        (50, False, -0.55),
        (200, False, -0.1),
    ],
)
def test_dast(tokens: int, right: bool, expected: float) -> None:
    meta = {
        "group_lengths": [50, 100],
        "group_correct": [1, 0],
        "max_tokens": 150,
        "num_tokens": tokens,
        "correct": right,
    }
    assert value("dast", "", None, meta) == pytest.approx(expected)


def test_dast_of_a_run() -> None:
    judged = Judged(
        parsed=(parse("a"), parse("b")),
        parts=({}, {}),
        target=None,
        meta=(
            {"num_tokens": 50, "correct": 1.0, "max_tokens": 150},
            {"num_tokens": 100, "correct": 0.0, "max_tokens": 150},
        ),
    )
    assert [score.value for score in dast(judged)] == [pytest.approx(0.75), pytest.approx(-0.1)]


@pytest.mark.parametrize(
    ("name", "target", "meta"),
    [
        ("action", None, {}),
        ("coord", {"action": "click"}, {}),
        ("coord", {"action": "click", "point": [1, 2]}, {}),
        ("dast", None, {}),
        ("dast", None, {"num_tokens": 5}),
        ("dast", None, {"num_tokens": 0, "max_tokens": 0}),
        ("dast", None, {"num_tokens": 5, "max_tokens": 9, "group_lengths": [1, 2], "group_correct": [1]}),
    ],
)
def test_bad_targets(name: str, target: Any, meta: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=f"compat.ui_r1.{name}"):
        value(name, "", target, meta)
