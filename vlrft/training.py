"""The run: its folder, its stages, and one training step on one screen (`grpo_step`).

A stage is a kind (`sft` or `grpo`) under the recipe's config with the stage's own changes. Both kinds share sampler,
packing, optimiser step, evaluation, logging and checkpoints.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from vlrft import checkpoint
from vlrft.compose import Composed, stage_configs
from vlrft.config import Config
from vlrft.data.media import MediaError
from vlrft.dist import World, is_here, own_state
from vlrft.engines.base import row_seed
from vlrft.grpo import Minibatch, Objective, minibatches, rollout_metrics
from vlrft.log import MetricsWriter, Progress, SilentWriter, Timers, UserError
from vlrft.models.base import PromptError
from vlrft.pack import Batch, count, on_device, pack
from vlrft.records import group_from_record, read_records, rollout_file, write_groups
from vlrft.renderer import Rendered
from vlrft.rollout import RolloutWorker, Scored
from vlrft.runfolder import RunFolder
from vlrft.setup import Prepared, StageSetup, prepare, start_stage, start_world
from vlrft.sft import reference_groups, sft_loss
from vlrft.shortage import enough_memory
from vlrft.state import Counters, LossFn, StepSums, TrainState, optimizer_step
from vlrft.types import Group, Sample

logger = logging.getLogger(__name__)

Evaluator = Callable[..., Any]
"""`eval.run.evaluate_samples`, handed in so that training does not depend on evaluation."""


UNREADABLE = (MediaError, PromptError)
"""What a sample raises whose media or text cannot be shown."""
UNSCORED_STEPS = 5
"""Steps in a row without any scored completion after which a run stops."""


class UnreadableSampleError(UserError):
    """A sample turned out to be unreadable in the middle of a run; the message says how to go on."""


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
    unscored_steps: int = 0
    """Steps in a row of which no completion was scored."""

    @property
    def config(self) -> Config:
        return self.setup.config

    @property
    def world(self) -> World:
        return self.state.world


def grpo_step(run: StageRun) -> dict[str, float]:
    """Sample, roll out, score, weigh, pack, and push the policy: stops 2 to 11 of a batch.

    Consumes the sampler; blocks on the engine; leaves new weights, and the rollouts on disk.
    """
    config, state, objective = run.config, run.state, run.objective
    reseed(run, "rollout")
    with run.timers("media"):
        proposed, rendered, left_out = propose(run)
        look_ahead(run)
    with enough_memory(config, _place(run, "rollout"), lambda: [prompt for _, prompt in rendered]):
        scored = collect(run, rendered)
    scored = everyones(run, scored, proposed)
    watch_scores(run, scored, (len(proposed) - left_out) * config.engine.num_generations)
    assigned = objective.assign(scored.groups)
    with run.timers("save"):
        store(run, [*assigned.kept, *assigned.dropped])
    reseed(run, "train")
    with run.timers("pack"):
        steps = [pack_step(run, part) for part in minibatches(assigned, config.objective)]
    sums = StepSums()
    with run.timers("train"), enough_memory(config, _place(run, "training"), lambda: assigned.kept):
        objective.annotate([batch for batches in steps for batch in batches or ()], state.wrapped, run.reference)
        for _ in range(config.objective.num_iterations):
            for batches in steps:
                update(run, batches, objective.loss, sums)
    run.worker.engine.sync(state.policy_version)
    state.sampler.observe(scored.groups)
    packed = sum(len(batch.layout.prompts) for batches in steps for batch in batches or ())
    summed = run.world.sum({"reward_errors": run.worker.judge.errors, "packed": packed})
    counted = {"samples/left_out": left_out, "reward_errors": int(summed["reward_errors"])}
    counted["pack/repeated_prompts"] = max(0, int(summed["packed"]) - len(assigned.kept))
    composed = run.worker.judge.metrics([r.score.parts for g in scored.groups for r in g.rollouts])
    return {**rollout_metrics(scored.groups, scored.unscored), **composed, **counted, **sums.metrics(idle=0.0)}


def sft_step(run: StageRun) -> dict[str, float]:
    """Teach the reference answers of one batch."""
    with run.timers("media"):
        proposed, rendered, left_out = propose(run)
        look_ahead(run)
        groups = run.world.gather_groups(reference_groups(rendered, run.worker.renderer), proposed)
    with run.timers("pack"):
        batches = pack_step(run, Minibatch(groups=tuple(groups)))
    sums = StepSums()
    with run.timers("train"), enough_memory(run.config, _place(run, "training"), lambda: groups):
        update(run, batches, sft_loss, sums)
    run.worker.engine.sync(run.state.policy_version)
    return {"samples/left_out": left_out, **sums.metrics()}


def _place(run: StageRun, phase: str) -> str:
    return f"stage {run.setup.name}, step {run.state.step + 1}, {phase}"


def reseed(run: StageRun, part: str) -> None:
    """Start the global generators anew for a part of a step. Ours take explicit seeds; a reward or model of the user's
    may not, and a resumed run that reads stored rollouts has not run it."""
    set_seed(row_seed(run.config.train.seed, run.setup.name, run.state.step, part) % 2**32)


STEPS: dict[str, Callable[[StageRun], dict[str, float]]] = {"sft": sft_step, "grpo": grpo_step}


def propose(run: StageRun) -> tuple[list[Sample], list[Rendered], int]:
    """The next samples, this rank's with their prompts, and how many of all could not be rendered (skipped.jsonl)."""
    proposed = run.state.sampler.propose(run.state.step, run.config.train.prompts_per_step)
    rendered, left_out = run.world.together(lambda: run.worker.renderer.usable(run.world.share(proposed)), UNREADABLE)
    everyones_left_out = [item for items in run.world.gather(left_out) for item in items]
    run.folder.list_skipped(everyones_left_out)
    return proposed, rendered, len(everyones_left_out)


