"""Hostile completions against every pure canonical reward: no exception, and a value in [0, 1]."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_cases import CASES, NOT_PURE, Case

from vlrft.rewards.base import FLAGS
from vlrft.rewards.call import Scorer, scorer

PURE = sorted(name for name in CASES if name not in NOT_PURE)
SCORERS: dict[str, Scorer] = {name: scorer(name, CASES[name].options) for name in PURE}

PIECES = (
    *("<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>", "<search>", "</search>"),
    *(
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        '"',
        "'",
        ",",
        ":",
        ";",
        "\n",
        " ",
        "\t",
        "```json\n",
        "```",
        "\\boxed{",
        "\\frac{1}{0}",
    ),
    *(
        "0",
        "1",
        "-1",
        "42",
        "0.5",
        "1e999",
        "-1e308",
        "9" * 400,
        "nan",
        "inf",
        "-inf",
        "Infinity",
        "NaN",
        "null",
        "1/0",
    ),
    *(
        "None",
        "true",
        "[]",
        "{}",
        "No Objects",
        "A",
        "B",
        "yes",
        "no",
        "cat",
        "dog",
        "A.",
        "(B)",
        "½",
        "٣",
        "½%",
        "１２",
    ),
    *('"bbox_2d"', '"label"', '"confidence"', '"point"', '"action"', '"click"', '"name"', '"arguments"', '"points"'),
    *(
        "to",
        "from",
        "00:99:99",
        "5s",
        "<|box_start|>",
        "\u200b",
        "\u202e",
        "\ud800",
        "\x00",
        "ａ",
        "é",
        "e\u0301",
        "字",
    ),
    *("[0, 0, 20, 20]", "[50, 50]", '{"bbox_2d": [0, 0, 20, 20], "label": "cat"}', "[[[[", "]]]]", "f(1, 'a')", "1."),
    *("km", "%", "$", "10:20", "-", "--", "=", ">", "->", "1. ", "* ", "\\", "\\u0000", "𝟙", "🙂", "A and B", "not"),
)


def judge(name: str, completion: str, mode: str) -> None:
    case: Case = CASES[name]
    result = SCORERS[name](completion, case.target, {**case.meta, "output_mode": mode})
    assert result.value is None or 0.0 <= result.value <= 1.0, (name, completion)
    assert set(result.flags) <= set(FLAGS), (name, result.flags)


def mutated(rng: random.Random, honest: str) -> str:
    """Pieces in a row, or an honest answer with some characters cut, doubled or replaced by pieces."""
    if rng.random() < 0.4:
        body = "".join(rng.choices(PIECES, k=rng.randrange(1, 25)))
        return f"<think>x</think><answer>{body}</answer>" if rng.random() < 0.7 else body
    text = honest
    for _ in range(rng.randrange(1, 5)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(6))
        text = text[:start] + rng.choice(("", text[start:end] * 2, rng.choice(PIECES))) + text[end:]
    return text


def fuzz(count: int, seed: int) -> None:
    rng = random.Random(seed)
    for i in range(count):
        name = PURE[i % len(PURE)]
        judge(name, mutated(rng, CASES[name].honest), rng.choice(("think", "think", "direct", "adaptive")))


def test_a_few_thousand_hostile_completions() -> None:
    fuzz(3_000, seed=1)


@pytest.mark.slow
def test_a_hundred_thousand_hostile_completions() -> None:
    fuzz(100_000, seed=2)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["think", "direct", "answer_then_think", "adaptive"]))
def test_any_text_in_any_mode(text: str, mode: str) -> None:
    for name in PURE:
        judge(name, text, mode)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_answer_of_known_pieces(body: str) -> None:
    for name in PURE:
        judge(name, f"<think>x</think><answer>{body}</answer>", "think")


HOSTILE = [
    "[" * 20_000,
    "9" * 20_000,
    "a " * 10_000,
    "[0,0,1,1]," * 2_000,
    "<answer>" * 3_000,
    "\u0301" * 20_000,
    "(" * 20_000,
]


@pytest.mark.parametrize("body", HOSTILE, ids=["brackets", "digits", "words", "boxes", "tags", "marks", "parentheses"])
def test_long_and_deep_answers(body: str) -> None:
    for name in PURE:
        judge(name, f"<think>x</think><answer>{body}</answer>", "think")
