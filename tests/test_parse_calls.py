"""Calls in completions: tool calls, triples, JSON, step blocks, and texts that are none."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.calls import (
    MAX_DEPTH,
    UNREADABLE,
    ToolCall,
    outside_reasoning,
    parse_calls,
    parse_triples,
    read_json,
    read_jsons,
    tagged_blocks,
)

F = ToolCall("f", {"x": 1})


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a", "a"),
        ("<think>x</think>a", " a"),
        ("x</think>a", "a"),
        ("<think>x</think>a<tool_response>y</tool_response>b<think>z</think>c", " a b c"),
        ("a<think>x", "a"),
        ("a<tool_response>x</think>", "a"),
        ("<think><tool_response></think>a", " a"),
        ("<think>x</think>a</think>b", "b"),
        ("<think>x<think>y</think>a</think>b", "b"),
        ("<think>x</think>a<think>y</think>b</think>c", "c"),
        ("<to<think></think>ol_call>", "<to ol_call>"),
    ],
)
def test_outside_reasoning(text: str, left: str) -> None:
    assert outside_reasoning(text) == left


@pytest.mark.parametrize(
    "block",
    [
        '{"name": "f", "parameters": {"x": 1}}',
        '\n{"name": "f", "arguments": {"x": 1}}\n',
        '{\n "name": "f",\n "args": {"x": 1}\n}',
        '[{"name": "f", "parameters": {"x": 1}}]',
        '{"function": {"name": "f", "arguments": "{\\"x\\": 1}"}}',
        "{'name': 'f', 'parameters': {'x': 1}}",
        "{'name': 'f',\n 'parameters': {'x': 1}}",
    ],
)
def test_every_spelling_of_a_call(block: str) -> None:
    found = parse_calls(f"<think>x</think><tool_call>{block}</tool_call>")
    assert (found.calls, found.blocks, found.errors) == ((F,), 1, 0)


def test_one_call_per_line_and_per_block() -> None:
    line = '{"name": "f", "parameters": {"x": 1}}'
    assert parse_calls(f"<tool_call>{line}\n\n{line}</tool_call>").calls == (F, F)
    assert parse_calls(f"<tool_call>{line}</tool_call> and <tool_call>{line}</tool_call>").calls == (F, F)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call></tool_call>",
        "<tool_call>f(1)</tool_call>",
        "<tool_call>[]</tool_call>",
        '<tool_call>{"name": ""}</tool_call>',
        '<tool_call>{"name": "f", "parameters": 3}</tool_call>',
        '<tool_call>{"name": "f"}',
        '{"name": "f"}</tool_call>',
        '<tool_call><tool_call>{"name": "f"}</tool_call>',
        '<tool_call>{"name": "f"}\nand then</tool_call>',
        '<tool_call>{"name": "f", "name": "g"}</tool_call>',
        '<tool_call>{"name": "f", "parameters": {"x": 1}, "parameters": {"x": 2}}</tool_call>',
    ],
)
def test_bad_calls_are_counted(text: str) -> None:
    assert parse_calls(text).errors > 0


def test_hidden_calls_are_no_calls() -> None:
    call = '<tool_call>{"name": "f"}</tool_call>'
    assert parse_calls(f"<think>{call}</think>").blocks == 0
    assert parse_calls(f"<tool_response>{call}</tool_response>").blocks == 0
    assert parse_calls(f"<think>a</think>{call}</think>done").blocks == 0
    assert parse_calls(f"<think>a<think>b</think>{call}</think>done").blocks == 0
    assert parse_calls(f"<think>a</think>{call}<think>b</think>{call}").blocks == 2
    assert parse_calls(f"<think>a</think>{call}</think>done", last_close=False).blocks == 1
    assert parse_calls("\uff1ctool_call\uff1e{}\uff1c/tool_call\uff1e").blocks == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Here: ```\n{"a": 1}\n``` done', {"a": 1}),
        ('The result is {"a": 1}.', {"a": 1}),
        ("{'A': 'b', 'c': None}", {"a": "b", "c": None}),
        ("3", 3),
        ('"x"', "x"),
        ("null", None),
        ("hello", UNREADABLE),
        ("", UNREADABLE),
        ('{"a": 1} or {"a": 2}', UNREADABLE),
        ('{"a": ', UNREADABLE),
        ("1" * 400, float("inf")),
    ],
)
def test_json(text: str, value: Any) -> None:
    assert read_json(text) == value


def test_repeated_keys_hide_nothing() -> None:
    for text in ('{"a": 1, "a": 2, "a": 3}', "{'a': 1, 'a': 2, 'a': 3}"):
        value = read_json(text)
        assert value["a"] == 1
        assert sorted(value.values()) == [1, 2, 3]


def test_deep_json_is_refused() -> None:
    assert read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH) != UNREADABLE
    assert read_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)) is UNREADABLE
    assert read_json("[" * 100_000 + "]" * 100_000) is UNREADABLE
    assert len(read_jsons('{"a": 1} {"b": 2}')) == 2


@pytest.mark.parametrize(
    ("text", "triples"),
    [
        ("move(1, 'left')", [("move", "1", "left")]),
        ('move( 1 ,"left" ); paint(2, red)', [("move", "1", "left"), ("paint", "2", "red")]),
        ("First move(1, 'a, b'), then stop()", [("move", "1", "a, b"), ("stop", "", "")]),
        ("place(0, (1, 2))", [("place", "0", "(1, 2)")]),
        ("place(0, 1, 2)", [("place", "0", "1, 2")]),
        ("say(0, 'it\\'s')", [("say", "0", "it's")]),
        ("it's move(1, 'a'), isn't it", [("move", "1", "a")]),
        ("move(1, 'a\nmove(2, 'b')", [("move", "2", "b")]),
        ("['move(1, \"a\")', 'paint(2, \"b\")']", [("move", "1", "a"), ("paint", "2", "b")]),
        ('[["move", 1, "left"], ["paint", 2, null]]', [("move", "1", "left"), ("paint", "2", "")]),
        ('["move", 1, "left"]', [("move", "1", "left")]),
        ('[{"func": "move", "object": 1, "value": true}]', [("move", "1", "true")]),
        ("[]", []),
        ("None.", []),
        ("move 1 left", None),
        ("move(1, left", None),
        ("", None),
    ],
)
def test_triples(text: str, triples: list[Any] | None) -> None:
    assert parse_triples(text) == triples


def test_step_blocks() -> None:
    kinds = ("answer", "search")
    assert tagged_blocks("<think><answer>x</answer></think><search> y </search>", kinds) == [("search", "y")]
    assert tagged_blocks("<answer>x</answer><code>z</code><search>y</search>", kinds) == [
        ("answer", "x"),
        ("search", "y"),
    ]
    assert tagged_blocks("nothing", kinds) == []
    for bad in ("<answer>x", "x</answer>", "<answer><search>x</search></answer>", "<answer>x</search>"):
        assert tagged_blocks(bad, kinds) is None


@given(st.text(alphabet="[]{}()\"'`,:<>/\\ \nf1=", max_size=60), st.sampled_from(["", "<tool_call>", "</think>"]))
@settings(max_examples=150, deadline=None)
def test_nothing_raises(text: str, tag: str) -> None:
    mixed = tag + text + tag.replace("<", "</")
    assert parse_calls(mixed).errors >= 0
    assert isinstance(read_jsons(mixed), list)
    assert parse_triples(mixed) is None or isinstance(parse_triples(mixed), list)
    assert tagged_blocks(mixed, ("answer",)) is not UNREADABLE


HOSTILE = [
    "[",
    "{",
    "(",
    '"',
    "a(",
    "a('",
    "a(,",
    "<think>",
    "<tool_call>",
    "```json\n",
    " ",
    "\\",
    '{"a":',
    "a.",
    "a\t",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_lengths(piece: str) -> None:
    text = piece * (60_000 // len(piece))
    start = time.perf_counter()
    parse_calls(text)
    read_jsons(text)
    parse_triples(text)
    parse_triples(text + "(")
    tagged_blocks(text, ("answer",))
    assert time.perf_counter() - start < 2.0
