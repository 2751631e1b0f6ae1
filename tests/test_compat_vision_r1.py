"""compat.vision_r1.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vlrft.rewards import TargetError, score
from vlrft.rewards.box import generalised_iou
from vlrft.rewards.compat.vision_r1 import _giou


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.vision_r1.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


TRUTH = [["cat", [0, 0, 10, 10]], ["dog", [50, 50, 60, 60]]]


@pytest.mark.parametrize(
    ("height", "step", "expected"),
    [
        (4, 0, 0.0),
        (5, 0, 0.5),
        (6, 0, 0.6),
        (7, 0, 0.7),
        (8, 0, 1.0),
        (10, 0, 1.0),
        (7, 1501, 0.0),
        (8, 1501, 0.8),
        (9, 1501, 0.9),
        (10, 1501, 1.0),
        (7, 1500, 0.7),
    ],
)
def test_precision_steps_the_giou(height: int, step: int, expected: float) -> None:
    # inside the truth, so that gIoU = IoU = height / 10
    assert value("precision", f"[0, 0, 10, {height}]", [TRUTH[0]], {"step": step}) == pytest.approx(expected)


def test_precision_ignores_boxes_without_a_partner() -> None:
    text = json.dumps([{"bbox_2d": [0, 0, 10, 10], "label": "cat"}, {"bbox_2d": [90, 90, 99, 99], "label": "cat"}])
    assert value("precision", text, [TRUTH[0]]) == 1.0
    # one of two pairs is disjoint
    assert value("precision", text, TRUTH) == 0.5


def test_recall() -> None:
    assert value("recall", "[[0, 0, 10, 10], [50, 50, 60, 60]]", TRUTH) == 1.0
    assert value("recall", "[0, 0, 10, 10]", TRUTH) == 0.5
    assert value("recall", "[0, 0, 10, 10]", [*TRUTH, ["dog", [70, 70, 80, 80]]]) == 0.0  # 1/3 < 0.5
    # gIoU 0.7 reaches 0.5, but not 0.75
    assert value("recall", "[0, 0, 10, 7]", [TRUTH[0]]) == 1.0
    assert value("recall", "[0, 0, 10, 7]", [TRUTH[0]], {"step": 2000}) == 0.0
    assert value("recall", "[0, 0, 10, 7]", [TRUTH[0]], {"step": None}) == 1.0


@pytest.mark.parametrize("name", ["precision", "recall"])
def test_nothing_found(name: str) -> None:
    assert value(name, "none", []) == 1.0
    assert value(name, "none", TRUTH) == value(name, "[0, 0, 9, 9]", []) == value(name, "[10, 10, 0, 0]", TRUTH) == 0.0
    assert value(name, "[nan, 0, 9, 1e999]", TRUTH) == 0.0


def test_boxes_are_scaled_and_cut_to_whole_numbers() -> None:
    sizes = {"image_size": [20, 20], "input_size": [10, 10]}
    assert value("precision", "```json\n[[0.4, 0, 5, 5]]\n```", [TRUTH[0]], sizes) == 1.0
    assert value("precision", "[0, 0, 5, 5]", [TRUTH[0]], {"input_size": [10, 10], "width": 20, "height": 20}) == 1.0
    assert value("precision", "[0.9, 0, 10.9, 10]", [TRUTH[0]]) == 1.0


def test_dual_format() -> None:
    good = '```json\n[{"bbox_2d": [0, 0, 9, 9], "label": "a"}]\n```'
    assert (
        value("dual_format", good, TRUTH) == value("dual_format", "none", []) == value("dual_format", "[]", []) == 1.0
    )
    assert value("dual_format", good, []) == value("dual_format", "[[0, 0, 9]]", TRUTH) == 0.0
    assert value("dual_format", "[]", TRUTH) == value("dual_format", "the box [0, 0, 9, 9]", TRUTH) == 0.0


@pytest.mark.parametrize("name", ["precision", "recall", "dual_format"])
def test_targets(name: str) -> None:
    assert value(name, "", json.dumps(TRUTH)) == value(name, "", [{"bbox": [0, 0, 9, 9], "label": "a"}]) == 0.0
    for target in (None, [["cat"]], [["cat", [9, 9, 0, 0]]], "cat"):
        with pytest.raises(TargetError, match=r"compat\.vision_r1"):
            value(name, "", target)


def test_giou_is_that_of_the_box_family() -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 100, (2, 20, 2, 2)), axis=2).reshape(2, 20, 4)
    expected = [[generalised_iou(tuple(a), tuple(b)) for b in corners[1].tolist()] for a in corners[0].tolist()]
    assert np.abs(_giou(*corners) - np.array(expected)).max() < 1e-9
