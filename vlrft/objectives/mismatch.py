"""Correction for completions that were not sampled from the policy they are judged by (methods E.5).

An engine with other kernels or another precision, or with weights of some steps ago, samples from pi_behaviour; the
policy loss assumes pi_old. Its terms are weighed by w = pi_old / pi_behaviour, per token or per sequence, bounded so
that a few tokens cannot carry the step. The weights are detached and multiply the policy term, before KL is added.

Shape suffixes: N predicted tokens of the micro-batch, S its sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlrft.objectives.kl import LOG_RATIO_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class MismatchOptions:
    """How w is bounded."""

    upper: float = 2.0
    lower: float | None = None
    """Masks only: tokens or sequences below it are left out; None = no bound."""
    sequence_ratio: str = "product"
    """Ratio of a sequence: `product` of its tokens' ratios (TRL, verl), or their `geometric_mean` (ms-swift)."""


Bound = Callable[[Tensor, MismatchOptions], Tensor]


def truncate(ratio: Tensor, options: MismatchOptions) -> Tensor:
    """min(w, upper): truncated importance sampling."""
    return ratio.clamp(max=options.upper)


def mask(ratio: Tensor, options: MismatchOptions) -> Tensor:
    """w where lower <= w <= upper, else 0: masked importance sampling (IcePop)."""
    outside = ratio > options.upper
    if options.lower is not None:
        outside = outside | (ratio < options.lower)
    return ratio.masked_fill(outside, 0.0)


CORRECTIONS: Mapping[str, tuple[bool, Bound]] = {
    "token_truncate": (False, truncate),
    "token_mask": (False, mask),
    "sequence_truncate": (True, truncate),
    "sequence_mask": (True, mask),
}
"""Name -> (of whole sequences?, bound). `none` is the absence of a correction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Weights of a micro-batch's tokens, and sums over its loss tokens."""

    weight_N: Tensor
    sums: dict[str, float]
    """`engine_gap` |log w|, `mismatch_weight`, `mismatch_weight_sq`, `mismatch_kept` tokens that keep a weight above 0;
    divide by the step's tokens."""


def mismatch(
    old_logp_N: Tensor,
    behaviour_logp_N: Tensor,
    mask_N: Tensor,
    sequence_N: Tensor,
    name: str,
    options: MismatchOptions,
) -> Mismatch:
    """Bounded weights pi_old / pi_behaviour by the correction called `name`; all 1 for `none`.

    mask_N: 1.0 where the token carries loss; other tokens (injected text) take no part in a sequence's ratio.
    """
    with torch.no_grad():
        log_w_N = (old_logp_N - behaviour_logp_N) * mask_N
        gap = float(log_w_N.abs().sum())
        if name == "none":
            weight_N = torch.ones_like(log_w_N)
        else:
            of_sequences, bound = CORRECTIONS[name]
            if of_sequences:
                log_w_N = _of_sequences(log_w_N, mask_N, sequence_N, options)
            weight_N = bound(log_w_N.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp(), options)
        used_N = weight_N * mask_N
        sums = {
            "engine_gap": gap,
            "mismatch_weight": float(used_N.sum()),
            "mismatch_weight_sq": float(used_N.square().sum()),
            "mismatch_kept": float((used_N > 0).sum()),
        }
    return Mismatch(weight_N=weight_N, sums=sums)


def _of_sequences(log_w_N: Tensor, mask_N: Tensor, sequence_N: Tensor, options: MismatchOptions) -> Tensor:
    """Every token's log-ratio replaced by that of its sequence."""
    count = int(sequence_N.max()) + 1 if sequence_N.numel() else 0
    sum_S = log_w_N.new_zeros(count).index_add_(0, sequence_N, log_w_N)
    if options.sequence_ratio == "geometric_mean":
        tokens_S = log_w_N.new_zeros(count).index_add_(0, sequence_N, mask_N)
        sum_S = sum_S / tokens_S.clamp(min=1.0)
    return sum_S[sequence_N]


def effective_sample_size(row: Mapping[str, float]) -> dict[str, float]:
    """`policy/mismatch_ess` of a metrics row, the share (sum w)^2 / (n sum w^2) of its n loss tokens; {} without any.

    1 where all weights are equal; small where a few tokens carry the step.
    """
    mean, mean_square = row.get("policy/mismatch_weight"), row.get("policy/mismatch_weight_sq")
    if mean is None or not mean_square:
        return {}
    return {"policy/mismatch_ess": mean * mean / mean_square}
