"""Attention over ragged slices of one stream, with the log-sum-exp that merging two parts needs.

Each kernel answers `forward(q, k, v, ragged, scale) -> out [M, H, D], lse [M, H]` for the M real queries of `ragged`,
and `backward(grad_out, q, k, v, out, lse, ragged, scale) -> grad_q [M, H, D], grad_k, grad_v [L, Hkv, D]` for its M
queries and L real keys. `backward` takes the *merged* out and lse: softmax weights are exp(score - lse), so a part's
share of the gradient comes out right without knowing the other part (the ring-attention identity).

q is [T, H, D]; k and v are [T, Hkv, D], Hkv dividing H (grouped queries).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from vlrft.layout import Ragged

aten = torch.ops.aten
_NEVER = 1e30
"""lse of a padded query: exp(score - 1e30) = 0, so it sends no gradient anywhere."""


class Kernel(Protocol):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, ragged: Ragged, scale: float) -> tuple[Tensor, Tensor]: ...

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, ragged: Ragged, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]: ...


class PaddedKernel:
    """Pads the ragged problems to one batch and calls torch's own flash kernel (CPU) or plain matrix products."""

    def __init__(self, *, plain: bool = False) -> None:
        self.plain = plain

    def forward(self, q: Tensor, k: Tensor, v: Tensor, ragged: Ragged, scale: float) -> tuple[Tensor, Tensor]:
        q, k, v = _batch(q, ragged, "q"), _batch(k, ragged, "k"), _batch(v, ragged, "k")
        if self.plain:
            weights, lse = _plain_weights(q, k, ragged, scale)
            out = weights @ _repeat(v, q.shape[1])
        else:
            out, lse = aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, ragged.causal, attn_mask=_mask(ragged, q), scale=scale
            )
        return _real(out, ragged.q_slots), _real(lse.unsqueeze(-1), ragged.q_slots).squeeze(-1)

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, ragged: Ragged, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _batch(q, ragged, "q"), _batch(k, ragged, "k"), _batch(v, ragged, "k")
        grad, out = _pad(grad, ragged, 0.0), _pad(out, ragged, 0.0)
        lse = _pad(lse.unsqueeze(-1), ragged, _NEVER).squeeze(-1)
        if self.plain:
            grads = _plain_backward(grad, q, k, v, out, lse, ragged, scale)
        else:
            grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad, q, k, v, out, lse, 0.0, ragged.causal, attn_mask=_mask(ragged, q), scale=scale
            )
        return (
            _real(grads[0], ragged.q_slots),
            _real(grads[1], ragged.k_slots),
            _real(grads[2], ragged.k_slots),
        )


class VarlenKernel:
    """torch's variable-length flash kernel (CUDA, bf16 or fp16): no padding at all. Not run on the CPU."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, ragged: Ragged, scale: float) -> tuple[Tensor, Tensor]:
        out, lse, *_ = aten._flash_attention_forward(
            q[ragged.q_flat], *_keys(k, v, ragged, q.shape[1]), ragged.cu_q, ragged.cu_k, ragged.max_q, ragged.max_k,
            0.0, ragged.causal, False, scale=scale,
        )  # fmt: skip
        return out, lse.transpose(0, 1).contiguous()

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, ragged: Ragged, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
        heads = q.shape[1]
        grad_q, grad_k, grad_v = aten._flash_attention_backward(
            grad.contiguous(), q[ragged.q_flat], *_keys(k, v, ragged, heads), out, lse.transpose(0, 1).contiguous(),
            ragged.cu_q, ragged.cu_k, ragged.max_q, ragged.max_k, 0.0, ragged.causal,
            no_dropout, torch.empty(0, device=q.device), scale=scale,
        )  # fmt: skip
        shape = (grad_k.shape[0], k.shape[1], heads // k.shape[1], k.shape[2])
        return grad_q, grad_k.view(shape).sum(2), grad_v.view(shape).sum(2)


def kernel_for(device: torch.device, dtype: torch.dtype, name: str) -> Kernel:
    """`two_part` on the CPU: flash, padded; on CUDA in half precision: varlen flash; anywhere else: matrix products."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        return VarlenKernel()
    if name == "flash_varlen":
        raise ValueError(f"model.attention=flash_varlen needs CUDA and bf16 or fp16, got {device.type} and {dtype}")
    return PaddedKernel(plain=device.type != "cpu")


def _keys(k: Tensor, v: Tensor, ragged: Ragged, heads: int) -> tuple[Tensor, Tensor]:
    repeat = heads // k.shape[1]
    index = ragged.k_flat
    return k[index].repeat_interleave(repeat, 1), v[index].repeat_interleave(repeat, 1)


def _batch(x: Tensor, ragged: Ragged, side: str) -> Tensor:
    """[T, H, D] -> [N, H, L, D]; a single span is a view."""
    spans = ragged.q_spans if side == "q" else ragged.k_spans
    if len(spans) == 1:
        start, length = spans[0]
        return x[start : start + length].unsqueeze(0).transpose(1, 2)
    return x[ragged.q_index_NQ if side == "q" else ragged.k_index_NK].transpose(1, 2)


def _real(x: Tensor, slots: Tensor) -> Tensor:
    """[N, H, L, D] -> [M, H, D], padding dropped."""
    n, heads, length, dim = x.shape
    flat = x.transpose(1, 2).reshape(n * length, heads, dim)
    return flat if len(slots) == n * length else flat[slots]


def _pad(x: Tensor, ragged: Ragged, fill: float) -> Tensor:
    """[M, H, D] -> [N, H, Q, D]."""
    n, length = len(ragged.q_spans), ragged.max_q
    if len(ragged.q_slots) == n * length:
        return x.view(n, length, *x.shape[1:]).transpose(1, 2)
    padded = x.new_full((n * length, *x.shape[1:]), fill)
    padded[ragged.q_slots] = x
    return padded.view(n, length, *x.shape[1:]).transpose(1, 2)


def _mask(ragged: Ragged, q: Tensor) -> Tensor | None:
    mask = ragged.key_mask
    return None if mask is None else mask.to(q.dtype)


def _repeat(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _plain_scores(q: Tensor, k: Tensor, ragged: Ragged, scale: float) -> Tensor:
    scores = (q @ _repeat(k, q.shape[1]).transpose(-1, -2)).float() * scale
    if ragged.causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    mask = ragged.key_mask
    return scores if mask is None else scores + mask


def _plain_weights(q: Tensor, k: Tensor, ragged: Ragged, scale: float) -> tuple[Tensor, Tensor]:
    scores = _plain_scores(q, k, ragged, scale)
    lse = scores.logsumexp(-1)
    return (scores - lse.unsqueeze(-1)).exp().to(q.dtype), lse


def _plain_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, ragged: Ragged, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv_heads = q.shape[1], k.shape[1]
    weights = (_plain_scores(q, k, ragged, scale) - lse.unsqueeze(-1)).exp()
    grad_weights = (grad @ _repeat(v, heads).transpose(-1, -2)).float()
    delta = (grad * out).sum(-1, keepdim=True).float()
    grad_scores = (weights * (grad_weights - delta) * scale).to(q.dtype)
    grad_q = grad_scores @ _repeat(k, heads)
    grad_k = grad_scores.transpose(-1, -2) @ q
    grad_v = weights.to(q.dtype).transpose(-1, -2) @ grad
    n, _, length, dim = grad_k.shape
    shape = (n, kv_heads, heads // kv_heads, length, dim)
    return grad_q, grad_k.view(shape).sum(2), grad_v.view(shape).sum(2)
