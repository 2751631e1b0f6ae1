"""Log-probs and entropies of given tokens from hidden states, without ever holding all logits.

Completion tokens only, in chunks. The forward pass keeps the softmax of a chunk for the backward pass while it fits in
`cache_bytes` (then the head costs three matrix products instead of four), and recomputes it otherwise.

Shape suffixes: T tokens, V vocabulary, D hidden size, C chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_ROWS = 16
"""Rows of logits normalised at once."""
_BANNED = -1e9
"""Logit of a banned id: its probability underflows to exactly 0 and 0 * log p stays 0, unlike with -inf."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions:
    """How logits become probabilities; must equal what the engine did when it sampled."""

    temperature: float = 1.0
    banned_ids: tuple[int, ...] = ()
    chunk_size: int = 256
    cache_bytes: int = 512 * 2**20
    accumulate_in_place: bool = False
    """Add the weight's gradient straight into `weight.grad`: no second copy of the vocabulary matrix. Only where
    nothing else waits for that gradient (gradient hooks of DDP, FSDP and DeepSpeed do)."""
    entropy_grad: bool = False
    """Let gradients flow into the entropy (needs one more pass over a chunk)."""


def normalised_logits(logits_TV: Tensor, temperature: float, banned_ids: tuple[int, ...]) -> Tensor:
    """log softmax(logits / temperature) with banned ids at probability 0; float32, in place where possible."""
    logits_TV = logits_TV.float()
    if temperature != 1.0:
        logits_TV.div_(temperature)
    if banned_ids:
        logits_TV[:, list(banned_ids)] = _BANNED
    return torch.log_softmax(logits_TV, -1, out=logits_TV)


class Room:
    """Memory for logits, handed from one micro-batch to the next: fresh pages of that size cost more than the sums done
    in them. Whoever takes it owns it; a forward pass without a backward pass just lets it go."""

    def __init__(self) -> None:
        self._spare: Tensor | None = None

    def take(self, like: Tensor, rows: int, columns: int) -> Tensor:
        """An uninitialised [rows, columns] tensor of the dtype and device of `like`."""
        spare, self._spare = self._spare, None
        fits = spare is not None and spare.numel() >= rows * columns
        if spare is None or not fits or (spare.dtype, spare.device) != (like.dtype, like.device):
            spare = like.new_empty(rows * columns)
        return spare[: rows * columns].view(rows, columns)

    def give_back(self, taken: Tensor) -> None:
        whole = taken if taken._base is None else taken._base
        self._spare = whole.view(-1)


