"""tg.*: golden numbers worked out by hand, and the listings that must not pay."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.rewards import TargetError, check_target, score
from vlrft.types import Score

SINGLE = ["tg.iou", "tg.tiou", "tg.recall@0.5"]
VIDEO = {"duration": 40}


def say(answer: Any) -> str:
    return f"<think>looking from 10 to 20</think><answer>{answer}</answer>"


def judge(answer: Any, target: Any, name: str = "tg.iou", **meta: Any) -> Score:
    return score(name, say(answer), target, meta)


@pytest.mark.parametrize(
    ("answer", "iou", "tiou"),
    [
        # target 10 to 20 in a video of 40
        ("10 to 20", 1.0, 1.0),
        ("10 to 15", 0.5, 0.5 * 35 / 40),
        ("15 to 25", 5 / 15, 5 / 15 * (35 / 40) ** 2),
        ("0 to 40", 10 / 40, 10 / 40 * (30 / 40) * (20 / 40)),
        ("20 to 30", 0.0, 0.0),
        ("00:10 to 00:15", 0.5, 0.5 * 35 / 40),
        ("[10.0, 12.5]", 0.25, 0.25 * 32.5 / 40),
        ("30 to 50", 0.0, 0.0),
    ],
)
def test_golden_numbers(answer: str, iou: float, tiou: float) -> None:
    assert judge(answer, [10, 20], **VIDEO).value == pytest.approx(iou, abs=1e-12)
    assert judge(answer, [10, 20], "tg.tiou", **VIDEO).value == pytest.approx(tiou, abs=1e-12)
    assert judge(answer, [10, 20], "tg.recall@0.5", **VIDEO).value == float(iou >= 0.5)


def test_a_score_names_its_part() -> None:
    assert judge("10 to 20", [10, 20]) == Score(value=1.0, parts={"tg.iou": 1.0})


def test_clip_to_the_duration() -> None:
    found = judge("-10 to 500", [10, 20], **VIDEO)
    assert (found.value, found.flags) == (0.25, ("out_of_range",))
    assert judge("-10 to 20", [10, 20]).value == pytest.approx(10 / 30)
    assert judge("50 to 60", [10, 20], **VIDEO).value == 0.0
    # the annotation's own overhang is cut as well
    assert judge("30 to 40", [30, 41.5], **VIDEO).value == 1.0


def test_fractions_of_the_duration_where_declared() -> None:
    assert judge("0.25 to 0.5", [10, 20], unit="relative", **VIDEO).value == 1.0
    assert judge("0.25 to 0.5", [10, 20], **VIDEO).value == 0.0
    assert judge("10s to 20s", [10, 20], unit="relative", **VIDEO).value == 1.0
    assert judge("10 to 20", [10, 20], unit="relative", **VIDEO).value == 0.0


def test_a_moment() -> None:
    for answer in ("12.5", "12.5 to 12.5", "at 12.5s"):
        assert judge(answer, [12.0, 12.0]).value == pytest.approx(0.5)
    assert judge("12", [12, 12]).value == 1.0
    assert judge("13", [12, 12]).value == 0.0
    assert score("tg.iou", say("13"), [12, 12], point_tol=4).value == pytest.approx(0.75)
    assert score("tg.iou", say("12"), [12, 12], point_tol=0).value == 1.0
    assert score("tg.iou", say("12.1"), [12, 12], point_tol=0).value == 0.0
    assert judge("11 to 13", [12, 12]).value == 0.0
    assert judge("50", [40, 40], **VIDEO).value == 0.0
    assert judge("13", [12, 12], "tg.tiou", **VIDEO).value == 0.0
    assert judge("12", [12, 12], "tg.tiou", **VIDEO).value == 1.0


# ---------------------------------------------------------------------------------------- several


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        ("[[0, 5], [10, 15]]", [[0, 10]], 5 / 15),
        ("[[0, 5], [10, 15]]", [[0, 5], [10, 15]], 1.0),
        ("10 to 15, 0 to 5", [[0, 5], [10, 15]], 1.0),
        # overlapping spans count once
        ("[[0, 6], [4, 10], [0, 10]]", [[0, 10]], 1.0),
        ("[[0, 10]]", [[0, 6], [4, 10]], 1.0),
        ("0 to 4", [[0, 2], [3, 5]], 3 / 5),
        ("[]", [], 1.0),
        ("None", [], 1.0),
        ("no events.", [], 1.0),
        ("[]", [[0, 10]], 0.0),
        ("0 to 10", [], 0.0),
        ("I cannot see it", [], 0.0),
        ("none of them", [], 0.0),
    ],
)
def test_multi_iou(answer: str, target: Any, expected: float) -> None:
    assert judge(answer, target, "tg.multi_iou").value == pytest.approx(expected)


def test_one_span_is_no_target_of_multi_iou() -> None:
    with pytest.raises(
        TargetError, match=r"is a list of spans, got one span, \[0, 5\]; write \[\[0, 5\]\], or use tg\.iou"
    ):
        judge("[[0, 5]]", [0, 5], "tg.multi_iou")
    assert judge("[[0, 5]]", [[0, 5]], "tg.multi_iou").value == 1.0


def test_multi_iou_bad_spans() -> None:
    reversed_pair = judge("[[0, 10], [9, 5]]", [[0, 10]], "tg.multi_iou")
    assert (reversed_pair.value, reversed_pair.flags) == (0.0, ("unparsable",))
    assert judge("[[0, 10], [nan, 5]]", [[0, 10]], "tg.multi_iou").flags == ("non_finite",)
    assert judge("gibberish", [], "tg.multi_iou").flags == ("unparsable",)
    assert judge("[[0, 500]]", [[0, 40]], "tg.multi_iou", **VIDEO) == Score(
        value=1.0, parts={"tg.multi_iou": 1.0}, flags=("out_of_range",)
    )


def test_multi_iou_of_everything_earns_its_share_only() -> None:
    listing = ", ".join(f"{i} to {i + 1}" for i in range(40))
    assert judge(listing, [[10, 20]], "tg.multi_iou", **VIDEO).value == pytest.approx(0.25)


# ------------------------------------------------------------------------------------------- hacks


@pytest.mark.parametrize("name", [*SINGLE, "tg.multi_iou"])
@pytest.mark.parametrize(
    ("completion", "flags"),
    [
        ("", ("no_answer",)),
        ("10 to 20", ("no_answer",)),
        ("<think>10 to 20</think>", ("no_answer",)),
        (say(" "), ("no_answer",)),
        (say("soon"), ("unparsable",)),
        (say("20 to 10"), ("unparsable",)),
        (say("nan to inf"), ("non_finite",)),
        (say("0 to 1e999"), ("non_finite",)),
        (say("0 to " + "9" * 5000), ("non_finite",)),
        ("<think>a <answer>10 to 20</answer></think>", ("no_answer",)),
        ("\uff1canswer\uff1e10 to 20\uff1c/answer\uff1e", ("no_answer",)),
        (say("[" * 100_000), ("unparsable",)),
        (say("a" * 1_000_000), ("unparsable",)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_worth_nothing(name: str, completion: str, flags: tuple[str, ...]) -> None:
    target = [[10, 20]] if name == "tg.multi_iou" else [10, 20]
    found = score(name, completion, target, VIDEO)
    assert (found.value, found.flags) == (0.0, flags)


@pytest.mark.parametrize("name", SINGLE)
def test_a_span_without_length_is_worth_nothing(name: str) -> None:
    for answer in ("15 to 15", "15", "15s"):
        assert score(name, say(answer), [10, 20], VIDEO).value == 0.0


@pytest.mark.parametrize("name", SINGLE)
def test_the_last_span_counts(name: str) -> None:
    found = score(name, say("between 3 to 5 at first, but the answer is 10 to 20"), [10, 20], VIDEO)
    assert (found.value, found.flags) == (1.0, ("several_answers",))
    assert score(name, say("the answer is 10 to 20, though it may be 30 to 35"), [10, 20], VIDEO).value == 0.0


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_a_listing_divides_by_its_length(name: str, n: int) -> None:
    wrong = ["30 to 31"] * (n - 1)
    assert score(name, say(", ".join([*wrong, "10 to 20"])), [10, 20], VIDEO).value == pytest.approx(1 / n)
    if n > 1:
        assert score(name, say(", ".join(["10 to 20", *wrong])), [10, 20], VIDEO).value == 0.0


@pytest.mark.parametrize("name", SINGLE)
def test_the_whole_video_earns_its_share_only(name: str) -> None:
    value = score(name, say("0 to 1e9"), [10, 12], VIDEO).value
    assert value is not None
    assert value <= 2 / 40


# -------------------------------------------------------------------------------------- properties

times = st.integers(0, 4000).map(lambda n: n / 100)
spans = st.tuples(times, times).map(sorted).filter(lambda s: s[0] < s[1])


@settings(max_examples=100, deadline=None)
@given(spans, spans)
def test_symmetric_bounded_and_ordered(a: list[float], b: list[float]) -> None:
    forth, back = judge(f"{a[0]} to {a[1]}", b).value, judge(f"{b[0]} to {b[1]}", a).value
    assert forth is not None
    assert 0.0 <= forth <= 1.0
    assert forth == pytest.approx(back)
    assert judge(f"[[{a[0]}, {a[1]}]]", [b], "tg.multi_iou").value == pytest.approx(forth)
    shifted = judge(f"{a[0]} to {a[1]}", b, "tg.tiou", **VIDEO).value
    assert shifted is not None
    assert 0.0 <= shifted <= forth + 1e-12
    assert judge(f"{a[0]} to {a[1]}", a, "tg.tiou", **VIDEO).value == 1.0


wild = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=100, deadline=None)
@given(wild, wild)
def test_in_range_for_every_number(a: float, b: float) -> None:
    for meta in ({}, VIDEO):
        for name, target in (("tg.iou", [0, 1e300]), ("tg.iou", [5, 5]), ("tg.multi_iou", [[0, 3], [5, 1e300]])):
            target = [0, 39] if meta and name == "tg.iou" else [[0, 3]] if meta else target
            value = score(name, say(f"[{a}, {b}]"), target, meta).value
            assert value is not None
            assert 0.0 <= value <= 1.0


# ----------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("target", "meta", "message"),
    [
        (None, VIDEO, r"a span target is \[start, end\] in seconds, got None"),
        ([1], VIDEO, "got"),
        ([1, 2, 3], VIDEO, "got"),
        (["1", 2], VIDEO, "got"),
        ([True, 2], VIDEO, "got"),
        ("1 to 2", VIDEO, "got"),
        ([5, 2], VIDEO, "0 <= start <= end"),
        ([-1, 2], VIDEO, "0 <= start <= end"),
        ([0, math.nan], VIDEO, "finite"),
        ([math.nan, 1], VIDEO, "finite"),
        ([0, math.inf], VIDEO, "finite"),
        ([1200, 3400], VIDEO, "starts after the video's end"),
        ([1, 2], {"duration": 0}, r"meta\['duration'\] is the video's length"),
        ([1, 2], {"duration": "forty"}, r"meta\['duration'\]"),
        ([1, 2], {"duration": math.nan}, r"meta\['duration'\]"),
        ([1, 2], {"duration": 10**400}, r"meta\['duration'\]"),
        ([1, 2], {"unit": "frames", **VIDEO}, "must be one of seconds, relative, got 'frames'"),
    ],
)
def test_bad_targets_stop_before_any_completion(target: Any, meta: dict[str, Any], message: str) -> None:
    for name in SINGLE:
        with pytest.raises(TargetError, match=message):
            check_target(name, target, meta)
        with pytest.raises(TargetError, match=message):
            score(name, say("1 to 2"), target, meta)


def test_what_needs_the_duration_says_so() -> None:
    with pytest.raises(TargetError, match=r"tg.tiou needs meta\['duration'\]"):
        check_target("tg.tiou", [1, 2])
    for name, target in (("tg.iou", [1, 2]), ("tg.multi_iou", [])):
        with pytest.raises(TargetError, match=r"'relative' needs meta\['duration'\]"):
            check_target(name, target, {"unit": "relative"})
    with pytest.raises(TargetError, match="too large"):
        check_target("tg.iou", [0, 10**400])


@pytest.mark.parametrize("target", [None, "1 to 2", [1, 2], [[1, 2], [3, 3]], [[5, 1]], [[1, "2"]]])
def test_bad_targets_of_multi_iou(target: Any) -> None:
    with pytest.raises(TargetError):
        check_target("tg.multi_iou", target)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="point_tol"):
        score("tg.iou", "", [1, 2], point_tol=-1)
    with pytest.raises(ValueError, match="threshold must lie in"):
        score("tg.recall@0", "", [1, 2])


@pytest.mark.parametrize("answer", ["It is not 10 to 20", "10 to 20 is wrong", "10 to 20 to 30", "10 - 20 - 30"])
def test_denied_spans_and_odd_chains_are_worth_nothing(answer: str) -> None:
    found = score("tg.iou", f"<answer>{answer}</answer>", [10, 20])
    assert (found.value, found.flags) == (0.0, ("unparsable",))
    assert score("tg.iou", f"<answer>{answer}; it is 10 to 20</answer>", [10, 20]).value == 1.0
