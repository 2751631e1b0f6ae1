"""`train.optimizer`: what each name is, and where it cannot be."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import assert_same_run
from torch import nn

import vlrft
from vlrft import checkpoint
from vlrft.compose import compose
from vlrft.config import TrainConfig
from vlrft.log import UserError
from vlrft.optim import make_optimizer
from vlrft.setup import check_learning
from vlrft.testing import tiny_recipe

NEEDS = "bitsandbytes is not installed: pip install bitsandbytes"


def parameters(count: int = 2) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(64, 128, generator=generator)) for _ in range(count)]


def test_adamw_is_torchs_over_what_learns() -> None:
    first, second = parameters()
    second.requires_grad_(False)
    optimizer = make_optimizer([first, second], TrainConfig(learning_rate=1e-2, weight_decay=0.1, adam_beta2=0.95))
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(first)]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-2, 0.1, (0.9, 0.95))


def test_eight_bits_follow_the_exact_optimiser_with_a_quarter_of_its_states() -> None:
    pytest.importorskip("bitsandbytes", reason=NEEDS)
    start = [p.detach().clone() for p in parameters()]
    ends, sizes = [], []
    for name in ("adamw", "adamw_8bit"):
        own = parameters()
        optimizer = make_optimizer(own, TrainConfig(optimizer=name, learning_rate=1e-2))
        for _ in range(5):
            optimizer.zero_grad()
            sum((p**2).sum() for p in own).backward()
            optimizer.step()
        ends.append([p.detach() for p in own])
        sizes.append(sum(_bytes(state) for state in optimizer.state.values()))
    moved = max(float((a - b).abs().max()) for a, b in zip(ends[0], start, strict=True))
    apart = max(float((a - b).abs().max()) for a, b in zip(*ends, strict=True))
    assert moved > 0.04
    assert apart < moved / 4
    assert sizes[1] < 0.35 * sizes[0]


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes if value.numel() > 1000 else 0
    return sum(map(_bytes, value.values())) if isinstance(value, dict) else 0


@pytest.mark.parametrize("name", ["paged_adamw", "paged_adamw_8bit"])
def test_paged_ones_need_cuda_and_say_so_before_anything_is_loaded(name: str, recipe: Callable[..., Any]) -> None:
    plain = name.removeprefix("paged_")
    composed = compose(recipe(train={"optimizer": name}))
    with pytest.raises(UserError, match=rf"train\.optimizer={name} needs a CUDA device.*use {plain}$"):
        check_learning(composed.config)
    with pytest.raises(UserError, match="needs a CUDA device"):
        make_optimizer(parameters(), TrainConfig(optimizer=name))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, recipe: Callable[..., Any]) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    composed = compose(recipe(train={"optimizer": "adamw_8bit"}))
    with pytest.raises(UserError, match=r"train\.optimizer=adamw_8bit needs bitsandbytes: pip install bitsandbytes"):
        check_learning(composed.config)


def test_a_run_with_eight_bits_resumes_the_same(scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason=NEEDS)
    train = {"optimizer": "adamw_8bit", "save_steps": 2, "steps": 4, "prompts_per_step": 2, "learning_rate": 1e-2}
    made = tiny_recipe(scenes, tmp_path / "run", train=train, stages=[{"kind": "sft"}],
                       parallel={"cpu": True, "num_threads": 1})  # fmt: skip
    run = vlrft.train(made).path
    again = shutil.copytree(run, tmp_path / "again")
    shutil.rmtree(checkpoint.complete(again)[-1])
    vlrft.train(resume=again)
    assert_same_run(again, run)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_every_one_moves_parameters_on_cuda(name: str) -> None:
    pytest.importorskip("bitsandbytes", reason=NEEDS)
    own = [nn.Parameter(p.detach().cuda()) for p in parameters()]
    before = [p.detach().clone() for p in own]
    optimizer = make_optimizer(own, TrainConfig(optimizer=name, learning_rate=1e-2))
    sum((p**2).sum() for p in own).backward()
    optimizer.step()
    assert all(not torch.equal(p, b) for p, b in zip(own, before, strict=True))
