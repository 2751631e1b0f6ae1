"""`vlrft plan` with vLLM on the device, and what its counts assume of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from plan_scenes import only, planned
from torch import nn

from vlrft.compose import compose
from vlrft.dist import World
from vlrft.plan import Plan
from vlrft.plan.parts import BUCKET, CUDA_CONTEXT, CUDA_SLACK, GIB
from vlrft.plan.vllm import vllm_memory

__all__ = ["planned"]
MIB = 2**20
Recipe = Callable[..., dict[str, Any]]


def of_vllm(**kwargs: Any) -> dict[str, Any]:
    return {"engine": {"name": "vllm", "kwargs": {"max_model_len": 100, **kwargs}}, "parallel": {"cpu": False}}


def test_vllm_takes_its_share_and_shows_how_many_tokens_fit(recipe: Recipe) -> None:
    from vlrft.models import load_family

    config = compose(recipe(engine={"name": "vllm", "kwargs": {"gpu_memory_utilization": 0.5}})).config
    family = load_family(config.model, config.data)
    found = vllm_memory(family, config, 64 * MIB, on_cpu=True)
    assert found is not None
    assert found.reserved == found.asleep == 32 * MIB, "on a CPU it does not sleep"
    assert found.weights == found.folder == sum(p.nbytes for p in family.model.parameters())
    assert found.cache_per_token == 2 * 2 * 2 * (32 // 4) * 4
    assert found.cache_tokens == (32 * MIB - found.weights) // found.cache_per_token
    assert found.least == found.weights + 8192 * found.cache_per_token
    fixed = config.engine.model_copy(update={"kwargs": {"kv_cache_memory_bytes": 1000}})
    told = vllm_memory(family, config.model_copy(update={"engine": fixed}), None, on_cpu=True)
    assert told is not None
    assert (told.reserved, told.share) == (found.weights + 1000, None)


def test_a_vllm_that_sleeps_is_there_in_generation_only(planned: Callable[..., Plan]) -> None:
    """A card whose memory vLLM takes by itself: the trainer learns beside it asleep, not awake."""
    asleep = only(planned(gpus=1, memory=80 * GIB, **of_vllm(gpu_memory_utilization=0.9)))
    assert set(asleep.phases) == {"training", "generation"}
    assert (asleep.phases["generation"] // GIB, asleep.phases["training"] // GIB) == (72, 1)
    awake = only(planned(gpus=1, memory=80 * GIB, **of_vllm(gpu_memory_utilization=0.9, sleep_level=0)))
    assert awake.phases["training"] // GIB == 72
    supervised = only(planned(gpus=1, memory=80 * GIB, stages=[{"kind": "sft"}], data={"eval": None}, **of_vllm()))
    assert set(supervised.phases) == {"training"}, "nothing is generated"


def test_states_that_go_to_the_host_leave_vllm_their_room(planned: Callable[..., Plan]) -> None:
    away = {**of_vllm(), "parallel": {"cpu": False, "offload": "optimizer"}}
    here, there = (only(planned(gpus=1, memory=80 * GIB, **blocks)) for blocks in (of_vllm(), away))
    assert here.phases["generation"] - there.phases["generation"] == there.resident.away_in_rollouts > 0
    assert here.phases["training"] == there.phases["training"]


@pytest.mark.slow
def test_the_share_of_vllm_that_is_proposed_fits(planned: Callable[..., Plan]) -> None:
    for settings in ({}, {"sleep_level": 0}):
        made = planned(gpus=1, memory=80 * GIB, **of_vllm(**settings))
        share = only(made).proposed_share
        assert share is not None
        assert 0.5 < share < 0.92
        assert [change for change, _ in only(made).lower] == [f"engine.kwargs.gpu_memory_utilization={share}"]
        assert made.fits is False
        again = planned(gpus=1, memory=80 * GIB, **of_vllm(gpu_memory_utilization=share, **settings))
        assert again.fits is True
        assert only(again).lower == ()


@pytest.mark.slow
def test_a_vllm_that_is_awake_may_sleep(planned: Callable[..., Plan]) -> None:
    """A card that holds vLLM beside the trainer at rest, but not beside one that learns."""
    awake = of_vllm(sleep_level=0, kv_cache_memory_bytes=3 * GIB // 2)
    phases = only(planned(gpus=1, **awake)).phases
    assert phases["training"] > phases["generation"] > GIB
    between = (phases["training"] + phases["generation"]) / 2
    stage = only(planned(gpus=1, memory=int((between + CUDA_CONTEXT) / (1 - CUDA_SLACK)), **awake))
    assert [change for change, _ in stage.lower] == ["engine.kwargs.sleep_level=1"]
    assert stage.proposed_share is None, "the size of the cache is fixed"


def test_a_gradient_larger_than_a_bucket_is_summed_in_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the plan counts one bucket on its way between ranks, whatever the vocabulary."""
    monkeypatch.setattr("vlrft.dist._BUCKET", BUCKET // 2**20)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda flat, **_: flat.mul_(2))
    large, *small = (nn.Parameter(torch.zeros(size)) for size in (1000, 3, 4))
    for parameter in (large, *small):
        parameter.grad = torch.ones_like(parameter)
    place = large.grad
    World(0, 2).sum_gradients([large, *small])
    assert large.grad is not None
    assert place is not None
    assert large.grad.data_ptr() == place.data_ptr()
    assert all(p.grad is not None and p.grad.eq(2).all() for p in (large, *small))


def test_optimiser_states_are_away_in_an_evaluation_too() -> None:
    """As the plan has it: an engine wakes up for it beside the trainer."""
    from vlrft.stages import _evaluate

    events: list[str] = []

    @contextmanager
    def resting() -> Iterator[None]:
        events.append("away")
        yield
        events.append("back")

    def evaluator(*_: Any) -> Any:
        events.append("evaluated")
        return SimpleNamespace(skipped=[], metrics={})

    stage: Any = MagicMock()
    stage.setup.held_out = ["sample"]
    stage.config.eval.prompts_per_batch = 1
    stage.config.log.rollouts = False
    stage.state.strategy.resting = resting
    _evaluate(stage, MagicMock(), evaluator)
    assert events == ["away", "evaluated", "back"]
