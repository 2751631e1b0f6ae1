"""Everything a run needs before its first step: samples checked, model loaded, and what each stage builds on them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import set_seed

from vlrft.adapters import hot_load_obstacle
from vlrft.checkpoint import Saved
from vlrft.compose import Composed, ConfigError, Stage
from vlrft.config import Config, ModelConfig, TimeLimitsConfig
from vlrft.data.mixture import sampler_settings
from vlrft.data.problems import Skipped
from vlrft.data.samplers import SAMPLERS
from vlrft.data.tasks import check_templates
from vlrft.dist import World, own_state, wait_in_collectives
from vlrft.engines import ENGINES, build_engine, check_kwargs
from vlrft.engines.base import Engine, row_seed
from vlrft.grpo import Objective
from vlrft.log import UserError
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.optim import check_optimizer, make_optimizer
from vlrft.policy import Policy, head_options
from vlrft.reference import Reference, build_reference
from vlrft.registry import UnknownNameError, resolve
from vlrft.renderer import Renderer
from vlrft.rewards.judge import Judge
from vlrft.rollout import complaints_about, evaluation_judge, training_judge
from vlrft.selection import describe, select
from vlrft.shard import SPREADS, build_strategy
from vlrft.shard.base import HOST_TOO
from vlrft.shard.deepspeed_keys import owned_key
from vlrft.slurm import take_rank
from vlrft.splits import check_split, read_split, roles, source_key
from vlrft.state import Counters, Schedule, TrainState
from vlrft.types import Sample
from vlrft.watchdog import beyond

logger = logging.getLogger(__name__)

FIXED: dict[str, Any] = {
    "model": {"model_name_or_path", "tiny", "dtype", "attention", "gradient_checkpointing", "adapter"},
    "data": {"min_pixels": True, "max_pixels": True, "video": {"min_pixels", "max_pixels", "total_pixels"}},
    "engine": {"name", "max_rows", "kwargs"},
    "parallel": None,
    "train": {"output_dir"},
    "log": {"tensorboard", "report"},
}
"""Blocks (None: whole ones) that belong to the run: a stage cannot say them differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSetup:
    """A stage with its checked samples."""

    name: str
    kind: str
    config: Config
    samples: list[Sample]
    held_out: list[Sample]
    held_out_rows: int = 0
    """How many held-out samples there would be if no row had been lost: the N of "n of N"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that is ready to start."""

    accelerator: Accelerator
    world: World
    family: Family
    engine: Engine
    stages: list[StageSetup]
    skipped: list[Skipped]
    """Everything that was left out of any split, for skipped.jsonl."""
    renderers: dict[str, Renderer]
    """By data block, so that stages with the same data share rendered prompts."""

    def close(self) -> None:
        """Stop what the engine has started: processes, and folders in shared memory."""
        if hasattr(self.engine, "close"):
            self.engine.close()

    def renderer(self, config: Config) -> Renderer:
        key = config.data.model_dump_json(exclude={"train", "eval"})
        if key not in self.renderers:
            self.renderers[key] = Renderer(self.family, config.data)
        return self.renderers[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageParts:
    """What a stage works with, built or restored."""

    renderer: Renderer
    engine: Engine
    judge: Judge
    objective: Objective
    reference: Reference | None
    state: TrainState


def prepare(composed: Composed, stages: Sequence[Stage]) -> Prepared:
    """Load and check every split of every stage, and the model. Nothing is written and nothing computed yet.

    Raises what is wrong with config, files, samples, prompts, targets, rewards or model, naming it.
    """
    check_config(composed.config, stages)
    for stage in stages:
        check_learning(stage.config)
    keys = {source_key(s.config, role): (s.config, role) for s in stages for role in roles(s.config)}
    loaded = {key: read_split(config, role) for key, (config, role) in keys.items()}
    prepared = load_model(composed.config, composed.config.model)
    for stage in stages:
        select(prepared.family, stage.config.model, stage.name)
        splits = {
            role: check_split(loaded[source_key(stage.config, role)], stage, role, prepared.renderer(stage.config))
            for role in roles(stage.config)
        }
        for split in splits.values():
            prepared.skipped.extend(s for s in split.skipped if s not in prepared.skipped)
        held_out, held_out_rows = splits["eval"].cut(stage.config.eval.limit) if "eval" in splits else ([], 0)
        setup = StageSetup(
            name=stage.name,
            kind=stage.kind,
            config=stage.config,
            samples=splits["train"].samples,
            held_out=held_out,
            held_out_rows=held_out_rows,
        )
        _sampler(setup)
        prepared.stages.append(setup)
    return prepared


def check_config(config: Config, stages: Sequence[Stage]) -> None:
    """Resolve every name and build what is cheap to build, so that mistakes show before anything is loaded."""
    check_attention(config)
    check_parallel(config)
    for stage in stages:
        for block, keys in FIXED.items():
            ours, theirs = (getattr(c, block).model_dump(include=keys) for c in (config, stage.config))
            if differing := [f"{block}.{key}" for key, value in ours.items() if theirs[key] != value]:
                raise ConfigError(f"stage {stage.name!r} sets {differing[0]}, which is one for the whole run; move it")
        check_templates(stage.config.data)
        Objective.build(stage.config.objective)
        resolve(stage.config.sampler.name, SAMPLERS, kind="sampler")
        engine = resolve(stage.config.engine.name, ENGINES, kind="engine")
        check_staleness(stage.config, engine)
        with complaints_about("engine.kwargs"):
            check_kwargs(stage.config.engine)
        training_judge(stage.config)
        if stage.config.data.eval is not None:
            evaluation_judge(stage.config)


def check_staleness(config: Config, engine: Any) -> None:
    """Refuse rollouts made ahead by an engine that samples from the trainer's own weights, and ones that a resumed run
    could not read back. Raises ConfigError."""
    ahead = config.engine.max_staleness
    if ahead and not hasattr(engine, "snapshot"):
        raise ConfigError(
            f"engine.max_staleness={ahead} needs an engine that samples while the trainer learns; "
            f"engine.name={config.engine.name} does not: use engine.name=vllm_server, or engine.max_staleness=0"
        )
    if ahead and not config.log.rollouts:
        raise ConfigError(
            f"engine.max_staleness={ahead} needs log.rollouts=true: what is in work at a checkpoint comes from weights "
            "that are gone when the run is resumed, which reads it from rollouts/; or set engine.max_staleness=0"
        )
    if ahead and config.objective.mismatch == "none":
        logger.warning(
            "engine.max_staleness=%d with objective.mismatch=none: samples of an older policy are taken for the "
            "current one's; leave objective.mismatch at token_truncate", ahead,
        )  # fmt: skip


def check_attention(config: Config) -> None:
    """Refuse an attention kernel that this machine cannot run. Raises ConfigError."""
    name, precision = config.model.attention, config.parallel.mixed_precision
    on_cuda = torch.cuda.is_available() and not config.parallel.cpu
    if name in ("flex", "flash_varlen") and not on_cuda:
        raise ConfigError(f"model.attention={name} needs a CUDA device and parallel.cpu=false; leave it at auto")
    if name == "flash_varlen" and precision == "no" and config.model.dtype == "float32":
        raise ConfigError("model.attention=flash_varlen needs half precision; set parallel.mixed_precision=bf16")


def check_learning(config: Config) -> None:
    """Refuse adapters and optimisers that this machine or the engine cannot take: for training only, since what was
    trained elsewhere may be evaluated here. Raises UserError."""
    if config.train.optimizer.startswith("paged") and config.parallel.offload != "none":
        raise ConfigError(
            f"train.optimizer={config.train.optimizer} pages its states to the host itself: set parallel.offload=none"
        )
    if config.train.optimizer != "adamw" and config.parallel.strategy != "ddp":
        raise ConfigError(
            f"train.optimizer={config.train.optimizer} goes with parallel.strategy=ddp only, whose optimiser is whole; "
            f"use adamw with {config.parallel.strategy}"
        )
    check_optimizer(config.train, on_cuda=torch.cuda.is_available() and not config.parallel.cpu)
    adapter, sync = config.model.adapter, config.engine.kwargs.get("adapter_sync")
    if sync == "hot" and (obstacle := hot_load_obstacle(adapter)) is not None:
        raise ConfigError(f"engine.kwargs.adapter_sync=hot: {obstacle}; set it to merged, or leave it at auto")
    if adapter is None:
        return
    if all(getattr(config.model, f"freeze_{part}") for part in adapter.parts):
        raise ConfigError(
            f"model.adapter.parts names only parts that model.freeze_* freezes: {', '.join(adapter.parts)}"
        )
    for library in ("peft", "bitsandbytes") if adapter.kind == "qlora" else ("peft",):
        if find_spec(library) is None:
            raise ConfigError(f"model.adapter.kind={adapter.kind} needs {library}: pip install {library}")


def check_parallel(config: Config) -> None:
    """Refuse what the strategy cannot do. Raises ConfigError."""
    parallel = config.parallel
    by_deepspeed, spread = parallel.strategy.startswith("zero"), parallel.strategy in SPREADS
    if by_deepspeed and find_spec("deepspeed") is None:
        raise ConfigError(
            f"parallel.strategy={parallel.strategy} needs DeepSpeed: pip install 'vlrft[deepspeed]', or use fsdp2"
        )
    if parallel.deepspeed and not by_deepspeed:
        raise ConfigError(
            f"parallel.deepspeed is of zero1, zero2 and zero3, and parallel.strategy={parallel.strategy} does not read "
            "it: set parallel.deepspeed=null, or parallel.strategy=zero2"
        )
    if (found := owned_key(parallel.deepspeed)) is not None:
        raise ConfigError(f"parallel.deepspeed cannot set {found[0]}, which vlrft sets: {found[1]}")
    if spread and config.model.adapter is not None:
        raise ConfigError(f"model.adapter does not go with parallel.strategy={parallel.strategy} yet; use zero2 or ddp")
    if spread and config.engine.name == "hf":
        raise ConfigError(
            f"engine.name=hf samples from weights that no rank has under parallel.strategy={parallel.strategy}: set "
            "engine.name=vllm or vllm_server, or parallel.strategy=zero2"
        )
    if spread and config.objective.sync_ref_model:
        raise ConfigError(
            f"objective.sync_ref_model needs whole weights, which no rank has under parallel.strategy="
            f"{parallel.strategy}; use zero2"
        )
    if parallel.offload == "all" and not spread:
        raise ConfigError(f"parallel.offload=all needs parallel.strategy={' or '.join(SPREADS)}; set offload=optimizer")
    if by_deepspeed and config.model.dtype != "float32":
        raise ConfigError(
            f"parallel.strategy={parallel.strategy} needs model.dtype=float32; for bfloat16 compute set "
            "parallel.mixed_precision=bf16"
        )


def start_world(config: Config) -> World:
    """The ranks of this run. A process that a launcher (WORLD_SIZE) or srun started as one of several meets the others
    here."""
    take_rank(os.environ)
    if config.parallel.cpu or not torch.cuda.is_available():
        # accelerate imports DeepSpeed where it is installed, which else looks for a device and warns.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    on_host = config.parallel.strategy == "fsdp2" and config.parallel.offload == "all"
    if on_host and "LOCAL_RANK" in os.environ and torch.cuda.is_available() and not config.parallel.cpu:
        # FSDP2 then has parts on the host, whose norm and whole tensors go over the ranks too.
        PartialState(backend=HOST_TOO)
    else:
        PartialState(cpu=config.parallel.cpu)
    # Until a watchdog looks on, ranks wait for the one that loads or starts its engine slowly.
    longest = beyond(config.train.time_limits)
    wait_in_collectives(longest and max(longest, beyond(TimeLimitsConfig())))
    return World.current()


def load_model(config: Config, model: ModelConfig) -> Prepared:
    """Model, engine and device of a run, without any stage yet. `model` is the run's own, or what it has become.

    Raises UserError when the model or the engine cannot be built.
    """
    if config.parallel.num_threads is not None:
        torch.set_num_threads(config.parallel.num_threads)
    # Kept per process by accelerate, which then refuses a later run with another precision.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    # First: accelerate would start the ranks as well, without what is set here.
    world = start_world(config)
    accelerator = Accelerator(cpu=config.parallel.cpu, mixed_precision=config.parallel.mixed_precision)
    family = _family(model, config)
    if config.parallel.strategy not in SPREADS:  # which move the model in parts
        family.model.to(accelerator.device)
    if config.model.dtype == "bfloat16" and config.model.adapter is None:
        logger.warning(
            "model.dtype=bfloat16 keeps the weights themselves in bfloat16: updates below one part in 256 are rounded "
            "away; for bfloat16 compute on float32 weights set parallel.mixed_precision=bf16 and leave model.dtype"
        )
    with complaints_about("engine"):
        engine = build_engine(
            config.engine, family, attention=model.attention, precision=config.parallel.mixed_precision
        )
        if hasattr(engine, "join"):
            engine.join(world)
    world.refuse_differing(family.model)
    return Prepared(
        accelerator=accelerator, world=world, family=family, engine=engine, stages=[], skipped=[], renderers={}
    )


def _family(model: ModelConfig, config: Config) -> Family:
    if model.tiny is not None:
        with complaints_about("model.tiny"):
            return load_family(model, config.data)
    name = model.model_name_or_path or ""
    local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if local and not Path(name).is_dir():
        raise UserError(f"model.model_name_or_path: no folder {name}; give a folder, or a hub id such as org/model")
    try:
        return load_family(model, config.data)
    except (UnknownNameError, UserError):
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"model.model_name_or_path={name} cannot be loaded: {error}") from error


