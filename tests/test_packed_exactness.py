"""Packed log-probs and gradients against the library's own per-sequence forward, for every family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
from vlrft.logprob import HeadOptions
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.models.tiny import build_tiny
from vlrft.pack import count, pack
from vlrft.policy import Policy
from vlrft.testing import make_group, make_prompt, noise_clip, plain_logps, random_completions
from vlrft.types import Group, MediaPart, TextPart

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"]
SCENES = {
    "one image": [([(84, 84)], [5, 3, 7, 1])],
    "sizes differ": [([(84, 56)], [4, 6]), ([(140, 112)], [2, 9, 3]), ([(56, 56)], [5])],
    "several images": [([(84, 84), (56, 112)], [6, 2]), ([(56, 56), (84, 56), (56, 56)], [3, 3])],
    "text only": [([], [4, 8, 2])],
    "mixed": [([(84, 84)], [4, 2]), ([], [3, 5])],
    "G = 1": [([(112, 84)], [6])],
    "video": [([(84, 56, 6)], [4, 7, 2])],
    "several videos": [([(56, 56, 4), (84, 56, 3)], [3, 5]), ([(56, 84, 2)], [6])],
    "image and video": [([(84, 84), (56, 84, 4), (56, 56), (84, 56, 2)], [2, 6])],
    "image, video, text only": [([(84, 84)], [4, 2]), ([(84, 56, 4)], [3, 3]), ([], [3, 5]), ([(56, 56)], [2])],
}


def tiny(family: str) -> TinyModelConfig:
    return TinyModelConfig(family=family, hidden_size=64, num_layers=2, intermediate_size=96, vision_hidden_size=32,
                           vision_layers=3, vision_intermediate_size=64, number_tokens=10)  # fmt: skip


def make_groups(family: Family, scene: str) -> list[Group]:
    return [
        make_group(
            make_prompt(family, f"{scene}-{i}", sizes, f"Question {i}?" + "x" * i),
            random_completions(family, lengths, seed=i),
        )
        for i, (sizes, lengths) in enumerate(SCENES[scene])
    ]


def plain_grads(name: str, config: ModelConfig, groups: list[Group], family: Family, coefficients: torch.Tensor):
    model, _ = build_tiny(tiny(name))
    for (key, parameter), mine in zip(model.named_parameters(), family.model.parameters(), strict=True):
        assert torch.equal(parameter, mine), key
        parameter.requires_grad_(mine.requires_grad)
    logps = torch.cat([logp for group in groups for logp in plain_logps(model, family, group)])
    (logps * coefficients).sum().backward()
    return logps.detach(), {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


def packed_grads(config: ModelConfig, groups: list[Group], family: Family, coefficients: torch.Tensor, budget: int):
    options = HeadOptions(banned_ids=family.banned_ids, chunk_size=5, accumulate_in_place=budget < 100)
    policy = Policy(family, options, config.attention)
    batches = pack(groups, family.collate_media, token_budget=budget, aggregation="token_sum",
                   max_completion_length=16, counts=count(groups))  # fmt: skip
    logps, at = [], 0
    for batch in batches:
        logp = policy(**batch.inputs, layout=batch.layout)["logp"]
        (logp * coefficients[at : at + len(logp)]).sum().backward()
        at += len(logp)
        logps.append(logp.detach())
    return torch.cat(logps), {k: p.grad for k, p in family.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("frozen", [False, True], ids=["trained tower", "frozen tower"])
def test_packed_equals_plain(name: str, scene: str, frozen: bool) -> None:
    config = ModelConfig(tiny=tiny(name), freeze_vision_tower=frozen, freeze_projector=frozen)
    family = load_family(config, DataConfig())
    groups = make_groups(family, scene)
    total = sum(len(r.completion.token_ids) for g in groups for r in g.rollouts)
    coefficients = torch.randn(total, generator=torch.Generator().manual_seed(3))
    expected, expected_grads = plain_grads(name, config, groups, family, coefficients)
    for budget in (10_000, 40):
        family.model.zero_grad()
        ours, grads = packed_grads(config, groups, family, coefficients, budget)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
        assert grads.keys() == expected_grads.keys()
        learnt = {family.part_of(key) for key in grads}  # type: ignore[attr-defined]
        seen = {"vision_tower", "projector"} if not frozen and SCENES[scene][0][0] else set()
        assert learnt == {"language_model", *seen}
        for key, reference in expected_grads.items():
            error = (grads[key] - reference).norm() / (reference.norm() + 1e-3)
            assert error < 1e-4, f"{key}: relative gradient error {error:.2e}"


@pytest.mark.parametrize("attention", ["dense", "two_part"])
@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_and_kernels_change_nothing(name: str, attention: str) -> None:
    results = []
    for checkpointing in (False, True):
        config = ModelConfig(tiny=tiny(name), gradient_checkpointing=checkpointing)
        config = config.model_copy(update={"attention": attention})
        family = load_family(config, DataConfig())
        family.model.train()
        groups = make_groups(family, "image, video, text only")
        results.append(packed_grads(config, groups, family, torch.ones(22), 10_000))
    (logp, grads), (logp_again, grads_again) = results
    torch.testing.assert_close(logp, logp_again)
    for key, grad in grads.items():
        torch.testing.assert_close(grad, grads_again[key], atol=1e-6, rtol=1e-4)


def test_a_video_whose_time_outlasts_the_text() -> None:
    """Frames ten seconds apart: rotary time runs far beyond rows and columns, and text goes on from there."""
    family = load_family(ModelConfig(tiny=tiny("qwen2_5_vl")), DataConfig())
    clip = noise_clip((56, 56), 8, seed=0, fps=0.1)
    prompt = family.render("slow", [MediaPart(index=0), TextPart(text="?")], [clip])
    assert prompt.next_position > len(prompt.token_ids) + 50
    groups = [make_group(prompt, random_completions(family, [6, 3]))]
    plain, _ = build_tiny(tiny("qwen2_5_vl"))
    expected = torch.cat(plain_logps(plain, family, groups[0])).detach()
    ours, _ = packed_grads(ModelConfig(tiny=tiny("qwen2_5_vl")), groups, family, torch.ones(9), 10_000)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_a_group_over_the_budget_is_split_by_completions() -> None:
    family = load_family(ModelConfig(tiny=tiny("qwen2_5_vl")), DataConfig())
    prompt = make_prompt(family, "p", [(84, 84)])
    group = make_group(prompt, random_completions(family, [5, 5, 5, 5, 30]))
    group = replace(group, advantages=(1.0, 2.0, 3.0, 4.0, 5.0))
    length = len(prompt.token_ids)
    batches = pack([group], family.collate_media, token_budget=length + 9, aggregation="token_mean_global",
                   max_completion_length=30, counts=count([group]))  # fmt: skip
    assert [[len(r.completion.token_ids) for r in g.rollouts] for b in batches for g in b.groups] == [
        [5, 5],
        [5, 5],
        [30],
    ]
    assert torch.cat([b.advantage_N for b in batches]).unique().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert sum(float(b.weight_N.sum()) for b in batches) == pytest.approx(1.0)
    assert all("pixel_values" in b.inputs for b in batches)