def look_ahead(run: StageRun) -> None:
    """Have the videos of the next step decoded while this one generates and learns.

    Only a hint: the sampler does not move, and a step that then draws other samples decodes those.
    """
    peek = getattr(run.state.sampler, "peek", None)
    if peek is not None and run.state.step + 1 < run.config.train.steps:
        run.worker.renderer.prepare(run.world.share(peek(run.state.step + 1, run.config.train.prompts_per_step)))


def collect(run: StageRun, rendered: Sequence[Rendered]) -> Scored:
    """The scored groups of this rank: generated, or read back when an interrupted run had already rolled them out."""
    judge = run.worker.judge
    judge.step = run.state.step
    path = rollout_file(run.folder.path, run.setup.name, run.state.step + 1)
    records = {r["sample_id"]: r for r in read_records(path)} if run.config.log.rollouts and path.exists() else {}
    groups = [group_from_record(records[s.id], s, prompt) for s, prompt in rendered if s.id in records]
    versions = {rollout["policy_version"] for record in records.values() for rollout in record["rollouts"]}
    # Of all records and ranks: they must decide alike.
    if versions == {run.state.policy_version} and any(run.world.gather(bool(groups))):
        # As the judges were left after scoring them.
        judge.load_state_dict(own_state(next(iter(records.values()))["judges"], run.world))
        return run.worker.scored(groups, len(rendered) * run.config.engine.num_generations)
    return run.worker.rollout(rendered, run.config, (run.config.train.seed, run.setup.name, run.state.step))


def everyones(run: StageRun, scored: Scored, proposed: Sequence[Sample]) -> Scored:
    """The scored groups of all ranks, in the order of the samples."""
    groups = run.world.gather_groups(scored.groups, proposed)
    return Scored(groups=tuple(groups), unscored=sum(run.world.gather(scored.unscored)))


def watch_scores(run: StageRun, scored: Scored, completions: int) -> None:
    """Warn of the first step in a row of which no completion has a score, so that nothing is learned from it.

    Raises UserError after UNSCORED_STEPS of them.
    """
    if not completions or scored.unscored < completions:
        run.unscored_steps = 0
        return
    run.unscored_steps += 1
    said = (
        f"stage {run.setup.name}: none of the {completions} completions of step {run.state.step + 1} has a score to "
        "compare, so nothing is learned from them: no reward of rewards.funcs applied to any (each returned None, "
        "raised, or its `when` left the samples out)"
    )
    if run.unscored_steps >= UNSCORED_STEPS:
        raise UserError(f"{said}; that is step {run.unscored_steps} of the kind in a row. Mend the rewards")
    if run.unscored_steps == 1:
        logger.warning("%s; after %d such steps in a row the run stops", said, UNSCORED_STEPS)


