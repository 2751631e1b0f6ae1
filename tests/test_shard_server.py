"""Weights that no rank has reach vLLM servers, and the canary compares them: ZeRO-3 and FSDP2 against one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_engine_server import SETTINGS
from test_ranks import assert_alike, train
from test_shard import ZERO3

from vlrft.testing import tiny_recipe


@pytest.mark.slow
def test_two_ranks_that_share_the_weights_sample_and_train_like_one_process(tmp_path: Path) -> None:
    blocks: dict[str, Any] = {
        "engine": {"name": "vllm_server", "kwargs": {**SETTINGS, "log_dir": str(tmp_path / "logs")}},
        "model": {"tiny": {"hidden_size": 128, "intermediate_size": 256}},
        "train": {"prompts_per_step": 3, "steps": 2},
        "eval": {"limit": 1},
    }
    one = tmp_path / "one"
    done = train(tiny_recipe(tmp_path / "scenes", one, **blocks), tmp_path)
    assert done.returncode == 0, done.stderr
    for name, parallel in {"zero3": ZERO3, "fsdp2": {"strategy": "fsdp2"}}.items():
        run = tmp_path / name
        recipe = tiny_recipe(tmp_path / "scenes", run, parallel=parallel, **blocks)
        done = train(recipe, tmp_path, "--nproc", "2")
        assert done.returncode == 0, done.stderr
        assert_alike(one, run, tolerance=1e-3)
