"""The run: its folder, its stages, and one training step on one screen (`grpo_step`).

A stage is a kind (`sft` or `grpo`) under the recipe's config with the stage's own changes. Both kinds share sampler,
packing, optimiser step, evaluation, logging and checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrft import checkpoint
from vlrft.compose import Composed, stage_configs
from vlrft.config import Config
from vlrft.grpo import Objective, minibatches, rollout_metrics
from vlrft.log import MetricsWriter, Progress, Timers
from vlrft.pack import Batch, count, pack
from vlrft.records import group_from_record, read_records, rollout_file, write_groups
from vlrft.rollout import RolloutWorker, Scored
from vlrft.runfolder import RunFolder
from vlrft.setup import Prepared, StageSetup, prepare, start_stage
from vlrft.sft import reference_groups, sft_loss
from vlrft.state import LossFn, StepSums, TrainState, optimizer_step
from vlrft.types import Group, Sample

Evaluator = Callable[..., Any]
"""`eval.run.evaluate_samples`, handed in so that training does not depend on evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run."""

    path: Path
    summary: dict[str, Any]
    """What summary.json says: the last evaluation of every stage, seconds, steps."""


@dataclass(slots=True, kw_only=True)
class StageRun:
    """What the steps of one stage work with."""

    setup: StageSetup
    state: TrainState
    worker: RolloutWorker
    objective: Objective
    reference: Any | None
    folder: RunFolder
    timers: Timers

    @property
    def config(self) -> Config:
        return self.setup.config


def grpo_step(run: StageRun) -> dict[str, float]:
    """Sample, roll out, score, weigh, pack, and push the policy: stops 2 to 11 of a batch.

    Consumes the sampler; blocks on the engine; leaves new weights, and the rollouts on disk.
    """
    config, state, objective = run.config, run.state, run.objective
    with run.timers("media"):
        samples = run.worker.renderer.usable(state.sampler.propose(state.step, config.train.prompts_per_step))
    scored = collect(run, samples)
    assigned = objective.assign(scored.groups)
    with run.timers("save"):
        store(run, [*assigned.kept, *assigned.dropped])
    counted = scored.groups if config.objective.count_dropped_in_denominator else None
    parts = minibatches(assigned.kept, config.objective.minibatches)
    with run.timers("pack"):
        batches = [pack_step(run, part, counted) for part in parts]
    sums = StepSums()
    with run.timers("train"):
        objective.annotate([b for part in batches for b in part], run.state.wrapped, run.reference)
        for _ in range(config.objective.num_iterations):
            for part in batches:
                update(run, part, objective.loss, sums)
    run.worker.engine.sync(state.policy_version)
    state.sampler.observe(scored.groups)
    return {**rollout_metrics(scored.groups, assigned, scored.unscored), **sums.metrics(state.scheduler)}


def sft_step(run: StageRun) -> dict[str, float]:
    """Teach the reference answers of one batch."""
    with run.timers("media"):
        proposed = run.state.sampler.propose(run.state.step, run.config.train.prompts_per_step)
        samples = run.worker.renderer.usable(proposed)
        groups = reference_groups(samples, run.worker.renderer)
    with run.timers("pack"):
        batches = pack_step(run, groups, None)
    sums = StepSums()
    with run.timers("train"):
        update(run, batches, sft_loss, sums)
    run.worker.engine.sync(run.state.policy_version)
    return sums.metrics(run.state.scheduler)


STEPS: dict[str, Callable[[StageRun], dict[str, float]]] = {"sft": sft_step, "grpo": grpo_step}


def collect(run: StageRun, samples: Sequence[Sample]) -> Scored:
    """The scored groups of this step: generated, or read back when an interrupted run had already rolled them out."""
    path = rollout_file(run.folder.path, run.setup.name, run.state.step + 1)
    if run.config.log.rollouts and path.exists():
        by_id = {record["sample_id"]: record for record in read_records(path)}
        version = run.state.policy_version
        stored = [group_from_record(by_id[s.id], s, run.worker.renderer.prompt(s)) for s in samples if s.id in by_id]
        if all(r.completion.policy_version == version for g in stored for r in g.rollouts):
            wanted = len(samples) * run.config.engine.num_generations
            return Scored(groups=tuple(stored), unscored=wanted - sum(len(g.rollouts) for g in stored))
    seed_key = (run.config.train.seed, run.setup.name, run.state.step)
    return run.worker.rollout(samples, run.config, seed_key)


def store(run: StageRun, groups: Sequence[Group]) -> None:
    """Keep the step's rollouts before any weight moves: a killed run goes on from them."""
    if run.config.log.rollouts:
        path = rollout_file(run.folder.path, run.setup.name, run.state.step + 1)
        write_groups(path, groups, stage=run.setup.name, step=run.state.step + 1)