def store(run: StageRun, groups: Sequence[Group]) -> None:
    """Keep the step's rollouts before any weight moves: a killed run goes on from them."""
    if run.config.log.rollouts:
        judges = run.world.gather(run.worker.judge.state_dict())
        if run.world.is_main:
            path = rollout_file(run.folder.path, run.setup.name, run.state.step + 1)
            write_groups(path, groups, stage=run.setup.name, step=run.state.step + 1, judges=judges)


def pack_step(run: StageRun, part: Minibatch) -> list[Batch] | None:
    """This rank's micro-batches of one optimiser step, perhaps none; None when no token of any rank carries loss."""
    config = run.config
    mask_truncated = config.objective.mask_truncated
    if count(part.groups, mask_truncated=mask_truncated).tokens == 0:
        return None
    batches = pack(
        [group for group in part.groups if is_here(group)],
        run.worker.renderer.family.collate_media,
        token_budget=config.train.micro_batch_tokens,
        aggregation=config.objective.aggregation if run.setup.kind == "grpo" else "token_mean_global",
        max_completion_length=config.engine.max_completion_length,
        counts=count([*part.groups, *part.silent], mask_truncated=mask_truncated),
        mask_truncated=mask_truncated,
    )
    return on_device(batches, run.state.policy.model.device)


def update(run: StageRun, batches: Sequence[Batch] | None, loss_fn: LossFn, sums: StepSums) -> None:
    """One planned optimiser step; with nothing to learn from only the schedule moves on."""
    if batches is None:
        sums.learning_rate = run.state.optimizer.param_groups[0]["lr"]
        run.state.scheduler.step()
        return
    dump_to = run.folder.path / "skipped_batches"
    optimizer_step(run.state, batches, loss_fn, sums, train=run.config.train, dump_to=dump_to)


def run(
    composed: Composed, *, resume: Path | None = None, evaluator: Evaluator | None = None, changed: bool = False
) -> Run:
    """Run every stage of `composed`, or go on with the run in `resume`. See `vlrft.train`.

    Blocks until the run is finished; leaves config.yaml, metrics.jsonl, rollouts/, checkpoints/, model/, summary.json
    and report.html in the run folder, which no other run may enter meanwhile. Ctrl-C raises RunInterrupted.
    """
    started = time.perf_counter()
    config = composed.config
    path = resume if resume is not None else Path(config.train.output_dir)
    world = start_world(config)
    folder = RunFolder(path, writes=world.is_main)
    try:
        folder.refuse_other_run(resuming=resume is not None)
        prepared = prepare(composed, stage_configs(config))
        tasks = {sample.task for setup in prepared.stages for sample in (*setup.samples, *setup.held_out)}
        saved = folder.open(composed, prepared.skipped, tasks=tasks, resuming=resume is not None, changed=changed)
        world.barrier()
        with metrics_writer(folder, tensorboard=config.log.tensorboard) as writer:
            run_stages(prepared, saved, folder, writer, evaluator, resuming=resume is not None)
        summary = folder.finish(composed, prepared, time.perf_counter() - started)
        return Run(path=folder.path, summary=world.gather(summary)[0])
    except KeyboardInterrupt:
        raise folder.interrupted() from None
    finally:
        folder.close()


def metrics_writer(folder: RunFolder, *, tensorboard: bool) -> MetricsWriter:
    return MetricsWriter(folder.path, tensorboard=tensorboard) if folder.writes else SilentWriter()


def run_stages(
    prepared: Prepared,
    saved: dict[str, Any] | None,
    folder: RunFolder,
    writer: MetricsWriter,
    evaluator: Evaluator | None,
    *,
    resuming: bool,
) -> None:
    """Every stage that `saved`, the newest checkpoint of a resumed run, has not finished."""
    first, before, inside = 0, Counters(), None
    if saved is not None:
        counters = saved["state"]["counters"]
        first = saved["stage"]
        before = Counters(global_step=counters["global_step"], policy_version=counters["policy_version"])
        prepared.family.model.load_state_dict(saved["state"]["model"])
        inside = saved if counters["step"] else None
    if resuming:
        # Rows at step 0 without a checkpoint are the first evaluation, which comes again.
        writer.truncate_after(before.global_step if saved is not None else -1)
    for index in range(first, len(prepared.stages)):
        before = run_stage(prepared, index, inside, before, folder, writer, evaluator)
        inside = None


