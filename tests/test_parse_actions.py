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
    ],
)
def test_choices_are_counted(answer: str) -> None:
    (found,) = read_actions(answer)
    assert (found.name, found.choices) == ("a", 2)


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


@pytest.mark.parametrize("piece", ["{", '{"action":', '{"action":"a"},', '{"arguments":', "'"])
def test_a_hostile_text_costs_little(piece: str) -> None:
    begun = time.process_time()
    read_actions(piece * (200_000 // len(piece)))
    assert time.process_time() - begun < 2.0
