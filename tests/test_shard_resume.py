"""Checkpoints depend neither on the number of ranks nor on the strategy: written under one, resumed under another."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_of_mine import end, run_on, start
from test_shard import ZERO3, assert_alike, kinds_of_rows, recipe, rows, runs, weights
from torch import Tensor, nn

from vlrft import checkpoint
from vlrft.checkpoint import CheckpointError
from vlrft.dist import World
from vlrft.stages import _refuse_other_stages

STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "zero1": {"strategy": "zero1"},
    "zero2": {"strategy": "zero2"},
    "zero3": ZERO3,
    "fsdp2": {"strategy": "fsdp2"},
}
# Usual settings of Adam, so that its states matter; a learning rate at which rounding does not.
TRAIN = {"steps": 4, "save_steps": 2, "learning_rate": 1e-4, "adam_epsilon": 1e-4, "warmup_steps": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shard")
    kinds_of_rows(folder)
    return folder


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, Path]:
    """A run of two ranks under every strategy."""
    blocks = {name: {"parallel": parallel, "train": TRAIN} for name, parallel in STRATEGIES.items()}
    run_on(2, runs(place, **blocks), place)
    return {name: place / name for name in STRATEGIES}


def cut(run: Path, to: Path) -> Path:
    """`run` as it was killed after its first checkpoint, without the rollouts of later steps."""
    shutil.copytree(run, to)
    shutil.rmtree(checkpoint.complete(to)[-1])
    (to / "summary.json").unlink()
    for path in (to / "rollouts").glob("*-00000[34].jsonl"):
        path.unlink()
    return to


@pytest.mark.slow
def test_on_as_many_ranks_it_goes_on_exactly(whole: dict[str, Path], place: Path) -> None:
    resumed = {name: cut(run, place / f"{name}-same") for name, run in whole.items()}
    run_on(2, [{"resume": str(run)} for run in resumed.values()], place)
    for name, run in resumed.items():
        assert rows(run) == rows(whole[name])
        expected = weights(whole[name])
        assert all(torch.equal(weight, expected[key]) for key, weight in weights(run).items()), name


@pytest.mark.slow
def test_what_two_ranks_wrote_goes_on_in_one_process_and_back(whole: dict[str, Path], place: Path) -> None:
    alone = {name: cut(run, place / f"{name}-alone") for name, run in whole.items()}
    run_on(1, [{"resume": str(run)} for run in alone.values()], place)
    for name, run in alone.items():
        assert_alike(run, whole[name])
    # Its last checkpoint is one of one process: begin anew from there on two ranks.
    singly = {name: {"parallel": STRATEGIES[name], "train": TRAIN} for name in ("ddp", "zero3", "fsdp2")}
    run_on(1, runs(place, **{f"{name}-single": blocks for name, blocks in singly.items()}), place)
    pairs = {name: cut(place / f"{name}-single", place / f"{name}-pair") for name in singly}
    run_on(2, [{"resume": str(run)} for run in pairs.values()], place)
    for name, run in pairs.items():
        assert_alike(run, whole[name])


@pytest.mark.slow
def test_another_strategy_goes_on_with_it(whole: dict[str, Path], place: Path) -> None:
    changes = [("ddp", "zero3"), ("zero3", "fsdp2"), ("fsdp2", "zero2"), ("zero1", "ddp")]
    asked = []
    for before, after in changes:
        run = cut(whole[before], place / f"{before}-to-{after}")
        asked.append({"resume": str(run), "overrides": [f"parallel.strategy={after}", "parallel.deepspeed=null"]})
    run_on(2, asked, place)
    for before, after in changes:
        assert_alike(place / f"{before}-to-{after}", whole[before])


@pytest.mark.slow
def test_twenty_steps_of_zero3_killed_and_resumed(place: Path) -> None:
    train = {**TRAIN, "steps": 20, "save_steps": 4}
    run_on(2, runs(place, long={"parallel": ZERO3, "train": train}), place)
    doomed = recipe(place, "killed", parallel=ZERO3, train=train)
    file = place / "killed.json"
    file.write_text(json.dumps([{"recipe": doomed}]), encoding="utf-8")
    with tempfile.TemporaryFile() as log:
        ranks = start(2, [str(Path(__file__).with_name("ranks_of_mine.py")), str(file)], log)
        deadline = time.monotonic() + 300
        while len(checkpoint.complete(place / "killed")) < 2 and time.monotonic() < deadline:
            assert all(rank.poll() is None for rank in ranks)
            time.sleep(0.02)
        end(ranks)
    assert not (place / "killed" / "summary.json").exists()
    run_on(2, [{"resume": str(place / "killed")}], place)
    assert rows(place / "killed") == rows(place / "long")
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in rows(place / "killed"))
    expected = weights(place / "long")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(place / "killed").items())


class Ranks(World):
    """One rank of several that each see the same things."""

    def gather(self, value: Any) -> list[Any]:
        return [value] * self.size

    def barrier(self) -> None: ...


def entries() -> Iterator[tuple[str, dict[str, Tensor]]]:
    for i, size in enumerate([40, 3, 30, 30, 5, 60]):
        tensor = torch.full((size,), float(i))
        yield f"layer.{i}.weight", {"weight": tensor, "exp_avg": -tensor, "step": torch.tensor(3.0)}


def test_every_parameter_is_written_by_one_rank(tmp_path: Path) -> None:
    shares = [checkpoint._own_share(entries(), Ranks(rank, 3)) for rank in range(3)]
    names = [name for share in shares for name in share]
    assert sorted(names) == sorted(f"{name}/{key}" for name, states in entries() for key in states)
    assert all(sum(tensor.numel() for tensor in share.values()) < 0.6 * 2 * 168 for share in shares)


def test_a_checkpoint_is_read_back_and_a_missing_file_is_told(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "00000001-00", {"step": 1}, entries(), keep=2)
    saved = checkpoint.load_latest(tmp_path)
    assert saved is not None
    assert saved.names() == {name for name, _ in entries()}
    assert saved.optimizer_states("layer.2.weight")["exp_avg"].tolist() == [-2.0] * 30
    next(saved.path.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="0 files of tensors and should have 1"):
        checkpoint.load_latest(tmp_path)


@pytest.mark.parametrize(
    ("shape", "name", "said"),
    [
        ((2, 3), "weight", r"weight has the shape \(2, 2\) there and \(2, 3\) here"),
        ((2, 2), "other", r"it lacks other and the model has no weight"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(shape: tuple[int, ...], name: str, said: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "00000001-00", {}, iter([("weight", {"weight": torch.zeros(2, 2)})]), keep=1)
    saved = checkpoint.load_latest(tmp_path)
    assert saved is not None
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    with pytest.raises(CheckpointError, match=said):
        saved.load_weights(module)


def test_a_checkpoint_of_another_recipe_or_version_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "00000001-00", {"stage": 1, "of": "warm"}, iter([]), keep=1)
    saved = checkpoint.load_latest(tmp_path)
    assert saved is not None
    _refuse_other_stages(["warm", "grpo"], saved)
    with pytest.raises(CheckpointError, match="stage 'warm' wrote it, the stages here are sft, grpo"):
        _refuse_other_stages(["sft", "grpo"], saved)
    torch.save({"stage": 1}, saved.path / "state.pt")
    with pytest.raises(CheckpointError, match="older version"):
        checkpoint.load_latest(tmp_path)
