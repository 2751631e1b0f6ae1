"""`vlrft reward --jsonl`: files of completions, judged by one reward or by a recipe's."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from commands import call, refusal

ANSWER = "<think>left</think><answer>[0, 0, 10, 5]</answer>"


def test_lines_of_a_file_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"completion": ANSWER, "target": [0, 0, 10, 10]},
        {"completion": "<answer>[0, 0, 500, 500]</answer>", "target": [0, 0, 10, 10], "meta": {"image_size": [20, 20]}},
        {"completion": "none", "target": [0, 0, 10, 10], "meta": None},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    meta = '{"coord_space": "norm_1000", "image_size": [1000, 1000]}'
    assert call(monkeypatch, "reward", "box.iou", "--jsonl", str(path), "--meta", meta) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["value"] for line in printed] == [0.5, 1.0, 0.0]
    assert printed[2]["flags"] == ["no_answer"]


def test_lines_of_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = json.dumps({"completion": "<answer>grün</answer>", "target": "grün"})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line.encode()), encoding="utf-8"))
    assert call(monkeypatch, "reward", "text.edit", "--jsonl", "-") == 0
    assert json.loads(capsys.readouterr().out)["value"] == 1.0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"^not JSON: [^:]*column 2$"),
        ("[1]", "expected an object"),
        ('{"target": [0, 0, 1, 1]}', "field 'completion' must be a text, got None"),
        ('{"completion": "x", "meta": 3, "target": [0, 0, 1, 1]}', "field 'meta' must be an object"),
        ('{"completion": "x"}', r"field 'target' is missing .*\[x1, y1, x2, y2\], got None"),
        ('{"completion": "x", "target": [0, 0, NaN, 1]}', "field 'target'"),
        (
            '{"completion": "x", "target": [0, 0, 1, 1], "meta": {"coord_space": "cm"}}',
            "^field 'meta': .*unknown coordinate space 'cm'",
        ),
        (
            '{"completion": "x", "target": [0, 0, 1, 1], "meta": {"image_size": 3}}',
            "field 'meta': .*got 3",
        ),
        ('{"completion": "x", "target": [1], "id": "s7"}', r"^field 'target': .*got \[1\]"),
        (
            '{"response": "x", "target": [0, 0, 1, 1]}',
            "the line has 'response', 'target'; rename 'response'",
        ),
        (
            '{"completion": "x", "solution": [0, 0, 1, 1]}',
            "field 'target' is missing .*rename 'solution'",
        ),
        ('{"completion": 3, "target": [0, 0, 1, 1]}', "field 'completion' must be a text or chat messages"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    """It has an error in place of a score, and the lines after it are scored."""
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"completion": ANSWER, "target": [0, 0, 10, 10]})
    path.write_text(f"{good}\n{line}\n\n{good}\n")
    assert call(monkeypatch, "reward", "box.iou", "--jsonl", str(path)) == 1
    printed = capsys.readouterr()
    first, bad, last = map(json.loads, printed.out.splitlines())
    assert (first, last) == (
        {"line": 1, "value": 0.5, "parts": {"box.iou": 0.5}, "flags": []},
        {"line": 4, "value": 0.5, "parts": {"box.iou": 0.5}, "flags": []},
    )
    assert bad["line"] == 2
    assert bad.keys() - {"id"} == {"line", "error"}
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(bad["error"])
    assert printed.err == (
        f"error: reward 'box.iou': 1 of 3 lines of {path} could not be scored (2); their lines of the output say why\n"
    )


def test_every_line_of_the_output_names_its_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"completion": "<answer>yes</answer>", "target": "yes", "id": "a"}, {"target": "yes", "id": "b"}]
    path.write_text("\n".join(["", *map(json.dumps, rows * 4), ""]))
    assert call(monkeypatch, "reward", "yesno", "--jsonl", str(path)) == 1
    printed = capsys.readouterr()
    found = [json.loads(line) for line in printed.out.splitlines()]
    assert [(line["line"], line["id"], "error" in line) for line in found] == [
        (number, "ab"[number % 2], number % 2 == 1) for number in range(2, 10)
    ]
    assert f"4 of 8 lines of {path} could not be scored (3, 5, 7, 9)" in printed.err


def test_state_lives_from_line_to_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"completion": "<answer>left lung</answer>", "target": "left lobe"}) + "\n") * 4)
    options = '{"embedder": "vlrft.rewards.semantic:trigrams", "warm_up": 2}'
    assert call(monkeypatch, "reward", "semantic.rescaled", "--jsonl", str(path), "--options", options) == 0
    first, *_, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    threshold = "semantic.threshold"
    assert first["parts"][threshold] is None
    assert last["parts"][threshold] is not None


def test_a_byte_order_mark_and_other_fields(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = {"completion": ANSWER.replace("10, 5", "500, 500"), "target": [0, 0, 10, 10], "id": 1}
    rows = [
        {**moved, "image_size": [20, 20], "coord_space": "norm_1000", "floor": "wood"},
        {**moved, "image_size": [20, 20], "meta": {"image_size": [20, 20], "coord_space": "norm_1000"}},
        {**moved, "completion": [{"role": "assistant", "content": ANSWER}]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8-sig")
    assert call(monkeypatch, "reward", "box.giou", "--jsonl", str(path)) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["value"] for line in said.out.splitlines()] == [1.0, 1.0, 0.75]
    assert not said.err, "a field beside meta is never an option"


def test_meta_and_fields_that_disagree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"completion": "<answer>3 cm</answer>", "target": 3, "meta": {"unit": "cm"}}
    path.write_text("\n".join(json.dumps({**row, "unit": unit}) for unit in ("cm", "mm")))
    assert call(monkeypatch, "reward", "num.exact", "--jsonl", str(path), "--meta", '{"unit": "km"}') == 1
    good, bad = map(json.loads, capsys.readouterr().out.splitlines())
    assert good["value"] == 1.0, "a line's own meta wins over --meta"
    assert bad["error"] == "'unit' is 'mm' as a field and 'cm' in 'meta'; leave one of them out"


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    said = refusal(monkeypatch, capsys, "reward", "format.think_answer", "--jsonl", str(path))
    assert "has no lines; each one is an object with completion, target and meta" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n", "^not UTF-8 text .byte 0x89 at 0.; give a file of JSON lines in UTF-8"),
        ('{"completion": "x"}'.encode("utf-16"), "^not UTF-8 text"),
    ],
)
def test_a_file_that_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert call(monkeypatch, "reward", "format.think_answer", "--jsonl", str(path)) == 1
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(first["error"])


# ------------------------------------------------------------------------------- by a recipe's rewards

RECIPE = """
model: {tiny: {}}
data: {task: grounding, output_mode: think}
rewards:
  funcs:
    - {func: box.iou, name: accuracy, weight: 0.5, when: {task: grounding}}
    - {func: format.think_answer, weight: 0.25, gate: "accuracy > 0"}
    - {func: length.group_kimi, weight: 0.25}
