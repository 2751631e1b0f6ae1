"""Samples -> Groups: media, render, generate, parse and score. Stops 3 to 7 of a batch.

Consumes samples; blocks on the engine; produces scored groups. Prompts are rendered once per sample and kept while they
fit in memory, so that later epochs, evaluations and both stages of a run do not decode and resize again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from vlrft.config import Config, DataConfig, RewardSpec
from vlrft.data.media import MediaError, image_size, open_image
from vlrft.data.problems import DataError, Skipped
from vlrft.data.tasks import build_task
from vlrft.engines.base import Engine, Request, SamplingParams, row_seed
from vlrft.log import Timers, UserError
from vlrft.models.base import Family, PromptError
from vlrft.registry import UnknownNameError
from vlrft.rewards.judge import Judge
from vlrft.types import Completion, FinishReason, Group, Part, Prompt, Rollout, Sample, Segment

logger = logging.getLogger(__name__)

PROMPT_CACHE_BYTES = 256 * 2**20

Rendered = tuple[Sample, Prompt]
"""A sample with its prompt."""


class Renderer:
    """Sample -> Prompt for one task and one model family."""

    def __init__(self, family: Family, data: DataConfig) -> None:
        self.family = family
        self.data = data
        self.task = build_task(data.task)
        self._cache: OrderedDict[int, Rendered] = OrderedDict()
        """By identity of the sample, which the entry keeps alive: splits may use the same ids for other images."""
        self._cached_bytes = 0

    def prompt(self, sample: Sample) -> Prompt:
        """Raises MediaError or PromptError, naming the sample's file or id, for a sample that cannot be rendered."""
        key = id(sample)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key][1]
        prompt = self._render(sample)
        self._cache[key] = (sample, prompt)
        self._cached_bytes += _size(prompt)
        while self._cached_bytes > PROMPT_CACHE_BYTES and len(self._cache) > 1:
            _, (_, oldest) = self._cache.popitem(last=False)
            self._cached_bytes -= _size(oldest)
        return prompt

    def usable(self, samples: Sequence[Sample]) -> tuple[list[Rendered], list[Skipped]]:
        """Render all; with `data.on_bad_sample="skip"` those that cannot be are logged and handed back as skipped."""
        good: list[Rendered] = []
        left_out: list[Skipped] = []
        for sample in samples:
            try:
                good.append((sample, self.prompt(sample)))
            except (MediaError, PromptError) as error:
                if self.data.on_bad_sample == "error":
                    raise
                logger.warning("sample %s left out: %s", sample.id, error)
                left_out.append(Skipped(where=f"sample {sample.id}", reason=str(error)))
        return good, left_out

    def reference(self, sample: Sample, prompt: Prompt) -> Completion:
        """The answer that scores full marks, as the completion that supervised fine-tuning teaches."""
        text = self.reference_text(sample, self.judge_meta(prompt))
        ids = (*self.family.encode(text), self.family.stop_ids[0])
        segment = Segment(token_ids=ids, logprobs=(0.0,) * len(ids))
        return Completion(segments=(segment,), text=text, finish_reason=FinishReason.STOP)

    def reference_text(self, sample: Sample, meta: Mapping[str, Any]) -> str:
        """`meta` as `judge_meta` and `check` return it."""
        image, seen = meta.get("image_size"), meta.get("input_size")
        return self.task.reference(
            sample,
            space=meta["coord_space"],
            image_size=(image[0], image[1]) if image else None,
            input_size=(seen[0], seen[1]) if seen else None,
            output_mode=self.data.output_mode,
        )

    def judge_meta(self, prompt: Prompt) -> dict[str, Any]:
        """What a reward must know of the prompt: sizes and the space that the completion's coordinates are in."""
        return _meta(prompt.coord_space, prompt.image_sizes, prompt.input_sizes)

    def check(self, sample: Sample) -> dict[str, Any]:
        """`judge_meta` from image headers alone. Raises PromptError or MediaError when the prompt would be refused."""
        stored = [image_size(ref) for ref in sample.media]
        sizes = [self.data.resize or size for size in stored]
        self._check_length(sample, self.family.prompt_length(sample.id, self._parts(sample, sizes), sizes))
        return _meta(self.family.coord_space, stored, [self.family.input_size(size) for size in sizes])

    def _render(self, sample: Sample) -> Prompt:
        images = [open_image(ref) for ref in sample.media]
        stored_sizes = tuple(image.size for image in images)
        if self.data.resize is not None:
            images = [image.resize(self.data.resize) for image in images]
        parts = self._parts(sample, [image.size for image in images])
        prompt = self.family.render(sample.id, parts, images)
        self._check_length(sample, len(prompt.token_ids))
        return replace(prompt, image_sizes=stored_sizes)

    def _parts(self, sample: Sample, sizes: Sequence[tuple[int, int]]) -> tuple[Part, ...]:
        return self.task.user_parts(
            sample,
            space=self.family.coord_space,
            output_mode=self.data.output_mode,
            template=self.data.prompt_template,
            input_size=self.family.input_size(sizes[0]) if sizes else None,
        )

    def _check_length(self, sample: Sample, length: int) -> None:
        if length > self.data.max_prompt_length:
            raise PromptError(
                f"sample {sample.id!r}: the prompt has {length} tokens, data.max_prompt_length is "
                f"{self.data.max_prompt_length}; raise it, or lower data.max_pixels (media are never cut)"
            )


def _meta(space: str, image_sizes: Sequence[tuple[int, int]], input_sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    meta: dict[str, Any] = {"coord_space": space}
    if image_sizes:
        meta |= {"image_size": list(image_sizes[0]), "input_size": list(input_sizes[0])}
    return meta


def _size(prompt: Prompt) -> int:
    tensors = sum(value.nbytes for value in prompt.mm.values())
    return int(tensors) + 32 * len(prompt.token_ids)


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
        with self.timers("gen"):
            completions = self.engine.generate(requests, sampling_params(config))
        with self.timers("score"):
            groups = [self.score(*pair, done) for pair, done in zip(rendered, completions, strict=True)]
        return self.scored(groups, len(rendered) * len(rows))

    def scored(self, groups: Sequence[Group], completions: int) -> Scored:
        """Groups with something to compare; `completions`: how many there were before any was left out."""
        kept = tuple(group for group in groups if len(group.rollouts) > 1)
        return Scored(groups=kept, unscored=completions - sum(len(group.rollouts) for group in kept))

    def score(self, sample: Sample, prompt: Prompt, completions: Sequence[Completion]) -> Group:
        """Judge the completions together; one that no reward applies to is left out of the group."""
        completions = self._without_vision_ids(sample, completions)
        meta = self.renderer.judge_meta(prompt)
        metas = [{**meta, "num_tokens": len(completion.token_ids)} for completion in completions]
        scores = self.judge.score_group([completion.text for completion in completions], sample, metas)
        rollouts = [
            Rollout(completion=completion, score=score, reward=score.value)
            for completion, score in zip(completions, scores, strict=True)
            if score.value is not None
        ]
        return Group(sample=sample, prompt=prompt, rollouts=tuple(rollouts))

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
        raise UserError(f"{key}: {error}") from error


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
        specs = [RewardSpec(func=name) for name in config.eval.metrics]
        return Judge(specs, config.data.output_mode, config.rewards.max_errors, meta=_limits(config))


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
