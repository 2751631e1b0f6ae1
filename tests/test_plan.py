"""`vlrft plan`: the parts of a stage, what binds, and proposals that hold when they are counted again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plan_scenes import only, planned
from torch import nn
from typer.testing import CliRunner

from vlrft.cli import app
from vlrft.compose import compose
from vlrft.config import Config, TinyModelConfig
from vlrft.log import UserError
from vlrft.models.tiny import save_tiny
from vlrft.plan import Plan, plan
from vlrft.plan.demand import as_many_of_the_longest
from vlrft.plan.lower import more_sharded
from vlrft.plan.parts import resident

__all__ = ["planned"]
MIB = 2**20
Recipe = Callable[..., dict[str, Any]]


def test_the_parts_of_a_stage(planned: Callable[..., Plan]) -> None:
    stage = only(planned())
    weights = stage.resident.parameters
    assert weights > 4 * 10_000
    assert (stage.resident.gradients, stage.resident.optimizer) == (weights, 2 * weights)
    assert (stage.resident.reference, stage.resident.gathered, stage.vllm) == (0, 0, None)
    assert min(stage.training.vision, stage.training.language, stage.training.head) > 0
    assert stage.training.extra < 0, "one micro-batch: its peak comes before most gradients"
    assert stage.rollout is not None
    assert stage.rollout.cache > 0 < stage.rollout.packed_weights
    assert set(stage.phases) == {"training", "rollout", "evaluation"}
    assert stage.demand.generations == 4
    assert stage.demand.completion_tokens == 6
    assert stage.training.tokens == 4 * (stage.demand.lengths[0] + 4 * 5)


def test_frozen_parts_have_neither_gradients_nor_states(planned: Callable[..., Plan]) -> None:
    whole, frozen = only(planned()), only(planned(model={"freeze_vision_tower": True, "freeze_projector": True}))
    assert frozen.resident.parameters == whole.resident.parameters
    assert frozen.resident.optimizer == 2 * frozen.resident.gradients < whole.resident.optimizer
    assert frozen.training.vision < whole.training.vision / 2


@pytest.mark.slow
def test_a_gpu_attends_by_other_kernels(planned: Callable[..., Plan]) -> None:
    work = {"engine": {"max_completion_length": 200}}
    cpu, gpu = only(planned(**work)), only(planned(gpus=1, **work))
    assert gpu.training.language == pytest.approx(cpu.training.language, rel=0.01)
    assert gpu.training.total > cpu.training.total, "plain matrix products hold the scores"
    assert gpu.rollout is not None
    assert gpu.rollout.packed_weights == 0
    half = {"parallel": {"cpu": False, "mixed_precision": "bf16"}}
    flash = only(planned(gpus=1, **work, **half))
    assert only(planned(gpus=1, **work, **half, model={"attention": "flex"})).training == flash.training
    assert flash.training.total < 0.8 * gpu.training.total


def test_a_reference_policy_copies_what_learns(planned: Callable[..., Plan]) -> None:
    whole = only(planned(objective={"beta": 0.1})).resident
    assert whole.reference == whole.parameters
    frozen = only(planned(objective={"beta": 0.1}, model={"freeze_vision_tower": True})).resident
    assert frozen.reference == frozen.gradients < frozen.parameters
    adapted = only(planned(objective={"beta": 0.1}, model={"adapter": {"r": 4}})).resident
    assert 0 < adapted.reference == adapted.gradients < adapted.parameters / 5


def test_checkpointing_and_half_precision_keep_less(planned: Callable[..., Plan]) -> None:
    plain = only(planned()).training
    assert only(planned(model={"gradient_checkpointing": True})).training.language < plain.language / 2
    assert only(planned(parallel={"mixed_precision": "bf16"})).training.language < 0.8 * plain.language


def test_a_smaller_budget_keeps_less_and_says_how_many_micro_batches(planned: Callable[..., Plan]) -> None:
    one, many = only(planned()).training, only(planned(train={"micro_batch_tokens": 60})).training
    assert one.micro_batches == 1 < many.micro_batches
    assert many.language < one.language / 2
    assert many.extra > 0, "gradients of the first micro-batch are there in the second"


def test_a_supervised_stage_has_one_reference_answer_and_no_rollout(planned: Callable[..., Plan]) -> None:
    stage = only(planned(stages=[{"kind": "sft"}], engine={"max_completion_length": 64}))
    assert stage.demand.generations == 1
    assert 2 < stage.demand.completion_tokens < 64
    assert set(stage.phases) == {"training", "evaluation"}


def spread_as(config: Config, **parallel: str) -> Config:
    return config.model_copy(update={"parallel": config.parallel.model_copy(update=parallel)})


def test_strategies_share_what_they_shard(recipe: Recipe) -> None:
    from vlrft.models import load_family

    config = compose(recipe(objective={"beta": 0.1})).config
    model = load_family(config.model, config.data).model
    size = sum(p.nbytes for p in model.parameters())

    def parts(strategy: str) -> list[int]:
        held = resident(model, spread_as(config, strategy=strategy), ranks=4, beta=0.1)
        return [round(4 * part / size) for part in (held.parameters, held.gradients, held.optimizer, held.reference)]

    assert parts("ddp") == [4, 4, 8, 4]
    assert parts("zero1") == [4, 4, 3, 4]
    assert parts("zero2") == [4, 1, 3, 4]
    assert parts("zero3") == [1, 1, 3, 1]
    assert parts("fsdp2") == [1, 1, 2, 1]


def test_what_is_offloaded_is_on_the_host(recipe: Recipe) -> None:
    from vlrft.models import load_family

    config = compose(recipe()).config
    model = load_family(config.model, config.data).model
    size = sum(p.nbytes for p in model.parameters())

    def parts(strategy: str, offload: str, beta: float = 0.0) -> tuple[int, ...]:
        held = resident(model, spread_as(config, strategy=strategy, offload=offload), ranks=2, beta=beta)
        shown = (held.total, held.optimizer, held.on_host, held.away_in_rollouts)
        return tuple(round(2 * part / size) for part in shown)

    assert parts("ddp", "none") == (8, 4, 0, 0)
    assert parts("ddp", "optimizer") == (8, 4, 0, 4)
    assert parts("zero1", "optimizer") == (4, 0, 3, 0)
    assert parts("zero2", "optimizer") == (2, 0, 4, 0)
    assert parts("zero3", "all", beta=0.1) == (0, 0, 6, 0)


@pytest.mark.slow
def test_deepspeed_holds_what_is_counted_for_it(recipe: Recipe, tmp_path: Path) -> None:
    """Its own copy of the weights, float32 as they are, and a buffer for gradients of fixed size."""
    from vlrft.models import load_family

    script = """
