"""GRPO on scored groups: advantages, reference and old log-probs, several optimiser steps per rollout."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlrft.config import ObjectiveConfig
from vlrft.objectives import ADVANTAGES, LOSSES
from vlrft.objectives.advantage import Advantage, Assigned, assign
from vlrft.objectives.loss import ClipOptions, LossInputs, PolicyLossFn, total_loss
from vlrft.objectives.mismatch import MismatchOptions, mismatch
from vlrft.pack import Batch
from vlrft.reference import Reference
from vlrft.registry import resolve
from vlrft.types import FinishReason, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The objective block, resolved."""

    config: ObjectiveConfig
    advantage: Advantage
    policy_loss: PolicyLossFn
    options: ClipOptions
    mismatch: MismatchOptions

    @classmethod
    def build(cls, config: ObjectiveConfig) -> Objective:
        """Raises UnknownNameError for an advantage or loss that no table holds."""
        high = config.epsilon if config.epsilon_high is None else config.epsilon_high
        return cls(
            config=config,
            advantage=resolve(config.advantage, ADVANTAGES, kind="advantage"),
            policy_loss=resolve(config.policy_loss, LOSSES, kind="policy loss"),
            options=ClipOptions(epsilon=config.epsilon, epsilon_high=high, delta=config.delta),
            mismatch=MismatchOptions(
                upper=config.mismatch_max, lower=config.mismatch_min, sequence_ratio=config.mismatch_sequence_ratio
            ),
        )

    @property
    def steps_per_rollout(self) -> int:
        return self.config.num_iterations * self.config.minibatches

    def assign(self, groups: Sequence[Group]) -> Assigned:
        """Advantages; groups without spread are dropped unless a KL term gives them a gradient."""
        scale = self.config.scale_rewards == "group"
        return assign(groups, self.advantage, scale=scale, drop_flat=self.config.beta == 0.0)

    def loss(self, batch: Batch, output: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Policy loss plus KL of one micro-batch (a LossFn)."""
        logp_N = output["logp"]
        # One optimiser step per rollout: the old policy is this one, and the ratio is 1 with the right gradient.
        old_logp_N = batch.annotations.get("old_logp_N", logp_N.detach())
        inputs = LossInputs(
            logp_N=logp_N,
            old_logp_N=old_logp_N,
            advantage_N=batch.advantage_N,
            sequence_N=batch.sequence_N,
            mask_N=batch.loss_mask_N,
        )
        weights = mismatch(
            batch.annotations.get("still_logp_N", old_logp_N),
            batch.behaviour_logp_N,
            batch.loss_mask_N,
            batch.sequence_N,
            self.config.mismatch,
            self.mismatch,
        )
        loss = total_loss(
            inputs,
            batch.weight_N,
            self.policy_loss,
            self.options,
            mismatch_N=weights.weight_N,
            ref_logp_N=batch.annotations.get("ref_logp_N"),
            beta=self.config.beta,
            kl_estimator=self.config.kl_estimator,
        )
        return loss.value, {**loss.sums, **weights.sums}

    def annotate(self, batches: Sequence[Batch], policy: Any, reference: Reference | None) -> None:
        """Old and reference log-probs of every token, where the objective needs them.

        With one optimiser step per rollout the old policy is the one that learns, dropout and all, so that the ratio is
        1; what is compared with the engine, which has no dropout, is then computed besides (`still_logp_N`).
        """
        if self.steps_per_rollout > 1 or drops_out(policy):
            was_training = policy.training
            policy.eval()  # what was sampled had no dropout
            _add_logps(batches, policy, "old_logp_N" if self.steps_per_rollout > 1 else "still_logp_N")
            policy.train(was_training)
        if self.config.beta > 0.0:
            assert reference is not None, "beta > 0 comes with a reference policy"
            _add_logps(batches, partial(reference, policy), "ref_logp_N")


def drops_out(policy: nn.Module) -> bool:
    """Whether its training forward has dropout."""
    return any(isinstance(module, nn.Dropout) and module.p > 0.0 for module in policy.modules())


def _add_logps(batches: Sequence[Batch], policy: Any, name: str) -> None:
    with torch.no_grad():
        for batch in batches:
            batch.annotations[name] = policy(**batch.inputs, layout=batch.layout, touch_vision=batch.touch_vision)[
                "logp"
            ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Minibatch:
    """The groups of one optimiser step."""

    groups: tuple[Group, ...]
    silent: tuple[Group, ...] = ()
    """Dropped groups that the loss denominator counts all the same."""


def minibatches(assigned: Assigned, config: ObjectiveConfig) -> list[Minibatch]:
    """The rollout's groups dealt in order into `objective.minibatches` nearly equal parts; some may be empty."""
    dropped = assigned.dropped if config.count_dropped_in_denominator else ()
    parts = zip(_deal(assigned.kept, config.minibatches), _deal(dropped, config.minibatches), strict=True)
    return [Minibatch(groups=groups, silent=silent) for groups, silent in parts]


def _deal(groups: Sequence[Group], count: int) -> list[tuple[Group, ...]]:
    ends = [len(groups) * (i + 1) // count for i in range(count)]
    return [tuple(groups[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def rollout_metrics(groups: Sequence[Group], unscored: int, version: int) -> dict[str, float]:
    """What a batch of rollouts looked like, under the names of metrics.jsonl.

    version: of the policy that is about to learn from them. `rollout/staleness`: optimiser steps that it has moved on
    since they were sampled, the mean over completions.

    `groups/zero_spread`: groups whose rollouts all have the same reward, and `groups/zero_spread_share` of all groups.
    """
    rollouts = [r for g in groups for r in g.rollouts]
    flat = sum(max(g.rewards) == min(g.rewards) for g in groups)
    row: dict[str, float] = {"groups/zero_spread": flat, "completions/unscored": unscored}
    if not rollouts:
        return row
    row["groups/zero_spread_share"] = flat / len(groups)
    lengths = [len(r.completion.token_ids) for r in rollouts]
    row["reward/mean"] = statistics.fmean(r.reward for r in rollouts)
    row["reward/std"] = statistics.fmean(statistics.pstdev(g.rewards) for g in groups)
    row["rollout/staleness"] = statistics.fmean(version - r.completion.policy_version for r in rollouts)
    row["completions/mean_length"] = statistics.fmean(lengths)
    row["completions/truncated_share"] = statistics.fmean(
        r.completion.finish_reason == FinishReason.LENGTH for r in rollouts
    )
    # Of all rollouts: a reward that does not apply to one sample may have parts in another.
    for name in dict.fromkeys(name for r in rollouts for name in r.score.parts):
        values = [v for r in rollouts if (v := r.score.parts.get(name)) is not None]
        if values:
            row[f"reward/{name}"] = statistics.fmean(values)
    for flag, times in sorted(Counter(f for r in rollouts for f in r.score.flags).items()):
        row[f"flags/{flag}"] = times
    return row
