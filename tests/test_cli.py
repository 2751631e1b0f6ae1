"""The `vlrft` command and the thin Python API under it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import vlrft
from vlrft import cli
from vlrft.compose import Composed, ConfigError
from vlrft.recipe import recipe_names
from vlrft.registry import load_reference

TINY: dict[str, Any] = {"model": {"tiny": {}}}


def run_cli(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vlrft.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vlrft", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Composed, Path | None]]:
    """Stands in for the training loop and notes how it was called."""
    seen: list[tuple[Composed, Path | None]] = []

    def run(
        composed: Composed,
        *,
        resume: Path | None = None,
        evaluator: Any = None,
        changed: bool = False,
        auto: bool = False,
    ) -> SimpleNamespace:
        seen.append((composed, resume))
        return SimpleNamespace(path=Path(composed.config.train.output_dir), summary={"grpo/eval/box.iou": 0.25})

    stand_in = SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "vlrft.stages", stand_in)
    monkeypatch.setattr(vlrft, "stages", stand_in, raising=False)
    return seen


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\nmodel: {tiny: {}}\n")
    return path


def test_help_and_version_load_no_framework() -> None:
    code = (
        "import sys\nfrom vlrft.cli import app\n"
        "for args in (['--help'], ['train', '--help'], ['--version']):\n"
        "    try:\n        app(args)\n    except SystemExit as done:\n        assert not done.code, done.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'omegaconf', 'vlrft.config'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
    assert f"vlrft {vlrft.__version__}" in done.stdout


def test_users_error_is_one_message_with_exit_code_2(tmp_path: Path) -> None:
    done = run_cli("train", "./none.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no recipe file ./none.yaml")
    assert "Traceback" not in done.stderr


def test_config_error_comes_before_torch_is_loaded(recipe: Path) -> None:
    code = (
        "import sys, vlrft\n"
        f"try:\n    vlrft.train({str(recipe)!r}, 'train.stepps=3')\n"
        "except ValueError as error:\n    print(error, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "did you mean train.steps?" in done.stdout
    assert done.stdout.rstrip().endswith("False")


def test_our_own_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()


def test_listed_user_errors_exist() -> None:
    for name in cli.USER_ERRORS:
        module, _, attribute = name.rpartition(".")
        kind = load_reference(f"{module}:{attribute}")
        assert kind.__module__ == module, f"{name} is defined in {kind.__module__}"
        assert cli.is_user_error(kind.__new__(kind))
    assert cli.is_user_error(ConfigError("x"))
    assert not cli.is_user_error(ValueError("x"))


def test_train_passes_recipe_and_overrides_on(
    monkeypatch: pytest.MonkeyPatch, calls: list[Any], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "train", str(recipe), "train.steps=7", "train.output_dir=runs/x") == 0
    composed, resume = calls[0]
    assert (composed.config.train.steps, resume) == (7, None)
    said = capsys.readouterr().out
    assert "runs/x" in said
    assert re.search(r"grpo: box\.iou +0\.250", said)


def test_train_resume_needs_no_recipe(monkeypatch: pytest.MonkeyPatch, calls: list[Any], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {tiny: {}}\ntrain: {steps: 4}\n")
    assert call(monkeypatch, "train", "--resume", str(tmp_path)) == 0
    composed, resume = calls[0]
    assert (composed.config.train.steps, resume) == (4, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "give a recipe"),
        (("--resume", "."), "config.yaml is missing"),
        (("x", "--resume", "."), "not both"),
    ],
)
def test_train_refusals(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "train", *arguments) == 2
    assert expected in capsys.readouterr().err


def test_python_overrides_in_every_form(calls: list[Any]) -> None:
    vlrft.train(TINY, "train.steps=1", "train.seed=1", overrides={"train.seed": 2}, train__learning_rate=0.5)
    train = calls[0][0].config.train
    assert (train.steps, train.seed, train.learning_rate) == (1, 2, 0.5)
    vlrft.train(TINY, "train.seed=1", overrides={"train.seed": 2}, train__seed=3)
    assert calls[1][0].config.train.seed == 3


def test_evaluate_takes_recipes_and_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[int, Path | None]] = []

    def evaluate(composed: Composed, *, run_dir: Path | None = None) -> None:
        seen.append((composed.config.train.steps, run_dir))

    import vlrft.eval

    stand_in = SimpleNamespace(evaluate=evaluate)
    monkeypatch.setitem(sys.modules, "vlrft.eval.run", stand_in)
    monkeypatch.setattr(vlrft.eval, "run", stand_in, raising=False)
    (tmp_path / "config.yaml").write_text("model: {tiny: {}}\ntrain: {steps: 4}\n")
    vlrft.evaluate(TINY, train__steps=9)
    vlrft.evaluate(tmp_path)
    vlrft.evaluate(cast(Any, SimpleNamespace(path=tmp_path)), "train.steps=5")
    assert seen == [(9, None), (4, tmp_path), (5, tmp_path)]


def test_functions_survive_the_import_of_the_modules_behind_them() -> None:
    code = "import vlrft.compose, vlrft.eval, vlrft; assert callable(vlrft.train) and callable(vlrft.evaluate)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not (Path(vlrft.__file__).parent / "train.py").exists()
    assert not (Path(vlrft.__file__).parent / "evaluate.py").exists()


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = vlrft.trian


def test_recipes_ls_show_cp(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "recipes", "ls") == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == recipe_names()
    name = recipe_names()[0]
    assert call(monkeypatch, "recipes", "show", name) == 0
    shown = capsys.readouterr().out
    assert call(monkeypatch, "recipes", "cp", name, str(tmp_path)) == 0
    copy = tmp_path / f"{Path(name).name}.yaml"
    assert copy.read_text() == shown
    assert call(monkeypatch, "recipes", "cp", name, str(copy)) == 2
    assert "exists already" in capsys.readouterr().err


def test_rewards_ls_and_show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "rewards", "ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("box.iou ") for line in lines)
    assert all(len(line.split()) > 3 for line in lines), "every reward has a sentence beside its name"
    assert call(monkeypatch, "rewards", "show", "box.iou") == 0
    assert capsys.readouterr().out.startswith("box.iou\n\n")
    assert call(monkeypatch, "rewards", "show", "box.acc@0.5") == 0
    assert capsys.readouterr().out.startswith("box.acc@0.5\n\n")
    assert call(monkeypatch, "rewards", "show", "box.iuo") == 2
    assert "did you mean 'box.iou'" in capsys.readouterr().err
