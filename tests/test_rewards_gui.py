"""gui.*: golden numbers worked out by hand, and the clicks that must not pay."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.coords import SPACES, convert
from vlrft.rewards import TargetError, check_target, score
from vlrft.rewards.gui_action import ACTIONS, token_f1
from vlrft.types import Score

BOX = [40, 10, 60, 20]
SCREEN = {"image_size": [100, 50]}
CLICK = {"action": "click", "box": BOX}
POINTS = [("gui.point_in_box", BOX), ("gui.point_soft", BOX), ("gui.point_dist", [50, 15])]
ACTS = ["gui.action", "gui.step"]


def say(answer: Any) -> str:
    return f"<think>the OK button</think><answer>{answer if isinstance(answer, str) else json.dumps(answer)}</answer>"


def judge(answer: Any, target: Any = BOX, name: str = "gui.point_in_box", **meta: Any) -> Score:
    return score(name, say(answer), target, {**SCREEN, **meta})


def act(target: dict[str, Any], name: str = "gui.action", meta: dict[str, Any] = SCREEN, **given: Any) -> float | None:
    return score(name, say(given), target, meta).value


@pytest.mark.parametrize(
    ("point", "hit", "soft", "near"),
    [
        # half diagonal of the box: sqrt(10^2 + 5^2) = sqrt(125); centre (50, 15); near: 14 and 7 pixels
        ([50, 15], 1.0, 1.0, 1.0),
        ([40, 10], 1.0, 1.0, 1.0),
        ([60, 20], 1.0, 1.0, 1.0),
        ([60.5, 20], 0.0, math.exp(-(10.5**2 + 5**2) / 125 / 2), 1.0),
        ([64, 22], 0.0, math.exp(-(14**2 + 7**2) / 125 / 2), 1.0),
        ([64.1, 22], 0.0, math.exp(-(14.1**2 + 7**2) / 125 / 2), 0.0),
        ([64, 22.1], 0.0, math.exp(-(14**2 + 7.1**2) / 125 / 2), 0.0),
        ([0, 0], 0.0, math.exp(-(50**2 + 15**2) / 125 / 2), 0.0),
        # a box: its centre
        ([30, 5, 70, 25], 1.0, 1.0, 1.0),
        ([0, 0, 80, 30], 1.0, 1.0, 1.0),
        ([0, 0, 78, 30], 0.0, math.exp(-(11.0**2) / 125 / 2), 1.0),
    ],
)
def test_golden_numbers(point: list[float], hit: float, soft: float, near: float) -> None:
    assert judge(point).value == hit
    assert judge(point, name="gui.point_soft").value == pytest.approx(soft)
    assert judge(point, [50, 15], "gui.point_dist").value == near


def test_options() -> None:
    far = say([70, 15])
    assert score("gui.point_soft", far, BOX, SCREEN, s=2.0).value == pytest.approx(math.exp(-400 / 125 / 8))
    assert score("gui.point_dist", far, [50, 15], SCREEN, threshold=0.2).value == 1.0
    for name, target, option in (("gui.point_soft", BOX, {"s": 0}), ("gui.point_dist", [1, 1], {"threshold": 2})):
        with pytest.raises(ValueError, match="must"):
            score(name, far, target, SCREEN, **option)


def test_a_score_names_its_part() -> None:
    assert judge([50, 15]) == Score(value=1.0, parts={"gui.point_in_box": 1.0})


@pytest.mark.parametrize("space", SPACES)
def test_one_point_in_every_space(space: str) -> None:
    sizes = {"image_size": [100, 50], "input_size": [280, 140]}
    for name, target in POINTS:
        for pixel in ([40.0, 10.0], [60.0, 20.0], [64.0, 22.0]):
            answer = list(convert(pixel, "abs_original", space, **sizes))
            expected = score(name, say(pixel), target, sizes).value
            assert judge(answer, target, name, coord_space=space, **sizes).value == pytest.approx(expected)


def test_normalised_points_need_no_size() -> None:
    meta = {"target_space": "norm_1000"}
    assert score("gui.point_dist", say([640, 400]), [500, 500], meta).value == 1.0
    assert score("gui.point_dist", say([641, 500]), [500, 500], meta).value == 0.0


@pytest.mark.parametrize(("name", "target"), POINTS)
@pytest.mark.parametrize(
    ("completion", "flags"),
    [
        ("", ("no_answer",)),
        ("[50, 15]", ("no_answer",)),
        (say(" "), ("no_answer",)),
        (say("the OK button"), ("unparsable",)),
        (say("[50]"), ("unparsable",)),
        (say("[50, 15, 0]"), ("unparsable",)),
        ("<think>[50, 15]</think><answer>there</answer>", ("unparsable",)),
        ("<think><answer>[50, 15]</answer></think>", ("no_answer",)),
        (say("[NaN, 15]"), ("non_finite",)),
        (say("[50, 1e999]"), ("non_finite",)),
        (say("[60, 20, 40, 10]"), ("invalid_box",)),
        (say("[50, 15, 50, 15]"), ("invalid_box",)),
        (say("[" * 100_000), ("unparsable",)),
        (say("a" * 1_000_000), ("unparsable",)),
        ("\uff1canswer\uff1e[50, 15]\uff1c/answer\uff1e", ("no_answer",)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_worth_nothing(name: str, target: Any, completion: str, flags: tuple[str, ...]) -> None:
    found = score(name, completion, target, SCREEN)
    assert (found.value, found.flags) == (0.0, flags)


@pytest.mark.parametrize(("name", "target"), POINTS)
@pytest.mark.parametrize("n", [1, 2, 10])
def test_a_grid_of_clicks_never_pays(name: str, target: Any, n: int) -> None:
    right, wrong = [50, 15], [0, 49]
    first_right = judge([right, *[wrong] * (n - 1)], target, name)
    assert first_right.value == pytest.approx(1 / n)
    assert first_right.flags == (("several_answers",) if n > 1 else ())
    first_wrong = judge([wrong, *[right] * (n - 1)], target, name)
    assert first_wrong.value is not None
    assert first_wrong.value < 0.01


def test_one_shared_coordinate_earns_nothing() -> None:
    for point in ([50, 40], [90, 15]):
        assert judge(point).value == 0.0
        assert judge(point, [50, 15], "gui.point_dist").value == 0.0


def test_off_the_screen() -> None:
    found = judge([500, 15])
    assert (found.value, found.flags) == (0.0, ("out_of_range",))
    assert judge([1e300, -1e300], name="gui.point_soft").value == 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(), min_size=2, max_size=2) | st.lists(st.floats(), min_size=4, max_size=4))
def test_in_range_for_every_number(answer: list[float]) -> None:
    for meta in (SCREEN, {**SCREEN, "coord_space": "norm_1000"}):
        for name, target in POINTS:
            value = judge(answer, target, name, **meta).value
            assert value is not None
            assert 0.0 <= value <= 1.0


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 100), st.floats(0, 50), st.floats(1.01, 3))
def test_soft_falls_with_distance(x: float, y: float, factor: float) -> None:
    near = judge([x, y], name="gui.point_soft").value
    far = judge([50 + (x - 50) * factor, 15 + (y - 15) * factor], name="gui.point_soft").value
    assert near is not None
    assert far is not None
    assert far <= near + 1e-12


# ----------------------------------------------------------------------------------------- actions


@pytest.mark.parametrize(
    ("target", "given", "value"),
    [
        (CLICK, {"action": "click", "point": [50, 15]}, 1.0),
        (CLICK, {"action": "Tap", "coordinate": [40, 10]}, 1.0),
        (CLICK, {"action": "left_click", "bbox": [30, 5, 70, 25]}, 1.0),
        (CLICK, {"action": "click", "point": [50, 45]}, 0.0),
        (CLICK, {"action": "click"}, 0.0),
        ({"action": "click", "point": [50, 15]}, {"action": "click", "point": [63, 21]}, 1.0),
        ({"action": "click", "point": [50, 15]}, {"action": "click", "point": [65, 15]}, 0.0),
        ({"action": "long_press", "box": BOX}, {"action": "LongPress", "point": [50, 15]}, 1.0),
        ({"action": "type", "text": "new york"}, {"action": "input_text", "input_text": "New  York!"}, 1.0),
        ({"action": "type", "text": "new york"}, {"action": "type", "text": "york"}, 2 / 3),
        ({"action": "type", "text": "new york"}, {"action": "type", "text": ""}, 0.0),
        ({"action": "open_app", "text": "Mail"}, {"action": "open", "app_name": "mail"}, 1.0),
        ({"action": "select", "text": "Red"}, {"action": "select", "value": "blue"}, 0.0),
        ({"action": "scroll", "direction": "down"}, {"action": "scroll", "direction": "DOWN"}, 1.0),
        ({"action": "scroll", "direction": "down"}, {"action": "scroll", "input_text": "down"}, 1.0),
        ({"action": "scroll", "direction": "down"}, {"action": "scroll", "direction": "up or down"}, 0.0),
        ({"action": "key", "key": "Ctrl+C"}, {"action": "hotkey", "key": "ctrl c"}, 1.0),
        ({"action": "key", "key": "a"}, {"action": "press", "key": "b"}, 0.0),
        ({"action": "key", "key": "/"}, {"action": "press", "key": "/"}, 1.0),
        ({"action": "press_back"}, {"action": "system_button", "button": "Back"}, 1.0),
        ({"action": "key", "key": "enter"}, {"action": "press_enter"}, 1.0),
        ({"action": "wait"}, {"action": "wait", "point": [-100, -100], "input_text": "no input text"}, 1.0),
        ({"action": "close/delete"}, {"action": "close"}, 1.0),
        ({"action": "complete"}, {"action": "finished"}, 1.0),
    ],
)
def test_actions(target: dict[str, Any], given: dict[str, Any], value: float) -> None:
    assert act(target, **given) == pytest.approx(value)
    assert act(target, "gui.step", **given) == pytest.approx(0.4 + 0.6 * value)
    assert score("gui.action", say(str([given])), target, SCREEN).value == pytest.approx(value)


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize(
    ("completion", "flags"),
    [
        ("", ("no_answer",)),
        ("{'action': 'click', 'point': [50, 15]}", ("no_answer",)),
        (say("click at 50, 15"), ("unparsable",)),
        (say({"point": [50, 15]}), ("unparsable",)),
        (say({"action": "type", "point": [50, 15]}), ()),
        (say({"action": "klick", "point": [50, 15]}), ("unknown_label",)),
        (say({"action": "c", "point": [50, 15]}), ("unknown_label",)),
        (say({"action": "", "point": [50, 15]}), ("unknown_label",)),
        (say({"action": "click or type", "point": [50, 15]}), ("unknown_label",)),
        (say({"action": "a" * 1_000_000, "point": [50, 15]}), ("unknown_label",)),
        (say("{" * 100_000), ("unparsable",)),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_another_action_is_worth_nothing(name: str, completion: str, flags: tuple[str, ...]) -> None:
    found = score(name, completion, CLICK, SCREEN)
    assert (found.value, found.flags) == (0.0, flags)


@pytest.mark.parametrize(
    ("point", "flag"), [("[NaN, 15]", "non_finite"), ("[60, 20, 40, 10]", "invalid_box"), ("[500, 15]", "out_of_range")]
)
def test_a_bad_point_earns_the_type_only(point: str, flag: str) -> None:
    found = score("gui.step", say(f'{{"action": "click", "point": {point}}}'), CLICK, SCREEN)
    assert (found.value, found.flags) == (pytest.approx(0.4), (flag,))


@pytest.mark.parametrize("n", [1, 2, 20])
def test_listing_actions_never_pays(n: int) -> None:
    right, wrong = {"action": "click", "point": [50, 15]}, {"action": "wait"}
    for name in ACTS:
        listed = score(name, say([right, *[wrong] * (n - 1)]), CLICK, SCREEN)
        assert listed.value == pytest.approx(1 / n)
        assert listed.flags == (("several_answers",) if n > 1 else ())
        assert score(name, say([wrong, right]), CLICK, SCREEN).value == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        '{"action": "click", "action": "type", "point": [50, 15]}',
        '{"action": "click", "point": [[50, 15], [0, 0]]}',
        '{"action": "click", "point": [50, 15], "point": [0, 0]}',
        '{"action": "click", "point": [50, 15], "coordinate": [0, 0]}',
        '{"action": "click", "point": "(50, 15) (0, 0)"}',
        '{"action": "click", "action_type": "type", "point": [50, 15]}',
    ],
)
def test_no_syntax_hides_a_second_choice(answer: str) -> None:
    assert score("gui.step", say(answer), CLICK, SCREEN).value == pytest.approx(0.5)


@pytest.mark.parametrize("answer", ["click(start_box='(50,15)')", "Action: left_single(point='<point>50 15</point>')"])
def test_calls_in_the_manner_of_ui_tars(answer: str) -> None:
    assert score("gui.action", say(answer), CLICK, SCREEN).value == 1.0
    assert score("gui.action", say(f"{answer} {answer}"), CLICK, SCREEN).value == 0.5


def test_words_as_a_multiset() -> None:
    assert token_f1("the red car", "red car") == pytest.approx(4 / 5)
    assert token_f1("red red red red", "red car") == pytest.approx(2 / 6)
    assert token_f1("r", "red") == 0.0
    assert token_f1("red " * 10_000, "red") < 0.001
    assert (token_f1("!?", "!?"), token_f1("", "!?")) == (1.0, 0.0)


def test_names_are_unambiguous() -> None:
    names = [name for action, (_, synonyms) in ACTIONS.items() for name in (action, *synonyms)]
    assert len(names) == len(set(names))
    for name in names:
        target = {"action": name, "box": BOX, "text": "up", "direction": "up", "key": "a"}
        assert act(target, action=name, point=[50, 15], text="up", direction="up", key="a") == 1.0


def test_type_weight() -> None:
    text = say({"action": "click", "point": [0, 0]})
    assert score("gui.step", text, CLICK, SCREEN, type_weight=0.25).value == 0.25
    with pytest.raises(ValueError, match="type_weight must lie"):
        score("gui.step", text, CLICK, SCREEN, type_weight=2)


pieces = st.sampled_from(
    [
        '{"action": "click"',
        ', "point": ',
        "[50, 15]",
        "}",
        "[",
        "]",
        ", ",
        "{'action': 'type', 'text': 'x'}",
        "nan",
        "'",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces | st.text(max_size=4), max_size=20).map("".join))
def test_in_range_for_every_text(answer: str) -> None:
    for name in ACTS:
        for target in (CLICK, {"action": "type", "text": "x"}, {"action": "wait"}):
            value = score(name, say(answer), target, SCREEN).value
            assert value is not None
            assert 0.0 <= value <= 1.0


# ----------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("name", "target", "meta", "message"),
    [
        ("gui.point_in_box", None, {}, "a box target is"),
        ("gui.point_in_box", [1, 2], {}, "a box target is"),
        ("gui.point_soft", [5, 5, 5, 9], {}, "no area"),
        ("gui.point_soft", [500, 5, 900, 9], SCREEN, "reaches outside"),
        ("gui.point_dist", None, SCREEN, r"a point target is \[x, y\], got None"),
        ("gui.point_dist", BOX, SCREEN, "a point target is"),
        ("gui.point_dist", ["1", 2], SCREEN, "a point target is"),
        ("gui.point_dist", [1, 2], {}, "needs image_size"),
        ("gui.point_dist", [1, 2], {"image_size": "big"}, "point target"),
        ("gui.point_dist", [500, 2], SCREEN, "not on the screen"),
        ("gui.point_dist", [math.nan, 2], SCREEN, "not on the screen"),
        ("gui.point_dist", [10**400, 2], SCREEN, "point target"),
        ("gui.point_dist", [1, 2], {"coord_space": "pixel", **SCREEN}, "unknown coordinate space"),
        ("gui.point_dist", [1, 2], {"coord_space": "abs_input", **SCREEN}, "needs input_size"),
    ],
)
def test_bad_targets_stop_before_any_completion(name: str, target: Any, meta: dict[str, Any], message: str) -> None:
    for call in (lambda: check_target(name, target, meta), lambda: score(name, say([1, 2]), target, meta)):
        with pytest.raises(TargetError, match=message):
            call()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "an action target is {'action': name, ...}, got None"),
        ("click", "an action target is"),
        ({"point": [1, 2]}, "an action target is"),
        ({"action": "klick"}, "unknown action 'klick' in the target; did you mean 'click'"),
        ({"action": "click"}, "needs 'box' or 'point'"),
        ({"action": "click", "box": [1, 2]}, "a box target is"),
        ({"action": "click", "point": [1, 2, 3]}, "a point target is"),
        ({"action": "type"}, "needs 'text'"),
        ({"action": "type", "text": " "}, "needs 'text'"),
        ({"action": "type", "text": 3}, "needs 'text'"),
        ({"action": "scroll"}, "needs 'direction'"),
        ({"action": "scroll", "direction": "sideways"}, "must be one of up, down, left, right"),
        ({"action": "key"}, "needs 'key'"),
        ({"action": "key", "key": ["a"]}, "needs 'key'"),
    ],
)
def test_bad_action_targets(target: Any, message: str) -> None:
    for name in ACTS:
        with pytest.raises(TargetError, match=message):
            check_target(name, target, SCREEN)
