"""compat.codevision.*: numbers worked out by hand from the peer's formulas, quirks kept and bugs mended."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.rewards import TargetError, score


def value(name: str, completion: str, target: Any, meta: dict[str, Any] | None = None) -> float | None:
    return score(f"compat.codevision.{name}", completion, target, meta).value


def answer(text: str) -> str:
    return f"<think>t</think><answer>{text}</answer>"


BOX = [0, 0, 10, 10]
TASK = {"ops": ["rotate90", "crop"], "box": BOX, "answer": "B"}
CROP = {"name": "crop", "parameters": {"box": [0, 0, 10, 5]}}


def test_mandatory() -> None:
    assert value("mandatory", "", TASK, {"calls": ["rotate90"]}) == 0.5
    assert value("mandatory", "", TASK, {"calls": ["rotate90", CROP]}) == 0.75  # the crop's IoU is 0.5
    exact = {"name": "crop", "parameters": {"box": BOX}}
    assert value("mandatory", "", TASK, {"calls": [CROP, exact, "rotate90"]}) == 1.0
    assert value("mandatory", "", TASK, {"calls": ["rotate270"]}) == 0.0
    assert value("mandatory", "", {"ops": []}, {"calls": ["rotate90"]}) == 0.0
    known = {"required_transforms": ["rotate90", "crop"], "gt_bbox": BOX, "calls": ["rotate90"]}
    assert value("mandatory", "", "B", known) == 0.5


def test_mandatory_reads_code() -> None:
    call = '<tool_call>{"name": "code_image_tool", "parameters": {"code": "CODE"}}</tool_call>'
    assert value("mandatory", call.replace("CODE", "r = img.rotate(90)"), TASK) == 0.5
    assert value("mandatory", call.replace("CODE", "r = img.rotate(-270).crop((0, 0, 10, 5))"), TASK) == 0.75
    assert value("mandatory", call.replace("CODE", "img.transpose(Image.FLIP_LEFT_RIGHT)"), {"ops": ["hflip"]}) == 1.0
    assert value("mandatory", call.replace("CODE", "img.resize((2, 2))"), TASK) == 0.0


@pytest.mark.parametrize(
    ("calls", "text", "expected"),
    [
        # accuracy + format + mandatory + exact
        (["rotate90", {"name": "crop", "parameters": {"box": BOX}}], "B", 1 + 0.1 + 1 + 0.1),
        (["rotate90", CROP], "B", 1 + 0.1 + 0.75 + 0.1),
        # a lucky answer without the crop
        ([], "B", 0 + 0.1 + 0),
        (["rotate90"], "B", 1 + 0.1 + 0.5),
        (["rotate90"], "C", 0 + 0.1 + 0.5),
        # an operation outside the core set pays a right answer, and only that
        (["rotate90", "resize"], "B", 1 + 0.1 + 0.5 + 0.2),
        (["rotate90", "resize"], "C", 0 + 0.1 + 0.5),
        # four calls where two are free
        (["rotate90"] * 4, "B", 1 + 0.1 + 0.5 - 0.5 * 2),
    ],
)
def test_total(calls: list[Any], text: str, expected: float) -> None:
    assert value("total", answer(text), TASK, {"calls": calls}) == pytest.approx(expected)


def test_spurious_turns_and_no_floor() -> None:
    task = {"ops": ["crop"], "box": BOX, "answer": "B"}
    # crop found; two kinds of turn that nobody asked for; three calls where two are free
    crop = {"name": "crop", "parameters": {"box": BOX}}
    made = {"calls": [crop, "rotate90", "flip_horizontal"]}
    assert value("total", answer("B"), task, made) == pytest.approx(1 + 0.1 + 1 - 0.5 * (1 + 2))
    assert value("total", "x", task, {"calls": ["rotate90"] * 12}) == pytest.approx(-0.5 * (10 + 1))


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        (answer("it is B"), "B", 1),
        (answer("B") + answer("C"), "C", 1),  # the last block
        ("<answer>B", "B", 1),
        ("so\nB", "B", 1),
        (answer("42.00001"), "42", 1),
        (answer("1/2"), "0.5", 1),
        (answer("42.1"), "42", 0),
        (answer("nan"), "42", 0),
        (answer(""), "42", 0),
        (answer("a red hat"), "a red hat", 1),
        (answer("a red"), "a red hat", 0),
        (answer("1/0"), "1", 0),
    ],
)
def test_accuracy_by_rule(text: str, truth: str, right: int) -> None:
    without = value("total", text, {"ops": [], "answer": "\0"})
    found = value("total", text, {"ops": [], "answer": truth})
    assert found is not None
    assert without is not None
    assert found - without == pytest.approx(right)


@pytest.mark.parametrize(
    "text",
    [
        "<answer>B</answer>",
        "x<think>t</think><answer>B</answer>",
        "<think>t</think><answer>B</answer> done",
        "<think>t<answer>B</answer></think>",
        "<think>t</think><answer>A</answer><answer>B</answer>",
        "<think><think>t</think><answer>B</answer>",
    ],
)
def test_format_is_strict(text: str) -> None:
    known = {"accuracy": 1.0, "calls": []}
    assert value("total", text, {"ops": []}, known) == pytest.approx(1.1)
    with_tool = "<think>t</think><tool_response>a <answer></tool_response><think>u</think><answer>B</answer>"
    assert value("total", with_tool, {"ops": []}, known) == pytest.approx(1.2)


@pytest.mark.parametrize("target", ["B", {"ops": 3}, {"ops": ["crop"], "box": [9, 9, 0, 0]}, None])
def test_bad_targets(target: Any) -> None:
    with pytest.raises(TargetError, match=r"compat\.codevision"):
        value("total", "", target)
