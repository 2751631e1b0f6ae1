"""compat.visual_rft.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vlrft.rewards import TargetError, score


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.visual_rft.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


TRUTH = [{"bbox": [0, 0, 10, 10], "label": "a"}, {"bbox": [100, 100, 200, 200], "label": "b"}]


def pred(*items: tuple[list[int], Any]) -> str:
    return answer(str([{"Position": box, "Confidence": c} for box, c in items]))


def test_iou() -> None:
    assert value("iou", pred(([0, 0, 10, 10], 0.9), ([100, 100, 200, 180], 0.8)), TRUTH) == pytest.approx(0.9)
    assert value("iou", pred(([0, 0, 10, 10], 0.9)), TRUTH) == 0.5
    assert value("iou", pred(([0, 0, 10, 5], 0.9)), TRUTH[:1]) == 0.0  # strictly above 0.5
    # an unmatched box costs by the larger count, an exact duplicate does not
    assert value("iou", pred(([0, 0, 10, 10], 0.9), ([50, 50, 60, 60], 0.1)), TRUTH[:1]) == 0.5
    assert value("iou", pred(([0, 0, 10, 10], 0.9), ([0, 0, 10, 10], 0.1)), TRUTH[:1]) == 1.0
    # greedy by confidence: the surer box takes the truth
    assert value("iou", pred(([0, 0, 10, 10], 0.1), ([0, 0, 10, 8], 0.9)), TRUTH[:1]) == pytest.approx(0.4)


def test_answers_of_several_lines_and_cut_lists_are_read() -> None:
    assert value("iou", "<answer>\n[{'Position': [0, 0, 10, 10], 'Confidence': 1}]\n</answer>", TRUTH[:1]) == 1.0
    assert value("iou", "<answer>[{'Position': [0, 0, 10, 10], 'Confidence': 1}, {'Posi</answer>", TRUTH[:1]) == 1.0
    assert value("iou", pred(([0, 0, 10, 10], 1)), "<answer>[{'Position': [0, 0, 10, 10]}]</answer>") == 1.0


def test_one_shared_coordinate_is_worth_nothing() -> None:
    for name in ("iou", "confidence"):
        assert value(name, pred(([0, 500, 900, 10], 1.0)), TRUTH[:1]) == 0.0


def test_negative_pictures() -> None:
    for name in ("iou", "confidence"):
        assert value(name, answer("No Objects"), []) == value(name, answer("No Objects"), "No Objects") == 1.0
        assert value(name, answer("gibberish"), []) == value(name, answer("No Objects"), TRUTH) == 0.0


def test_confidence() -> None:
    assert value("confidence", pred(([0, 0, 10, 10], 0.75), ([50, 50, 60, 60], 0.25)), TRUTH) == 0.75
    assert value("confidence", pred(([50, 50, 60, 60], 0.0)), TRUTH) == 1.0  # kept: a wrong box with confidence 0
    assert value("confidence", pred(([0, 0, 10, 10], 7)), TRUTH) == 1.0  # clipped
    assert value("confidence", answer("[{'Position': [0, 0, 10, 10]}]"), TRUTH) == 0.0
    for wild in ("1e999", "NaN", "Infinity", "9" * 400):
        first = f"{{'Position': [0, 0, 10, 10], 'Confidence': {wild}}}"
        text = answer(f"[{first}, {first.replace('10, 10', '20, 20')}]")
        found = value("confidence", text, TRUTH)
        assert found is not None
        assert math.isfinite(found)


@pytest.mark.parametrize(
    ("text", "right"),
    [("Rose", 1), ("a red rose", 1), ("r", 0), ("", 0), ("primrose", 0), ("tulip", 0), ("172", 0)],
)
def test_cls(text: str, right: int) -> None:
    assert value("cls", answer(text), "<answer>rose</answer>") == right


def test_cls_looks_at_the_answer_alone_and_at_one_label() -> None:
    assert value("cls", "<think>172</think><answer>Airbus 172</answer>", "Cessna 172") == 0.0
    assert value("cls", answer("rose or tulip"), "rose", {"labels": ["rose", "tulip"]}) == 0.0
    assert value("cls", answer("red blood_cell"), "Red_Blood Cell") == 1.0


def test_lisa_giou() -> None:
    assert value("lisa_giou", answer("(0,0),(10,10)"), [0, 0, 10, 10]) == 2.0
    assert value("lisa_giou", answer("(0,0),(10,5)"), [0, 0, 10, 10]) == 1.5
    # hull 30 x 10, union 200
    assert value("lisa_giou", answer("(20, 0), (30, 10)"), [0, 0, 10, 10]) == pytest.approx(1 - 1 / 3)
    assert value("lisa_giou", answer("(10,10),(0,0)"), [0, 0, 10, 10]) == 0.0
    assert value("lisa_giou", answer("nowhere"), "(0,0),(10,10)") == 0.0


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("iou", 3),
        ("iou", [{"bbox": [0, 0]}]),
        ("confidence", None),
        ("cls", ""),
        ("cls", None),
        ("lisa_giou", [0, 0, 1]),
        ("lisa_giou", [5, 5, 1, 1]),
    ],
)
def test_bad_targets(name: str, target: Any) -> None:
    with pytest.raises(TargetError):
        value(name, "", target)
