"""Format: the whole completion has the shape or it has not; the share of items that fit the schema."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score


def value(completion: str, output_mode: str = "think", **kwargs: object) -> float | None:
    return score("format.think_answer", completion, None, {"output_mode": output_mode}, **kwargs).value


@pytest.mark.parametrize(
    "completion",
    [
        "<think>a</think><answer>b</answer>",
        "  <think>a\nb</think>\n\n<answer>\nb\n</answer>\n",
        "<think>1 < 2 and <b>bold</b></think><answer>b</answer>",
        "<think>a</think>\n<tool_response>pixels</tool_response>\n<answer>b</answer>",
    ],
)
def test_good_shape(completion: str) -> None:
    assert value(completion) == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "b",
        "<answer>b</answer>",
        "<think>a</think>",
        "<think>a</think><answer></answer>",
        "<think>a</think><answer> \n</answer>",
        "<think>a</think><answer>\u200b</answer>",
        "<think></think><answer>b</answer>",
        "<think> </think><answer>b</answer>",
        "<think>a</think><answer>b</answer> and more",
        "So: <think>a</think><answer>b</answer>",
        "<think>a</think>so<answer>b</answer>",
        "<answer>b</answer><think>a</think>",
        "<think>a<answer>b</answer></think>",
        "<think>a <answer>c</answer></think><answer>b</answer>",
        "<think>a</think><answer>b</answer><answer>b</answer>",
        "<think>a</think><think>a</think><answer>b</answer>",
        "<think>a</think><answer><answer>b</answer></answer>",
        "<think>a</think><answer><think>b</think></answer>",
        "<think>a<answer>b</answer>",
        "<think>a</think><answer>b",
        "</think><answer>b</answer>",
        "<Think>a</Think><Answer>b</Answer>",
        "<think>a</think><\u0430nswer>b</\u0430nswer>",
        "<thi<tool_response></tool_response>nk>a</think><answer>b</answer>",
        "<think>a</think>" * 50_000,
    ],
    ids=lambda text: repr(text)[:50],
)
def test_bad_shape(completion: str) -> None:
    assert value(completion) == 0.0


def test_output_modes() -> None:
    forwards, backwards = "<think>a</think><answer>b</answer>", "<answer>b</answer><think>a</think>"
    assert (value(forwards), value(backwards)) == (1.0, 0.0)
    assert (value(forwards, "answer_then_think"), value(backwards, "answer_then_think")) == (0.0, 1.0)
    assert value(forwards, "direct") is None
    adaptive = [forwards, "<answer>b</answer>", "b", backwards, "<think>a</think>b", "  "]
    assert [value(text, "adaptive") for text in adaptive] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("mode", "completion", "expected"),
    [
        ("answer_only", "<answer>b</answer>", 1.0),
        ("answer_only", "<think>a</think><answer>b</answer>", 0.0),
        ("think_boxed", r"<think>a</think> \boxed{2}", 1.0),
        ("think_boxed", r"<think>a</think> \boxed{}", 0.0),
        ("think_boxed", r"<think>a</think> \boxed{1}, \boxed{2}", 0.0),
        ("think_tool", '<think>a</think><tool_call>{"name": "crop"}</tool_call>', 1.0),
        ("think_tool", "<think>a</think><answer>b</answer>", 0.0),
        (["caption", "think", "answer"], "<caption>c</caption><think>a</think><answer>b</answer>", 1.0),
        (["caption", "think", "answer"], "<think>a</think><caption>c</caption><answer>b</answer>", 0.0),
    ],
)
def test_named_and_own_shapes(mode: str | list[str], completion: str, expected: float) -> None:
    assert value(completion, mode=mode) == expected


def test_least_length_of_the_reasoning() -> None:
    text = "<think> abc </think><answer>b</answer>"
    assert value(text, min_think_chars=3) == 1.0
    assert value(text, min_think_chars=4) == 0.0
    assert value("<think></think><answer>b</answer>", min_think_chars=0) == 1.0


@pytest.mark.parametrize("mode", ["thinking", [], ["think", "think"], ["<think>"], [3]])
def test_bad_mode_is_an_error(mode: object) -> None:
    with pytest.raises(ValueError, match=r"format\.think_answer"):
        value("", mode=mode)


def test_bad_output_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown output mode 'thinking'"):
        value("", "thinking")


def test_any_target_will_do() -> None:
    check_target("format.think_answer", None)
    check_target("format.think_answer", [1, 2])


@settings(deadline=None)
@given(text=st.text(), mode=st.sampled_from(["think", "answer_then_think", "adaptive"]))
def test_total(text: str, mode: str) -> None:
    assert value(text, mode) in (0.0, 1.0)


# ------------------------------------------------------------------------------------------ schema


def valid(answer: str, schema: Any, **meta: Any) -> float | None:
    return score("format.schema", f"<answer>{answer}</answer>", None, {"schema": schema, **meta}).value


@pytest.mark.parametrize(
    ("schema", "answer", "expected"),
    [
        ("boxes", "[1, 2, 3, 4]", 1.0),
        ("boxes", "1, 2, 3, 4", 1.0),
        ("boxes", "[[1, 2, 3, 4], [5, 6, 7, 8]]", 1.0),
        ("boxes", "[[[1, 2, 3, 4]]]", 1.0),
        ("boxes", "(1, 2), (3, 4)", 1.0),
        ("boxes", "<|box_start|>(1,2),(3,4)<|box_end|>", 1.0),
        ("boxes", '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cell"}]\n```', 1.0),
        ("boxes", '[{"bbox_2d": [1, 2, 3, 4]}, {"label": "cell"}]', 0.5),
        ("boxes", '[{"bbox_2d": [1, 2, 3, 4], "bbox_2d": [1, 2, 3, 4]}]', 0.0),
        ("boxes", "[[1, 2, 3, 4], [3, 2, 1, 4], [1, 2, 3], [1, 2, 3, NaN]]", 0.25),
        ("boxes", "It is [1, 2, 3, 4].", 1 / 3),
        ("boxes", "left", 0.0),
        ("points", "[1, 2]", 1.0),
        ("points", '[{"point_2d": [1, 2]}, [3]]', 0.5),
        ("points", "[[1, 2], [3, 4]]", 1.0),
        ("spans", "[[1, 2.5], [3, 3]]", 0.5),
        ("spans", '{"start": 1, "end": 2}', 1.0),
        ("spans", "12 to 17", 1.0),
        ("spans", "17 to 12", 0.0),
        ("choice", "B", 1.0),
        ("choice", "(B)", 1.0),
        ("choice", "A, C and d", 2 / 3),
        ("choice", '["A", "E"]', 0.5),
        ("choice", "A dog", 0.5),
        ("number", "1,250.5", 1.0),
        ("number", "about 3", 0.0),
        ("number", "inf", 0.0),
        ("list", "1. cat\n2. dog", 1.0),
        ("list", '["cat", ""]', 0.5),
        ("list", "cat", 0.0),
        ("json", '{"a": 1}', 1.0),
        ("json", "{'a': 1}", 1.0),
        ("json", '{"a": 1} so', 0.5),
        ("json", "so", 0.0),
        ("json", '{"a": 1', 0.0),
    ],
)
def test_share_of_valid_items(schema: str, answer: str, expected: float) -> None:
    assert valid(answer, schema, num_options=4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"label": "cell", "bbox": [1, 2, 3, 4]}', 1.0),
        ('[{"Label": "cell", "bbox": [1, 2, 3, 4], "score": 0.5, "more": null}]', 1.0),
        ('[{"label": "cell", "bbox": [1, 2, 3, 4], "score": "high"}]', 0.0),
        ('[{"label": " ", "bbox": [1, 2, 3, 4]}, {"label": "a", "bbox": [3, 2, 1, 4]}, {"bbox": [1, 2, 3, 4]}]', 0.0),
        ('[{"label": "a", "bbox": [1, 2, 3, 4]}, {"label": "a", "label": "b", "bbox": [1, 2, 3, 4]}]', 0.5),
        ("[1, 2, 3, 4]", 0.0),
    ],
)
def test_objects_with_keys(answer: str, expected: float) -> None:
    assert valid(answer, {"label": "string", "bbox": "box", "score?": "number"}) == expected


def test_kinds_of_values() -> None:
    answer = '{"a": 3, "b": true, "c": [], "d": {}, "e": [1, 2], "f": [1, 2], "g": null}'
    kinds = {"a": "integer", "b": "boolean", "c": "list", "d": "object", "e": "point", "f": "span", "g": "any"}
    assert valid(answer, kinds) == 1.0
    for key, kind in [("b", "number"), ("c", "object"), ("d", "list"), ("g", "string"), ("a", "boolean")]:
        assert valid(answer, {key: kind}) == 0.0
    assert valid('{"a": 3.5}', {"a": "integer"}) == 0.0


@pytest.mark.parametrize("answer", ["[]", "None", "No Objects", "no objects."])
def test_an_empty_list_is_valid_where_negatives_are_allowed(answer: str) -> None:
    assert valid(answer, "boxes") == 0.0
    assert valid(answer, "boxes", negatives=True) == 1.0
    assert valid(answer, {"label": "string"}, negatives=True) == 1.0


@pytest.mark.parametrize("completion", ["", "no tags", "<answer></answer>", "<think>[1, 2, 3, 4]</think>"])
def test_no_answer_is_no_empty_list(completion: str) -> None:
    found = score("format.schema", completion, None, {"schema": "boxes", "negatives": True})
    assert (found.value, found.flags) == (0.0, ("no_answer",))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"schema": "box"}, "schema is 'box'; use one of boxes"),
        ({"schema": {}}, "schema is {}"),
        ({"schema": {"label": "text"}}, "schema is {'label': 'text'}"),
        ({"schema": ["boxes"]}, "schema is"),
        ({"negatives": "yes"}, "negatives is 'yes'"),
        ({"num_options": 0}, "num_options is 0"),
        ({"options": []}, "num_options is 0"),
        ({"num_options": 2.5}, "num_options is 2.5"),
    ],
)
def test_bad_schemas(meta: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        check_target("format.schema", None, meta)


@settings(max_examples=200, deadline=None)
@given(
    answer=st.one_of(st.text(max_size=60), st.text("[](){},:\"' 0123.-naif;\n", max_size=60)),
    schema=st.sampled_from(["boxes", "points", "spans", "choice", "number", "list", "json", {"a": "box", "b?": "any"}]),
)
def test_schema_is_total(answer: str, schema: Any) -> None:
    found = valid(answer, schema)
    assert found is not None
    assert 0.0 <= found <= 1.0


@pytest.mark.parametrize("unit", ["[", "[1,2,3,4],", '{"a":', "a", "1 ", "A,", "- a\n", "12 to "])
def test_long_answers_are_read_in_linear_time(unit: str) -> None:
    text = unit * (2**15 // len(unit))
    for schema in ("boxes", "spans", "choice", "number", "list", "json", {"a": "box"}):
        start = time.process_time()
        valid(text, schema)
        assert time.process_time() - start < 0.5
