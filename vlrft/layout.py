"""Where prompts and completions lie in a packed token stream, and who attends to whom.

A stream holds groups one after another: the prompt once, then its completions. A prompt token attends to the prompt
up to itself; a completion token attends to the whole prompt and to its own completion up to itself. That is three
ragged attention problems (`Ragged`): prompt, prefix (completions -> prompt), own (completion -> itself).

Shape suffixes: T stream tokens, N sequences of one ragged problem, Q and K padded query and key lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

Span = tuple[int, int]
"""(first stream position, number of tokens)."""


@dataclass(frozen=True)
class Ragged:
    """N independent attention problems over slices of one stream; q_spans[n] attends to k_spans[n]."""

    q_spans: tuple[Span, ...]
    k_spans: tuple[Span, ...]
    causal: bool
    """Query j of a span sees keys 0..j of the span (query and key spans are then the same)."""
    device: torch.device

    def __bool__(self) -> bool:
        return any(length for _, length in self.q_spans)

    @cached_property
    def q_index_NQ(self) -> Tensor:
        """Stream position of each padded query; padding repeats the span's first token."""
        return _padded_index(self.q_spans, self.device)

    @cached_property
    def k_index_NK(self) -> Tensor:
        return _padded_index(self.k_spans, self.device)

    @cached_property
    def q_slots(self) -> Tensor:
        """Flat [N*Q] slots that hold real queries, in stream order of the spans."""
        return _real_slots(self.q_spans, self.device)

    @cached_property
    def k_slots(self) -> Tensor:
        return _real_slots(self.k_spans, self.device)

    @cached_property
    def key_mask(self) -> Tensor | None:
        """Additive [N, 1, 1, K] mask of padded keys; None when no query can see one."""
        lengths = [length for _, length in self.k_spans]
        if self.causal or len(set(lengths)) == 1:
            return None
        widest = max(lengths)
        hidden = torch.arange(widest)[None, :] >= torch.tensor(lengths)[:, None]
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
        return mask[:, None, None, :].to(self.device)

    @cached_property
    def cu_q(self) -> Tensor:
        """int32 [N+1] cumulative query lengths, for variable-length kernels."""
        return _cumulative(self.q_spans, self.device)

    @cached_property
    def cu_k(self) -> Tensor:
        return _cumulative(self.k_spans, self.device)

    @cached_property
    def q_flat(self) -> Tensor:
        """Stream positions of the real queries, span after span."""
        return self.q_index_NQ.reshape(-1)[self.q_slots]

    @cached_property
    def k_flat(self) -> Tensor:
        return self.k_index_NK.reshape(-1)[self.k_slots]

    @property
    def max_q(self) -> int:
        return max(length for _, length in self.q_spans)

    @property
    def max_k(self) -> int:
        return max(length for _, length in self.k_spans)


@dataclass(frozen=True)
class PackedLayout:
    """One packed stream: prompt spans, and for each prompt the spans of its completions (right behind it)."""

    prompts: tuple[Span, ...]
    completions: tuple[tuple[Span, ...], ...]
    device: torch.device

    @property
    def num_tokens(self) -> int:
        spans = [*self.prompts, *(c for group in self.completions for c in group)]
        return sum(length for _, length in spans)

    @cached_property
    def prompt(self) -> Ragged:
        return Ragged(self.prompts, self.prompts, True, self.device)

    @cached_property
    def prefix(self) -> Ragged:
        """All completion tokens of a group, in one span, against the group's prompt."""
        pairs = [
            ((group[0][0], sum(length for _, length in group)), prompt)
            for prompt, group in zip(self.prompts, self.completions, strict=True)
            if sum(length for _, length in group)
        ]
        return Ragged(tuple(q for q, _ in pairs), tuple(k for _, k in pairs), False, self.device)

    @cached_property
    def own(self) -> Ragged:
        spans = tuple(c for group in self.completions for c in group if c[1])
        return Ragged(spans, spans, True, self.device)

    def dense_mask(self) -> Tensor:
        """Boolean [T, T], True where row may attend to column: the plain statement of the layout, for reference."""
        mask = torch.zeros(self.num_tokens, self.num_tokens, dtype=torch.bool)
        for prompt, group in zip(self.prompts, self.completions, strict=True):
            p0, p_len = prompt
            mask[p0 : p0 + p_len, p0 : p0 + p_len] = torch.ones(p_len, p_len, dtype=torch.bool).tril()
            for c0, c_len in group:
                mask[c0 : c0 + c_len, p0 : p0 + p_len] = True
                mask[c0 : c0 + c_len, c0 : c0 + c_len] = torch.ones(c_len, c_len, dtype=torch.bool).tril()
        return mask.to(self.device)


def layout_of(lengths: list[tuple[int, list[int]]], device: torch.device | str = "cpu") -> PackedLayout:
    """Lay out groups given as (prompt length, completion lengths), in order."""
    prompts: list[Span] = []
    completions: list[tuple[Span, ...]] = []
    at = 0
    for prompt_length, completion_lengths in lengths:
        prompts.append((at, prompt_length))
        at += prompt_length
        group = []
        for length in completion_lengths:
            group.append((at, length))
            at += length
        completions.append(tuple(group))
    return PackedLayout(tuple(prompts), tuple(completions), torch.device(device))


def _padded_index(spans: tuple[Span, ...], device: torch.device) -> Tensor:
    starts = torch.tensor([start for start, _ in spans])
    lengths = torch.tensor([length for _, length in spans])
    offset = torch.arange(int(lengths.max()))[None, :]
    return torch.where(offset < lengths[:, None], starts[:, None] + offset, starts[:, None]).to(device)


def _real_slots(spans: tuple[Span, ...], device: torch.device) -> Tensor:
    lengths = torch.tensor([length for _, length in spans])
    real = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    return real.reshape(-1).nonzero()[:, 0].to(device)


def _cumulative(spans: tuple[Span, ...], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(length for _, length in spans)], dtype=torch.int32, device=device)
