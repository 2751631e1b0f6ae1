"""Everything a run needs before its first step: samples checked, model loaded, and what each stage builds on them."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vlrft.compose import Composed, Stage
from vlrft.config import Config, SourceConfig
from vlrft.data.media import check_media
from vlrft.data.problems import DataError, SampleError, Skipped
from vlrft.data.samplers import SAMPLERS
from vlrft.data.sources import Role, load_samples
from vlrft.engines import build_engine
from vlrft.engines.base import Engine
from vlrft.grpo import Objective
from vlrft.logprob import HeadOptions
from vlrft.models import load_family
from vlrft.models.base import Family, PromptError
from vlrft.policy import Policy
from vlrft.registry import resolve
from vlrft.rewards.judge import Judge
from vlrft.rollout import Renderer
from vlrft.state import TrainState, make_optimizer, schedule
from vlrft.types import Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSetup:
    """A stage with its checked samples."""

    name: str
    kind: str
    config: Config
    samples: list[Sample]
    held_out: list[Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that is ready to start."""

    accelerator: Accelerator
    family: Family
    engine: Engine
    stages: list[StageSetup]
    skipped: list[Skipped]
    """Everything that was left out of any split, for skipped.jsonl."""
    renderers: dict[str, Renderer]
    """By data block, so that stages with the same data share rendered prompts."""

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
    reference: Any | None
    state: TrainState


def prepare(composed: Composed, stages: Sequence[Stage]) -> Prepared:
    """Load and check every split of every stage, then the model. Nothing is written and nothing computed yet.

    Raises what is wrong with files, samples, prompts, targets, rewards or model, naming it.
    """
    config = composed.config
    if config.parallel.num_threads is not None:
        torch.set_num_threads(config.parallel.num_threads)
    loaded: dict[str, tuple[list[Sample], list[Skipped]]] = {}
    for stage in stages:
        for role in _roles(stage.config):
            key = _source_key(stage.config, role)
            loaded[key] = loaded[key] if key in loaded else _load(stage.config, role)
    for stage in stages:
        Objective.build(stage.config.objective)
    accelerator = Accelerator(cpu=config.parallel.cpu, mixed_precision=config.parallel.mixed_precision)
    family = load_family(config.model, config.data)
    family.model.to(accelerator.device)
    engine = build_engine(
        config.engine, family, attention=config.model.attention, precision=config.parallel.mixed_precision
    )
    prepared = Prepared(accelerator=accelerator, family=family, engine=engine, stages=[], skipped=[], renderers={})
    for _, skipped in loaded.values():
        prepared.skipped.extend(skipped)
    for stage in stages:
        usable = {}
        for role in _roles(stage.config):
            samples, _ = loaded[_source_key(stage.config, role)]
            usable[role], left_out = _check(samples, stage, prepared.renderer(stage.config))
            prepared.skipped.extend(left_out)
        prepared.stages.append(
            StageSetup(
                name=stage.name,
                kind=stage.kind,
                config=stage.config,
                samples=usable["train"],
                held_out=usable.get("eval", [])[: stage.config.eval.limit],
            )
        )
    return prepared


