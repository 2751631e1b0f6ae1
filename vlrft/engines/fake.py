"""Scripted completions: the whole loop without a model that samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlrft.engines.base import Request, SamplingParams
from vlrft.models.base import Family
from vlrft.types import Completion, FinishReason, Segment

Script = Callable[[Request, int], str]
"""(request, row) -> completion text."""


class FakeEngine:
    """Answers with `script`'s text, tokenised by the family; log-probs are 0."""

    def __init__(self, family: Family, script: Script) -> None:
        self.family = family
        self.script = script
        self.policy_version = 0

    def sync(self, policy_version: int) -> None:
        self.policy_version = policy_version

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[tuple[Completion, ...]]:
        return [tuple(self._one(r, row, params) for row in range(len(r.seeds))) for r in requests]

    def _one(self, request: Request, row: int, params: SamplingParams) -> Completion:
        ids = (*self.family.encode(self.script(request, row)), self.family.stop_ids[0])
        finish = FinishReason.STOP if len(ids) <= params.max_tokens else FinishReason.LENGTH
        ids = ids[: params.max_tokens]
        text = self.family.decode(ids[:-1] if finish == FinishReason.STOP else ids)
        segment = Segment(token_ids=ids, logprobs=(0.0,) * len(ids))
        return Completion(segments=(segment,), text=text, finish_reason=finish, policy_version=self.policy_version)
