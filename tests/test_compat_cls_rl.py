"""compat.cls_rl.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.rewards import TargetError, score


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.cls_rl.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (answer(" ROSE "), 1),
        ("rose", 1),
        (answer("\nrose\n"), 1),
        (answer("a rose"), 0),
        (answer(""), 0),
        ("<answer>rose</answer><answer>tulip</answer>", 1),
        ("", 0),
    ],
)
def test_think(completion: str, right: int) -> None:
    assert value("think", completion, "<answer>Rose</answer>") == right


def test_a_number_in_the_reasoning_does_not_pay() -> None:
    assert value("think", "<think>it is 172</think><answer>Airbus</answer>", "172") == 0.0


@pytest.mark.parametrize(
    ("completion", "right"), [("Rose", 1), ("rose", 0), ("Rose ", 0), (answer("Rose"), 0), ("", 0)]
)
def test_direct(completion: str, right: int) -> None:
    assert value("direct", completion, "Rose") == right


@pytest.mark.parametrize("name", ["think", "direct"])
def test_bad_targets(name: str) -> None:
    for target in (None, "", "<answer> </answer>", ["rose"]):
        with pytest.raises(TargetError, match=f"compat.cls_rl.{name}"):
            value(name, "rose", target)
