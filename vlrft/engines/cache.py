"""The KV cache of a batch of groups: each prompt's keys and values once, and each row's own.

A decoding step reads a prompt's keys once for all the rows of its group. Rows that finish are compacted away.

Shape suffixes: B prompts, S slots per prompt (the most active rows any prompt has), R active rows, P longest prompt,
H query heads, K key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlrft.layout import PackedLayout

_GROW = 64
"""Own-token capacity grows by this many positions: growing by one would copy the cache at every token."""


class GroupKVCache:
    """KVSink during prefill, DecodeState during decoding (attention.py)."""

    def __init__(self, layout: PackedLayout, rows_per_prompt: Sequence[int]) -> None:
        self.prefill = layout
        self.device = layout.device
        self.length = 0
        """Own tokens stored so far in every row."""
        self.prompt_kv: list[tuple[Tensor, Tensor]] = []
        self.own_kv: list[tuple[Tensor, Tensor]] = []
        lengths = torch.tensor([length for _, length in layout.prompts])
        self.prompt_of_row = torch.repeat_interleave(
            torch.arange(len(rows_per_prompt)), torch.tensor(rows_per_prompt)
        ).to(self.device)
        hidden = torch.arange(int(lengths.max()))[None, :] >= lengths[:, None]
        self.prompt_mask = hidden.to(self.device) if bool(hidden.any()) else None
        self._arrange()

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Take a layer's prompt keys and values of the packed prefill, [T, K, D] each."""
        assert layer == len(self.prompt_kv), "layers arrive in order"
        index = self.prefill.prompt.q_index_NQ
        self.prompt_kv.append((k[index].transpose(1, 2).contiguous(), v[index].transpose(1, 2).contiguous()))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """q [R, H, 1, D], k and v [R, K, 1, D] of the newest token -> [R, 1, H, D]."""
        own_k, own_v = self._append(layer, k, v)
        prompt_k, prompt_v = self.prompt_kv[layer]
        rows, heads, _, dim = q.shape
        kv_heads = k.shape[1]
        fold = heads // kv_heads
        q = (q * scale).reshape(rows, kv_heads, fold, dim)
        on_prompt = self._from_slots(self._to_slots(q) @ prompt_k.transpose(-1, -2), fold)
        if self.prompt_mask is not None:
            on_prompt = on_prompt.masked_fill(self.prompt_mask[self.prompt_of_row, None, None], float("-inf"))
        on_own = q @ own_k.transpose(-1, -2)
        split = on_prompt.shape[-1]
        weights = torch.softmax(torch.cat([on_prompt, on_own], -1), -1, dtype=torch.float32).to(q.dtype)
        out = self._from_slots(self._to_slots(weights[..., :split]) @ prompt_v, fold)
        out = out + weights[..., split:] @ own_v
        return out.reshape(rows, 1, heads, dim)

    def advance(self) -> None:
        """One token has been attended to in every layer."""
        self.length += 1

    def keep(self, rows: Tensor) -> None:
        """Drop all but the given rows (ascending), and the prompts that no row needs any more."""
        prompt_of_row = self.prompt_of_row[rows]
        prompts, self.prompt_of_row = torch.unique(prompt_of_row, return_inverse=True)
        if len(prompts) < self.slots[0]:
            self.prompt_kv = [(k[prompts], v[prompts]) for k, v in self.prompt_kv]
            self.prompt_mask = self.prompt_mask[prompts] if self.prompt_mask is not None else None
        self.own_kv = [(k[rows], v[rows]) for k, v in self.own_kv]
        self._arrange()

    def _arrange(self) -> None:
        """Give each row a slot [prompt, s]; remember whether the slots are simply the rows in order."""
        per_prompt = torch.bincount(self.prompt_of_row)
        widest = int(per_prompt.max())
        self.slots = (len(per_prompt), widest)
        first = torch.cumsum(per_prompt, 0) - per_prompt
        rank = torch.arange(len(self.prompt_of_row), device=self.device) - first[self.prompt_of_row]
        self.slot_of_row = self.prompt_of_row * widest + rank
        self.full = len(self.prompt_of_row) == self.slots[0] * widest

    def _append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        at = self.length
        if layer == len(self.own_kv):
            shape = (k.shape[0], k.shape[1], 0, k.shape[3])
            self.own_kv.append((k.new_empty(shape), v.new_empty(shape)))
        own_k, own_v = self.own_kv[layer]
        if at == own_k.shape[2]:
            room = k.new_empty((k.shape[0], k.shape[1], _GROW, k.shape[3]))
            own_k, own_v = torch.cat([own_k, room], 2), torch.cat([own_v, room], 2)
            self.own_kv[layer] = (own_k, own_v)
        own_k[:, :, at] = k[:, :, 0]
        own_v[:, :, at] = v[:, :, 0]
        return own_k[:, :, : at + 1], own_v[:, :, : at + 1]

    def _to_slots(self, x: Tensor) -> Tensor:
        """[R, K, F, X] -> [B, K, S*F, X]."""
        prompts, widest = self.slots
        _, kv_heads, fold, size = x.shape
        if not self.full:
            padded = x.new_zeros((prompts * widest, kv_heads, fold, size))
            padded[self.slot_of_row] = x
            x = padded
        return x.view(prompts, widest, kv_heads, fold, size).transpose(1, 2).reshape(prompts, kv_heads, -1, size)

    def _from_slots(self, x: Tensor, fold: int) -> Tensor:
        """[B, K, S*F, X] -> [R, K, F, X]."""
        prompts, widest = self.slots
        kv_heads, size = x.shape[1], x.shape[3]
        x = x.view(prompts, kv_heads, widest, fold, size).transpose(1, 2)
        x = x.reshape(prompts * widest, kv_heads, fold, size)
        return x if self.full else x[self.slot_of_row]
