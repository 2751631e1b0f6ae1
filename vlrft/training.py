"""One training step on one screen (`grpo_step`), and what its lines mean.

A stage is a kind (`sft` or `grpo`) under the recipe's config with the stage's own changes. Both kinds share sampler,
packing and optimiser step, and the loop around them (`vlrft/stages.py`): evaluation, logging, checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelerate.utils import set_seed

from vlrft.config import Config
from vlrft.data.media import MediaError
from vlrft.dist import World, is_here, own_state
from vlrft.engines.base import row_seed
from vlrft.grpo import Minibatch, Objective, minibatches, rollout_metrics
from vlrft.log import Timers, UserError
from vlrft.models.base import PromptError
from vlrft.pack import Batch, count, on_device, pack
from vlrft.records import group_from_record, read_records, rollout_file, write_groups
from vlrft.reference import Reference
from vlrft.renderer import Rendered
from vlrft.rollout import RolloutWorker, Scored
from vlrft.runfolder import RunFolder
from vlrft.setup import StageSetup
from vlrft.sft import reference_groups, sft_loss
from vlrft.state import LossFn, StepSums, TrainState, optimizer_step
from vlrft.types import Group, Sample

logger = logging.getLogger(__name__)

UNREADABLE = (MediaError, PromptError)
"""What a sample raises whose media or text cannot be shown."""
UNSCORED_STEPS = 5
"""Steps in a row without any scored completion after which a run stops."""


@dataclass(slots=True, kw_only=True)
class StageRun:
    """What the steps of one stage work with."""

    setup: StageSetup
    state: TrainState
    worker: RolloutWorker
    objective: Objective
    reference: Reference | None
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
    scored = everyones(run, collect(run, rendered), proposed)
    watch_scores(run, scored, (len(proposed) - left_out) * config.engine.num_generations)
    assigned = objective.assign(scored.groups)
    with run.timers("save"):
        store(run, [*assigned.kept, *assigned.dropped])
    reseed(run, "train")
    with run.timers("pack"):
        steps = [pack_step(run, part) for part in minibatches(assigned, config.objective)]
    sums = StepSums()
    with run.timers("train"):
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
    with run.timers("train"):
        update(run, batches, sft_loss, sums)
    run.worker.engine.sync(run.state.policy_version)
    return {"samples/left_out": left_out, **sums.metrics()}


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
