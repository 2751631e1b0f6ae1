"""Ranks are given the same number of passes; what fills them up changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
from vlrft.dist import World
from vlrft.level import filler, level
from vlrft.logprob import HeadOptions
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.pack import Batch, count, pack
from vlrft.policy import Policy
from vlrft.testing import make_group, make_prompt, random_completions

SIZES = {
    "hidden_size": 32, "num_layers": 2, "intermediate_size": 48, "vision_hidden_size": 32, "vision_layers": 1,
    "vision_heads": 2, "vision_intermediate_size": 48,
}  # fmt: skip


@pytest.fixture
def family() -> Family:
    return load_family(ModelConfig(tiny=TinyModelConfig(**SIZES)), DataConfig())


class Ranks(World):
    """One of several ranks, of which the others have told what they have."""

    def __init__(self, others: list[Any]) -> None:
        super().__init__(0, 1 + len(others))
        self.others = others

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]


def batches(family: Family) -> list[Batch]:
    """One with an image, one without."""
    prompts = [make_prompt(family, "a", [(56, 56)]), make_prompt(family, "b", [])]
    groups = [make_group(prompt, random_completions(family, [3, 5])) for prompt in prompts]
    return pack(
        groups, family.collate_media, token_budget=1, aggregation="token_mean_global", max_completion_length=8,
        counts=count(groups),
    )  # fmt: skip


def test_all_ranks_get_as_many_and_run_the_tower_together(family: Family) -> None:
    mine = batches(family)
    assert [batch.has_media for batch in mine] == [True, True, False, False]
    levelled = level(mine, family, Ranks([[False] * 3, [False, False, True, False, False, True]]))
    assert [batch.touch_vision for batch in levelled] == [True, True, True, False, False, True]
    assert [len(batch.groups) for batch in levelled] == [1, 1, 1, 1, 0, 0]
    assert [batch.touch_vision for batch in level(mine[2:], family, Ranks([[False]]))] == [True, False]
    assert level([], family, Ranks([[]])) == []


def test_where_only_the_tower_learns_it_always_runs(family: Family) -> None:
    family.freeze(vision_tower=False, projector=False, language_model=True)
    levelled = level([], family, Ranks([[False, False]]))
    assert [batch.touch_vision for batch in levelled] == [True, True]


@pytest.mark.parametrize("touch", [False, True])
def test_a_filler_has_no_loss_and_no_gradient(touch: bool, family: Family) -> None:
    policy = Policy(family, HeadOptions(banned_ids=family.banned_ids))
    batch = filler(family)
    output = policy(**batch.inputs, layout=batch.layout, touch_vision=touch)
    loss = (batch.weight_N * output["logp"]).sum()
    loss.backward()
    assert loss.item() == 0.0
    gradients = {name: p.grad for name, p in family.model.named_parameters() if p.grad is not None}
    assert any(name.startswith("model.visual") for name in gradients) == touch
    assert all(not gradient.any() for gradient in gradients.values())
    assert batch.loss_mask_N.tolist() == [0.0]
    assert torch.isfinite(output["logp"]).all()
