"""compat.easyr1.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.rewards import TargetError, score


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.easyr1.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


@pytest.mark.parametrize(
    ("completion", "truth", "expected"),
    [
        (answer("12"), "12", 1.0),
        (answer("\n12\n"), "12", 1.0),  # a line of its own
        (answer("12") + "\n", "12", 0.5),  # nothing is stripped
        (answer("(B)"), "B", 1.0),
        (answer("B."), "B", 0.5),
        ("12", "12", 0.5),  # no tags: the whole completion
        (answer(""), "12", 0.5),
        ("", "12", 0.0),
        (answer("12") + answer("13"), "12", 1.0),  # the first block; lazily, two answers have the shape
        (answer("13"), 12, 0.5),
    ],
)
def test_r1v(completion: str, truth: Any, expected: float) -> None:
    assert value("r1v", completion, truth) == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>a</think> so \\boxed{7}", 1.0),
        ("< think >a</ think >\\boxed{7}", 1.0),
        ("<think>a</think> \\boxed{6} \\boxed{7}", 1.0),
        ("<think>a</think> \\boxed{7} \\boxed{6}", 0.1),
        ("\\boxed{7}", 0.9),
        ("<think>\\boxed{7}</think>", 0.9),
        ("<think>a</think> 7", 0.0),
        ("<think>a</think> \\boxed{", 0.0),
        ("", 0.0),
    ],
)
def test_math(completion: str, expected: float) -> None:
    assert value("math", completion, "7") == pytest.approx(expected)


def test_dapo() -> None:
    assert value("dapo", "Answer: 3\nAnswer: 4", "4") == 1.0
    assert value("dapo", "Answer: 4\nAnswer: 3", "4") == value("dapo", "4", "4") == value("dapo", "", "4") == -1.0
    assert value("dapo", "Answer: 4" + " " * 300, "4") == -1.0  # beyond the last 300 characters
    long = {"num_tokens": 95, "max_length": 100, "buffer": 20}
    assert value("dapo", "Answer: 4", "4", long) == pytest.approx(0.25)
    assert value("dapo", "Answer: 5", "4", {**long, "num_tokens": 300}) == -2.0


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (80, 0), (90, -0.5), (100, -1), (101, -1), (9999, -1)])
def test_overlong(tokens: int, expected: float) -> None:
    assert value("overlong", "", None, {"num_tokens": tokens, "max_length": 100, "buffer": 20}) == expected
    # the buffer is a fifth where nothing is said
    assert value("overlong", "", None, {"response_length": tokens, "max_response_length": 100}) == expected


def test_bad_rows() -> None:
    for name in ("r1v", "math", "dapo"):
        with pytest.raises(TargetError, match=f"compat.easyr1.{name}"):
            value(name, "", None)
    for meta in (
        {},
        {"num_tokens": 5},
        {"num_tokens": 5, "max_length": 9, "buffer": 0},
        {"num_tokens": float("nan"), "max_length": 9},
    ):
        with pytest.raises(TargetError):
            value("overlong", "", None, meta)