"""


def test_a_recipe_judges_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    box = {"target": [0, 0, 10, 10]}
    rows = [
        {"completion": ANSWER, "num_tokens": 10, "id": "a", **box},
        {"completion": ANSWER.replace("10, 5", "10, 10"), "num_tokens": 20, "id": "b", **box},
        {"completion": ANSWER, "num_tokens": 10, "target": [0, 0]},
        {"completion": ANSWER, "num_tokens": 10, "target": [0, 0, 10, 10], "task": "counting"},
    ]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert call(monkeypatch, "reward", "--recipe", "./r.yaml", "--jsonl", "rows.jsonl") == 1
    printed = capsys.readouterr()
    half, full, bad, other = map(json.loads, printed.out.splitlines())
    assert (half["value"], half["id"]) == (0.25 + 0.25 + 0.25, "a"), "the shorter of two right answers"
    assert (full["value"], full["parts"]["accuracy"]) == (0.5 + 0.25, 1.0)
    assert "reward 'accuracy'" in bad["error"]
    assert other["parts"]["accuracy"] is None
    assert "recipe ./r.yaml: 1 of 4 lines of rows.jsonl could not be scored (3)" in printed.err
    one = ("--completion", ANSWER, "--target", "[0, 0, 10, 10]", "--meta", '{"num_tokens": 3}')
    assert call(monkeypatch, "reward", "--recipe", "./r.yaml", *one) == 0
    assert json.loads(capsys.readouterr().out)["parts"]["accuracy"] == 0.5


def test_a_recipe_whose_stages_differ(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = "stages:\n  - {kind: grpo, name: one}\n  - {kind: grpo, name: two, rewards: {funcs: [{func: yesno}]}}\n"
    Path("r.yaml").write_text(RECIPE + own)
    asked = ("reward", "--recipe", "./r.yaml", "--completion", "<answer>yes</answer>", "--target", '"yes"')
    assert "choose one by --stage: one, two" in refusal(monkeypatch, capsys, *asked)
    assert "no stage with rewards is called 'three'" in refusal(monkeypatch, capsys, *asked, "--stage", "three")
    assert call(monkeypatch, *asked, "--stage", "two") == 0
    assert json.loads(capsys.readouterr().out)["value"] == 1.0
