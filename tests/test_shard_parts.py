"""What strategies share: parts that pass for whole tensors, states that move to the host, DeepSpeed's own keys."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from vlrft.config import Config
from vlrft.setup import start_world
from vlrft.shard.base import HOST_TOO, entries_of, on_host, shapes_of
from vlrft.shard.deepspeed_keys import OWNED, owned_key
from vlrft.shard.spread import Spread
from vlrft.shard.zero import Zero

NOT_WHOLE = re.escape("weight came in with the shape (3, 2) and is (0,) now")


def emptied(model: nn.Linear) -> nn.Linear:
    model.weight.data = torch.empty(0)
    return model


def test_a_weight_in_parts_is_not_saved() -> None:
    model = nn.Linear(2, 3)
    shapes = shapes_of(model)
    assert [name for name, _ in entries_of(model, lambda p: p, lambda p: {}, shapes)] == ["weight", "bias"]
    with pytest.raises(RuntimeError, match=NOT_WHOLE):
        list(entries_of(emptied(model), lambda p: p, lambda p: {}, shapes))


def test_a_weight_in_parts_is_not_given_back() -> None:
    model = nn.Linear(2, 3)
    zero: Any = Zero.__new__(Zero)
    zero.policy, zero.shapes = SimpleNamespace(model=model), shapes_of(model)
    emptied(model)
    with pytest.raises(RuntimeError, match=NOT_WHOLE):
        zero.release()
    spread: Any = Spread()
    spread.policy, spread.full = zero.policy, lambda parameter: parameter
    spread.plain = SimpleNamespace(model=nn.Linear(2, 3))
    with pytest.raises(RuntimeError, match=NOT_WHOLE):
        spread.give_back()


def test_states_on_the_host_and_back() -> None:
    """bitsandbytes counts steps in a plain number. The device "meta" stands for a GPU."""
    state: dict[str, Any] = {"step": 3, "state1": torch.zeros(4, dtype=torch.uint8)}
    with on_host(SimpleNamespace(state={0: state}), torch.device("meta")):
        assert (state["step"], state["state1"].device.type) == (3, "cpu")
    assert (state["step"], state["state1"].device.type) == (3, "meta")


@pytest.mark.parametrize("dotted", OWNED)
def test_keys_that_other_keys_of_a_recipe_say(dotted: str) -> None:
    block: Any = 1
    for part in reversed(dotted.split(".")):
        block = {part: block}
    assert owned_key({"steps_per_print": 1, **block}) == (dotted, OWNED[dotted])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"zero_optimization": {"overlap_comm": True, "offload_optimizer": {"pin_memory": False}}}, None),
        ({"zero_optimization": None}, "zero_optimization.stage"),
        ({"zero_optimization": {"offload_param": None}}, "zero_optimization.offload_param.device"),
    ],
)
def test_other_keys_and_blocks_that_are_replaced(changes: dict[str, Any], expected: str | None) -> None:
    found = owned_key(changes)
    assert (found[0] if found is not None else None) == expected


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [
        ({"strategy": "fsdp2", "offload": "all"}, {"backend": HOST_TOO}),
        ({"strategy": "fsdp2", "offload": "all", "cpu": True}, {"cpu": True}),
        ({"strategy": "fsdp2"}, {"cpu": False}),
    ],
)
def test_parts_on_the_host_get_a_backend(
    parallel: dict[str, Any], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("vlrft.setup.PartialState", lambda **settings: asked.append(settings))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "0")
    start_world(Config.model_validate({"model": {"tiny": {}}, "parallel": parallel}))
    assert expected.items() <= asked[0].items()
    assert ("backend" in asked[0]) == ("backend" in expected)
