"""Spans of time in an answer: every syntax, and text that is none."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.spans import read_spans


def pairs(answer: str, bare: float = 1.0) -> list[tuple[float, float]]:
    return [(span.start, span.end) for span in read_spans(answer, bare=bare)]


@pytest.mark.parametrize(
    "answer",
    [
        "12.5 to 17",
        "from 12.5 to 17 seconds",
        "12.5s to 17s",
        "12.50 sec - 17.00 sec",
        "12.5-17",
        "12.5 \u2013 17",
        "12.5 -> 17",
        "12.5 ~ 17.0",
        "between 12.5 and 17.",
        "12.5 until 17",
        "[12.5, 17]",
        "(12.5,17)",
        "[[12.5, 17.0]]",
        "['12.5s', '17s']",
        '{"start": 12.5, "end": 17}',
        "{'end_time': 17, 'start_time': 12.5}",
        '{"start": "00:12.5", "end": "00:17"}',
        '```json\n[{"label": "run", "timestamp": [12.5, 17]}]\n```',
        "It starts at 12.5s and ends at 17s.",
        "Start time: 12.5 seconds. End time: 17 seconds",
        "00:12.5 to 00:17",
        "00:00:12.5 - 00:00:17",
        "**12.5** to **17**",
        "<timestep>12.5 to 17</timestep>",
        "12.5, 17.0",
        "12.5 17",
        "It happens at 12.5 to 17.",
        "1.25e1 to 1.7e1",
        "12.5 s. to 17 s.",
        "from second 12.5 to second 17",
        "12.5 to17",
        "\uff11\uff12.\uff15 to \uff11\uff17",
    ],
)
def test_one_span_in_every_syntax(answer: str) -> None:
    assert pairs(answer) == [(12.5, 17.0)]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("1:30 to 2:00", (90.0, 120.0)),
        ("3m to 3m30s", (180.0, 210.0)),
        ("90:00 - 90:01", (5400.0, 5401.0)),
        ("01:00:00 to 01:00:00.5", (3600.0, 3600.5)),
        ("2 to 3 minutes", (120.0, 180.0)),
        ("2 min 5 s to 3 min", (125.0, 180.0)),
        ("1h 2m 3s to 2 hours", (3723.0, 7200.0)),
        ("90s to 2 min", (90.0, 120.0)),
        ("-3 to 5", (-3.0, 5.0)),
        ("3 to -5", (3.0, -5.0)),
        ("3 - -.5", (3.0, -0.5)),
        ("[-3, 5]", (-3.0, 5.0)),
        ("9 to 4", (9.0, 4.0)),
        ("12.5s", (12.5, 12.5)),
        ("at 00:12", (12.0, 12.0)),
    ],
)
def test_units_clocks_and_signs(answer: str, expected: tuple[float, float]) -> None:
    assert pairs(answer) == [expected]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no idea",
        "3 to",
        "to 5",
        "5to7",
        "[3, 5",
        "[3, 5, 7]",
        "00:75 to 00:80",
        "0:12:90 to 3",
        "frame 3 to frame 5",
        "about 12 seconds",
        "10% to 30%",
        "photo12 to 17",
        "12d to 17d",
        "1, 2, 3",
        "3 cats and dogs 5",
        "3 {to} 5",
    ],
)
def test_no_span(answer: str) -> None:
    assert pairs(answer) == []


@pytest.mark.parametrize(
    "answer",
    [
        "It is not 10 to 20",
        "it isn't 10 to 20",
        "it isn\u2019t from 10 to 20",
        "not between 10 and 20",
        "It does not happen from 10 to 20",
        "not [10, 20]",
        "10 to 20 is wrong",
        "10 to 20 is not correct",
        "10 to 20 to 30",
        "10 - 20 - 30",
        "10 and 20 to 30",
    ],
)
def test_denied_spans_and_odd_chains_are_none(answer: str) -> None:
    assert pairs(answer) == []


@pytest.mark.parametrize(
    "answer",
    [
        "10 to 20, not 30 to 40",
        "It is not 1 to 2, it is 10 to 20",
        "not sure, 10 to 20",
        "The dog is not visible from 10 to 20",
        "It does not appear until 10 to 20",
        "Not before; 10 to 20",
        "10 to 20 is right",
        "\u201c10 to 20\u201d",
    ],
)
def test_a_denial_of_something_else_costs_nothing(answer: str) -> None:
    assert pairs(answer) == [(10.0, 20.0)]


def test_percents_are_times_where_answers_are_fractions() -> None:
    (span,) = read_spans("10% to 30 %", bare=20.0, relative=True)
    assert (span.start, span.end) == (2.0, 6.0)


def test_not_finite_times_are_kept() -> None:
    ((start, end),) = pairs("nan to 1e999")
    assert math.isnan(start)
    assert end == math.inf


def test_bare_numbers_stand_for_what_the_caller_says() -> None:
    assert pairs("0.25 to 0.5", bare=40.0) == [(10.0, 20.0)]
    assert pairs("12s to 17", bare=40.0) == [(12.0, 17.0)]
    assert pairs("00:12 to 00:17", bare=40.0) == [(12.0, 17.0)]


@pytest.mark.parametrize(
    ("answer", "listings"),
    [
        ("3 to 5, 7 to 9", [0, 0]),
        ("[[3, 5], [7, 9]]", [0, 0]),
        ("3 to 5 and 7 to 9", [0, 0]),
        ("1. 3 to 5\n2. 7 to 9", [0, 0]),
        ('[{"start": 3, "end": 5}, {"start": 7, "end": 9}]', [0, 0]),
        ("between 3 to 5 at first, but the answer is 7 to 9", [0, 1]),
        ("maybe 3 to 5 or 5 to 6; no: 7 to 9", [0, 0, 1]),
    ],
)
def test_prose_parts_listings(answer: str, listings: list[int]) -> None:
    assert [span.listing for span in read_spans(answer)] == listings
    assert pairs(answer)[0] == (3.0, 5.0)
    assert pairs(answer)[-1] == (7.0, 9.0)


def test_a_repeated_key_makes_no_second_span() -> None:
    assert pairs('{"start": 3, "start": 4, "end": 5, "end": 9}') == [(4.0, 5.0)]


PIECES = [
    "3",
    "12.5",
    "1:30",
    "s",
    " ",
    "to",
    "-",
    "[",
    "]",
    ",",
    "start",
    "end",
    "nan",
    "min",
    "{",
    ":",
    "\u2013",
    "~",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join))
def test_never_raises(answer: str) -> None:
    for span in read_spans(answer):
        assert isinstance(span.start, float)
        assert isinstance(span.end, float)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_reads_what_is_written(start: int, end: int) -> None:
    a, b = start / 100, end / 100
    for text in (f"{a} to {b}", f"{a}s - {b}s", f"[{a}, {b}]", f'{{"start": {a}, "end": {b}}}'):
        assert pairs(text) == [(a, b)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["3 to ", "9", "-", "[", "1:", "a", "start 3 ", "<|", "1 min ", "é", "[1,", "~ ", "1e"]
)
def test_linear_in_a_hostile_text(piece: str) -> None:
    """Four times the text must not take much more than four times as long."""
    small, large = piece * (30_000 // len(piece)), piece * (120_000 // len(piece))

    def seconds(text: str) -> float:
        best = math.inf
        for _ in range(2):
            begun = time.process_time()
            read_spans(text)
            best = min(best, time.process_time() - begun)
        return best

    assert seconds(large) < 10 * seconds(small) + 0.05
