"""Keys of `engine.kwargs` are checked against the engine before anything is loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import vlrft
from vlrft.config import EngineConfig
from vlrft.engines import check_kwargs
from vlrft.log import UserError

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def test_an_unknown_key_is_refused_before_the_run_has_a_folder(recipe: Any) -> None:
    asked = recipe(engine={"kwargs": {"gpu_mem": 0.5}})
    with pytest.raises(UserError, match=r"engine\.kwargs\.gpu_mem: engine\.name=hf has no such setting"):
        vlrft.train(asked)
    assert not Path(asked["train"]["output_dir"]).exists()


@needs_vllm
@pytest.mark.parametrize("name", ["vllm", "vllm_server"])
def test_vllms_own_settings_are_known(name: str) -> None:
    own = {"gpu_memory_utilization": 0.5, "tensor_parallel_size": 2, "max_model_len": 512, "canary_tolerance": 0.1}
    check_kwargs(EngineConfig(name=name, kwargs=own))
    with pytest.raises(ValueError, match=r"engine\.kwargs\.gpu_memory_utilisation.*did you mean 'gpu_memory_util"):
        check_kwargs(EngineConfig(name=name, kwargs={**own, "gpu_memory_utilisation": 0.5}))


def test_what_other_keys_set_is_not_for_kwargs() -> None:
    with pytest.raises(ValueError, match=r"engine\.kwargs\.max_rows"):
        check_kwargs(EngineConfig(kwargs={"max_rows": 4}))


class Open:
    """Says nothing of what it knows."""

    def __init__(self, family: Any, **settings: Any) -> None:
        self.settings = settings


def test_an_engine_of_the_users_may_take_anything() -> None:
    check_kwargs(EngineConfig(name=f"{__name__}:Open", kwargs={"whatever": 1}))
