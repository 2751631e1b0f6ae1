"""Drawing tokens: one uniform per (seed, position), inverse CDF.

`torch.multinomial` draws one exponential per vocabulary entry and depends on what else is in the batch; one uniform per
row from a counter-based generator does neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vlrft.engines.base import SamplingParams
from vlrft.logprob import normalised_logits

_BLOCK = 512
"""Vocabulary entries whose mass is summed at once."""


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
    """First index whose cumulative mass exceeds uniform * total; an index without mass is never chosen.

    In two levels: the block that holds the threshold, then the place in that block. Sums over blocks run in parallel, a
    cumulative sum over a whole vocabulary does not.
    """
    blocks_RKB = nn.functional.pad(probs_RV, (0, -probs_RV.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))
    ends_RK = blocks_RKB.sum(-1).cumsum(-1)
    if not bool(ends_RK[:, -1].isfinite().all()):
        raise FloatingPointError(
            "the model's logits are not finite, so no token can be drawn; go back to the last checkpoint with a lower "
            "learning rate, and look at grad_norm in metrics.jsonl"
        )
    block_R1, rest_R1 = _first_above(ends_RK, (uniform_R * ends_RK[:, -1])[:, None])
    inside_RB = blocks_RKB.gather(1, block_R1[..., None].expand(-1, -1, _BLOCK))[:, 0].cumsum(-1)
    place_R1, _ = _first_above(inside_RB, rest_R1)
    return (block_R1 * _BLOCK + place_R1)[:, 0]


def _first_above(ends_RN: Tensor, threshold_R1: Tensor) -> tuple[Tensor, Tensor]:
    """First index of each row whose running sum exceeds the threshold, and what of the threshold lies behind the index
    before. Rounding can put a threshold at or past the end: the last index with mass is taken then."""
    total_R1 = ends_RN[:, -1:]
    threshold_R1 = torch.minimum(threshold_R1, torch.nextafter(total_R1, torch.zeros_like(total_R1)))
    index_R1 = torch.searchsorted(ends_RN, threshold_R1, right=True)
    before_RN = nn.functional.pad(ends_RN, (1, 0))
    return index_R1, threshold_R1 - before_RN.gather(1, index_R1)


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