def start_stage(
    prepared: Prepared, setup: StageSetup, resumed: Saved | None, before: Counters | None, run_dir: Path
) -> StageParts:
    """Build a stage's optimiser, sampler and judge over the current weights.

    resumed: a checkpoint inside this stage, whose weights the model has already. before: how far the run was when the
    stage before ended.
    """
    config, family = setup.config, prepared.family
    set_seed(row_seed(config.train.seed, setup.name) % 2**32)
    select(family, config.model, setup.name)
    logger.info("stage %s: %s", setup.name, describe(family.model))
    # What the stage before has trained and this one does not would keep its last gradient for ever.
    family.model.zero_grad(set_to_none=True)
    strategy = build_strategy(config, prepared.accelerator, prepared.world)
    head = head_options(family, config, samples=setup.kind == "grpo", in_place=strategy.in_place)
    policy = Policy(family, head, config.model.attention)
    objective = Objective.build(config.objective)
    reference = None
    if setup.kind == "grpo":
        step = resumed.state["state"]["counters"]["step"] if resumed is not None else 0
        start_file = run_dir / f"reference-{setup.name}.pt"
        reference = build_reference(
            policy, config.objective, start_file, prepared.world,
            step=step, shares_frozen=config.parallel.strategy not in SPREADS,
        )  # fmt: skip
    strategy.start(policy, lambda policy: make_optimizer(policy.model.parameters(), config.train))
    if reference is not None:
        reference.settle(strategy.hold)
    per_step = objective.steps_per_rollout if setup.kind == "grpo" else 1
    state = TrainState(
        world=prepared.world,
        strategy=strategy,
        scheduler=Schedule(strategy.optimizer, config.train, config.train.steps * per_step),
        sampler=_sampler(setup),
        global_step=before.global_step if before is not None else 0,
        policy_version=before.policy_version if before is not None else 0,
    )
    judge = training_judge(config)
    if resumed is not None:
        strategy.load_states(resumed.optimizer_states)
        state.load_state_dict(resumed.state["state"])
        judge.load_state_dict(own_state(resumed.state["judges"], prepared.world))
    prepared.engine.sync(state.policy_version)
    return StageParts(
        renderer=prepared.renderer(config),
        engine=prepared.engine,
        judge=judge,
        objective=objective,
        reference=reference,
        state=state,
    )


def _sampler(setup: StageSetup) -> Any:
    config = setup.config
    asked = config.train.prompts_per_step
    if asked > len(setup.samples):
        logger.warning(
            "stage %s: train.prompts_per_step is %d, the data has %d samples: batches are that much smaller",
            setup.name, asked, len(setup.samples),
        )  # fmt: skip
    with complaints_about("sampler"):
        name, extra = sampler_settings(config.data.train, config.sampler.name)
        sampler_class = resolve(name, SAMPLERS, kind="sampler")
        return sampler_class(setup.samples, seed=config.train.seed, **{**extra, **config.sampler.kwargs})
