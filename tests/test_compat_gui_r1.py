"""compat.gui_r1.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.rewards import TargetError, score


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.gui_r1.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


BOX = {"action": "click", "box": [10, 10, 20, 20]}


def act(action: str, point: Any = (15, 15), text: str = "no input text") -> str:
    return answer(str([{"action": action, "point": list(point), "input_text": text}]))


@pytest.mark.parametrize(
    ("point", "right"), [([15, 15], 1), ([10, 15], 0), ([20, 20], 0), ([19, 11], 1), ([15], 0), ([float("inf"), 1], 0)]
)
def test_click_in_a_box_excludes_the_border(point: list[float], right: int) -> None:
    assert value("accuracy", act("click", point), BOX) == right


def test_click_near_a_point() -> None:
    target = {"gt_action": "click", "gt_bbox": [100, 100], "gt_input_text": "no input text"}
    assert value("accuracy", act("CLICK", [200, 190]), target) == 1.0  # 134.5 pixels
    assert value("accuracy", act("click", [200, 200]), target) == 0.0  # 141.4
    assert value("accuracy", act("click", [200, 200]), target, {"radius": 150}) == 1.0


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("new york city", "new york", 1),
        ("york", "new york city", 1),
        ("x y z", "new york city", 0),
        ("cats", "cat", 1),
        ("", "cat", 0),
        ("a b c new", "new york", 0),
    ],
)
def test_typed_text(text: str, truth: str, right: int) -> None:
    # "york" for "new york city": F1 = 2 / 4
    assert value("accuracy", act("type", [-100, -100], text), {"action": "type", "text": truth}) == right


def test_other_actions_need_the_name_alone() -> None:
    assert value("accuracy", act("close/delete"), {"action": "close/delete"}) == 1.0
    assert value("accuracy", act("open_app", text="mail"), {"action": "open_app"}) == 1.0
    assert value("accuracy", act("open_app", text="mail"), {"action": "open_app", "text": "maps"}) == 0.0
    assert value("accuracy", act("open_app", text="Maps"), {"action": "open_app", "text": "maps"}) == 1.0
    assert value("accuracy", act("wait"), BOX) == value("accuracy", "click", BOX) == value("accuracy", "", BOX) == 0.0


def test_both_quotes_are_read_and_nothing_is_run() -> None:
    assert value("accuracy", act("click").replace("'", '"'), BOX) == 1.0
    assert value("accuracy", answer("__import__('os').getcwd()"), BOX) == 0.0
    assert value("format", answer("[dict(action='wait', point=[1, 1], input_text='x')]"), None) == 0.0


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (act("click"), 1),
        (act("click") + "\n", 0),
        (act("click", (1.5, 2)), 0),
        (act("type"), 0),
        (act("type", text="mail"), 1),
        (act("scroll", text="up"), 1),
        (act("scroll", text="sideways"), 0),
        (answer("[]"), 0),
        (answer("[{'action': 'click', 'point': [1, 2]}]"), 0),
        (answer("{'action': 'click', 'point': [1, 2], 'input_text': 'x'}"), 0),
    ],
)
def test_format(completion: str, right: int) -> None:
    assert value("format", completion, None) == right
    assert value("overall", completion, {"action": "no such"}) == pytest.approx(0.2 * right)


def test_overall() -> None:
    assert value("overall", act("click"), BOX) == 1.0
    assert value("overall", act("click") + " ", BOX) == 0.8


@pytest.mark.parametrize("target", [None, {}, {"action": ""}, {"action": "click", "box": [1, 2, 3]}, "click"])
def test_bad_targets(target: Any) -> None:
    for name in ("accuracy", "overall"):
        with pytest.raises(TargetError, match=r"compat\.gui_r1"):
            value(name, "", target)


@pytest.mark.parametrize(
    ("written", "true", "right"), [("h", "hello", 0.0), ("setting", "settings", 1.0), ("a", "a", 1.0)]
)
def test_one_letter_is_no_word(written: str, true: str, right: float) -> None:
    assert value("accuracy", act("type", text=written), {"action": "type", "text": true}) == right


def test_a_direction_counts_beside_an_empty_text() -> None:
    assert value("accuracy", act("scroll", text="up"), {"action": "scroll", "text": "", "direction": "up"}) == 1.0


@pytest.mark.parametrize("target", [{"action": "click"}, {"action": "click", "box": [9, 9, 0, 0]}])
def test_a_click_needs_a_place(target: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match="a click needs a point"):
        value("accuracy", act("click"), target)