def start_stage(
    prepared: Prepared, setup: StageSetup, resumed: dict[str, Any] | None, before: dict[str, Any] | None, run_dir: Path
) -> StageParts:
    """Build a stage's optimiser, sampler and judge. `resumed`: a checkpoint inside this stage, restored whole;
    `before`: the checkpoint that the stage starts from, whose weights and run counters carry over."""
    config, family = setup.config, prepared.family
    banned = family.banned_ids + (family.stop_ids if config.engine.ignore_eos and setup.kind == "grpo" else ())
    head = HeadOptions(
        temperature=config.engine.temperature if setup.kind == "grpo" else 1.0,
        banned_ids=banned,
        chunk_size=config.model.logprob_chunk_size,
        cache_bytes=config.model.logprob_cache_mb * 2**20,
    )
    if before is not None and resumed is None:
        family.model.load_state_dict(before["state"]["model"])
    policy = Policy(family, head, config.model.attention)
    objective = Objective.build(config.objective)
    optimizer, _ = make_optimizer(policy, config.train)
    per_step = objective.steps_per_rollout if setup.kind == "grpo" else 1
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(config.train, config.train.steps * per_step))
    wrapped, prepared_optimizer = prepared.accelerator.prepare(policy, optimizer)
    sampler_class = resolve(config.sampler.name, SAMPLERS, kind="sampler")
    state = TrainState(
        accelerator=prepared.accelerator,
        policy=policy,
        wrapped=wrapped,
        optimizer=prepared_optimizer,
        scheduler=scheduler,
        sampler=sampler_class(setup.samples, seed=config.train.seed, **config.sampler.kwargs),
    )
    needs_reference = setup.kind == "grpo" and config.objective.beta > 0.0
    reference = _reference(policy, run_dir / f"reference-{setup.name}.pt") if needs_reference else None
    if resumed is not None:
        state.load_state_dict(resumed["state"])
    elif before is not None:
        counters = before["state"]["counters"]
        state.global_step, state.policy_version = counters["global_step"], counters["policy_version"]
    prepared.engine.sync(state.policy_version)
    judge = Judge(config.rewards.funcs, config.data.output_mode, config.rewards.max_errors)
    return StageParts(
        renderer=prepared.renderer(config),
        engine=prepared.engine,
        judge=judge,
        objective=objective,
        reference=reference,
        state=state,
    )


def _reference(policy: Policy, path: Path) -> Policy:
    """A frozen copy of the policy as the stage first found it; kept in `path`, since a resumed stage has moved on."""
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        torch.save(policy.model.state_dict(), temporary)
        os.replace(temporary, path)
    family = copy.copy(policy.family)
    family.model = copy.deepcopy(policy.model).requires_grad_(False)
    family.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    family.lm_head = family.model.lm_head
    return Policy(family, policy.head_options, policy.attention)


def _roles(config: Config) -> list[Role]:
    return ["train"] if config.data.eval is None else ["train", "eval"]


def _source_key(config: Config, role: Role) -> str:
    return role + config.data.model_dump_json(include={"root", "task", "on_bad_sample", "check_images", role})


def _load(config: Config, role: Role) -> tuple[list[Sample], list[Skipped]]:
    source: SourceConfig | None = config.data.train if role == "train" else config.data.eval
    assert source is not None
    loaded = load_samples(config.data, source, role=role)
    bad = check_media(loaded.samples[: config.data.check_images], decode=True)
    if bad and config.data.on_bad_sample == "error":
        raise SampleError(bad[0].where, bad[0].reason)
    broken = {item.where for item in bad}
    samples = [s for s in loaded.samples if f"sample {s.id}" not in broken]
    if loaded.skipped or bad:
        logger.warning("%s split: %d samples, %d left out", role, len(samples), len(loaded.skipped) + len(bad))
    return samples, [*loaded.skipped, *bad]


def _check(samples: list[Sample], stage: Stage, renderer: Renderer) -> tuple[list[Sample], list[Skipped]]:
    """Prompt lengths and targets, without decoding pixels."""
    judge = Judge(stage.config.rewards.funcs, stage.config.data.output_mode, stage.config.rewards.max_errors)
    usable, skipped = [], []
    for sample in samples:
        try:
            renderer.check(sample)
            judge.check(sample, {"coord_space": renderer.family.coord_space})
        except PromptError as error:
            if stage.config.data.on_bad_sample == "error":
                raise
            skipped.append(Skipped(where=sample.id, reason=str(error)))
        else:
            usable.append(sample)
    if not usable:
        raise DataError(f"stage {stage.name!r} has no usable sample: {len(skipped)} were left out")
    return usable, skipped
