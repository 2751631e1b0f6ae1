"""Sampling in-process with the training model: one packed prefill and one vision pass for all prompts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlrft.engines.base import Request, SamplingParams
from vlrft.engines.cache import GroupKVCache
from vlrft.engines.packed_linear import PackedLinears, enabled, pack_linears
from vlrft.engines.sampling import draw, uniforms
from vlrft.layout import layout_of
from vlrft.models.base import Family
from vlrft.types import Completion, FinishReason, Segment

_COMPACT_BELOW = 0.75
"""Rows are compacted when fewer than this share of them is still active: each compaction copies the cache."""


@dataclass
class _Rows:
    """The growing completions of one batch, indexed by original row."""

    tokens: list[list[int]]
    logps: list[list[float]]
    finished: list[FinishReason | None]
    active: list[int] = field(default_factory=list)
    """Original row of each row of the cache."""


class HFEngine:
    """Engine over the trainer's own weights; nothing to copy at sync."""

    def __init__(self, family: Family, *, max_rows: int = 512, attention: str = "auto", precision: str = "no") -> None:
        self.family = family
        self.max_rows = max_rows
        self.attention = attention
        self.precision = precision
        """`bf16` samples under the autocast that training runs under."""
        self.policy_version = 0

    def sync(self, policy_version: int) -> None:
        self.policy_version = policy_version

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[tuple[Completion, ...]]:
        """Completions per request. Prompts are decoded together up to `max_rows` rows."""
        was_training = self.family.model.training
        self.family.model.eval()
        try:
            device = self.family.model.device.type
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"):
                packed = self._packed()
                return [c for batch in self._batches(requests) for c in self._generate(batch, params, packed)]
        finally:
            self.family.model.train(was_training)

    def _batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        batches: list[list[Request]] = []
        rows = self.max_rows
        for request in requests:
            if rows + len(request.seeds) > self.max_rows:
                batches.append([])
                rows = 0
            batches[-1].append(request)
            rows += len(request.seeds)
        return batches

    def _packed(self) -> PackedLinears:
        if self.precision != "no":
            return []
        return pack_linears([self.family.model.model.language_model, self.family.lm_head])

    def _generate(
        self, requests: list[Request], params: SamplingParams, packed: PackedLinears
    ) -> list[tuple[Completion, ...]]:
        counts = [len(request.seeds) for request in requests]
        device = self.family.model.device
        cache, hidden_BD = self._prefill(requests, counts)
        # Logits once per prompt, not once per row: the rows of a group share their first distribution.
        logits_RV = self.family.lm_head(hidden_BD)[cache.prompt_of_row]
        uniform_RL = uniforms([seed for r in requests for seed in r.seeds], params.max_tokens).to(device)
        position_R = torch.tensor([r.prompt.next_position for r in requests], device=device)[cache.prompt_of_row]
        total = sum(counts)
        rows = _Rows([[] for _ in range(total)], [[] for _ in range(total)], [None] * total, list(range(total)))
        banned = self.family.banned_ids + (self.family.stop_ids if params.ignore_eos else ())
        for step in range(params.max_tokens):
            tokens_R, logps_R = draw(logits_RV, uniform_RL[:, step], params, banned)
            alive = self._record(rows, tokens_R, logps_R, params)
            if not alive or step + 1 == params.max_tokens:
                break
            if len(alive) < _COMPACT_BELOW * len(rows.active):
                index = torch.tensor(alive, device=device)
                cache.keep(index)
                tokens_R, uniform_RL, position_R = tokens_R[index], uniform_RL[index], position_R[index]
                rows.active = [rows.active[i] for i in alive]
            with enabled(packed):
                logits_RV = self._step(tokens_R, position_R + step, cache)
        return self._completions(rows, counts)

    def _prefill(self, requests: list[Request], counts: list[int]) -> tuple[GroupKVCache, Tensor]:
        """All prompts as one packed stream -> the cache and each prompt's last hidden state [B, D]."""
        device = self.family.model.device
        prompts = [request.prompt for request in requests]
        layout = layout_of([(len(p.token_ids), []) for p in prompts], device)
        cache = GroupKVCache(layout, counts)
        ids = torch.tensor([t for p in prompts for t in p.token_ids], device=device)[None]
        positions = torch.cat([p.position_ids for p in prompts], 1)[:, None].to(device)
        mm = {key: value.to(device) for key, value in self.family.collate_media(prompts).items()}
        hidden = self.family.hidden_states(ids, positions, mm, packed=layout, sink=cache, kind=self.attention)
        last = torch.tensor([start + length - 1 for start, length in layout.prompts], device=device)
        return cache, hidden[0, last]

    def _step(self, tokens_R: Tensor, position_R: Tensor, cache: GroupKVCache) -> Tensor:
        positions = position_R[None, :, None].expand(3, -1, 1)
        hidden = self.family.hidden_states(tokens_R[:, None], positions, {}, decode=cache)
        cache.advance()
        logits: Tensor = self.family.lm_head(hidden[:, 0])
        return logits

    def _record(self, rows: _Rows, tokens_R: Tensor, logps_R: Tensor, params: SamplingParams) -> list[int]:
        """Append the new tokens to their rows; returns the cache rows that go on."""
        alive = []
        for i, (row, token, logp) in enumerate(zip(rows.active, tokens_R.tolist(), logps_R.tolist(), strict=True)):
            if rows.finished[row] is not None:
                continue
            rows.tokens[row].append(token)
            rows.logps[row].append(logp)
            if token in self.family.stop_ids:
                rows.finished[row] = FinishReason.STOP
            elif len(rows.tokens[row]) == params.max_tokens:
                rows.finished[row] = FinishReason.LENGTH
            else:
                alive.append(i)
        return alive

    def _completions(self, rows: _Rows, counts: list[int]) -> list[tuple[Completion, ...]]:
        done = iter(zip(rows.tokens, rows.logps, rows.finished, strict=True))
        return [tuple(self._completion(*next(done)) for _ in range(count)) for count in counts]

    def _completion(self, tokens: list[int], logps: list[float], finished: FinishReason | None) -> Completion:
        assert finished is not None
        text = self.family.decode(tokens[:-1] if finished == FinishReason.STOP else tokens)
        segment = Segment(token_ids=tuple(tokens), logprobs=tuple(logps))
        return Completion(segments=(segment,), text=text, finish_reason=finished, policy_version=self.policy_version)
