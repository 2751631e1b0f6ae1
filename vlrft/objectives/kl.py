"""Per-token KL estimators against a reference policy (methods E.4).

As a loss term k2 has the gradient of KL(pi || ref), k3 that of KL(ref || pi), and k1's vanishes in expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20 before exp: beyond it the estimate means nothing and exp overflows."""


def k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """log pi - log ref."""
    return logp - ref_logp


def k2(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """(log pi - log ref)^2 / 2."""
    return 0.5 * (logp - ref_logp).square()


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """exp(log ref - log pi) - (log ref - log pi) - 1: unbiased and never negative."""
    gap = (ref_logp - logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.expm1(gap) - gap


KL_ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
