"""Builders for tests and for trying things out: random groups on random media, and the plain reference forward."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlrft.models.base import Family
from vlrft.types import (
    Clip,
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

Size = tuple[int, int] | tuple[int, int, int]
"""(width, height) of an image, (width, height, frames) of a video."""


def noise_image(size: tuple[int, int], seed: int) -> Image.Image:
    """RGB noise of (width, height)."""
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=rng, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def noise_clip(size: tuple[int, int], num_frames: int, seed: int, fps: float = 2.0) -> Clip:
    """`num_frames` frames of RGB noise of (width, height), `fps` of them per second."""
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num_frames, size[1], size[0], 3), generator=rng, dtype=torch.uint8)
    times = tuple(i / fps for i in range(num_frames))
    return Clip(frames=pixels.numpy(), timestamps=times, fps=fps, duration=num_frames / fps, stored_size=size)


def noise_media(family: Family, sizes: Sequence[Size]) -> list[Image.Image | Clip]:
    """One image of each (width, height), one video of each (width, height, frames), at the size that it is shown at."""
    media: list[Image.Image | Clip] = []
    for seed, (width, height, *frames) in enumerate(sizes):
        if not frames:
            media.append(noise_image((width, height), seed))
            continue
        # Rates that are no whole numbers, so that the timing of positions and texts shows.
        clip = noise_clip(family.video_input_size((width, height), frames[0]), frames[0], seed, fps=1.5 + seed)
        media.append(replace(clip, stored_size=(width, height)))
    return media


def make_prompt(family: Family, name: str, sizes: Sequence[Size], question: str = "Where?") -> Prompt:
    """A prompt with `noise_media` of `sizes` in front of the question."""
    parts: list[Part] = [MediaPart(index=i) for i in range(len(sizes))]
    return family.render(name, [*parts, TextPart(text=question)], noise_media(family, sizes))


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

    `model` must be a plain transformers model with its own attention; the positions are the family's.
    """
    out = []
    prompt = torch.tensor(group.prompt.token_ids)
    for rollout in group.rollouts:
        completion = torch.tensor(rollout.completion.token_ids)
        ids = torch.cat([prompt, completion])[None]
        about = family.library_inputs(group.prompt, ids)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **about).logits[0]
        logits = logits.float() / temperature
        logits[:, list(family.banned_ids)] = -1e9
        logp = logits.log_softmax(-1)
        at = torch.arange(len(completion)) + len(prompt) - 1
        out.append(logp[at, completion])
    return out


def even_share(completions: Sequence[str], **columns: object) -> list[float]:
    """A reward with something to learn from random text: the share of characters with an even code."""
    return [sum(ord(c) % 2 == 0 for c in text) / max(1, len(text)) for text in completions]


def tiny_recipe(scenes: Path, output: Path, /, **blocks: Any) -> dict[str, Any]:
    """A recipe whose steps take milliseconds: 0.1 M parameters, 12 scenes of 56x56 pixels, a few short answers.

    Scenes go to `scenes`, the run to `output`. Each of `blocks` is laid over the recipe's own block, key by key.
    """
    recipe: dict[str, Any] = {
        "model": {
            "tiny": {
                "hidden_size": 32, "num_layers": 2, "intermediate_size": 48, "vision_hidden_size": 32,
                "vision_layers": 1, "vision_heads": 2, "vision_intermediate_size": 48, "number_tokens": 60,
            }
        },
        "data": {
            "root": str(scenes), "output_mode": "direct", "prompt_template": "{{ question }}",
            "train": {"format": "shapes", "options": dict(_SCENES, n=12)},
            "eval": {"format": "shapes", "options": dict(_SCENES, n=5)},
        },
        "engine": {"num_generations": 4, "max_completion_length": 6},
        "rewards": {"funcs": [{"func": "vlrft.testing:even_share"}]},
        "eval": {"metrics": ["box.iou", "vlrft.testing:even_share"]},
        "train": {"output_dir": str(output), "prompts_per_step": 4, "steps": 2, "learning_rate": 1e-3},
        "parallel": {"cpu": True},
        "log": {"tensorboard": False, "report": False, "progress": False},
    }  # fmt: skip
    for name, block in blocks.items():
        recipe[name] = {**recipe[name], **block} if name in recipe else block
    return recipe


_SCENES = {"size": [56, 56], "grid": 14, "min_size": 14, "max_size": 42}
