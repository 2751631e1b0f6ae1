"""Samples -> Groups: generate, parse and score. Stops 5 to 7 of a batch.

Consumes rendered samples; blocks on the engine; produces scored groups.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vlrft.config import Config
from vlrft.data.problems import DataError
from vlrft.engines.base import Engine, Request, SamplingParams, row_seed, sampled
from vlrft.log import Timers, UserError
from vlrft.registry import UnknownNameError
from vlrft.renderer import Rendered, Renderer
from vlrft.rewards.judge import Asked, Judge
from vlrft.scoring import Scoring
from vlrft.types import Completion, Group, Rollout, Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Groups that can be trained on, and what was set aside on the way."""

    groups: tuple[Group, ...]
    unscored: int
    """Completions to which no reward applied (or whose only reward raised), and those left alone in their group."""


@dataclass(slots=True, kw_only=True)
class RolloutWorker:
    """Everything between samples and scored groups."""

    renderer: Renderer
    engine: Engine
    judge: Judge
    timers: Timers

    def rollout(self, rendered: Sequence[Rendered], config: Config, seed_key: tuple[object, ...]) -> Scored:
        """G completions of every sample with their scores; tokens depend on `seed_key`, sample id and row alone."""
        rows = range(config.engine.num_generations)
        requests = [
            Request(prompt=prompt, seeds=tuple(row_seed(*seed_key, sample.id, row) for row in rows))
            for sample, prompt in rendered
        ]
        with Scoring(lambda part, done: self.score_all(rendered[part], done), len(rendered)) as scoring:
            with self.timers("gen"):
                for index, completions in sampled(self.engine, requests, sampling_params(config)):
                    scoring.put(index, completions)
            with self.timers("score"):
                groups = scoring.groups()
        return self.scored(groups, len(rendered) * len(rows))

    def scored(self, groups: Sequence[Group], completions: int) -> Scored:
        """Groups with something to compare; `completions`: how many there were before any was left out."""
        kept = tuple(group for group in groups if len(group.rollouts) > 1)
        return Scored(groups=kept, unscored=completions - sum(len(group.rollouts) for group in kept))

    def score_all(self, rendered: Sequence[Rendered], completions: Sequence[Sequence[Completion]]) -> list[Group]:
        """Judge the completions of each of `rendered`, side by side; those that no reward applies to are left out."""
        kept = [self._without_vision_ids(pair[0], done) for pair, done in zip(rendered, completions, strict=True)]
        asked: list[Asked] = []
        for (sample, prompt), done in zip(rendered, kept, strict=True):
            meta = self.renderer.judge_meta(sample, prompt)
            ids = [list(completion.token_ids) for completion in done]
            metas = [{**meta, "num_tokens": len(tokens), "completion_ids": tokens} for tokens in ids]
            asked.append(([completion.text for completion in done], sample, metas))
        groups = []
        for (sample, prompt), done, scores in zip(rendered, kept, self.judge.score_groups(asked), strict=True):
            rollouts = [
                Rollout(completion=completion, score=score, reward=score.value)
                for completion, score in zip(done, scores, strict=True)
                if score.value is not None
            ]
            groups.append(Group(sample=sample, prompt=prompt, rollouts=tuple(rollouts)))
        return groups

    def _without_vision_ids(self, sample: Sample, completions: Sequence[Completion]) -> Sequence[Completion]:
        """All but completions with a banned token: placeholders without pixels would break the training forward."""
        banned = set(self.renderer.family.banned_ids)
        good = [c for c in completions if banned.isdisjoint(c.token_ids)]
        if left_out := len(completions) - len(good):
            logger.warning("sample %s: %d completions hold vision tokens and are left out", sample.id, left_out)
        return good


@contextmanager
def complaints_about(key: str) -> Iterator[None]:
    """What a part says of its settings while it is built becomes a UserError that names the config key."""
    try:
        yield
    except (UserError, UnknownNameError, DataError):
        raise
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(str(error) if str(error).startswith(key) else f"{key}: {error}") from error


def training_judge(config: Config) -> Judge:
    """The recipe's rewards. Raises UnknownNameError for an unknown one, UserError for what cannot work."""
    rewards = config.rewards
    with complaints_about("rewards"):
        return Judge(
            rewards.funcs,
            config.data.output_mode,
            rewards.max_errors,
            lenient=rewards.lenient_extraction,
            combine=rewards.combine,
            correct=rewards.correct,
            meta=_limits(config),
        )


def evaluation_judge(config: Config) -> Judge:
    """The metrics of the eval block, as `training_judge`."""
    with complaints_about("eval.metrics"):
        return Judge(
            config.eval.metrics,
            config.data.output_mode,
            config.rewards.max_errors,
            meta=_limits(config),
            where="eval.metrics",
        )


def _limits(config: Config) -> dict[str, Any]:
    return {"max_tokens": config.engine.max_completion_length}


def sampling_params(config: Config) -> SamplingParams:
    """Training rollouts, as the engine block says."""
    engine = config.engine
    return SamplingParams(
        temperature=engine.temperature,
        top_p=engine.top_p,
        top_k=engine.top_k,
        max_tokens=engine.max_completion_length,
        ignore_eos=engine.ignore_eos,
    )
