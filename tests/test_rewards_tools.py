"""tool.*: golden numbers worked out by hand, and the hacks that must not pay."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score

GOLD = [{"name": "f", "parameters": {"a": 1, "b": 2}}]
TOOLS = ["tool.call", "tool.visual", "tool.efficiency", "tool.result"]
TARGETS: dict[str, Any] = {
    "tool.call": GOLD,
    "tool.visual": {"ops": ["crop"], "box": [0, 0, 10, 10]},
    "tool.efficiency": {"needed": 1},
    "tool.result": {"a": 1},
}
CROP = {"name": "crop", "parameters": {"bbox": [0, 0, 10, 10]}}


def tags(*calls: Any) -> str:
    return "<think>hm</think>" + "".join(f"<tool_call>{json.dumps(c)}</tool_call>" for c in calls)


def judge(name: str, text: str, target: Any, meta: dict[str, Any] | None = None, **options: Any) -> float:
    value = score(name, text, target, meta, **options).value
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("parameters", "value"),
    [
        ({"a": 1, "b": 2}, 1.0),
        ({"a": "1", "B": 2.0}, 1.0),
        ({"a": 1, "b": 3}, 0.2 + 0.3 + 0.25),
        # keys: 2 * 1 / 3
        ({"a": 1}, 0.2 + 0.2 + 0.25),
        # keys: 2 * 2 / 5
        ({"a": 1, "b": 2, "c": 3}, 0.2 + 0.24 + 0.5),
        ({"c": 3}, 0.2),
        ({}, 0.2),
    ],
)
def test_golden_pairs(parameters: dict[str, Any], value: float) -> None:
    call = {"name": "f", "parameters": parameters}
    assert judge("tool.call", tags(call), GOLD) == pytest.approx(value)
    assert judge("tool.call", "<answer>done</answer>", GOLD, {"calls": [call]}) == pytest.approx(value)
    assert judge("tool.call", f"<answer>{json.dumps(call)}</answer>", GOLD) == pytest.approx(value)


def test_calls_are_paired_best() -> None:
    truth = [{"name": "f", "parameters": {"x": 1}}, {"name": "f", "parameters": {"x": 2}}, {"name": "g"}]
    made = [{"name": "f", "parameters": {"x": 2}}, {"name": "f", "parameters": {"x": 1}}, {"name": "g"}]
    assert judge("tool.call", tags(*made), truth) == pytest.approx(1.0)
    assert judge("tool.call", tags(*made[:2]), truth) == pytest.approx(2 / 3)
    assert judge("tool.call", tags(*made, {"name": "h"}), truth) == pytest.approx(3 / 4)
    assert judge("tool.call", tags({"name": "h"}), truth) == 0.0


def test_nested_values_and_boxes() -> None:
    truth = [{"name": "f", "parameters": {"q": {"x": 1, "y": [1, 2]}}}]
    made = {"name": "f", "parameters": {"q": {"x": 1, "y": [1, 3]}}}
    assert judge("tool.call", tags(made), truth) == pytest.approx(0.5 + 0.5 * 2 / 3)
    half = {"name": "crop", "parameters": {"bbox": [0, 0, 10, 5]}}
    assert judge("tool.call", tags(half), [CROP]) == pytest.approx(0.5 + 0.5 * 0.5)
    for bad in ([10, 10, 0, 0], [0, 0, 10], "all", [0, 0, 1e200, 1e200], None):
        assert judge("tool.call", tags({"name": "crop", "parameters": {"bbox": bad}}), [CROP]) == pytest.approx(0.5)


def test_no_calls_expected() -> None:
    assert judge("tool.call", "<think>x</think><answer>7</answer>", []) == 1.0
    assert judge("tool.call", tags(CROP) + "<answer>7</answer>", []) == 0.0
    assert judge("tool.call", "<answer>7</answer>", [], {"calls": [CROP]}) == 0.0
    for silent in ("", "<think>x</think>", "<think>x</think><answer> </answer>"):
        found = score("tool.call", silent, [])
        assert (found.value, found.flags) == (0.0, ("no_answer",))


# ---------------------------------------------------------------------------------------- visual


def look(calls: list[Any], target: Any = None, **meta: Any) -> float:
    target = {"ops": ["crop"], "box": [0, 0, 10, 10]} if target is None else target
    return judge("tool.visual", tags(*calls) + "<answer>7</answer>", target, meta)


def test_golden_visual() -> None:
    assert look([CROP], accuracy=1) == pytest.approx(1.0)
    assert look([CROP], accuracy=0.0) == pytest.approx(0.5)
    half = {"name": "crop", "parameters": {"bbox_2d": [0, 0, 10, 5]}}
    assert look([half], accuracy=1) == pytest.approx(0.9)
    assert look([half, CROP], accuracy=1) == pytest.approx(1.0)
    # one op too many: F1 = 2 / 3, economy 2 / 3 for three calls
    assert look([CROP, CROP, {"name": "flip"}], accuracy=1) == pytest.approx(0.9 + 0.2 / 3 - 0.1 / 3)
    assert look([], accuracy=1) == pytest.approx(0.7)


def test_the_terms_of_visual() -> None:
    found = score("tool.visual", tags(CROP) + "<answer>7</answer>", {"ops": ["crop", "rotate90"], "box": None})
    assert found.parts == {
        "tool.visual": found.value,
        "tool.visual.accuracy": None,
        "tool.visual.recall": 0.5,
        "tool.visual.ops_f1": pytest.approx(2 / 3),
        "tool.visual.format": 1.0,
        "tool.visual.economy": 1.0,
    }
    # accuracy does not apply: the other weights, 0.5 in all, are scaled up
    assert found.value == pytest.approx((0.1 + 0.2 / 3 + 0.2) / 0.5)
    assert score("tool.visual", tags(CROP), {"ops": ["crop"], "box": None}).parts["tool.visual.format"] == 0.0


def test_accuracy_from_the_target() -> None:
    for answer, value in (("7", 1.0), ("7.0", 1.0), (7, 1.0), (["8", "7"], 1.0), ("8", 0.5)):
        assert look([CROP], {"ops": ["crop"], "box": [0, 0, 10, 10], "answer": answer}) == pytest.approx(value)
    assert look([CROP], {"ops": ["crop"], "answer": "8"}, correct=True) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("op", "call", "fits"),
    [
        ("rotate90", {"name": "rotate", "parameters": {"angle": 90}}, True),
        ("rotate_90", {"name": "Rotate", "parameters": {"angle": 90.0}}, True),
        ("rotate90", {"name": "rotate", "parameters": {"angle": 180}}, False),
        ("rotate", {"name": "rotate", "parameters": {"angle": 180}}, True),
        ("flip-horizontal", {"name": "flip", "parameters": {"direction": "horizontal"}}, True),
        ({"name": "rotate", "parameters": {"angle": 90}}, {"name": "rotate", "parameters": {"angle": "90"}}, True),
        ({"name": "rotate", "parameters": {"angle": 90}}, {"name": "rotate"}, False),
        ("crop", {"name": "image_zoom_in_tool", "parameters": {"bbox_2d": [0, 0, 1, 1]}}, True),
        ("crop", {"name": "rotate"}, False),
    ],
)
def test_operations(op: Any, call: Any, fits: bool) -> None:
    found = score("tool.visual", tags(call) + "<answer>7</answer>", {"ops": [op], "box": None})
    assert found.parts["tool.visual.recall"] == float(fits)
    assert found.parts["tool.visual.ops_f1"] == float(fits)


def test_regions_in_other_spaces() -> None:
    meta = {"image_size": [100, 50], "coord_space": "norm_1000"}
    for parameters in ({"bbox": [100, 200, 600, 600]}, {"x1": 100, "y1": 200, "x2": 600, "y2": 600}):
        call = {"name": "crop", "parameters": parameters}
        assert look([call], {"ops": ["crop"], "box": [10, 10, 60, 30]}, accuracy=1, **meta) == pytest.approx(1.0)
    with pytest.raises(TargetError, match="cannot be compared"):
        check_target("tool.visual", {"ops": ["crop"], "box": [0, 0, 1, 1]}, {"coord_space": "norm_1000"})


def test_tools_where_none_is_needed() -> None:
    honest = look([], {"ops": [], "box": None}, accuracy=1)
    assert honest == pytest.approx(1.0)
    assert look([CROP], {"ops": [], "box": None}, accuracy=1) == pytest.approx(0.6)


def test_budget() -> None:
    assert look([CROP] * 4, accuracy=1) == pytest.approx(0.95)
    assert look([CROP] * 4, accuracy=1, budget=4) == pytest.approx(1.0)
    text = tags(*[CROP] * 4) + "<answer>7</answer>"
    assert judge("tool.visual", text, TARGETS["tool.visual"], {"accuracy": 1}, budget=1) == pytest.approx(0.925)


# ---------------------------------------------------------------------------- efficiency, result


@pytest.mark.parametrize(
    ("needed", "made", "value"), [(1, 1, 1.0), (1, 4, 0.25), (2, 1, 1.0), (2, 0, 1.0), (0, 0, 1.0), (0, 1, 0.0)]
)
def test_efficiency(needed: int, made: int, value: float) -> None:
    text = tags(*[CROP] * made) + "<answer>7</answer>"
    assert judge("tool.efficiency", text, {"needed": needed}) == value
    assert judge("tool.efficiency", "<answer>7</answer>", {"needed": needed}, {"calls": [CROP] * made}) == value


@pytest.mark.parametrize(
    ("target", "meta", "value"),
    [
        ("7", {"result": 7}, 1.0),
        ("7", {"result": 8}, 0.0),
        ({"a": 1, "b": 2}, {"result": {"a": 1, "b": 3}}, 0.5),
        ("7", {"calls": [{"name": "f", "result": 7}]}, 1.0),
        ("7", {"calls": [{"name": "f", "result": 7}, {"name": "f"}]}, 0.0),
        ("7", {"calls": []}, 0.0),
        ("7", {"result": None}, 0.0),
        ("7", {"result": math.nan}, 0.0),
        ("7", {}, None),
    ],
)
def test_result(target: Any, meta: dict[str, Any], value: float | None) -> None:
    assert score("tool.result", "<answer>done</answer>", target, meta).value == value


def test_a_forged_tool_response_is_not_a_result() -> None:
    forged = tags(CROP) + '<tool_response>{"a": 1}</tool_response><answer>{"a": 1}</answer>'
    assert score("tool.result", forged, {"a": 1}).value is None
    assert score("tool.result", forged, {"a": 1}, {"result": {"a": 2}}).value == 0.0


# ------------------------------------------------------------------------------------------- hacks


@pytest.mark.parametrize("name", TOOLS)
def test_silence_is_worth_nothing(name: str) -> None:
    for text in ("", "  ", "<think>crop</think>", "<answer></answer>", "<tool_response>x</tool_response>"):
        found = score(name, text, TARGETS[name], {"result": {"a": 1}})
        assert found.value == 0.0
        assert "no_answer" in found.flags


BAD_BLOCKS = ["<tool_call>f(1)</tool_call>", '<tool_call>{"name": "f"}', "<tool_call></tool_call>", "</tool_call>"]


@pytest.mark.parametrize("bad", BAD_BLOCKS)
def test_a_bad_block_costs_the_form_of_visual_alone(bad: str) -> None:
    text = f"{tags(CROP)}{bad}<answer>7</answer>"
    found = score("tool.visual", text, TARGETS["tool.visual"], {"accuracy": 1})
    assert found.value == pytest.approx(0.9)
    assert found.parts["tool.visual.format"] == 0.0
    assert "unparsable" in found.flags
    alone = score("tool.visual", f"{bad}<answer>7</answer>", {"ops": []}, {"accuracy": 1})
    assert alone.value == pytest.approx(0.6)


@pytest.mark.parametrize("name", ["tool.call", "tool.efficiency"])
@pytest.mark.parametrize("bad", BAD_BLOCKS)
def test_a_bad_block_is_unparsable(name: str, bad: str) -> None:
    found = score(name, f"{tags(CROP)}{bad}<answer>7</answer>", TARGETS[name])
    assert (found.value, found.flags) == (0.0, ("unparsable",))


@pytest.mark.parametrize("calls", [4, ["crop", "crop", "zoom", "crop"]])
def test_calls_as_a_number_or_as_names(calls: Any) -> None:
    assert judge("tool.efficiency", "<answer>7</answer>", {"needed": 1}, {"calls": calls}) == 0.25
    assert judge("tool.efficiency", "<answer>7</answer>", {"needed": 1}, {"calls": 0}) == 1.0


def test_calls_in_the_reasoning_do_not_count() -> None:
    call = json.dumps(GOLD[0])
    text = f"<think><tool_call>{call}</tool_call></think><answer>7</answer>"
    assert judge("tool.call", text, GOLD) == 0.0
    assert judge("tool.call", text, []) == 1.0


@pytest.mark.parametrize(
    "shell", ["<think>a</think>{}</think>done", "<think>a<think>b</think>{}</think><answer>7</answer>"]
)
def test_calls_before_the_last_close_are_reasoning(shell: str) -> None:
    text = shell.format(f"<tool_call>{json.dumps(GOLD[0])}</tool_call>")
    assert judge("tool.call", text, GOLD) == 0.0
    assert judge("tool.call", text, []) == 1.0
    assert judge("tool.call", f"{tags(GOLD[0])}<think>more</think><answer>7</answer>", GOLD) == 1.0


@pytest.mark.parametrize("value", ["NaN", "Infinity", "[1, -Infinity]", '{"x": NaN}', "1e999"])
def test_arguments_that_are_not_finite(value: str) -> None:
    call = f'{{"name": "f", "parameters": {{"a": {value}, "b": 2}}}}'
    for text in (f"<think>x</think><tool_call>{call}</tool_call>", f"<answer>{call}</answer>"):
        found = score("tool.call", text, GOLD)
        assert (found.value, found.flags) == (pytest.approx(0.2 + 0.3 + 0.25), ("non_finite",))
    listed = score("tool.call", "<answer>x</answer>", GOLD, {"calls": [{"name": "f", "parameters": {"a": math.nan}}]})
    assert (listed.value, listed.flags) == (0.0, ("unparsable", "non_finite"))


def test_no_calls_are_thrifty_only_with_an_answer() -> None:
    for text in ("gibberish", "<answer>7", "<think>x</think>7"):
        found = score("tool.efficiency", text, {"needed": 1})
        assert (found.value, found.flags) == (0.0, ("no_answer",))
        assert judge("tool.efficiency", text, {"needed": 1}, {"calls": 0}) == 0.0
    for text in ("<answer>7</answer>", "<think>x</think><answer>7</answer>", tags(GOLD[0])):
        assert judge("tool.efficiency", text, {"needed": 1}) == 1.0


def test_spraying_calls_does_not_pay() -> None:
    spray = [{"name": "f", "parameters": {"a": a, "b": b}} for a in range(5) for b in range(5)]
    assert judge("tool.call", tags(*spray), GOLD) == pytest.approx(1 / 25)
    assert judge("tool.call", tags(*[GOLD[0]] * 50), GOLD) == pytest.approx(1 / 50)
    many = [{"name": f"f{i}"} for i in range(3000)]
    assert judge("tool.call", "<answer>x</answer>", many, {"calls": many * 5}) == 0.0
    covered = '<think>x</think><tool_call>{"name": "f", "parameters": {"a": 1, "a": 9, "b": 2, "b": 9}}</tool_call>'
    assert judge("tool.call", covered, GOLD) < 0.95


@pytest.mark.parametrize("value", [math.nan, 10**400, [[[[1]]]] * 3, {"x": object()}])
def test_parameters_that_cannot_be_judged(value: Any) -> None:
    meta = {"calls": [{"name": "f", "parameters": {"a": value}}]}
    assert judge("tool.call", "<answer>x</answer>", GOLD, meta) < 0.5


@given(st.text(alphabet='{}[]":,naf<>/1 \n', max_size=40))
@settings(max_examples=80, deadline=None)
def test_any_text_has_a_value(text: str) -> None:
    for name in TOOLS:
        for completion in (text, f"<tool_call>{text}</tool_call>", f"<answer>{text}</answer>"):
            value = score(name, completion, TARGETS[name]).value
            assert value is None or 0.0 <= value <= 1.0


@pytest.mark.parametrize(
    ("name", "target", "meta"),
    [
        ("tool.call", None, {}),
        ("tool.call", {"name": "f"}, {}),
        ("tool.call", [{"name": ""}], {}),
        ("tool.call", [{"name": "f", "parameters": [1]}], {}),
        ("tool.call", [{"name": "f", "parameters": {"a": math.nan}}], {}),
        ("tool.call", GOLD, {"calls": "f"}),
        ("tool.call", GOLD, {"calls": [{1: 2}]}),
        ("tool.visual", None, {}),
        ("tool.visual", {"box": [0, 0, 1, 1]}, {}),
        ("tool.visual", {"ops": ["", "crop"]}, {}),
        ("tool.visual", {"ops": ["crop"], "box": [1, 1, 0, 0]}, {}),
        ("tool.visual", {"ops": [], "answer": {}}, {}),
        ("tool.visual", {"ops": []}, {"accuracy": 2}),
        ("tool.visual", {"ops": []}, {"budget": -1}),
        ("tool.efficiency", 1, {}),
        ("tool.efficiency", {"needed": -1}, {}),
        ("tool.efficiency", {"needed": True}, {}),
        ("tool.result", None, {}),
        ("tool.result", {"a": math.inf}, {}),
    ],
)
def test_bad_targets(name: str, target: Any, meta: dict[str, Any]) -> None:
    with pytest.raises(TargetError):
        check_target(name, target, meta)


# ------------------------------------------------------------------------------------------- agent
