"""`vlrft plan`: the parts of a stage, what binds, and proposals that hold when they are counted again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from vlrft.cli import app
from vlrft.compose import compose
from vlrft.config import Config, TinyModelConfig
from vlrft.log import UserError
from vlrft.models.tiny import save_tiny
from vlrft.plan import Plan, plan
from vlrft.plan.demand import as_many_of_the_longest
from vlrft.plan.parts import resident, vllm_memory
from vlrft.plan.stage import StagePlan
from vlrft.testing import tiny_recipe

MIB = 2**20
Recipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def planned(scenes: Path) -> Callable[..., Plan]:
    """`planned(memory=..., train={...})`: the plan of the tiny recipe on the CPU, or on `gpus`; each made once."""
    made: dict[str, Plan] = {}

    def make(*, gpus: int = 0, memory: int | None = None, **blocks: Any) -> Plan:
        key = repr((gpus, memory, blocks))
        if key not in made:
            recipe = tiny_recipe(scenes, scenes / "run", **blocks)
            made[key] = plan(compose(recipe), gpus=gpus, memory=memory)
        return made[key]

    return make


def only(made: Plan) -> StagePlan:
    (stage,) = made.stages
    return stage


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


def test_a_reference_policy_is_one_more_copy(planned: Callable[..., Plan]) -> None:
    stage = only(planned(objective={"beta": 0.1}))
    assert stage.resident.reference == stage.resident.parameters


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
    assert parts("zero1") == [4, 4, 2, 4]
    assert parts("zero2") == [4, 1, 2, 4]
    assert parts("zero3") == parts("fsdp2") == [1, 1, 2, 1]


def test_what_is_offloaded_is_on_the_host(recipe: Recipe) -> None:
    from vlrft.models import load_family

    config = compose(recipe()).config
    model = load_family(config.model, config.data).model
    size = sum(p.nbytes for p in model.parameters())

    def parts(strategy: str, offload: str) -> tuple[int, ...]:
        held = resident(model, spread_as(config, strategy=strategy, offload=offload), ranks=2, beta=0.0)
        shown = (held.parameters, held.optimizer, held.on_host, held.away_in_rollouts)
        return tuple(round(2 * part / size) for part in shown)

    assert parts("ddp", "none") == (2, 4, 0, 0)
    assert parts("ddp", "optimizer") == (2, 4, 0, 4)
    assert parts("zero2", "optimizer") == (2, 0, 2, 0)
    assert parts("zero3", "all") == (0, 0, 3, 0)


def test_vllm_takes_its_share_and_shows_how_many_tokens_fit(planned: Callable[..., Plan], recipe: Recipe) -> None:
    from vlrft.models import load_family

    config = compose(recipe(engine={"name": "vllm", "kwargs": {"gpu_memory_utilization": 0.5}})).config
    family = load_family(config.model, config.data)
    found = vllm_memory(family, config, 64 * MIB)
    assert found is not None
    assert found.reserved == 32 * MIB
    assert found.weights == found.folder == sum(p.nbytes for p in family.model.parameters())
    assert found.cache_per_token == 2 * 2 * 2 * (32 // 4) * 4
    assert found.cache_tokens == (32 * MIB - found.weights) // found.cache_per_token
    fixed = config.engine.model_copy(update={"kwargs": {"kv_cache_memory_bytes": 1000}})
    assert vllm_memory(family, config.model_copy(update={"engine": fixed}), None) == replace(
        found, reserved=found.weights + 1000
    )


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
        "parallel.mixed_precision",
        "model.freeze_vision_tower",
    ]
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
