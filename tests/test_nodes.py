"""Two machines, played by two launchers on this one, train what `--nproc 2` trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import refusal
from test_ranks import BY_GRADIENT, assert_alike, train

from vlrft.launch import Nodes, nodes_of, run_ranks
from vlrft.log import UserError
from vlrft.ports import free_ports
from vlrft.testing import tiny_recipe

BLOCKS: dict[str, Any] = {"train": {"prompts_per_step": 3, "steps": 2, **BY_GRADIENT}, "eval": {}}


def together(commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]], place: Path) -> list[str]:
    """Start all at once; what they said, once all have ended well."""
    files = [(place / f"launcher-{i}.log").open("w+") for i in range(len(commands))]
    launchers = [
        subprocess.Popen(command, env={**os.environ, **env}, stdout=file, stderr=file)
        for command, env, file in zip(commands, environments, files, strict=True)
    ]
    try:
        statuses = [launcher.wait(timeout=500) for launcher in launchers]
    finally:
        for launcher, file in zip(launchers, files, strict=True):
            launcher.kill()
            launcher.wait()
            file.close()
    said = [Path(file.name).read_text(encoding="utf-8") for file in files]
    assert statuses == [0] * len(commands), said
    return said


def written(recipe: dict[str, Any], file: Path) -> str:
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def expected(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two ranks of one launcher."""
    place = tmp_path_factory.mktemp("expected")
    done = train(tiny_recipe(scenes, place / "run", **BLOCKS), place, "--nproc", "2")
    assert done.returncode == 0, done.stderr
    return place / "run"


@pytest.mark.slow
def test_two_launchers_make_one_run(expected: Path, scenes: Path, tmp_path: Path) -> None:
    recipe = written(tiny_recipe(scenes, tmp_path / "run", **BLOCKS), tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "vlrft", "train", recipe, "--nnodes", "2"]
    command += ["--master", f"127.0.0.1:{free_ports(1)[0]}"]
    said = together([[*command, "--node-rank", str(node)] for node in (0, 1)], [{}, {}], tmp_path)
    assert f"run folder: {tmp_path / 'run'}" in said[0]
    assert_alike(tmp_path / "run", expected)


@pytest.mark.slow
def test_two_tasks_of_srun_make_one_run(expected: Path, scenes: Path, tmp_path: Path) -> None:
    """`srun --ntasks 2 vlrft train RECIPE --auto-resume`, by the environment that srun makes."""
    recipe = written(tiny_recipe(scenes, tmp_path / "run", **BLOCKS), tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "vlrft", "train", recipe, "--auto-resume"]
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    step |= {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_NODEID": "0"}
    step |= {"MASTER_PORT": str(free_ports(1)[0])}
    tasks = [{**step, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)} for task in (0, 1)]
    together([command] * 2, tasks, tmp_path)
    assert_alike(tmp_path / "run", expected)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install 'vlrft[deepspeed]'")
def test_deepspeeds_launcher_with_a_hostfile_makes_one_run(expected: Path, scenes: Path, tmp_path: Path) -> None:
    """Started on each host (`--no_ssh`), since there is no ssh here: what it does through ssh is to start this."""
    recipe = written(tiny_recipe(scenes, tmp_path / "run", **BLOCKS), tmp_path / "recipe.yaml")
    (tmp_path / "hostfile").write_text("hostA slots=1\nhostB slots=1\n")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(tmp_path / "hostfile"), "--no_ssh"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(free_ports(1)[0])]
    after = ["--no_local_rank", "--module", "vlrft", "train", recipe]
    commands = [[*command, "--node_rank", str(node), *after] for node in (0, 1)]
    together(commands, [{"DS_ACCELERATOR": "cpu"}] * 2, tmp_path)
    assert_alike(tmp_path / "run", expected)


def test_ranks_are_counted_over_all_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second of two machines with two ranks each, of which the last one fails."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    started: list[list[str]] = []

    def start(arguments: Sequence[str], env: dict[str, str], log: Any) -> subprocess.Popen[bytes]:
        started.append([env[name] for name in names])
        return subprocess.Popen(["sh", "-c", f"echo bad >&2; exit $(({env['RANK']} / 3 * 7))"], stderr=log)

    monkeypatch.setattr("vlrft.launch._start", start)
    assert run_ranks([], 2, nodes=Nodes(count=2, rank=1, master=("gpu07", 29500))) == 7
    assert started == [["2", "0", "4", "2", "gpu07", "29500"], ["3", "1", "4", "2", "gpu07", "29500"]]


def test_a_failed_rank_is_called_by_its_number_in_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(arguments: Sequence[str], env: dict[str, str], log: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sh", "-c", f"exit {7 * (env['RANK'] == '3')}"], stderr=log)

    monkeypatch.setattr("vlrft.launch._start", start)
    assert run_ranks([], 2, nodes=Nodes(count=2, rank=1, master=("gpu07", 29500))) == 7
    assert "rank 3 failed with status 7" in capsys.readouterr().err


def test_what_several_machines_need_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert "needs --node-rank: 0 to 1" in refusal(monkeypatch, capsys, "train", "debug/box", "--nnodes", "2")
    for rank, master, said in (
        (2, "a", "needs --node-rank: 0 to 1"),
        (1, None, r"needs --master HOST\[:PORT\]"),
        (1, "a:b", "give HOST or HOST:PORT"),
    ):
        with pytest.raises(UserError, match=said):
            nodes_of(2, rank, master, nproc=1)
    assert nodes_of(2, 1, "a", nproc=1) == Nodes(count=2, rank=1, master=("a", 29500))
    monkeypatch.setenv("MASTER_ADDR", "b")
    monkeypatch.setenv("MASTER_PORT", "77")
    assert nodes_of(2, 1, None, nproc=1).master == ("b", 77)
    assert nodes_of(1, None, None, nproc=4) == Nodes()
    with pytest.raises(UserError, match="--max-restarts starts the ranks of one machine again"):
        run_ranks([], 2, nodes=Nodes(count=2, rank=1, master=("a", 1)), max_restarts=1)
