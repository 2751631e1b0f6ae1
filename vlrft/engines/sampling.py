"""Drawing tokens: one uniform per (seed, position), inverse CDF.

`torch.multinomial` draws one exponential per vocabulary entry and depends on what else is in the batch; one uniform per
row from a counter-based generator does neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vlrft.engines.base import SamplingParams
from vlrft.logprob import normalised_logits


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """float32 [rows, count] in [0, 1): row r is a pure function of seeds[r]."""
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def draw(
    logits_RV: Tensor, uniform_R: Tensor, params: SamplingParams, banned: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Token ids [R] and their log-probs [R]. Consumes `logits_RV` (overwritten)."""
    logp_RV = normalised_logits(logits_RV, params.temperature or 1.0, banned)
    if params.temperature == 0.0:
        tokens = logp_RV.argmax(-1)
        return tokens, logp_RV.gather(1, tokens[:, None])[:, 0]
    probs_RV = logp_RV.exp()
    if params.top_k or params.top_p < 1.0:
        probs_RV = _truncated(probs_RV, params)
        logp_RV = (probs_RV / probs_RV.sum(-1, keepdim=True)).log()
    tokens = inverse_cdf(probs_RV, uniform_R)
    return tokens, logp_RV.gather(1, tokens[:, None])[:, 0]


def inverse_cdf(probs_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """First index whose cumulative mass exceeds uniform * total; an index without mass is never chosen."""
    cdf_RV = probs_RV.cumsum(-1)
    total = cdf_RV[:, -1]
    threshold = torch.minimum(uniform_R * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf_RV, threshold[:, None], right=True)[:, 0]


def _truncated(probs_RV: Tensor, params: SamplingParams) -> Tensor:
    """Zero all but the top-k ids, and all but the smallest set of most likely ids whose mass reaches top-p."""
    ordered, index = probs_RV.sort(-1, descending=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if params.top_k:
        keep[:, params.top_k :] = False
    if params.top_p < 1.0:
        kept = ordered * keep
        before = kept.cumsum(-1) - kept
        keep &= before < params.top_p * kept.sum(-1, keepdim=True)
    return torch.zeros_like(probs_RV).scatter_(1, index, ordered * keep)
