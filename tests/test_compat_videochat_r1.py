"""compat.videochat_r1.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vlrft.rewards import TargetError, score


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.videochat_r1.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


UNIT = [0, 0, 1, 1]


def test_tg() -> None:
    assert value("tg", answer("5.00 to 10.00"), [5, 15]) == 0.5
    assert value("tg", answer("5 to 5"), "[5, 5]") == 1.0
    assert value("tg", "5 to 15", [5, 15]) == value("tg", answer("15 to 5"), [5, 15]) == 0.0


@pytest.mark.parametrize(
    ("text", "truth", "expected"),
    [
        ("[(0, 4), (6, 8)]", [[0, 8]], 0.75),
        ("[(0, 5), (3, 8)]", [[0, 8]], 1.0),  # merged first
        ("[(0.5, 1.5)]", [[1, 2]], 0.5 / 1.5),
        ("[]", [], 1.0),
        ("[]", [[0, 8]], 0.0),
        ("[(0, 8)]", [], 0.0),
        ("[(8, 0)]", [[0, 8]], 0.0),
        ("[(0, 8), (9, 1)]", [[0, 8]], 0.0),  # one reversed pair
        (" [(0, 8)]", [[0, 8]], 0.0),  # no leading space
        ("[[0, 8]]", [[0, 8]], 0.0),
        ("[(0, 8)", [[0, 8]], 0.0),
        ("[(0, 4)] [(4, 8)]", [[0, 8]], 0.0),
        ("[(0, x)]", [[0, 8]], 0.0),
    ],
)
def test_glue(text: str, truth: Any, expected: float) -> None:
    assert value("glue", f"<glue>{text}</glue>", truth) == pytest.approx(expected)
    assert value("glue", text, truth) == 0.0


def test_tracking() -> None:
    half = [0, 0, 1, 0.5]
    assert value("tracking", answer(json.dumps([UNIT] * 8)), [UNIT] * 8) == 1.0
    assert value("tracking", answer(json.dumps([UNIT] * 4 + [half] * 4)), [UNIT] * 8) == 0.75
    for boxes in ([UNIT] * 7, [UNIT] * 9, [[0, 0, 1]] * 8, [], [[1, 1, 0, 0]] * 8, [[0, 0, 1e400, 1]] * 8):
        assert value("tracking", answer(json.dumps(boxes)), [UNIT] * 8) == 0.0
    assert value("tracking", answer("[0] * 8"), [UNIT] * 8) == value("tracking", answer("[" * 9999), [UNIT] * 8) == 0.0


@pytest.mark.parametrize(("text", "right"), [("Running", 1), (" running\n", 1), ("run", 0), ("", 0)])
def test_cls(text: str, right: int) -> None:
    assert value("cls", answer(text), "running") == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("C", 1),
        ("(C) red", 1),
        ("The answer is C", 1),
        ("C.", 1),
        ("Because it is red, C", 1),
        ("A dog", 0),
        ("c", 0),
        ("B", 0),
        ("", 0),
        ("none of them", 0),
    ],
)
def test_qa(text: str, right: int) -> None:
    assert value("qa", answer(text), "(C) red") == right


@pytest.mark.parametrize(
    ("name", "target"),
    [("tg", None), ("glue", 3), ("glue", [[1]]), ("tracking", "x"), ("tracking", [[1, 2]]), ("cls", ""), ("qa", "H")],
)
def test_bad_targets(name: str, target: Any) -> None:
    with pytest.raises(TargetError, match=f"compat.videochat_r1.{name}"):
        value(name, "", target)
