"""`vlrft reward` and `vlrft rewards`: what they print, and what they say when something is wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlrft import cli
from vlrft.rewards import names

ANSWER = "<think>left</think><answer>[0, 0, 10, 5]</answer>"
TARGET = "[0, 0, 10, 10]"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vlrft", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert call(monkeypatch, *arguments) == 2
    return capsys.readouterr().err


def test_one_completion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "reward", "box.iou", "--completion", ANSWER, "--target", TARGET) == 0
    assert json.loads(capsys.readouterr().out) == {"value": 0.5, "parts": {"box.iou": 0.5}, "flags": []}
    meta = '{"image_size": [20, 20], "coord_space": "norm_1000"}'
    moved = ANSWER.replace("10, 5", "500, 500")
    assert call(monkeypatch, "reward", "box.iou", "--completion", moved, "--target", TARGET, "--meta", meta) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 1.0


def test_a_bad_completion_is_a_value_with_a_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "reward", "box.iou", "--completion", "", "--target", TARGET) == 0
    assert json.loads(capsys.readouterr().out) == {"value": 0.0, "parts": {"box.iou": 0.0}, "flags": ["no_answer"]}


def test_options_and_a_target_that_is_not_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    far = "<answer>[80, 80, 90, 90]</answer>"
    asked = ("--target", TARGET, "--options", '{"floor": 0.5}')
    assert call(monkeypatch, "reward", "box.giou", "--completion", far, *asked) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 0.5
    assert call(monkeypatch, "reward", "format.think_answer", "--completion", ANSWER) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 1.0


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
        ("{", "line 2 of .*not JSON"),
        ("[1]", "line 2 of .*expected an object"),
        ('{"target": [0, 0, 1, 1]}', "line 2 of .*field 'completion' must be a text, got None"),
        ('{"completion": "x", "meta": 3, "target": [0, 0, 1, 1]}', "line 2 of .*field 'meta' must be an object"),
        ('{"completion": "x"}', r"line 2 of .*field 'target' or 'meta': .*\[x1, y1, x2, y2\], got None"),
        ('{"completion": "x", "target": [0, 0, NaN, 1]}', "line 2 of .*field 'target'"),
        ('{"completion": "x", "target": [0, 0, 1, 1], "meta": {"coord_space": "cm"}}', "line 2 of .*cm"),
    ],
)
def test_a_bad_line_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"completion": ANSWER, "target": [0, 0, 10, 10]}) + f"\n{line}\n")
    assert call(monkeypatch, "reward", "box.iou", "--jsonl", str(path)) == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1, "what came before the bad line is there"
    assert printed.err.startswith("error: reward 'box.iou', ")
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(printed.err.replace("\n", " "))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("box.iuo", "--completion", "x"), "did you mean 'box.iou'"),
        (("box.iou",), "give --completion TEXT and --target JSON, or --jsonl FILE"),
        (("box.iou", "--completion", "x", "--jsonl", "f"), "not both"),
        (("box.iou", "--jsonl", "none.jsonl"), "--jsonl none.jsonl: No such file"),
        (("mcq.letter", "--completion", "x", "--target", "B"), "--target: not JSON"),
        (("box.iou", "--completion", "x", "--target", "[1]"), "got [1]"),
        (("box.iou", "--completion", "x", "--target", TARGET, "--meta", "[1]"), "--meta: expected a JSON object"),
        (("box.acc", "--completion", "x", "--target", TARGET), "box.acc@0.5"),
    ],
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refusal(monkeypatch, capsys, "reward", *arguments)


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


def test_show_explains_every_reward(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "rewards", "ls") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names()
    assert call(monkeypatch, "rewards", "show", "tg.iou") == 0
    shown = capsys.readouterr().out
    assert all(f"{word}:" in shown for word in ("Formula", "Range", "Target", "Meta", "Answer", "Example"))


def test_docs_are_written_where_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "rewards", "docs", "--out", str(tmp_path / "pages")) == 0
    assert "pages written" in capsys.readouterr().out
    assert (tmp_path / "pages" / "box.md").read_text().count("\n## `box.") == 4


def test_scoring_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom vlrft.cli import app\n"
        f"args = ['reward', 'box.iou', '--completion', {ANSWER!r}, '--target', '[0, 0, 10, 10]']\n"
        "try:\n    app(args)\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "heavy = {'torch', 'transformers', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