def pack_step(run: StageRun, groups: Sequence[Group], counted: Sequence[Group] | None) -> list[Batch]:
    """Micro-batches of one optimiser step. `counted`: the groups that the loss denominator counts, if not `groups`."""
    config = run.config
    mask_truncated = config.objective.mask_truncated
    batches = pack(
        groups,
        run.worker.renderer.family.collate_media,
        token_budget=config.train.micro_batch_tokens,
        aggregation=config.objective.aggregation if run.setup.kind == "grpo" else "token_mean_global",
        max_completion_length=config.engine.max_completion_length,
        counts=count(groups if counted is None else counted, mask_truncated=mask_truncated),
        mask_truncated=mask_truncated,
    )
    return [batch.to(run.state.policy.model.device) for batch in batches]


def update(run: StageRun, batches: Sequence[Batch], loss_fn: LossFn, sums: StepSums) -> None:
    """One optimiser step; none when every group was dropped."""
    if batches:
        optimizer_step(
            run.state, batches, loss_fn, sums, train=run.config.train, dump_to=run.folder.path / "skipped_batches"
        )


def run(composed: Composed, *, resume: Path | None = None, evaluator: Evaluator | None = None) -> Run:
    """Run every stage of `composed`, or go on with the run in `resume`. See `vlrft.train`.

    Blocks until the run is finished; leaves config.yaml, metrics.jsonl, rollouts/, checkpoints/, model/, summary.json
    and report.html in the run folder.
    """
    started = time.perf_counter()
    config = composed.config
    folder = RunFolder(resume if resume is not None else Path(config.train.output_dir))
    folder.refuse_other_run(resuming=resume is not None)
    prepared = prepare(composed, stage_configs(config))
    saved = folder.open(composed, prepared.skipped, resuming=resume is not None)
    writer = MetricsWriter(folder.path, tensorboard=config.log.tensorboard)
    with writer:
        if resume is not None:
            writer.truncate_after(saved["state"]["counters"]["global_step"] if saved else -1)
        carry = saved
        for index, setup in enumerate(prepared.stages):
            if carry is not None and index < carry["stage"]:
                continue
            carry = run_stage(prepared, index, setup, carry, folder, writer, evaluator)
    return Run(path=folder.path, summary=folder.finish(composed, prepared, time.perf_counter() - started))


def run_stage(
    prepared: Prepared,
    index: int,
    setup: StageSetup,
    saved: dict[str, Any] | None,
    folder: RunFolder,
    writer: MetricsWriter,
    evaluator: Evaluator | None,
) -> dict[str, Any]:
    """All steps of one stage from `saved` (a checkpoint, or None at the very start); returns its closing checkpoint."""
    timers = Timers()
    inside = saved if saved is not None and saved["stage"] == index and saved["state"]["counters"]["step"] else None
    parts = start_stage(prepared, setup, inside, saved, folder.path)
    worker = RolloutWorker(renderer=parts.renderer, engine=parts.engine, judge=parts.judge, timers=timers)
    stage = StageRun(
        setup=setup, state=parts.state, worker=worker, objective=parts.objective, reference=parts.reference,
        folder=folder, timers=timers,
    )  # fmt: skip
    state, train, every = parts.state, setup.config.train, setup.config.eval.every
    if state.global_step == 0:
        _evaluate(stage, writer, evaluator)
    checkpointed: dict[str, Any] | None = None
    with Progress(setup.name, total=train.steps, done=state.step, enabled=setup.config.log.progress) as bar:
        while state.step < train.steps:
            with timers("step"):
                row = STEPS[setup.kind](stage)
            state.step, state.global_step = state.step + 1, state.global_step + 1
            last = state.step == train.steps
            row = {**_where(stage, "train"), **row, "skipped_steps": state.skipped_steps, **timers.collect()}
            writer.write(row)
            bar.update(state.step, row)
            if last or (every and state.step % every == 0):
                _evaluate(stage, writer, evaluator)
            if last or (train.save_steps and state.step % train.save_steps == 0):
                with timers("save"):
                    writer.sync()
                    checkpointed = _checkpoint(stage, index + 1 if last else index, folder)
    return checkpointed if checkpointed is not None else _checkpoint(stage, index + 1, folder)


def _checkpoint(stage: StageRun, stage_index: int, folder: RunFolder) -> dict[str, Any]:
    state: dict[str, Any] = {"stage": stage_index, "state": stage.state.state_dict()}
    if stage.state.step == stage.config.train.steps:
        state["state"]["counters"]["step"] = 0
    keep = stage.config.train.keep_checkpoints
    checkpoint.save(folder.path, stage.state.global_step, state, keep=keep)
    return state


def _where(stage: StageRun, kind: str) -> dict[str, Any]:
    return {
        "stage": stage.setup.name,
        "kind": kind,
        "step": stage.state.step,
        "global_step": stage.state.global_step,
    }


def _evaluate(stage: StageRun, writer: MetricsWriter, evaluator: Evaluator | None) -> None:
    samples = stage.setup.held_out
    if evaluator is None or not samples:
        return
    start = time.perf_counter()
    results = evaluator(samples, stage.config, stage.worker.renderer, stage.worker.engine)
    seconds = time.perf_counter() - start
    if stage.config.log.rollouts:
        path = rollout_file(stage.folder.path, stage.setup.name, stage.state.step, evaluation=True)
        write_groups(path, results.groups, stage=stage.setup.name, step=stage.state.step)
    writer.write({**_where(stage, "eval"), **results.metrics, "time/eval": seconds})
