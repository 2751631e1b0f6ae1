"""`vlrft reward` and `vlrft rewards`: what they print, and what they say when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import call, refusal

from vlrft.rewards import names

ANSWER = "<think>left</think><answer>[0, 0, 10, 5]</answer>"
TARGET = "[0, 0, 10, 10]"


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("box.iuo", "--completion", "x"), "did you mean 'box.iou'"),
        (("box.iou",), "give --completion TEXT and --target JSON, or --jsonl FILE"),
        ((), "give the name of one reward ('vlrft rewards ls' lists them), or --recipe RECIPE"),
        (("box.iou", "--recipe", "r.yaml"), "give the name of one reward"),
        (("--recipe", "r.yaml", "--completion", "x", "--options", "{}"), "--options are those of one reward"),
        (("semantic.rescaled", "--completion", "x", "--target", '"x"'), "on the command line in --options"),
        (("tg.recall", "--completion", "x", "--target", "[0, 1]"), "write the threshold as tg.recall@0.5"),
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


# ------------------------------------------------------------------------------- rewards of one's own

OWN = """
print("loaded")
def loud(parsed, target, meta):
    print("scored")
    return 1.0
def fails(parsed, target, meta):
    return 1 / len(parsed.text[:0])
def leaves(parsed, target, meta):
    raise SystemExit(0)
def wrong(parsed, target, meta):
    return "x" if "b" in parsed.text else 1
def late(parsed, target, meta):
    import vlrft_nope
async def trl(completions, **columns):
    raise ValueError("no luck")
class Made:
    "Counts."
    def __init__(self, start: int = 0):
        self.count = start
    def __call__(self, parsed, target, meta):
        self.count += 1
        return self.count
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.py"
    path.write_text(OWN)
    (tmp_path / "rows.jsonl").write_text('{"completion": "a"}\n{"completion": "b", "id": "s2"}\n')
    return path


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("fails", [1, 2], "ZeroDivisionError: division by zero (own.py, line 7, in fails); --debug"),
        ("leaves", [1, 2], "it called sys.exit(0) (own.py, line 9, in leaves)"),
        ("wrong", [2], "own.py:wrong returned 'x' (str); a reward is a number or None"),
        ("late", [1, 2], "ModuleNotFoundError: No module named 'vlrft_nope' (own.py, line 13, in late)"),
        ("trl", [1, 2], "ValueError: no luck (own.py, line 15, in trl)"),
    ],
)
def test_an_own_reward_that_fails_is_one_line(
    own: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    lines: list[int],
    said: str,
) -> None:
    assert call(monkeypatch, "reward", f"own.py:{name}", "--jsonl", "rows.jsonl") == 1
    printed = capsys.readouterr()
    found = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["line"] for line in found if "error" in line] == lines
    assert all(said in line["error"] for line in found if "error" in line)
    assert printed.err.replace("loaded\n", "").count("\n") == 1


def test_an_own_reward_that_is_not_there(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = refusal(monkeypatch, capsys, "reward", "own.py:lound", "--jsonl", "rows.jsonl")
    assert "'own.py:lound': own.py has no attribute 'lound'; did you mean 'loud'?" in printed


def test_debug_shows_the_whole_traceback(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = refusal(monkeypatch, capsys, "reward", "own.py:fails", "--completion", "x", "--debug")
    assert "Traceback" in printed
    assert "return 1 / len(parsed.text[:0])" in printed
    assert printed.splitlines()[-1].startswith("error: reward 'own.py:fails': ZeroDivisionError")


def test_what_an_own_reward_prints_is_no_score(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "reward", "own.py:loud", "--jsonl", "rows.jsonl") == 0
    said = capsys.readouterr()
    assert [json.loads(line)["value"] for line in said.out.splitlines()] == [1.0, 1.0]
    assert said.err.split() == ["loaded", "scored", "scored"]


def test_show_explains_an_own_reward(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "rewards", "show", "own.py:Made") == 0
    assert "Counts.\n\nOptions:\n  start: a whole number, default 0" in capsys.readouterr().out
    assert call(monkeypatch, "rewards", "show", "own.py:loud") == 0
    assert "Options: none" in capsys.readouterr().out
    assert "no attribute 'h'" in refusal(monkeypatch, capsys, "rewards", "show", "own.py:h")
    assert "name what is meant in it, as in 'own.py:loud'" in refusal(monkeypatch, capsys, "rewards", "show", "own.py")


def test_a_sandbox_or_an_extra_that_is_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlrft.rewards import chart
    from vlrft.rewards.chart.sandbox import SandboxUnavailable

    def unavailable(*_: object, **__: object) -> None:
        raise SandboxUnavailable("no Landlock here")

    monkeypatch.setattr(chart, "shared_sandbox", unavailable)
    line = ("chart.render", "--completion", "<answer>print(1)</answer>", "--target", '"print(2)"')
    assert refusal(monkeypatch, capsys, "reward", *line) == "error: reward 'chart.render': no Landlock here\n"


# ------------------------------------------------------------------------------- ls, docs, python -m


def test_ls_of_a_family_and_what_rewards_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "rewards", "ls", "length") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [name for name in names() if name.startswith("length.")]
    assert listed[0].endswith("[a group, num_tokens]")
    assert "no reward begins with 'boxes'; did you mean 'box'" in refusal(monkeypatch, capsys, "rewards", "ls", "boxes")


def test_docs_ask_for_a_folder_outside_of_a_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--out FOLDER" in refusal(monkeypatch, capsys, "rewards", "docs")
    assert not list(tmp_path.iterdir())
    (tmp_path / "docs" / "rewards").mkdir(parents=True)
    (tmp_path / "docs" / "rewards" / "README.md").write_text("")
    assert call(monkeypatch, "rewards", "docs") == 0
    assert (tmp_path / "docs" / "rewards" / "box.md").is_file()


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vlrft", "reward", "yesno", "--completion", "<answer>yes</answer>", "--target", '"yes"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["value"] == 1.0
