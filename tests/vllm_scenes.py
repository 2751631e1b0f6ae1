"""Prompts, and what vLLM's log-probs of its own tokens are compared with: for the tests of every way to run it."""

from __future__ import annotations

from typing import Any

import torch

from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
from vlrft.engines.base import Engine, Request, SamplingParams
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.models.tiny import build_tiny
from vlrft.testing import Size, make_group, make_prompt, plain_logps
from vlrft.types import FinishReason, Prompt

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


def assert_new_weights_arrive(family: Family, engine: Any, part: str) -> None:
    """After a sync the engine's log-probs are those of the moved weights, and no cache of the old ones is left."""
    scenes = prompts(family)
    before = engine.generate([Request(prompt=p, seeds=(3,)) for p in scenes], PARAMS)
    nudge(family, part)
    engine.sync(engine.policy_version + 1)
    assert sampled_gap(family, engine, scenes) < 1e-5
    after = engine.generate([Request(prompt=p, seeds=(3,)) for p in scenes], PARAMS)
    assert before[2][0].logprobs != after[2][0].logprobs
    assert after[0][0].policy_version == engine.policy_version


def assert_never_sampled(family: Family, engine: Engine) -> None:
    """Neither vision tokens nor, where they are banned, those that end a completion."""
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    (rows,) = engine.generate([Request(prompt=prompts(family)[0], seeds=tuple(range(16)))], params)
    assert all(len(row.token_ids) == 6 and row.finish_reason == FinishReason.LENGTH for row in rows)
    assert all({*family.banned_ids, *family.stop_ids}.isdisjoint(row.token_ids) for row in rows)
