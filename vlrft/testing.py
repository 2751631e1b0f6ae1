"""Builders for tests and for trying things out: random groups on random images, and the plain reference forward."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlrft.models.base import Family
from vlrft.types import (
    Completion,
    FinishReason,
    Group,
    MediaPart,
    Part,
    Prompt,
    Rollout,
    Sample,
    Score,
    Segment,
    TextPart,
)


def noise_image(size: tuple[int, int], seed: int) -> Image.Image:
    """RGB noise of (width, height)."""
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=rng, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def make_prompt(family: Family, name: str, sizes: Sequence[tuple[int, int]], question: str = "Where?") -> Prompt:
    """A prompt with one noise image of each (width, height) in `sizes`."""
    parts: list[Part] = [MediaPart(index=i) for i in range(len(sizes))]
    images = [noise_image(size, seed=i) for i, size in enumerate(sizes)]
    return family.render(name, [*parts, TextPart(text=question)], images)


def make_group(prompt: Prompt, completions: Sequence[Sequence[int]], rewards: Sequence[float] | None = None) -> Group:
    """A group of given completion token ids."""
    rewards = rewards if rewards is not None else [float(i) for i in range(len(completions))]
    rollouts = tuple(
        Rollout(
            completion=Completion(
                segments=(Segment(token_ids=tuple(ids), logprobs=(0.0,) * len(ids)),),
                text="",
                finish_reason=FinishReason.STOP,
            ),
            score=Score(value=reward),
            reward=reward,
        )
        for ids, reward in zip(completions, rewards, strict=True)
    )
    sample = Sample(id=prompt.sample_id, task="grounding", parts=(TextPart(text=""),))
    return Group(sample=sample, prompt=prompt, rollouts=rollouts)


def random_completions(family: Family, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random text tokens (no special ones), one list per length."""
    rng = random.Random(seed)
    return [[rng.randrange(256) for _ in range(length)] for length in lengths]


def plain_logps(model: Any, family: Family, group: Group, temperature: float = 1.0) -> list[Tensor]:
    """Reference: one ordinary forward of the library's model per completion, log-probs of its tokens [L_i].

    `model` must be a plain transformers model with its own attention; positions come from its own `get_rope_index`.
    """
    out = []
    prompt = torch.tensor(group.prompt.token_ids)
    for rollout in group.rollouts:
        completion = torch.tensor(rollout.completion.token_ids)
        ids = torch.cat([prompt, completion])[None]
        kinds = (ids == family.image_id).int()  # type: ignore[attr-defined]
        logits = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds, **dict(group.prompt.mm)
        ).logits[0]
        logits = logits.float() / temperature
        logits[:, list(family.banned_ids)] = -1e9
        logp = logits.log_softmax(-1)
        at = torch.arange(len(completion)) + len(prompt) - 1
        out.append(logp[at, completion])
    return out
