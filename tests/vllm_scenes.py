"""Prompts, and what vLLM's log-probs of its own tokens are compared with: for the tests of every way to run it."""

from __future__ import annotations

import torch

from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
from vlrft.engines.base import Engine, Request, SamplingParams
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.models.tiny import build_tiny
from vlrft.testing import Size, make_group, make_prompt, plain_logps
from vlrft.types import Prompt

SCENES: dict[str, list[Size]] = {
    "an image": [(84, 56)],
    "two images": [(84, 84), (56, 112)],
    "a video": [(56, 56, 8)],
    "text only": [],
    "video, image, video": [(56, 84, 5), (84, 84), (56, 56, 4)],
}
PARAMS = SamplingParams(max_tokens=8)


def tiny(name: str) -> TinyModelConfig:
    return TinyModelConfig(family=name, hidden_size=128, intermediate_size=256, num_layers=2)


def tiny_family(name: str) -> Family:
    return load_family(ModelConfig(tiny=tiny(name)), DataConfig())


def prompts(family: Family) -> list[Prompt]:
    return [make_prompt(family, name, sizes) for name, sizes in SCENES.items()]


def sampled_gap(family: Family, engine: Engine, prompts: list[Prompt]) -> float:
    """Largest difference between the engine's log-prob of a token that it sampled and plain transformers'."""
    plain, _ = build_tiny(tiny(family.model.config.model_type))
    plain.load_state_dict(family.model.state_dict())
    requests = [Request(prompt=p, seeds=(11, 12, 13, 14)) for p in prompts]
    worst = 0.0
    for request, completions in zip(requests, engine.generate(requests, PARAMS), strict=True):
        group = make_group(request.prompt, [completion.token_ids for completion in completions])
        with torch.no_grad():
            expected = plain_logps(plain, family, group)
        for completion, logps in zip(completions, expected, strict=True):
            worst = max(worst, float((torch.tensor(completion.logprobs) - logps).abs().max()))
    return worst


def nudge(family: Family, part: str) -> None:
    """Change the weights of one part as a training step would, only more."""
    with torch.no_grad():
        for name, parameter in family.model.named_parameters():
            if family.part_of(name) == part:  # type: ignore[attr-defined]
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
