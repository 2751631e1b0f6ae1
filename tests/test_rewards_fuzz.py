"""Hostile completions: no exception, a value in the range, in time. All pure rewards; a megabyte goes to every one."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_cases import CASES, NOT_PURE, OBJECTS, Case

from vlrft.rewards import names
from vlrft.rewards.base import FLAGS
from vlrft.rewards.call import Scorer, scorer
from vlrft.rewards.describe import describe

DETECTORS = ("compat.visual_rft.", "compat.vlm_r1.", "compat.vision_r1.")


def case_of(name: str) -> tuple[str, Case]:
    """The name to call it by, and what to judge against; detectors get objects, so that they have something to do."""
    if name in CASES:
        return name, CASES[name]
    example = describe(name).example
    assert example is not None
    target = OBJECTS if name.startswith(DETECTORS) and example.target in ([], "None") else example.target
    return example.name, Case(example.completion, target, dict(example.meta), dict(example.options))


PURE = sorted(name for name in CASES if name not in NOT_PURE)
COMPAT = [name for name in names() if name.startswith("compat.")]
WITH_PROCESSES = [name for name in names() if name.startswith("chart.") or name in NOT_PURE]
ALL = dict(map(case_of, [*PURE, *COMPAT, *WITH_PROCESSES]))
SCORERS: dict[str, Scorer] = {name: scorer(name, case.options) for name, case in ALL.items()}
UNBOUNDED = {"compat.codevision.total": (-math.inf, 2.4)}


def range_of(name: str) -> tuple[float, float]:
    """[0, 1] for the canonical rewards, the peer's own for those of compat, as the pages say."""
    if name not in COMPAT:
        return 0.0, 1.0
    if name in UNBOUNDED:
        return UNBOUNDED[name]
    stated = re.fullmatch(r"\[([-\d.]+), ([-\d.]+)\]", describe(name).range)
    assert stated is not None, describe(name).range
    return float(stated[1]), float(stated[2])


RANGES = {name: range_of(name) for name in ALL}

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
    case, (low, high) = ALL[name], RANGES[name]
    result = SCORERS[name](completion, case.target, {**case.meta, "output_mode": mode})
    assert result.value is None or low <= result.value <= high, (name, completion)
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


def fuzz(among: Sequence[str], count: int, seed: int) -> None:
    rng = random.Random(seed)
    for i in range(count):
        name = among[i % len(among)]
        judge(name, mutated(rng, ALL[name].honest), rng.choice(("think", "think", "direct", "adaptive")))


def test_no_reward_is_left_out() -> None:
    assert {name.partition("@")[0] for name in ALL} == set(names())


def test_a_few_thousand_hostile_completions() -> None:
    fuzz([*PURE, *COMPAT], 4_000, seed=1)


def test_a_few_hostile_completions_of_rewards_with_processes() -> None:
    fuzz(WITH_PROCESSES, 30, seed=3)


@pytest.mark.slow
def test_a_hundred_thousand_hostile_completions() -> None:
    fuzz([*PURE, *COMPAT], 100_000, seed=2)


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


MEGABYTE = 1_000_000
REPEATED = ("(", "[", "{", "<", "a ", "1,", "\\boxed{", "<answer>", "```json\n", '{"a":', " ", "9")
PLACES = ("{}", "<think>x</think><answer>{}</answer>", "<think>x</think><tool_call>{}</tool_call>")


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_a_hostile_megabyte_is_judged_in_seconds(name: str) -> None:
    called, case = case_of(name)
    judged = scorer(called, case.options)
    judged(case.honest, case.target, case.meta)  # starts what it needs
    # Where other processes work, their time counts too; else only ours, so that a busy machine changes nothing.
    clock = time.perf_counter if name in NOT_PURE or name.startswith("chart.") else time.process_time
    for piece in REPEATED:
        for place in PLACES:
            text = place.replace("{}", piece * (MEGABYTE // len(piece)))
            start = clock()
            result = judged(text, case.target, case.meta)
            assert clock() - start < 5.0, (piece, place)
            assert result.value is None or math.isfinite(result.value), (piece, place)
            assert set(result.flags) <= set(FLAGS), (piece, place)
