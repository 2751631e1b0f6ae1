"""What a stage asks of memory: its prompts by length, and the groups, micro-batches and rollouts that come of them.

Every row's prompt is measured from the headers of its media; only the longest and the shortest are rendered.
Completions count as long as they may get.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vlrft.compose import Stage
from vlrft.config import Config
from vlrft.coords import CoordError
from vlrft.data.media import MediaError
from vlrft.data.problems import DataError
from vlrft.data.sources import Role, load_samples
from vlrft.engines.base import Request
from vlrft.log import UserError
from vlrft.models.base import Family, PromptError
from vlrft.pack import Batch, count, pack
from vlrft.renderer import Renderer
from vlrft.types import Completion, FinishReason, Group, Prompt, Rollout, Sample, Score, Segment

UNUSABLE = (PromptError, MediaError, CoordError, DataError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One stage's work on one rank."""

    longest: Prompt
    shortest: Prompt
    lengths: tuple[int, ...]
    """Prompt tokens of every row looked at, longest first."""
    eval_lengths: tuple[int, ...]
    rows: int
    """Training rows in all."""
    unusable: int
    """Rows looked at that cannot be shown; `vlrft validate` says why."""
    completion_tokens: int
    """Of the longest completion: the limit, or in an SFT stage the longest reference answer."""
    generations: int
    """Completions of a prompt: G, or 1 in an SFT stage."""
    groups: int
    """Prompts of one optimiser step on one rank."""
    prompts: int
    """Prompts of one rollout on one rank."""

    @property
    def mean_length(self) -> float:
        return sum(self.lengths) / len(self.lengths)

    @property
    def media_bytes_per_token(self) -> float:
        """Of the longest prompt: pixels per prompt token."""
        return media_bytes(self.longest) / len(self.longest.token_ids)


def demand_of(stage: Stage, renderer: Renderer, *, ranks: int, rows: int) -> Demand:
    """rows: so many rows of each split are measured, evenly spread. Raises UserError when none can be shown."""
    config = stage.config
    samples = _spread(load_samples(config.data, config.data.train, role="train", collect=True).samples, rows)
    fitting = [row for row in _measured(samples, renderer) if row.length <= config.data.max_prompt_length]
    if not fitting:
        raise UserError(f"stage {stage.name}: no training row can be shown to the model; vlrft validate says why")
    held_out = _measured(_eval_samples(config, rows), renderer)
    limit = config.engine.max_completion_length
    prompts = math.ceil(min(config.train.prompts_per_step, len(samples)) / ranks)
    grpo = stage.kind == "grpo"
    return Demand(
        longest=renderer.prompt(fitting[0].sample),
        shortest=renderer.prompt(fitting[-1].sample),
        lengths=tuple(row.length for row in fitting),
        eval_lengths=tuple(row.length for row in held_out),
        rows=len(samples),
        unusable=len(samples) - len(fitting),
        completion_tokens=limit if grpo else min(limit, _longest_reference(fitting, renderer)),
        generations=config.engine.num_generations if grpo else 1,
        groups=math.ceil(prompts / config.objective.minibatches) if grpo else prompts,
        prompts=prompts,
    )


def _eval_samples(config: Config, rows: int) -> list[Sample]:
    if config.data.eval is None:
        return []
    role: Role = "eval"
    return _spread(load_samples(config.data, config.data.eval, role=role, collect=True).samples, rows)


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    if len(samples) <= count:
        return list(samples)
    return [samples[i * len(samples) // count] for i in range(count)]


@dataclass(frozen=True, slots=True)
class _Measured:
    """A row that can be shown."""

    sample: Sample
    meta: Mapping[str, Any]
    length: int
    """Prompt tokens."""


def _measured(samples: Sequence[Sample], renderer: Renderer) -> list[_Measured]:
    """The rows that can be shown, longest first."""
    found: list[_Measured] = []
    for sample in samples:
        with suppress(*UNUSABLE):  # such rows are counted by the difference
            found.append(_Measured(sample, *renderer.measure(sample)))
    return sorted(found, key=lambda row: -row.length)


def _longest_reference(rows: Sequence[_Measured], renderer: Renderer) -> int:
    """Tokens of the longest reference answer, with the one that ends it; of the rows that have one."""
    longest = 1
    for row in rows:
        with suppress(*UNUSABLE):
            longest = max(longest, renderer.reference_tokens(row.sample, row.meta))
    return longest


def group_of(prompt: Prompt, generations: int, tokens: int) -> Group:
    """A prompt with `generations` completions of `tokens` tokens each; which ones does not matter."""
    segment = Segment(token_ids=(0,) * tokens, logprobs=(0.0,) * tokens)
    completion = Completion(segments=(segment,), text="", finish_reason=FinishReason.LENGTH)
    rollout = Rollout(completion=completion, score=Score(value=0.0), reward=0.0)
    sample = Sample(id=prompt.sample_id, task="", parts=())
    return Group(sample=sample, prompt=prompt, rollouts=(rollout,) * generations, advantages=(0.0,) * generations)


def micro_batches(demand: Demand, prompt: Prompt, family: Family, budget: int) -> list[Batch]:
    """The micro-batches of an optimiser step whose prompts are all like `prompt`."""
    groups = [group_of(prompt, demand.generations, demand.completion_tokens)] * demand.groups
    return pack(
        groups,
        family.collate_media,
        token_budget=budget,
        aggregation="token_mean_global",
        max_completion_length=demand.completion_tokens,
        counts=count(groups),
    )


def requests_of(prompt: Prompt, prompts: int, rows: int) -> list[Request]:
    """`prompts` requests for `rows` completions each."""
    return [Request(prompt=prompt, seeds=tuple(range(rows)))] * prompts


def as_many_of_the_longest(lengths: Sequence[int], count: int) -> int:
    """How many prompts of the longest length hold as many tokens as the `count` longest do."""
    return math.ceil(sum(lengths[:count]) / lengths[0]) if lengths else 0


def media_bytes(prompt: Prompt) -> int:
    """Pixels of a rendered prompt as the vision tower takes them."""
    return sum(int(value.nbytes) for value in prompt.mm.values())