import json, sys, torch
from accelerate import Accelerator
from vlrft.compose import compose
from vlrft.dist import World
from vlrft.logprob import HeadOptions
from vlrft.models import load_family
from vlrft.optim import make_optimizer
from vlrft.policy import Policy
from vlrft.shard import build_strategy
config = compose(sys.argv[1]).config
family = load_family(config.model, config.data)
strategy = build_strategy(config, Accelerator(cpu=True), World())
strategy.start(Policy(family, HeadOptions(), "auto"), lambda policy: make_optimizer(policy.parameters(), config.train))
held = strategy.optimizer
weights = getattr(held, "fp16_partitioned_groups_flat", None) or [g[0] for g in held.parallel_partitioned_bit16_groups]
storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in weights}
copies = {t.untyped_storage().data_ptr(): t.nbytes for t in strategy.flat_parameters()}
buffers = [b.buffer.nbytes for b in held.ipg_buckets.values() if isinstance(b.buffer, torch.Tensor)]
print(json.dumps([sum(n for at, n in copies.items() if at not in storages), sum(buffers)]))
"""
    for strategy in ("zero2", "zero3"):
        path = write(recipe(model={"freeze_vision_tower": True}, parallel={"strategy": strategy}), tmp_path)
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        copied, buffers = json.loads(done.stdout.splitlines()[-1])
        config = compose(path).config
        held = resident(load_family(config.model, config.data).model, config, ranks=1, beta=0.0)
        assert held.optimizer == pytest.approx(2 * held.gradients + copied, rel=0.01)
        assert copied == pytest.approx(held.gradients, rel=0.01)
        assert held.gathered == 4 * 500_000_000
        assert strategy == "zero2" or buffers == held.gathered


def test_states_of_8_bits_and_paged_ones(recipe: Recipe) -> None:
    from vlrft.models import load_family

    config = compose(recipe()).config
    model = load_family(config.model.model_copy(update={"freeze_vision_tower": True}), config.data).model
    large = sum(p.numel() for p in model.parameters() if p.requires_grad and p.numel() >= 4096)
    small = sum(p.numel() for p in model.parameters() if p.requires_grad and p.numel() < 4096)

    def states(optimizer: str) -> tuple[int, int]:
        train = config.train.model_copy(update={"optimizer": optimizer})
        held = resident(model, config.model_copy(update={"train": train}), ranks=1, beta=0.0)
        return held.optimizer, held.on_host

    assert min(large, small) > 0
    assert states("adamw") == (8 * (large + small), 0)
    in_8_bits, nothing = states("adamw_8bit")
    assert nothing == 0
    assert in_8_bits == pytest.approx(2 * (1 + 4 / 256) * large + 8 * small, rel=0.01)
    assert states("paged_adamw") == (8 * (large + small), 0), "none of a tiny model's parameters is paged"
    vocabulary = nn.Linear(1000, 1000, bias=False, device="meta")
    train = config.train.model_copy(update={"optimizer": "paged_adamw"})
    held = resident(vocabulary, config.model_copy(update={"train": train}), ranks=1, beta=0.0)
    assert (held.optimizer, held.on_host) == (0, 8_000_000)


def test_weights_in_4_bits_are_counted_so(planned: Callable[..., Plan]) -> None:
    lora = only(planned(gpus=1, model={"adapter": {"r": 4}}))
    qlora = only(planned(gpus=1, model={"adapter": {"r": 4, "kind": "qlora"}}))
    assert (lora.resident.gradients, lora.resident.optimizer) == (qlora.resident.gradients, qlora.resident.optimizer)
    layers = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    assert lora.resident.parameters - qlora.resident.parameters == pytest.approx((4 - 0.516) * layers, rel=0.01)
    assert qlora.training.language == pytest.approx(lora.training.language, rel=0.02), "weights are not kept whole"
    assert qlora.training.total <= lora.training.total + 2 * 4 * 32 * 48


@pytest.mark.parametrize(
    ("blocks", "offered"),
    [
        ({"engine": {"name": "vllm_server"}}, ["zero2", "zero3"]),
        ({}, ["zero2"]),
        ({"engine": {"name": "vllm_server"}, "model": {"adapter": {"r": 2}}}, ["zero2"]),
        ({"engine": {"name": "vllm_server"}, "objective": {"beta": 0.1, "sync_ref_model": True}}, ["zero2"]),
        ({"engine": {"name": "vllm_server"}, "train": {"optimizer": "adamw_8bit"}}, []),
    ],
    ids=["servers", "hf", "adapters", "refreshed reference", "8 bits"],
)
def test_strategies_are_offered_that_a_run_takes(blocks: dict[str, Any], offered: list[str], recipe: Recipe) -> None:
    config = compose(recipe(**blocks)).config
    assert [name for _, name in more_sharded(config)] == offered


@pytest.mark.slow
def test_the_proposed_budget_fits_and_twice_as_much_does_not(planned: Callable[..., Plan]) -> None:
    work = {"engine": {"num_generations": 8, "max_completion_length": 40}, "eval": {"prompts_per_batch": 2}}
    least, most = only(planned(train={"micro_batch_tokens": 100}, **work)), only(planned(**work))
    memory = (least.peak + most.peak) // 2
    made = planned(memory=memory, **work)
    budget = only(made).proposed_budget
    assert made.fits is False
    assert budget is not None
    again = planned(memory=memory, train={"micro_batch_tokens": budget}, **work)
    assert again.fits is True
    assert only(again).proposed_budget == pytest.approx(budget, rel=0.1)
    assert planned(memory=memory, train={"micro_batch_tokens": 2 * budget}, **work).fits is False


@pytest.mark.slow
def test_what_to_lower_is_counted_and_stops_where_it_fits(planned: Callable[..., Plan]) -> None:
    made = only(planned())
    roomy = made.peak * 0.8
    stage = only(planned(memory=int(roomy)))
    peaks = [peak for _, peak in stage.lower]
    assert stage.lower[0][0].startswith("train.micro_batch_tokens=")
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] <= roomy
    assert all(peak > roomy for peak in peaks[:-1])


@pytest.mark.slow
def test_where_nothing_helps_it_says_so(planned: Callable[..., Plan]) -> None:
    made = planned(memory=MIB)
    assert only(made).proposed_budget is None
    assert [change.split("=")[0] for change, _ in only(made).lower] == [
        "train.micro_batch_tokens",
        "model.gradient_checkpointing",
        "model.logprob_cache_mb",
        "model.freeze_vision_tower",
    ], "in half precision this model's weights, cast, are more than what is kept of its few tokens"
    assert "Also with all of the above it does not" in made.as_text()


def test_a_folder_needs_no_weights(planned: Callable[..., Plan], recipe: Recipe, tmp_path: Path) -> None:
    tiny = TinyModelConfig(**recipe()["model"]["tiny"])
    folder = save_tiny(tiny, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    there = only(planned(model={"tiny": None, "model_name_or_path": str(folder)}))
    here = only(planned())
    assert there.resident == here.resident
    assert there.training == here.training
    assert there.rollout == here.rollout


@pytest.mark.slow
def test_planning_leaves_nothing_in_memory(planned: Callable[..., Plan]) -> None:
    """Hundreds of times the tokens: the prediction grows, the process does not."""
    import resource

    planned()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = planned(engine={"max_completion_length": 1000, "num_generations": 16}, train={"micro_batch_tokens": 10**6})
    assert large.peak > 2**28
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16


def test_rows_that_cannot_be_shown_are_counted(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="vlrft validate says why"):
        plan(compose(recipe(data={"max_prompt_length": 3})), gpus=0)


def test_counting_prompts_of_the_longest_length() -> None:
    assert as_many_of_the_longest((100, 50, 50, 10), 3) == 2
    assert as_many_of_the_longest((), 3) == 0


def write(recipe: dict[str, Any], folder: Path) -> str:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_the_command_prints_writes_and_fails_where_it_does_not_fit(recipe: Recipe, tmp_path: Path) -> None:
    path, found = write(recipe(), tmp_path), tmp_path / "out" / "plan.json"
    asked = ["plan", path, "train.micro_batch_tokens=200", "--json", str(found)]
    done = CliRunner().invoke(app, [*asked, "--gpus", "2", "--gpu-mem", "8"])
    assert done.exit_code == 0, done.output
    assert "each of 2 GPUs, 8 GiB, of which 6.9 for tensors" in done.output
    assert "peak in training" in done.output
    assert "(the whole step in one micro-batch)" in done.output
    assert done.output.splitlines()[-1].startswith("fits: ")
    content = json.loads(found.read_text(encoding="utf-8"))
    assert (content["fits"], content["gpus"]) == (True, 2)
    (stage,) = content["stages"]
    assert stage["micro_batch_tokens"] == 200
    assert stage["prompts"] == 2
    assert stage["peaks"][stage["binds"]] == content["peak"]
    done = CliRunner().invoke(app, [*asked, "--gpus", "1", "--gpu-mem", "0.545"])
    assert done.exit_code == 1
    assert "does not fit" in done.output


def test_torch_goes_on_as_before(planned: Callable[..., Plan]) -> None:
    planned()
    assert float((torch.ones(3) * 2).sum()) == 6.0


def test_a_gpu_that_cuda_alone_fills_is_refused(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"a GPU of 104,857,600 bytes has none for tensors: CUDA takes about 536,"):
        plan(compose(recipe()), gpus=1, memory=100 * MIB)
