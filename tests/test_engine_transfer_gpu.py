"""New weights reach vLLM over the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vllm_scenes import nudge, prompts, sampled_gap, tiny_family

pytest.importorskip("vllm", reason="vllm is not installed: pip install 'vlrft[vllm]'")

from vlrft.engines.server import VLLMServerEngine


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sync", ["nccl", "ipc"])
def test_weights_arrive_over_the_gpu(sync: str) -> None:
    """nccl needs two GPUs: the trainer's and the server's."""
    if sync == "nccl" and torch.cuda.device_count() < 2:
        pytest.skip("one GPU: NCCL needs one each for trainer and server")
    here = tiny_family("qwen2_5_vl")
    here.model.to("cuda:0")
    engine = VLLMServerEngine(
        here, max_rows=64, sync=sync, devices=["1" if sync == "nccl" else "0"], max_model_len=2048,
        enforce_eager=True, kv_cache_memory_bytes=2**28,
    )  # fmt: skip
    try:
        assert sampled_gap(here, engine, prompts(here)) < 1e-2
        for version, part in enumerate(("language_model", "vision_tower", "projector"), 1):
            nudge(here, part)
            engine.sync(version)
            assert sampled_gap(here, engine, prompts(here)) < 1e-2
    finally:
        engine.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_engine_in_process_reads_the_trainers_tensors() -> None:
    from vlrft.engines.vllm import VLLMEngine

    here = tiny_family("qwen2_5_vl")
    here.model.to("cuda")
    settings: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": 2**28, "max_model_len": 2048}
    engine = VLLMEngine(here, max_rows=64, sync="direct", **settings)
    try:
        for version, part in enumerate(("language_model", "vision_tower", "projector"), 1):
            assert sampled_gap(here, engine, prompts(here)) < 1e-2
            nudge(here, part)
            engine.sync(version)
        assert sampled_gap(here, engine, prompts(here)) < 1e-2
    finally:
        engine.close()
