"""compat.time_r1.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.rewards import TargetError, score


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.time_r1.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 to 6", 1 / 3),
        ("4.00 and 8.00", 1.0),
        ("2 to 6, or 4 to 8", 1.0),  # the last span
        ("8 to 4", 0.0),
        ("12 to 14", 0.0),
        ("4  to 8", 0.0),  # one space either side
        ("4s to 8s", 0.0),
        ("[4, 8]", 0.0),
        ("-4 to 8", 1.0),  # the minus sign is not seen
        ("00:04 to 00:08", 0.0),  # read as 4 to 0
        ("", 0.0),
    ],
)
def test_iou(text: str, expected: float) -> None:
    assert value("tg", answer(text), [4, 8]) == pytest.approx(expected)


def test_the_last_answer_counts_and_tags_are_needed() -> None:
    assert value("tg", answer("4 to 8") + answer("2 to 6"), [4, 8]) == pytest.approx(1 / 3)
    assert value("tg", "4 to 8", [4, 8]) == 0.0


def test_equal_points_are_worth_1() -> None:
    assert value("tg", answer("5 to 5"), [5, 5]) == 1.0
    assert value("tg", answer("5 to 5"), [4, 8]) == value("tg", answer("4 to 8"), [5, 5]) == 0.0


def test_with_a_duration() -> None:
    # IoU 1/3, both ends 2 of 20 seconds off
    assert value("tg", answer("2 to 6"), [4, 8], {"duration": 20}) == pytest.approx(0.9 * 0.9 / 3)
    assert value("tg", answer("4 to 8"), [4, 8], {"duration": 20}) == 1.0
    assert value("tg", answer("4 to 99"), [4, 8], {"duration": 10}) == 0.0


def test_bad_rows() -> None:
    for target in (None, [1], [1, "b"], [1, float("nan")], "soon"):
        with pytest.raises(TargetError, match=r"compat\.time_r1\.tg"):
            value("tg", "", target)
    for duration in (0, -1, float("inf"), "long"):
        with pytest.raises(TargetError, match="duration"):
            value("tg", "", [1, 2], {"duration": duration})
