"""`--auto-resume`: one command that starts, goes on, or has nothing to do; and restarts of ranks that die."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import call, refusal
from test_resume import KILLS, assert_same_run, blocks, die, rows

import vlrft
from vlrft import checkpoint
from vlrft.autoresume import find_run
from vlrft.compose import compose
from vlrft.dist import World
from vlrft.log import UserError
from vlrft.runfolder import RunFolderError
from vlrft.testing import tiny_recipe

if os.name != "posix":
    pytest.skip("no forkserver here", allow_module_level=True)


@pytest.fixture(scope="module")
def untouched(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Started with "auto" where there was nothing to go on with."""
    folder = tmp_path_factory.mktemp("untouched") / "run"
    return vlrft.train(tiny_recipe(scenes, folder, **blocks()), resume="auto").path


@pytest.mark.slow
def test_a_killed_run_goes_on_by_the_same_call(untouched: Path, scenes: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(scenes, tmp_path / "run", **blocks())
    die(recipe, KILLS["between optimiser steps of one rollout"])
    before = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1])["time/step"]
    assert_same_run(vlrft.train(recipe, resume="auto").path, untouched)
    after = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1])["time/step"]
    assert before == after, "it did not start anew"


def test_a_finished_run_is_returned_as_it_is(
    untouched: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("vlrft.stages.prepare", never)
    caplog.set_level("INFO", "vlrft")
    recipe = tiny_recipe(scenes, untouched, **blocks())
    done = vlrft.train(recipe, resume="auto")
    assert done.path == untouched
    assert done.summary == json.loads((untouched / "summary.json").read_text())
    assert f"{untouched} is finished: nothing to do" in caplog.text


def test_another_recipes_run_is_refused_with_what_differs(untouched: Path, scenes: Path) -> None:
    recipe = tiny_recipe(scenes, untouched, **blocks(beta=0.1))
    recipe["train"]["learning_rate"] = 2e-3
    recipe["rewards"]["funcs"].append({"func": "box.iou"})
    with pytest.raises(RunFolderError) as caught:
        vlrft.train(recipe, resume="auto")
    said = str(caught.value)
    assert f"{untouched} holds a run of another recipe" in said
    assert "objective.beta: 0.05 in the run, 0.1 now" in said
    assert "train.learning_rate: 0.001 in the run, 0.002 now" in said
    assert "rewards.funcs[1].func: None in the run, 'box.iou' now" in said
    assert "data." not in said
    assert f"vlrft train --resume {untouched}" in said


def test_what_stopped_a_run_may_change(untouched: Path, scenes: Path, tmp_path: Path) -> None:
    run = shutil.copytree(untouched, tmp_path / "run")
    (run / "summary.json").unlink()
    shutil.rmtree(checkpoint.complete(run)[-1])
    recipe = tiny_recipe(scenes, run, **blocks())
    recipe["data"]["on_bad_sample"] = "skip"
    recipe["train"]["time_limits"] = {"score": 77.0}
    found = find_run(compose(recipe), World())
    assert (found.is_there, found.changed, found.summary) == (True, True, None)
    vlrft.train(recipe, resume="auto")
    kept = compose(run / "config.yaml").config
    assert (kept.data.on_bad_sample, kept.train.time_limits.score) == ("skip", 77.0)
    assert kept.train.output_dir == str(untouched), "all else is the run's own, which has moved"


def test_relative_paths_and_a_template_file_mean_the_same_run(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run keeps absolute paths and whole templates; the recipe says them as before. A changed template is told."""
    (tmp_path / "mine.jinja").write_text("{{ question }} ?")
    (tmp_path / "here").symlink_to(scenes)
    changes = {"data": {"root": "here", "prompt_template": str(tmp_path / "mine.jinja")}, "train": {"steps": 1}}
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe(scenes, Path("run"), **changes)
    vlrft.train(recipe)
    assert find_run(compose(recipe), World()).summary is not None
    (tmp_path / "mine.jinja").write_text("{{ question }} !")
    with pytest.raises(RunFolderError, match=r"data\.prompt_template\.\w+: '.*\?' in the run, '.*!' now"):
        find_run(compose(recipe), World())


def test_a_folder_with_something_else_is_refused_as_ever(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty"):
        vlrft.train(recipe(), resume="auto")
    with pytest.raises(UserError, match="give a recipe"):
        vlrft.train(resume="auto")


def test_the_command(
    untouched: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tiny_recipe(scenes, untouched, **blocks())))
    assert call(monkeypatch, "train", str(tmp_path / "mine.yaml"), "--auto-resume") == 0
    assert f"run folder: {untouched}" in capsys.readouterr().out
    said = refusal(monkeypatch, capsys, "train", str(tmp_path / "mine.yaml"), "train.seed=5", "--auto-resume")
    assert "train.seed: 0 in the run, 5 now" in said
    both = refusal(monkeypatch, capsys, "train", "--auto-resume", "--resume", str(untouched))
    assert "not both" in both


def train(recipe: dict[str, Any], place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "vlrft", "train", str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


DIES = """
import os
from pathlib import Path

calls = 0

def dies(completions, **columns):
    global calls
    calls += 1
    tries = Path("{place}/tries")
    if os.environ.get("RANK", "0") == "{rank}" and calls == 4:
        before = len(tries.read_text()) if tries.exists() else 0
        tries.write_text("x" * (before + 1))
        if before < {times}:
            os._exit(9)
    return [sum(ord(c) % 2 == 0 for c in text) / max(1, len(text)) for text in completions]
"""


def dying_recipe(scenes: Path, place: Path, *, rank: int, times: int) -> dict[str, Any]:
    """The rank dies in its fourth call of the reward, so often."""
    (place / "mine.py").write_text(DIES.format(place=place, rank=rank, times=times))
    some: dict[str, Any] = {"steps": 5, "save_steps": 1, "prompts_per_step": 4}
    rewards = {"funcs": [{"func": f"{place}/mine.py:dies"}]}
    return tiny_recipe(
        scenes, place / "run", train=some, rewards=rewards, parallel={"cpu": True, "num_threads": 1}, eval={}
    )


@pytest.mark.slow
def test_a_rank_that_dies_is_no_end(scenes: Path, tmp_path: Path) -> None:
    recipe = dying_recipe(scenes, tmp_path, rank=1, times=2)
    done = train(recipe, tmp_path, "--nproc", "2", "--max-restarts", "3")
    assert done.returncode == 0, done.stderr
    assert "rank 1 ended with status 9: restart 1 of 3, from what was last saved" in done.stderr
    assert "restart 2 of 3" in done.stderr
    assert "restart 3" not in done.stderr
    recipe["train"]["output_dir"] = str(tmp_path / "expected")
    assert train(recipe, tmp_path, "--nproc", "2").returncode == 0
    assert rows(tmp_path / "run") == rows(tmp_path / "expected")


@pytest.mark.slow
def test_restarts_have_an_end(scenes: Path, tmp_path: Path) -> None:
    done = train(dying_recipe(scenes, tmp_path, rank=0, times=99), tmp_path, "--max-restarts", "1")
    assert done.returncode == 9
    assert "restart 1 of 1" in done.stderr
    assert "restart 2" not in done.stderr


@pytest.mark.slow
def test_a_users_error_is_told_once_and_not_tried_again(scenes: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(scenes, tmp_path / "run", rewards={"funcs": [{"func": "box.iuo"}]})
    done = train(recipe, tmp_path, "--max-restarts", "3")
    assert done.returncode == 2
    assert "restart" not in done.stderr
    assert done.stderr.count("unknown reward") == 1


@pytest.mark.slow
def test_two_ranks_agree_on_what_they_find(scenes: Path, tmp_path: Path) -> None:
    """The second rank may look when the first has begun to write: only the first looks."""
    recipe = tiny_recipe(scenes, tmp_path / "run", train={"steps": 1})
    for _ in range(2):
        done = train(recipe, tmp_path, "--nproc", "2", "--auto-resume")
        assert done.returncode == 0, done.stderr
    assert "is finished: nothing to do" in done.stderr
    recipe["train"]["seed"] = 3
    done = train(recipe, tmp_path, "--nproc", "2", "--auto-resume")
    assert done.returncode == 2
    assert done.stderr.count("train.seed: 0 in the run, 3 now") == 1
