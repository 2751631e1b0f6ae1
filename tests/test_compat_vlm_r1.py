"""compat.vlm_r1.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vlrft.rewards import TargetError, score


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.vlm_r1.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


CAT = [{"bbox": [0, 0, 10, 10], "label": "cat"}]
TWO = [*CAT, {"bbox": [20, 20, 30, 30], "label": "dog"}]
NAMES = ["od_ap", "od_ap50", "od_length", "weighted_sum"]


def boxes(*items: tuple[list[int], str | None]) -> str:
    listed = [{"bbox_2d": box} if label is None else {"bbox_2d": box, "label": label} for box, label in items]
    return answer(f"```json\n{json.dumps(listed)}\n```")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[0, 0, 10, 10]", 0.5),
        ("[0,0,10,10] or [0,0,10,20]", 0.5),  # the first box counts
        ("[ 0, 0, 10, 20]", 0.0),  # no space after the bracket
        ("[0.0, 0, 10, 20]", 0.0),  # whole numbers only
        ("[-1, 0, 10, 20]", 0.0),
        ("[9, 0, 20, 20]", 0.0),  # an overlap of one pixel is none
        ("[8, 0, 18, 20]", 40 / 360),
        ("[10, 20, 0, 0]", 0.0),
        ("[5, 5, 5, 5]", 0.0),
    ],
)
def test_iou(text: str, expected: float) -> None:
    assert value("iou", answer(text), [0.0, 0.0, 10.0, 20.0]) == pytest.approx(expected)


def test_iou_takes_the_first_answer_and_scales_the_input_to_the_original() -> None:
    both = "<answer>[0, 0, 5, 10]</answer><answer>[0, 0, 10, 20]</answer>"
    assert value("iou", both, [0, 0, 10, 20]) == 0.25
    sizes = {"image_size": [200, 100], "input_size": [100, 100]}
    assert value("iou", answer("[0, 0, 5, 20]"), [0, 0, 10, 20], sizes) == 1.0
    assert value("iou", "[0, 0, 10, 20]", [0, 0, 10, 20]) == 0.0


def test_ap_is_cocos_with_equal_confidences() -> None:
    assert value("od_ap", boxes(([0, 0, 10, 8], "cat")), CAT) == pytest.approx(0.7)  # IoU 0.8: 7 of 10 thresholds
    assert value("od_ap50", boxes(([0, 0, 10, 8], "cat")), CAT) == 1.0
    # one of two classes found
    assert value("od_ap50", boxes(([0, 0, 10, 10], "cat")), TWO) == 0.5
    # a miss before the hit halves the precision, ten after it are free
    hit, miss = ([0, 0, 10, 10], "cat"), ([50, 50, 60, 60], "cat")
    assert value("od_ap", boxes(miss, hit), CAT) == pytest.approx(0.5)
    assert value("od_ap", boxes(hit, *[miss] * 10), CAT) == 1.0
    assert value("od_length", boxes(hit, *[miss] * 3), CAT) == 0.25
    assert value("od_ap", boxes(([0, 0, 10, 10], "Cat")), CAT) == 0.0  # letter case counts


@pytest.mark.parametrize("name", NAMES)
def test_negative_pictures(name: str) -> None:
    assert value(name, answer("None"), []) == value(name, answer("```json\n[]\n```"), "None") == 1.0
    for text in ("gibberish", "", "```json\n[{}\n```", '```json\n[{"bbox_2d": [0, 0, 9, 9]}]\n```'):
        assert value(name, answer(text), []) == 0.0
    assert value(name, answer("None"), CAT) == value(name, "None", []) == 0.0
    assert value(name, answer("none"), []) == float(name == "weighted_sum")


def test_weighted_sum() -> None:
    assert value("weighted_sum", boxes(([0, 0, 10, 10], "cat"), ([20, 20, 30, 30], "dog")), TWO) == pytest.approx(1.0)
    # one found of two, IoU 0.8: 0.7 * 0.4 + 0.3 * (1 - 0.5 / 2)
    assert value("weighted_sum", boxes(([0, 0, 10, 8], "cat")), TWO) == pytest.approx(0.28 + 0.225)
    # a wrong label, or none, has no IoU but counts as found
    for label in ("dog", None):
        assert value("weighted_sum", boxes(([0, 0, 10, 10], label)), CAT) == pytest.approx(0.3)
    # IoU 0.5 still matches, less does not
    assert value("weighted_sum", boxes(([0, 0, 10, 5], "cat")), CAT) == pytest.approx(0.35 + 0.3)
    assert value("weighted_sum", boxes(([0, 0, 10, 4], "cat")), CAT) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("B", 1),
        ("b.", 1),
        ("B. a dog", 1),
        ("(B)", 1),
        ("B)", 1),
        ("**B**", 1),
        ("\\boxed{B}", 1),
        ("The answer is B", 1),
        ("A or B", 0),
        ("A, B", 0),
        ("C", 0),
        ("", 0),
        ("A dog", 0),
        ("AB", 0),
        ("A. cat; B. dog. Answer: B", 1),
    ],
)
def test_mcq(text: str, right: int) -> None:
    assert value("mcq", answer(text), "B") == right


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("Yes.", "yes", 1),
        ("no", "No", 1),
        ("cannot", "no", 0),
        ("I know: yes", "yes", 1),
        ("perhaps", "yes", 0),
        ("None", "no", 0),
        ("", "no", 0),
        ("no, yes", "yes", 0),
    ],
)
def test_yes_no(text: str, truth: str, right: int) -> None:
    assert value("yes_no", answer(text), truth) == right


def test_repetition() -> None:
    assert value("repetition", boxes(([0, 0, 9, 9], "a"), ([0, 0, 9, 9], "a")), None) == -0.5
    assert value("repetition", "one two three four five", None) == 0.0
    assert value("repetition", "a b c d e f", None) == 0.0
    assert value("repetition", "A a a a a a a", None) == -0.5  # two runs of six, one of them new


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("iou", [0, 0, 1]),
        ("iou", [5, 5, 5, 9]),
        ("iou", None),
        ("od_ap", [{"bbox": [0, 0]}]),
        ("weighted_sum", None),
        ("od_length", [{"bbox": [0, 0, 9, 9]}]),
        ("mcq", "the cat"),
        ("yes_no", "maybe"),
        ("mcq", ""),
    ],
)
def test_bad_targets(name: str, target: Any) -> None:
    with pytest.raises(TargetError, match=f"compat.vlm_r1.{name}"):
        value(name, "", target)
