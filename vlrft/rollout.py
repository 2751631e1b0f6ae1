"""Samples -> Groups: media, render, generate, parse and score. Stops 3 to 7 of a batch.

Consumes samples; blocks on the engine; produces scored groups. Prompts are rendered once per sample and kept while they
fit in memory, so that later epochs, evaluations and both stages of a run do not decode and resize again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlrft.config import Config, DataConfig
from vlrft.data.media import MediaError, image_size, open_image
from vlrft.data.tasks import build_task
from vlrft.engines.base import Engine, Request, SamplingParams, row_seed
from vlrft.log import Timers
from vlrft.models.base import Family, PromptError
from vlrft.rewards.judge import Judge
from vlrft.types import Completion, FinishReason, Group, Part, Prompt, Rollout, Sample, Score, Segment

logger = logging.getLogger(__name__)

PROMPT_CACHE_BYTES = 256 * 2**20


class Renderer:
    """Sample -> Prompt for one task and one model family."""

    def __init__(self, family: Family, data: DataConfig) -> None:
        self.family = family
        self.data = data
        self.task = build_task(data.task)
        self.failed: dict[str, str] = {}
        """Sample id -> why it could not be rendered."""
        self._cache: OrderedDict[str, Prompt] = OrderedDict()
        self._cached_bytes = 0

    def prompt(self, sample: Sample) -> Prompt:
        """Raises MediaError or PromptError, naming the sample's file or id, for a sample that cannot be rendered."""
        cached = self._cache.get(sample.id)
        if cached is not None:
            self._cache.move_to_end(sample.id)
            return cached
        prompt = self._render(sample)
        self._cache[sample.id] = prompt
        self._cached_bytes += _size(prompt)
        while self._cached_bytes > PROMPT_CACHE_BYTES and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= _size(oldest)
        return prompt

    def usable(self, samples: Sequence[Sample]) -> list[Sample]:
        """Render all; with `data.on_bad_sample="skip"` those that cannot be are left out, logged and counted."""
        good = []
        for sample in samples:
            try:
                self.prompt(sample)
            except (MediaError, PromptError) as error:
                if self.data.on_bad_sample == "error":
                    raise
                self.failed[sample.id] = str(error)
                logger.warning("left out: %s", error)
            else:
                good.append(sample)
        return good

    def reference(self, sample: Sample, prompt: Prompt) -> Completion:
        """The answer that scores full marks, as the completion that supervised fine-tuning teaches."""
        text = self.task.reference(
            sample,
            space=prompt.coord_space,
            image_size=prompt.image_sizes[0] if prompt.image_sizes else None,
            input_size=prompt.input_sizes[0] if prompt.input_sizes else None,
            output_mode=self.data.output_mode,
        )
        ids = (*self.family.encode(text), self.family.stop_ids[0])
        segment = Segment(token_ids=ids, logprobs=(0.0,) * len(ids))
        return Completion(segments=(segment,), text=text, finish_reason=FinishReason.STOP)

    def judge_meta(self, prompt: Prompt) -> dict[str, Any]:
        """What a reward must know of the prompt: sizes and the space that the completion's coordinates are in."""
        meta: dict[str, Any] = {"coord_space": prompt.coord_space}
        if prompt.image_sizes:
            meta |= {"image_size": list(prompt.image_sizes[0]), "input_size": list(prompt.input_sizes[0])}
        return meta

    def check(self, sample: Sample) -> None:
        """Raise PromptError when the prompt would be refused; looks at image headers only."""
        sizes = [self.data.resize or image_size(ref) for ref in sample.media]
        self._check_length(sample, self.family.prompt_length(sample.id, self._parts(sample, sizes), sizes))

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


def _size(prompt: Prompt) -> int:
    tensors = sum(value.nbytes for value in prompt.mm.values())
    return int(tensors) + 32 * len(prompt.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Groups that can be trained on, and what was set aside on the way."""

    groups: tuple[Group, ...]
    unscored: int
    """Completions to which no reward applied (or whose only reward raised)."""


@dataclass(slots=True, kw_only=True)
class RolloutWorker:
    """Everything between samples and scored groups."""

    renderer: Renderer
    engine: Engine
    judge: Judge
    timers: Timers

    def rollout(self, samples: Sequence[Sample], config: Config, seed_key: tuple[object, ...]) -> Scored:
        """G completions of every sample with their scores; tokens depend on `seed_key`, sample id and row alone."""
        engine = config.engine
        with self.timers("media"):
            prompts = [self.renderer.prompt(sample) for sample in samples]
        rows = range(engine.num_generations)
        requests = [
            Request(prompt=p, seeds=tuple(row_seed(*seed_key, p.sample_id, row) for row in rows)) for p in prompts
        ]
        with self.timers("gen"):
            completions = self.engine.generate(requests, sampling_params(config))
        with self.timers("score"):
            scored = [
                self.score(sample, prompt, done)
                for sample, prompt, done in zip(samples, prompts, completions, strict=True)
            ]
        kept = tuple(group for group in scored if len(group.rollouts) > 1)
        wanted = len(samples) * engine.num_generations
        return Scored(groups=kept, unscored=wanted - sum(len(group.rollouts) for group in scored))

    def score(self, sample: Sample, prompt: Prompt, completions: Sequence[Completion]) -> Group:
        """Judge every completion; one that no reward applies to is left out of the group."""
        meta = self.renderer.judge_meta(prompt)
        rollouts = []
        for completion in completions:
            about = {**meta, "num_tokens": len(completion.token_ids)}
            score: Score = self.judge.score(completion.text, sample, about)
            if score.value is not None:
                rollouts.append(Rollout(completion=completion, score=score, reward=score.value))
        return Group(sample=sample, prompt=prompt, rollouts=tuple(rollouts))


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
