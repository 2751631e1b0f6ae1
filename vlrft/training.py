"""One training step on one screen (`grpo_step`), and what its lines mean.

A stage is a kind (`sft` or `grpo`) under the recipe's config with the stage's own changes. Both kinds share sampler,
packing and optimiser step, and the loop around them (`vlrft/stages.py`): evaluation, logging, checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from vlrft.dist import is_here
from vlrft.grpo import Minibatch, minibatches, rollout_metrics
from vlrft.level import level
from vlrft.log import UserError
from vlrft.objectives.mismatch import effective_sample_size
from vlrft.pack import Batch, count, on_device, pack
from vlrft.pipeline import first_draw, let_rest, render
from vlrft.sft import reference_groups, sft_loss
from vlrft.stage import RolledOut, StageRun
from vlrft.state import LossFn, StepSums, optimizer_step

logger = logging.getLogger(__name__)

UNSCORED_STEPS = 5
"""Steps in a row without any scored completion after which a run stops."""


def grpo_step(run: StageRun) -> dict[str, float]:
    """Take the rollouts of a batch, pack them, and push the policy: stops 9 to 11 (2 to 8 are `pipeline.roll_out`).

    Consumes the pipeline; blocks on it; leaves new weights.
    """
    config, state, objective = run.config, run.state, run.objective
    with state.strategy.resting():
        rolled = run.rollouts.next(run)
    watch_scores(run, rolled)
    scored, assigned = rolled.scored, rolled.assigned
    if config.log.rollouts:
        run.stops.check(run.world)
    run.reseed("train")
    with run.timers("pack"):
        steps = [pack_step(run, part) for part in minibatches(assigned, config.objective)]
    sums, before = StepSums(), state.policy_version
    with run.timers("train"), run.enough_memory("training", lambda: assigned.kept):
        objective.annotate([batch for batches in steps for batch in batches or ()], state.wrapped, run.reference)
        for _ in range(config.objective.num_iterations):
            for batches in steps:
                update(run, batches, objective.loss, sums)
    run.rollouts.trained(run)
    run.waiting.popleft()
    state.sampler.observe(scored.groups)
    packed = run.world.sum({"packed": sum(len(batch.groups) for batches in steps for batch in batches or ())})
    counted = {"pack/repeated_prompts": max(0, int(packed["packed"]) - len(assigned.kept))}
    learned = sums.metrics(idle=0.0)
    learned |= effective_sample_size(learned)
    return {**rollout_metrics(scored.groups, scored.unscored, before), **rolled.metrics, **counted, **learned}


def sft_step(run: StageRun) -> dict[str, float]:
    """Teach the reference answers of one batch."""
    drawn = first_draw(run)
    with run.timers("media"):
        rendered, left_out = render(run, drawn)
        groups = run.world.gather_groups(reference_groups(rendered, run.worker.renderer), drawn.samples)
    with run.timers("pack"):
        batches = pack_step(run, Minibatch(groups=tuple(groups)))
    sums = StepSums()
    let_rest(run)
    with run.timers("train"), run.enough_memory("training", lambda: groups):
        update(run, batches, sft_loss, sums)
    run.rollouts.trained(run)
    run.waiting.popleft()
    return {"samples/left_out": left_out, **sums.metrics()}


STEPS: dict[str, Callable[[StageRun], dict[str, float]]] = {"sft": sft_step, "grpo": grpo_step}


def watch_scores(run: StageRun, rolled: RolledOut) -> None:
    """Warn of the first step in a row of which no completion has a score, so that nothing is learned from it.

    Raises UserError after UNSCORED_STEPS of them.
    """
    completions = rolled.completions
    if not completions or rolled.scored.unscored < completions:
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
    if run.state.strategy.lockstep:
        batches = level(batches, run.state.policy.family, run.world)
    return on_device(batches, run.state.policy.model.device)


def update(run: StageRun, batches: Sequence[Batch] | None, loss_fn: LossFn, sums: StepSums) -> None:
    """One planned optimiser step; with nothing to learn from only the schedule moves on."""
    if batches is None:
        sums.learning_rate = run.state.optimizer.param_groups[0]["lr"]
        run.state.scheduler.step()
        return
    dump_to = run.folder.path / "skipped_batches"
    optimizer_step(run.state, batches, loss_fn, sums, train=run.config.train, dump_to=dump_to)