class _ChunkedLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, options: HeadOptions, room: Room
    ) -> tuple[Tensor, Tensor]:
        count, vocab = hidden_TD.shape[0], weight_VD.shape[0]
        weight = weight_VD.to(hidden_TD.dtype)
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        keep = keep and hidden_TD.dtype == torch.float32 and count * vocab * 4 <= options.cache_bytes
        # A kept chunk is written where it stays; otherwise one chunk's room serves all.
        rows_held = count if keep else min(options.chunk_size, count)
        held_TV = room.take(hidden_TD, rows_held, vocab)
        logp_T = hidden_TD.new_empty(count, dtype=torch.float32)
        entropy_T = torch.empty_like(logp_T)
        for start in range(0, count, rows_held):
            rows = slice(start, min(start + rows_held, count))
            place = rows if keep else slice(0, rows.stop - start)
            logits_CV = torch.mm(hidden_TD[rows], weight.t(), out=held_TV[place])
            _read_off(logits_CV, targets_T[rows], logp_T[rows], entropy_T[rows], options)
        ctx.save_for_backward(hidden_TD, weight_VD, targets_T, entropy_T)
        ctx.options, ctx.weight, ctx.room = options, weight_VD, room
        ctx.logp_TV = held_TV if keep else None
        if not keep:
            room.give_back(held_TV)
        if not options.entropy_grad:
            ctx.mark_non_differentiable(entropy_T)
        return logp_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, weight_VD, targets_T, entropy_T = ctx.saved_tensors
        options: HeadOptions = ctx.options
        weight = weight_VD.to(hidden_TD.dtype)
        grad_hidden = torch.empty_like(hidden_TD) if ctx.needs_input_grad[0] else None
        grad_weight = None
        fused = options.accumulate_in_place and weight_VD.dtype == hidden_TD.dtype
        if ctx.needs_input_grad[1]:
            grad_weight = grad_of(ctx.weight) if fused else torch.zeros_like(weight)
        count = hidden_TD.shape[0]
        chunk = count if ctx.logp_TV is not None else options.chunk_size
        for start in range(0, count, chunk):
            rows = slice(start, min(start + chunk, count))
            if ctx.logp_TV is not None:
                p_CV = ctx.logp_TV[rows].exp_()
            else:
                logits_CV = torch.mm(hidden_TD[rows], weight.t())
                p_CV = normalised_logits(logits_CV, options.temperature, options.banned_ids).exp_()
            delta_CV = _grad_logits(p_CV, targets_T[rows], grads, entropy_T, rows, options)
            delta_CV = delta_CV.to(hidden_TD.dtype)
            if grad_hidden is not None:
                torch.mm(delta_CV, weight, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight.addmm_(delta_CV.t(), hidden_TD[rows])
        if ctx.logp_TV is not None:
            ctx.room.give_back(ctx.logp_TV)
        ctx.logp_TV = ctx.weight = ctx.room = None
        returned = None if fused or grad_weight is None else grad_weight.to(weight_VD.dtype)
        return grad_hidden, returned, None, None, None


def _read_off(logits_CV: Tensor, targets_C: Tensor, logp_C: Tensor, entropy_C: Tensor, options: HeadOptions) -> None:
    """Turn logits into log-probs in place, a few rows at a time (they stay in the processor's cache), and note the
    targets' log-probs and the entropies."""
    scratch_RV = logits_CV.new_empty((min(_ROWS, len(logits_CV)), logits_CV.shape[1]), dtype=torch.float32)
    for start in range(0, len(logits_CV), _ROWS):
        rows = slice(start, start + _ROWS)
        logp_RV = normalised_logits(logits_CV[rows], options.temperature, options.banned_ids)
        if logits_CV.dtype != torch.float32:
            logits_CV[rows] = logp_RV
        logp_C[rows] = logp_RV.gather(1, targets_C[rows, None])[:, 0]
        p_RV = torch.exp(logp_RV, out=scratch_RV[: len(logp_RV)])
        entropy_C[rows] = -p_RV.mul_(logp_RV).sum(-1)


def grad_of(parameter: Tensor) -> Tensor:
    """The parameter's gradient, made if there is none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


class _Embed(torch.autograd.Function):
    """Embedding whose gradient rows are added straight into the weight's gradient."""

    @staticmethod
    def forward(ctx: Any, weight_VD: Tensor, ids: Tensor, padding_idx: int | None) -> Tensor:
        ctx.weight, ctx.ids, ctx.padding_idx = weight_VD, ids, padding_idx
        return torch.nn.functional.embedding(ids, weight_VD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad_of(ctx.weight)
        upstream = grads[0]
        if ctx.padding_idx is not None:
            upstream = upstream.masked_fill((ctx.ids == ctx.padding_idx).unsqueeze(-1), 0.0)
        grad.index_add_(0, ctx.ids.reshape(-1), upstream.reshape(-1, grad.shape[1]).to(grad.dtype))
        ctx.weight = None
        return None, None, None


def embed(embedding: nn.Embedding, ids: Tensor) -> Tensor:
    """`embedding(ids)`. A dense embedding gradient is as large as the vocabulary; this one is never made."""
    rows: Tensor = _Embed.apply(embedding.weight, ids, embedding.padding_idx)  # type: ignore[no-untyped-call]
    return rows


def _grad_logits(
    p_CV: Tensor, targets_C: Tensor, grads: tuple[Tensor, ...], entropy_T: Tensor, rows: slice, options: HeadOptions
) -> Tensor:
    """Gradient of sum(g_logp * logp + g_entropy * entropy) with respect to the raw logits, written over p."""
    grad_logp = grads[0][rows].float() / options.temperature
    grad_entropy = None
    if options.entropy_grad:
        # d entropy / d logit_j = -p_j (log p_j + entropy)
        share = torch.xlogy(p_CV, p_CV).add_(p_CV * entropy_T[rows, None])
        grad_entropy = share.mul_(-grads[1][rows, None].float() / options.temperature)
    delta_CV = p_CV.mul_(-grad_logp[:, None])
    delta_CV.scatter_add_(1, targets_C[:, None], grad_logp[:, None])
    return delta_CV if grad_entropy is None else delta_CV.add_(grad_entropy)


class LogprobHead(nn.Module):
    """The output head as a module of its own, so that sharding wrappers gather its weight where it is used."""

    def __init__(self, lm_head: nn.Linear) -> None:
        super().__init__()
        if getattr(lm_head, "bias", None) is not None:
            raise ValueError("an output head with a bias is not supported by the chunked log-prob")
        self.lm_head: nn.Linear = lm_head
        self.room = Room()

    def forward(self, hidden_TD: Tensor, targets_T: Tensor, options: HeadOptions) -> tuple[Tensor, Tensor]:
        """Log-prob of each target and entropy of its distribution, both float32 [T]."""
        result: tuple[Tensor, Tensor] = _ChunkedLogprob.apply(  # type: ignore[no-untyped-call]
            hidden_TD, self.lm_head.weight, targets_T, options, self.room
        )
        return result
