"""Shadow tensors: the same step, counted with tensors that have no memory and with real ones."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from vlrft.config import DataConfig, ModelConfig, TinyModelConfig
from vlrft.logprob import HeadOptions
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.pack import count, pack
from vlrft.plan.shadow import Shadow, Shadows, shadow_model, shadow_prompt
from vlrft.policy import Policy
from vlrft.testing import make_group, make_prompt, random_completions
from vlrft.types import Group

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"]


class Counting(TorchDispatchMode):
    """Counts the storages of real tensors, as Shadows does those of shadows."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}

    def ignore(self, tensor: Tensor) -> None:
        self._watch(tensor, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self._watch(tensor, tensor.untyped_storage().nbytes())
        return out

    def _watch(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        self.live += size
        self.peak = max(self.peak, self.live)
        self._known[storage._cdata] = weakref.finalize(storage, self._gone, storage._cdata, size)

    def _gone(self, key: int, size: int) -> None:
        del self._known[key]
        self.live -= size


def make(name: str, **model: Any) -> tuple[Family, list[Group]]:
    tiny = TinyModelConfig(family=name, vocab_size=2000)
    family = load_family(ModelConfig(tiny=tiny, **model), DataConfig())
    groups = [
        make_group(make_prompt(family, str(i), sizes, "Where?"), random_completions(family, [40, 24, 33]))
        for i, sizes in enumerate([[(280, 224)], [(168, 168), (56, 112)]])
    ]
    return family, groups


def step(family: Family, groups: list[Group], mode: Any, **options: Any) -> tuple[int, int]:
    """(bytes kept by the forward pass, peak) of the second of two micro-batches."""
    policy = Policy(family, HeadOptions(accumulate_in_place=True, **options), "auto").train()
    batch = pack(groups, family.collate_media, token_budget=10**6, aggregation="token_sum",
                 max_completion_length=64, counts=count(groups))[0]  # fmt: skip
    kept = 0
    for _ in range(2):
        mode.peak = start = mode.live
        out = policy(**batch.inputs, layout=batch.layout)
        kept = mode.live - start
        out["logp"].sum().backward()
        del out
        peak = mode.peak - start
    return kept, peak


def shadow_step(family: Family, groups: list[Group], **options: Any) -> tuple[int, int]:
    mode = Shadows()
    shadow_model(family.model, mode)
    with mode:
        shadowed = [replace(group, prompt=shadow_prompt(group.prompt, mode)) for group in groups]
        return step(family, shadowed, mode, **options)


def real_step(family: Family, groups: list[Group], **options: Any) -> tuple[int, int]:
    mode = Counting()
    for tensor in (*family.model.parameters(), *family.model.buffers()):
        mode.ignore(tensor)
    with mode:
        return step(family, groups, mode, **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_shadow_step_counts_what_a_real_one_holds(name: str) -> None:
    expected = real_step(*make(name))
    kept, peak = shadow_step(*make(name))
    assert kept == pytest.approx(expected[0], rel=0.02)
    assert peak == pytest.approx(expected[1], rel=0.02)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ({"gradient_checkpointing": True}, {}),
        ({"freeze_vision_tower": True, "freeze_projector": True}, {}),
        ({}, {"cache_bytes": 0, "chunk_size": 32}),
        ({"attention": "dense"}, {}),
        ({"adapter": {"r": 8}}, {}),
        ({"adapter": {"r": 8, "parts": ["language_model", "projector"]}, "gradient_checkpointing": True}, {}),
    ],
    ids=["checkpointing", "frozen tower", "no softmax cache", "dense", "adapters", "adapters and checkpointing"],
)
@pytest.mark.slow
def test_and_so_under_every_setting(model: dict[str, Any], options: dict[str, Any]) -> None:
    expected = real_step(*make("qwen2_5_vl", **model), **options)
    kept, peak = shadow_step(*make("qwen2_5_vl", **model), **options)
    assert kept == pytest.approx(expected[0], rel=0.02)
    assert peak == pytest.approx(expected[1], rel=0.02)


def test_bfloat16_compute_is_counted_in_half_the_bytes() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        expected = real_step(*make("qwen2_5_vl"))
        kept, peak = shadow_step(*make("qwen2_5_vl"))
    assert kept == pytest.approx(expected[0], rel=0.02)
    assert peak == pytest.approx(expected[1], rel=0.02)
    assert kept < 0.8 * shadow_step(*make("qwen2_5_vl"))[0]


def test_what_is_let_go_is_no_longer_counted() -> None:
    mode = Shadows()
    with mode:
        first = mode.counted(torch.zeros(1000))
        second = first * 2 + 1
        assert isinstance(second, Shadow)
        assert (mode.live, mode.peak) == (8000, 12000)
        view = second[10:]
        del first, second
        assert mode.live == 4000
        del view
    assert mode.live == 0


def test_a_shadow_has_no_values_outside() -> None:
    mode = Shadows()
    with mode:
        shadow = mode.counted(torch.zeros(3))
    with pytest.raises(RuntimeError, match="outside of Shadows"):
        shadow + 1


def test_index_tensors_stay_real() -> None:
    mode = Shadows()
    with mode:
        table = mode.counted(torch.zeros(10, 4))
        mask = torch.tensor([True, False, True])
        assert table[torch.arange(3)][mask].shape == (2, 4)
        assert torch.arange(4).tolist() == [0, 1, 2, 3]
