"""Policy losses as pure functions: per-token tensors in, a loss and sums for the metrics out.

The loss is sum(weight * (w * policy + beta * kl)) over the tokens of a micro-batch. The weights carry aggregation and
normalisation over the whole optimiser step (pack.py), so adding up micro-batches or ranks gives the same number.

Shape suffix: N predicted tokens of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlrft.objectives.kl import KL_ESTIMATORS, LOG_RATIO_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """What a policy loss may look at."""

    logp_N: Tensor
    """log pi_theta of the sampled tokens; carries gradient."""
    old_logp_N: Tensor
    """log pi_old: the trainer's own log-probs at the rollout's version; detached."""
    advantage_N: Tensor
    sequence_N: Tensor
    """int64 sequence of each token, for losses on sequence ratios."""
    mask_N: Tensor
    """1.0 where the token carries loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOptions:
    """Range of the probability ratio. DAPO's clip-higher is epsilon_high > epsilon."""

    epsilon: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    """Upper cap of the ratio in the unclipped branch: bounds the loss of tokens with negative advantage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """Per-token loss, and where the clip took the gradient away."""

    loss_N: Tensor
    clipped_N: Tensor


PolicyLossFn = Callable[[LossInputs, ClipOptions], PolicyLoss]


def clip(inputs: LossInputs, options: ClipOptions) -> PolicyLoss:
    """max(-rho A, -clip(rho, 1 - eps, 1 + eps_high) A), the loss of PPO, GRPO and DAPO (methods E.2)."""
    log_ratio = (inputs.logp_N - inputs.old_logp_N).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = log_ratio.exp()
    unclipped = ratio if options.delta is None else ratio.clamp(max=options.delta)
    clipped = ratio.clamp(1.0 - options.epsilon, 1.0 + options.epsilon_high)
    loss_free, loss_clipped = -unclipped * inputs.advantage_N, -clipped * inputs.advantage_N
    held = (loss_clipped > loss_free) & (clipped != ratio)
    return PolicyLoss(loss_N=torch.maximum(loss_free, loss_clipped), clipped_N=held)


LOSSES: Mapping[str, PolicyLossFn] = {"clip": clip}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A micro-batch's share of the step's loss, and sums over its loss tokens."""

    value: Tensor
    sums: dict[str, float]
    """`clipped`, `kl`, `log_ratio_abs`; divide by the step's tokens. `ratio_max` is a maximum."""


def total_loss(
    inputs: LossInputs,
    weight_N: Tensor,
    policy_loss: PolicyLossFn,
    options: ClipOptions,
    *,
    mismatch_N: Tensor | None = None,
    ref_logp_N: Tensor | None = None,
    beta: float = 0.0,
    kl_estimator: str = "k3",
) -> Loss:
    """Policy loss, weighed by `mismatch_N` (objectives/mismatch.py) where given, plus beta times KL."""
    policy = policy_loss(inputs, options)
    per_token = policy.loss_N if mismatch_N is None else policy.loss_N * mismatch_N
    with torch.no_grad():
        log_ratio = (inputs.logp_N - inputs.old_logp_N) * inputs.mask_N
        sums = {
            "clipped": float((policy.clipped_N * inputs.mask_N).sum()),
            "log_ratio_abs": float(log_ratio.abs().sum()),
            "ratio_max": float(log_ratio.clamp(max=LOG_RATIO_LIMIT).exp().max()),
        }
    if ref_logp_N is not None and beta > 0.0:
        kl_N = KL_ESTIMATORS[kl_estimator](inputs.logp_N, ref_logp_N)
        per_token = per_token + beta * kl_N
        sums["kl"] = float((kl_N.detach() * inputs.mask_N).sum())
    return Loss(value=(weight_N * per_token).sum(), sums=sums)
