"""Interface actions in an answer."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.actions import ParsedAction, read_actions


@pytest.mark.parametrize(
    "answer",
    [
        "[{'action': 'click', 'point': [123, 300], 'input_text': 'no input text'}]",
        '[{"action": "click", "point": [123, 300], "input_text": "no input text"}]',
        '{ "action" :  "click" , "point":[123.0,300.0],"text":"no input text" }',
        '```json\n{"action": "click", "coordinate": [123, 300], "text": "no input text"}\n```',
        'I will do {"action_type": "click", "x": 123, "y": 300, "text": "no input text"} now',
        '{"name": "use", "arguments": {"action": "click", "coordinate": [123, 300], "text": "no input text"}}',
    ],
)
def test_one_click_in_every_syntax(answer: str) -> None:
    assert read_actions(answer) == [ParsedAction("click", point=(123.0, 300.0), text="no input text")]


def test_the_other_fields() -> None:
    assert read_actions('{"action": "scroll", "direction": "down"}') == [ParsedAction("scroll", direction="down")]
    assert read_actions('{"action": "key", "keys": ["ctrl", "c"]}') == [ParsedAction("key", key="ctrl+c")]
    assert read_actions('{"action": "type", "text": 42}') == [ParsedAction("type", text="42")]
    assert read_actions('{"action": "click", "bbox": [1, 2, 3, 4]}') == [
        ParsedAction("click", point=(1.0, 2.0, 3.0, 4.0))
    ]


@pytest.mark.parametrize(
    "answer",
    [
        '{"action": "click", "point": "[20, 15]"}',
        '{"action": "click", "point": ["20", "15"]}',
        '{"name": "click", "arguments": {"point": [20, 15]}}',
        '{"name": "computer_use", "arguments": {"action": "click", "coordinate": [20, 15]}}',
    ],
)
def test_points_as_texts_and_names_of_calls(answer: str) -> None:
    assert read_actions(answer) == [ParsedAction("click", point=(20.0, 15.0))]


def test_order_and_number() -> None:
    found = read_actions('[{"action": "a"}, {"action": "b"}] then {"action": "c"}')
    assert [each.name for each in found] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "answer",
    [
        '{"action": "a", "action": "b"}',
        '{"action": "a", "point": [[1, 2], [3, 4]]}',
        '{"action": "a", "point": [1, 2], "point": [3, 4]}',
        '{"action": "a", "text": "x", "text": "y"}',
        '{"action": "a", "direction": "up", "direction": "down"}',
        '{"action": "a", "action_type": "b"}',
        '{"action": "a", "point": [1, 2], "coordinate": [3, 4]}',
        '{"action": "a", "point": [1, 2], "x": 3, "y": 4}',
        '{"action": "a", "point": [1, 2], "bbox": [0, 0, 5, 5]}',
        '{"action": "a", "point": "(1, 2) (3, 4)"}',
        '{"action": "a", "text": "x", "content": "y"}',
        '{"action": "a", "key": "x", "keys": ["ctrl", "c"]}',
        "a(start_box='(1,2)', end_box='(3,4)')",
    ],
)
def test_choices_are_counted(answer: str) -> None:
    (found,) = read_actions(answer)
    assert (found.name, found.choices) == ("a", 2)


@pytest.mark.parametrize(
    "answer",
    [
        '{"action": "a", "action_type": "A"}',
        '{"action": "a", "point": [1, 2], "coordinate": [1, 2], "x": 1, "y": 2}',
        '{"action": "a", "text": "", "value": "Yes", "content": "yes"}',
        '{"action": "a", "point": "(1, 2)", "text": "b", "direction": "up", "key": "c"}',
    ],
)
def test_one_value_said_twice_is_one(answer: str) -> None:
    (found,) = read_actions(answer)
    assert (found.name, found.choices) == ("a", 1)


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("click(start_box='(12,30)')", ParsedAction("click", point=(12.0, 30.0))),
        ("click(start_box='<|box_start|>(12,30)<|box_end|>')", ParsedAction("click", point=(12.0, 30.0))),
        ("Thought: x\nAction: click(point='<point>12 30</point>')", ParsedAction("click", point=(12.0, 30.0))),
        ("click(start_box='[1, 2, 3, 4]')", ParsedAction("click", point=(1.0, 2.0, 3.0, 4.0))),
        ("click(point=(12, 30))", ParsedAction("click", point=(12.0, 30.0))),
        ("click(x=12, y=30)", ParsedAction("click", point=(12.0, 30.0))),
        (
            "scroll(point='<point>12 30</point>', direction='down')",
            ParsedAction("scroll", point=(12.0, 30.0), direction="down"),
        ),
        (r"type(content='a=b, (it\'s)\n')", ParsedAction("type", text="a=b, (it's)\n")),
        ('hotkey(key="ctrl c")', ParsedAction("hotkey", key="ctrl c")),
        ("wait()", ParsedAction("wait")),
    ],
)
def test_calls(answer: str, action: ParsedAction) -> None:
    assert read_actions(answer) == [action]
    assert read_actions(f"{answer} {answer}") == [action, action]


@pytest.mark.parametrize(
    "answer",
    ["", "click", "click(1, 2)", "{}", "[]", '{"action": 3}', '{"action": "click"', '{"point": [1, 2]}', "{" * 1000],
)
def test_no_action(answer: str) -> None:
    assert read_actions(answer) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(['"action"', ":", '"click"', "{", "}", "[", "]", ",", '"point"', "1", "'text'", "null"])
        | st.text(max_size=3),
        max_size=30,
    ).map("".join)
)
def test_never_raises(answer: str) -> None:
    for each in read_actions(answer):
        assert isinstance(each.name, str)
        assert each.choices >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["{", '{"action":', '{"action":"a"},', '{"arguments":', "'", "f(", "f()", "f(a=", "f(a='", "f(a=1, "]
)
def test_a_hostile_text_costs_little(piece: str) -> None:
    begun = time.process_time()
    read_actions(piece * (200_000 // len(piece)))
    assert time.process_time() - begun < 2.0
