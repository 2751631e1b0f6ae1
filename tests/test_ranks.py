"""Two processes train what one trains: the same steps, the same files, and no rank waits for media it does not have."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file
from torch import nn

from vlrft.dist import World, _checksum, own_state
from vlrft.testing import noise_image, tiny_recipe

BY_GRADIENT = {"learning_rate": 0.1, "adam_epsilon": 1.0, "max_grad_norm": 0.05}
"""With an epsilon that large Adam moves by the gradient itself: weights that agree to 1e-5 had gradients that did. With
a small one it makes whole steps of rounding errors where a gradient is zero."""


def train(recipe: dict[str, Any], place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`vlrft train` of `recipe`, written to `place`."""
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "vlrft", "train", str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def rows(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def compared(tmp_path: Path, **blocks: Any) -> tuple[Path, Path]:
    """Run folders of one and of two processes."""
    runs = tmp_path / "one", tmp_path / "two"
    for run, arguments in zip(runs, ([], ["--nproc", "2"]), strict=True):
        done = train(tiny_recipe(tmp_path / "scenes", run, **blocks), tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
    return runs


def assert_alike(one: Path, two: Path, *, tolerance: float = 1e-5) -> None:
    """The same rows to 1e-5, and the same rollouts: tokens, scores and advantages. tolerance: of weights; 1e-5 wants a
    run that is BY_GRADIENT."""
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert b[key] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), key
    for path in sorted((one / "rollouts").iterdir()):
        twin = two / "rollouts" / path.name
        for a, b in zip(*([json.loads(x) for x in p.read_text().splitlines()] for p in (path, twin)), strict=True):
            assert a["sample_id"] == b["sample_id"]
            assert [r["token_ids"] for r in a["rollouts"]] == [r["token_ids"] for r in b["rollouts"]]
            assert [r["advantage"] for r in a["rollouts"]] == [r["advantage"] for r in b["rollouts"]]
    weights = [load_file(run / "model" / "model.safetensors") for run in (one, two)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=tolerance, rtol=0.0)


@pytest.mark.slow
def test_sft_and_grpo_with_uneven_shares_and_minibatches(tmp_path: Path) -> None:
    one, two = compared(
        tmp_path,
        train={"prompts_per_step": 3, "steps": 3, "save_steps": 2, **BY_GRADIENT},
        objective={"minibatches": 2, "num_iterations": 2, "beta": 0.04},
        stages=[{"kind": "sft"}, {"kind": "grpo"}],
    )
    assert_alike(one, two)
    assert not list(two.glob("**/*.tmp"))


@pytest.mark.slow
def test_a_rank_without_media_does_not_hang_the_other(tmp_path: Path) -> None:
    """Steps of one prompt, of text alone, of images and of videos, in turns: ranks differ in all of it.

    In a step of text the tower has no gradient on any rank: its momentum and the weight decay must leave it alone.
    """
    listed: list[dict[str, Any]] = []
    for i in range(6):
        kind = ("text", "image", "video")[i % 3]
        row: dict[str, Any] = {"id": f"{kind}-{i}", "prompt": "Which letter?", "answer": "A", "task": "choice"}
        row["meta"] = {"options": ["x", "y"]}
        names = [f"{i}-{t}.png" for t in range({"text": 0, "image": 1, "video": 4}[kind])]
        for t, name in enumerate(names):
            noise_image((56, 56), 10 * i + t).save(tmp_path / name)
        if kind == "image":
            row["images"] = names
        elif kind == "video":
            row["videos"] = [{"frames": names, "fps": 2}]
        listed.append(row)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8")
    source = {"format": "native", "path": str(file), "images": str(tmp_path)}
    data = {"root": str(tmp_path), "task": "choice", "train": source, "eval": source, "max_prompt_length": 4096}
    stages = [{"kind": "sft", "train": {"steps": 5, "prompts_per_step": 1}}, {"kind": "grpo"}]
    training = {"prompts_per_step": 3, "steps": 4, "weight_decay": 0.01, **BY_GRADIENT}
    blocks = {"data": data, "train": training, "eval": {"metrics": ["mcq.letter"]}}
    one, two = compared(tmp_path, sampler={"name": "sequential"}, stages=stages, **blocks)
    assert_alike(one, two)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    blocks: dict[str, Any] = {"train": {"prompts_per_step": 3, "steps": 4, "save_steps": 2, **BY_GRADIENT}}
    assert train(tiny_recipe(tmp_path / "scenes", whole, **blocks), tmp_path, "--nproc", "2").returncode == 0
    assert train(tiny_recipe(tmp_path / "scenes", cut, **blocks), tmp_path, "--nproc", "2").returncode == 0
    newest = max((cut / "checkpoints").iterdir())
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    (cut / "summary.json").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "vlrft", "train", "--resume", str(cut)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert_alike(whole, cut)


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_run_and_says_why(tmp_path: Path) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text(
        "import os\n\ndef fails(completions, **columns):\n"
        "    if os.environ['RANK'] == '1':\n        os._exit(7)\n"
        "    return [0.0 for _ in completions]\n"
    )
    recipe = tiny_recipe(tmp_path / "scenes", tmp_path / "run", rewards={"funcs": [{"func": f"{reward}:fails"}]})
    done = train(recipe, tmp_path, "--nproc", "2")
    assert done.returncode == 7
    assert "rank 1 failed" in done.stderr


def test_a_wrong_key_is_told_once(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "scenes", tmp_path / "run", train={"stepz": 3})
    done = train(recipe, tmp_path, "--nproc", "2")
    assert done.returncode == 2
    assert done.stderr.count("unknown key") == 1


def test_a_world_of_one_sends_nothing() -> None:
    world = World()
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    world.sum_gradients([parameter])
    assert parameter.grad.tolist() == [2.0] * 3
    assert (world.share([1, 2, 3]), world.gather(5), world.sum({"a": 2}), world.is_main) == (
        [1, 2, 3],
        [5],
        {"a": 2},
        True,
    )


class Exchange:
    """`all_reduce` between two threads that play two ranks."""

    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []
        self.meet = threading.Barrier(2, timeout=30.0)

    def all_reduce(self, tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
        self.given.append(tensor.clone())
        self.meet.wait()
        both = torch.stack(self.given[-2:])
        self.meet.wait()
        tensor.copy_(both.amax(0) if op == dist.ReduceOp.MAX else both.sum(0))


def test_a_parameter_without_gradient_on_all_ranks_is_left_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four parameters rank 0 has gradients of the first two, rank 1 of the second and the third."""
    monkeypatch.setattr("vlrft.dist.dist.all_reduce", Exchange().all_reduce)
    summed: list[list[Any]] = [[], []]

    def play(rank: int) -> None:
        parameters = [nn.Parameter(torch.zeros(2)) for _ in range(4)]
        for i in (rank, rank + 1):
            parameters[i].grad = torch.full((2,), 1.0 + rank)
        World(rank, 2).sum_gradients(parameters)
        summed[rank] = [None if p.grad is None else p.grad.tolist() for p in parameters]

    ranks = [threading.Thread(target=play, args=(rank,)) for rank in range(2)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    assert summed == [[[1.0, 1.0], [3.0, 3.0], [2.0, 2.0], None]] * 2


def test_weights_are_compared_by_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a sum of floats, which depends on its order: 1e8 + 1 - 1e8 is 0 or 1 in float32."""
    models = [nn.ParameterList([nn.Parameter(torch.tensor([1e8, 1.0, x]))]) for x in (-1e8, -1e8, 2.0)]
    half = nn.ParameterList([nn.Parameter(torch.ones(3, dtype=torch.bfloat16))])
    assert [_checksum(p) for p in models[0]] == [_checksum(p) for p in models[1]]
    assert _checksum(half[0].detach()) == 3 * 0x3F80
    monkeypatch.setattr(World, "gather", lambda self, sums: [sums, [_checksum(p) for p in models[2]]])
    with pytest.raises(RuntimeError, match="rank 1 starts from other weights than rank 0"):
        World(0, 2).refuse_differing(models[0])


def test_shares_of_all_ranks_are_the_items_once() -> None:
    items = list(range(7))
    shares = [World(rank, 3).share(items) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_states_of_fewer_ranks_serve_more_without_counting_twice() -> None:
    states = [{"errors": 2, "rewards": {"a": 1}}, {"errors": 1, "rewards": {}}]
    assert own_state(states, World(1, 2)) == states[1]
    assert own_state(states, World(2, 3)) == {"errors": 0, "rewards": {"a": 1}}
