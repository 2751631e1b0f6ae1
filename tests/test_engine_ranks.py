"""vLLM inside each of two processes that train: they train what one trains, and the trainer's group outlives vLLM's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import rows_of, versions
from test_ranks import assert_alike, compared, train
from vllm_scenes import tiny_family

from vlrft.dist import World
from vlrft.engines.vllm_ranks import first_on_this_machine
from vlrft.log import UserError
from vlrft.ports import free_ports
from vlrft.testing import tiny_recipe

pytest.importorskip("vllm", reason="vllm is not installed: pip install 'vlrft[vllm]'")

from vlrft.engines.vllm import VLLMEngine

SETTINGS: dict[str, Any] = {"max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 2**28}
MODEL = {"tiny": {"hidden_size": 128, "intermediate_size": 256}}

RANK = """
import os, sys
import torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from vllm_scenes import nudge, prompts, sampled_gap, tiny_family
from vlrft.dist import World
from vlrft.engines.vllm import VLLMEngine

dist.init_process_group("gloo")
world, family = World.current(), tiny_family("qwen2_5_vl")
engine = VLLMEngine(family, max_rows=64, sync=sys.argv[2], **{settings})
engine.join(world)
share = prompts(family)[:1] if world.rank == 0 else []
gaps = [sampled_gap(family, engine, share)]
nudge(family, "vision_tower")
engine.sync(1)
gaps.append(sampled_gap(family, engine, prompts(family)[world.rank :: 2]))
checked = engine.canary.largest
engine.close()
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == 2, "the trainer's process group is gone"
assert max(gaps) < 1e-5, gaps
assert 0 < checked < 1e-4, "this rank's engine was not checked"
if world.rank == 0:
    print("both ranks are done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["direct", "folder"])
def test_each_rank_has_an_engine_that_is_pushed_and_checked(tmp_path: Path, sync: str) -> None:
    """One rank has nothing to ask for at first; its engine starts and is checked all the same."""
    script = tmp_path / "rank.py"
    script.write_text(RANK.replace("{settings}", repr(SETTINGS)), encoding="utf-8")
    command = [sys.executable, str(script), str(Path(__file__).parent), sync]
    (port,) = free_ports(1)
    about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **about, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=500) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "both ranks are done" in said[0][0]


@pytest.mark.slow
def test_one_rank_and_two_train_alike(tmp_path: Path) -> None:
    """Uneven shares, and more ranks than held-out samples, so that a rank has nothing to ask for."""
    engine = {"name": "vllm", "kwargs": SETTINGS}
    training = {"prompts_per_step": 3, "steps": 3}
    one, two = compared(tmp_path, model=MODEL, engine=engine, train=training, eval={"every": 2, "limit": 1})
    assert_alike(one, two, tolerance=1e-3)
    assert versions(two) == [{0}, {1}, {2}]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "staleness"), [("vllm", 0), ("vllm_server", 1)])
def test_weights_that_no_rank_has_whole_arrive_whole(tmp_path: Path, name: str, staleness: int) -> None:
    """Parts of FSDP2: every rank takes part in every push and check, for the others too."""
    engine = {"name": name, "max_staleness": staleness, "kwargs": SETTINGS}
    blocks = {"engine": engine, "parallel": {"strategy": "fsdp2"}, "train": {"prompts_per_step": 3, "steps": 3}}
    recipe = tiny_recipe(tmp_path / "scenes", tmp_path / "run", model=MODEL, eval={"every": 2, "limit": 1}, **blocks)
    done = train(recipe, tmp_path, "--nproc", "2")
    assert done.returncode == 0, done.stderr
    assert versions(tmp_path / "run") == [{max(0, step - staleness)} for step in range(3)]
    gaps = [row["policy/engine_gap"] for row in rows_of(tmp_path / "run") if row["kind"] == "train"]
    assert gaps[0] < 1e-4
    assert staleness or max(gaps) < 1e-4


def test_an_engine_over_several_gpus_is_refused_in_several_processes() -> None:
    engine = VLLMEngine(tiny_family("qwen2_5_vl"), tensor_parallel_size=2)
    with pytest.raises(UserError, match=r"tensor_parallel_size=2 .* Use engine\.name=vllm_server"):
        engine.join(World(rank=0, size=2))


def test_one_process_starts_vllm_as_ever() -> None:
    engine = VLLMEngine(tiny_family("qwen2_5_vl"))
    engine.join(World())
    assert "distributed_executor_backend" not in engine.settings
    assert first_on_this_machine(World()) == 0


def test_an_unknown_way_to_push_is_named() -> None:
    family = tiny_family("qwen2_5_vl")
    with pytest.raises(ValueError, match=r"sync='nccl' is none of engine\.name=vllm: use auto, direct, folder"):
        VLLMEngine(family, sync="nccl")
    with pytest.raises(ValueError, match=r"sync=direct needs vLLM in this process alone"):
        VLLMEngine(family, sync="direct", tensor_parallel_size=2)


@pytest.mark.slow
def test_the_refusal_reaches_the_user(tmp_path: Path) -> None:
    engine = {"name": "vllm", "kwargs": {**SETTINGS, "tensor_parallel_size": 2}}
    recipe = tiny_recipe(tmp_path / "scenes", tmp_path / "run", model=MODEL, engine=engine)
    done = train(recipe, tmp_path, "--nproc", "2")
    assert done.returncode == 2
    assert "Use engine.name=vllm_server" in done.stderr