def run_stage(
    prepared: Prepared,
    index: int,
    resumed: dict[str, Any] | None,
    before: Counters,
    folder: RunFolder,
    writer: MetricsWriter,
    evaluator: Evaluator | None,
) -> Counters:
    """All steps of one stage, from the checkpoint `resumed` inside it or from its start; ends with a checkpoint."""
    setup = prepared.stages[index]
    timers = Timers()
    parts = start_stage(prepared, setup, resumed, before, folder.path)
    worker = RolloutWorker(renderer=parts.renderer, engine=parts.engine, judge=parts.judge, timers=timers)
    stage = StageRun(
        setup=setup, state=parts.state, worker=worker, objective=parts.objective,
        reference=parts.reference, folder=folder, timers=timers,
    )  # fmt: skip
    state, train, every = parts.state, setup.config.train, setup.config.eval.every
    if index == 0 and state.step == 0:
        _evaluate(stage, writer, evaluator)
    shows = setup.config.log.progress and prepared.world.is_main
    with Progress(setup.name, total=train.steps, done=state.step, enabled=shows) as bar:
        while state.step < train.steps:
            drawn = state.sampler.state_dict()
            try:
                with timers("step"):
                    row = STEPS[setup.kind](stage)
            except UNREADABLE as error:
                state.sampler.load_state_dict(drawn)
                _checkpoint(stage, index, writer)
                raise UnreadableSampleError(_how_to_go_on(stage, error)) from error
            state.step, state.global_step = state.step + 1, state.global_step + 1
            row = {**_where(stage, "train"), **row, "skipped_steps": state.skipped_steps, **timers.collect()}
            writer.write(row)
            bar.update(state.step, row)
            last = state.step == train.steps
            if last or (every and state.step % every == 0):
                _evaluate(stage, writer, evaluator)
            if not last and train.save_steps and state.step % train.save_steps == 0:
                _checkpoint(stage, index, writer)
    _checkpoint(stage, index + 1, writer)
    worker.judge.close()
    return Counters(global_step=state.global_step, policy_version=state.policy_version)


def _checkpoint(stage: StageRun, stage_index: int, writer: MetricsWriter) -> None:
    """`stage_index`: where to go on; the stage after this one when this one is finished."""
    with stage.timers("save"):
        writer.sync()
        state: dict[str, Any] = {"stage": stage_index, "state": stage.state.state_dict()}
        state["judges"] = stage.world.gather(stage.worker.judge.state_dict())
        if stage.state.step == stage.config.train.steps:
            state["state"]["counters"]["step"] = 0
        name = f"{stage.state.global_step:08d}-{stage_index:02d}"
        if stage.world.is_main:
            checkpoint.save(stage.folder.path, name, state, keep=stage.config.train.keep_checkpoints)
        stage.world.barrier()


def _how_to_go_on(stage: StageRun, error: Exception) -> str:
    again = f"vlrft train --resume {shlex.quote(str(stage.folder.path))}"
    return (
        f"{error}. Nothing is lost: the run is saved after step {stage.state.step} of stage {stage.setup.name}. Go on "
        f"without such samples: {again} data.on_bad_sample=skip; or mend the file and go on with it: {again}"
    )


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
    results = evaluator(samples, stage.config, stage.worker.renderer, stage.worker.engine, stage.world)
    seconds = time.perf_counter() - start
    stage.folder.list_skipped(results.skipped)
    if stage.config.log.rollouts and stage.world.is_main:
        path = rollout_file(stage.folder.path, stage.setup.name, stage.state.step, evaluation=True)
        write_groups(path, results.groups, stage=stage.setup.name, step=stage.state.step)
    of = {"eval/of": stage.setup.held_out_rows}
    writer.write({**_where(stage, "eval"), **results.metrics, **of, "time/eval": seconds})
