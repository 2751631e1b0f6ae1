"""Shared-prefix attention: the language model's attention over a packed stream, without a dense mask.

Registered with transformers under `NAME` and chosen for the text sub-config only (the vision tower keeps sdpa). The
model's forward passes `packed=PackedLayout` for training and prefill, or `decode=DecodeState` for one-token steps; both
travel as forward arguments because checkpointing may recompute a layer later and in another thread.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from vlrft.kernels import Kernel, kernel_for
from vlrft.layout import PackedLayout

NAME = "vlrft_shared_prefix"


class KVSink(Protocol):
    """Receives the keys and values of a prefill."""

    def store(self, layer: int, k: Tensor, v: Tensor) -> None: ...


class DecodeState(Protocol):
    """Answers one-token attention from the cache (engines/cache.py)."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor: ...


class _TwoPart(torch.autograd.Function):
    """Prompt attention, and completions over [prompt; themselves] merged by log-sum-exp."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, kernel: Kernel, scale: float
    ) -> Tensor:
        out = torch.empty_like(q)
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        _write(layout.prompt, *kernel.forward(q, k, v, layout.prompt, scale), out, lse)
        if layout.prefix:
            prefix_out, prefix_lse = kernel.forward(q, k, v, layout.prefix, scale)
            own_out, own_lse = kernel.forward(q, k, v, layout.own, scale)
            both = torch.logaddexp(prefix_lse, own_lse)
            own_out = own_out * (own_lse - both).exp().unsqueeze(-1).to(q.dtype)
            own_out.addcmul_(prefix_out, (prefix_lse - both).exp().unsqueeze(-1).to(q.dtype))
            _write(layout.own, own_out, both, out, lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.kernel, ctx.scale = layout, kernel, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        layout: PackedLayout = ctx.layout
        parts = [layout.prompt, layout.prefix, layout.own] if layout.prefix else [layout.prompt]
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for part in parts:
            rows = part.q_flat
            part_q, part_k, part_v = ctx.kernel.backward(grads[0][rows], q, k, v, out[rows], lse[rows], part, ctx.scale)
            grad_q.index_add_(0, rows, part_q)
            grad_k.index_add_(0, part.k_flat, part_k)
            grad_v.index_add_(0, part.k_flat, part_v)
        return grad_q, grad_k, grad_v, None, None, None


def _write(part: Any, part_out: Tensor, part_lse: Tensor, out: Tensor, lse: Tensor) -> None:
    out[part.q_flat] = part_out
    lse[part.q_flat] = part_lse


def packed_attention(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, scale: float, kind: str) -> Tensor:
    """q [T, H, D]; k, v [T, Hkv, D] -> [T, H, D]. `kind` is `model.attention` of the config."""
    if kind == "dense":
        return _batched(q, k, v, layout.dense_mask(), scale)
    if kind == "flex":
        return _flex(q, k, v, layout, scale)
    kernel = kernel_for(q.device, q.dtype, kind)
    result: Tensor = _TwoPart.apply(q, k, v, layout, kernel, scale)  # type: ignore[no-untyped-call]
    return result


def _batched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


def _flex(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, scale: float) -> Tensor:
    """FlexAttention with a block mask (CUDA; on the CPU it has no backward)."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    owner, branch = owners(layout)

    def may_attend(b: Tensor, h: Tensor, row: Tensor, col: Tensor) -> Tensor:
        same_group = owner[row] == owner[col]
        shared = (branch[col] < 0) | (branch[row] == branch[col])
        return same_group & shared & (col <= row)

    length = layout.num_tokens
    mask = create_block_mask(may_attend, None, None, length, length, device=str(q.device))
    run = torch.compile(flex_attention) if q.device.type == "cuda" else flex_attention
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    out: Tensor = run(q, k, v, block_mask=mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


def owners(layout: PackedLayout) -> tuple[Tensor, Tensor]:
    """int64 [T] group of each token, and int64 [T] completion inside the stream (-1 for prompt tokens)."""
    owner = torch.empty(layout.num_tokens, dtype=torch.long)
    branch = torch.full((layout.num_tokens,), -1)
    count = 0
    for group, ((start, length), spans) in enumerate(zip(layout.prompts, layout.completions, strict=True)):
        owner[start : start + length] = group
        for first, size in spans:
            owner[first : first + size] = group
            branch[first : first + size] = count
            count += 1
    return owner.to(layout.device), branch.to(layout.device)


def _registered(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    packed: PackedLayout | None = None,
    sink: KVSink | None = None,
    decode: DecodeState | None = None,
    kind: str = "auto",
    **_: object,
) -> tuple[Tensor, None]:
    """transformers' attention signature. query [B, H, L, D] -> [B, L, H, D]."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    # Under autocast the rotary embedding returns fp32 queries and keys beside half-precision values.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if decode is not None:
        return decode.attend(layer, query, key, value, scaling), None
    if packed is None or query.shape[0] != 1:
        raise ValueError(f"{NAME} attention runs on one packed stream: pass packed=PackedLayout")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if sink is not None:
        sink.store(layer, k, v)
    return packed_attention(q, k, v, packed, scaling, kind).unsqueeze(0), None


AttentionInterface.register(NAME, _registered)


def install(model: PreTrainedModel) -> None:
    """Switch the language model of `model` to shared-prefix attention; the vision tower keeps its own."""
    model.config.get_text_config()._attn_implementation = NAME
