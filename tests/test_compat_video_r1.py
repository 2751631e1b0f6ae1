"""compat.video_r1.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.parse import parse
from vlrft.rewards import TargetError, score
from vlrft.rewards.base import Judged
from vlrft.rewards.compat.video_r1 import group


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.video_r1.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


@pytest.mark.parametrize(
    ("text", "right"), [("B", 1), (" B ", 1), ("B.", 0), ("(B)", 0), ("b", 0), ("B. text", 0), ("", 0)]
)
def test_multiple_choice(text: str, right: int) -> None:
    assert value("multiple_choice", answer(text), "<answer>B</answer>") == right


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("5", "5", 1),
        ("5.0", "5", 0),
        ("1,000", "1000", 0),
        ("0.004", "0.001", 1),
        ("3.14", "3.142", 1),
        ("3.15", "3.14", 0),
        ("nan", "5", 0),
        ("inf", "5", 0),
        ("five", "5", 0),
        ("", "5", 0),
        ("5", 5, 1),
    ],
)
def test_numerical(text: str, truth: Any, right: int) -> None:
    assert value("numerical", answer(text), truth) == right


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100", 1.0), ("75", 0.75), ("150", 0.5), ("250", 0.0), ("nan", 0.0), ("-inf", 0.0), ("", 0.0)],
)
def test_regression(text: str, expected: float) -> None:
    assert value("regression", answer(text), 100) == pytest.approx(expected)


def test_ocr_and_free_form() -> None:
    assert value("ocr", answer("the red hat"), "the red cat") == pytest.approx(2 / 3)
    assert value("ocr", answer("a b c d e f"), "x y") == value("ocr", answer(""), "x y") == 0.0
    assert value("free_form", answer("cat"), "cat") == pytest.approx(2 / 3)  # one word has no ROUGE-2
    assert value("free_form", answer("the running cat"), "the runs cat") == pytest.approx(1.0)
    # ROUGE-1 and -L: P 1, R 1/2; ROUGE-2: one of three pairs, P 1
    assert value("free_form", answer("a b"), "a b c d") == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)


def test_group_alone() -> None:
    meta = {"control": [0.5], "formats": [1, 0], "group_lengths": [400, 100], "index": 0}
    # one good completion: temporal bonus, no length bonus
    assert value("group", "", [1.0, 0.0], meta) == pytest.approx(1 + 1 + 0.3)
    assert value("group", "", [1.0, 0.0], {**meta, "index": 1}) == 0.0
    # two good ones: those of 320 to 512 tokens get 0.2
    assert value("group", "", [1.0, 0.2], meta) == pytest.approx(1 + 1 + 0.3 + 0.2)
    assert value("group", "", [1.0, 0.2], {**meta, "index": 1}) == pytest.approx(0.2 + 0.3)
    # 0.8 of the shuffled mean is enough, less is not; a bonus needs accuracy above 0.1
    assert value("group", "", [0.4], {"control": [0.5], "index": 0}) == pytest.approx(0.7)
    assert value("group", "", [0.4], {"control": [0.51], "index": 0}) == pytest.approx(0.4)
    assert value("group", "", [0.1], {"control": [0.0], "index": 0}) == pytest.approx(0.1)
    assert value("group", "", [0.4], {"index": 0}) == pytest.approx(0.4)
    assert value("group", "", [0.0, 0.0], {"control": [0.0], "index": 0}) == 0.0


def test_group_of_a_run() -> None:
    texts = [answer("B"), answer("B"), "C"]
    judged = Judged(
        parsed=tuple(map(parse, texts)),
        parts=({"accuracy": 1.0}, {"accuracy": 1.0}, {"accuracy": None}),
        target="B",
        meta=({"num_tokens": 320, "control": [1.0]}, {"num_tokens": 513}, {"num_tokens": 400}),
    )
    assert [score.value for score in group(judged)] == [pytest.approx(2.2), 2.0, 0.0]
    with pytest.raises(TargetError, match="no part 'acc'"):
        group(judged, accuracy="acc")


@pytest.mark.parametrize(
    ("name", "target", "meta"),
    [
        ("multiple_choice", None, {}),
        ("numerical", "five", {}),
        ("regression", "x", {}),
        ("ocr", "", {}),
        ("group", [float("nan")], {}),
        ("group", [1.0], {"control": []}),
        ("group", [1.0], {"group_lengths": [1, 2]}),
        ("group", [1.0], {"index": 3}),
    ],
)
def test_bad_targets(name: str, target: Any, meta: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=f"compat.video_r1.{name}"):
        value(name, "", target, meta)
