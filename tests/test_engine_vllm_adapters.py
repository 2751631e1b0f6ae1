"""Adapters in vLLM: merged into its weights, or loaded by themselves; the canary after both."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vlrft.adapters import is_adapter, plain_state_dict
from vlrft.config import AdapterConfig, DataConfig, ModelConfig, TinyModelConfig
from vlrft.engines.base import Request, SamplingParams
from vlrft.engines.canary import StaleWeightsError, trainer_logprobs
from vlrft.engines.held_folder import HELD
from vlrft.models import load_family
from vlrft.models.base import Family
from vlrft.models.tiny import build_tiny
from vlrft.testing import make_group, make_prompt, plain_logps

pytest.importorskip("vllm", reason="vllm is not installed: pip install 'vlrft[vllm]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'vlrft[peft]'")

from vlrft.engines.vllm import VLLMEngine

PARAMS = SamplingParams(max_tokens=8)
ALL = ["language_model", "projector", "vision_tower"]


def tiny(name: str) -> TinyModelConfig:
    return TinyModelConfig(family=name, hidden_size=128, intermediate_size=256, num_layers=2)


def build(name: str, sync: str, **adapter: Any) -> tuple[Family, VLLMEngine]:
    family = load_family(ModelConfig(tiny=tiny(name), adapter=AdapterConfig(r=4, **adapter)), DataConfig())
    limits = {"max_rows": 64, "max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 2**28}
    return family, VLLMEngine(family, adapter_sync=sync, **limits)


def move(family: Family, seed: int) -> None:
    with torch.no_grad():
        for name, parameter in family.model.named_parameters():
            if is_adapter(name):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name) + seed))
                parameter += 0.1 * noise


def requests(family: Family) -> list[Request]:
    scenes = {"image": [(84, 56)], "video": [(56, 56, 8)], "text": []}
    return [Request(prompt=make_prompt(family, name, sizes), seeds=(11, 12)) for name, sizes in scenes.items()]


def sampled_gap(family: Family, engine: VLLMEngine) -> float:
    """Largest difference between a sampled token's log-prob and that of plain transformers with merged weights."""
    plain, _ = build_tiny(tiny(family.model.config.model_type))
    plain.load_state_dict(plain_state_dict(family.model))
    worst = 0.0
    asked = requests(family)
    for request, completions in zip(asked, engine.generate(asked, PARAMS), strict=True):
        group = make_group(request.prompt, [completion.token_ids for completion in completions])
        with torch.no_grad():
            expected = plain_logps(plain, family, group)
        for completion, logps in zip(completions, expected, strict=True):
            worst = max(worst, float((torch.tensor(completion.logprobs) - logps).abs().max()))
    return worst


def check(name: str, sync: str, **adapter: Any) -> None:
    family, engine = build(name, sync, **adapter)
    try:
        assert sampled_gap(family, engine) < 1e-4
        for version in (1, 2):
            before = engine.generate(requests(family)[:1], PARAMS)[0][0].logprobs
            move(family, version)
            engine.sync(version)
            assert sampled_gap(family, engine) < 1e-4
            after = engine.generate(requests(family)[:1], PARAMS)[0][0]
            assert after.logprobs != before
            assert after.policy_version == version
            assert engine.canary.largest < 1e-3
        if engine.hot is not None:
            assert engine.hot.request is not None
            assert engine.hot.request.lora_int_id == 3, "a number of its own for every version"
            assert engine._llm is not None
            assert engine._llm.llm_engine.list_loras() == {3}
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sync", "adapter"),
    [
        ("qwen2_5_vl", "hot", {"use_rslora": True}),
        ("qwen2_5_vl", "merged", {"parts": ALL, "use_dora": True}),
        *[(n, "hot", {}) for n in ("qwen2_vl", "qwen3_vl", "internvl")],
        *[(n, "merged", {"parts": ALL}) for n in ("qwen3_vl", "internvl")],
    ],
)
def test_vllm_samples_with_the_adapters_of_the_last_sync(name: str, sync: str, adapter: dict[str, Any]) -> None:
    check(name, sync, **adapter)


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["hot", "merged"])
def test_the_canary_catches_an_adapter_that_does_not_arrive(sync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, engine = build("qwen2_5_vl", sync)
    try:
        engine.generate(requests(family), PARAMS)
        move(family, 1)
        assert engine._llm is not None
        if sync == "hot":
            assert engine.hot is not None
            monkeypatch.setattr(engine.hot, "load", lambda llm: None)
        else:
            monkeypatch.setattr(engine._llm, "collective_rpc", lambda *arguments, **options: None)
        engine.sync(1)
        with pytest.raises(StaleWeightsError, match="did not change at all since policy version"):
            engine.generate(requests(family), PARAMS)
    finally:
        engine.close()


def test_the_folder_of_hot_adapters_goes_with_the_engine() -> None:
    _, engine = build("qwen2_5_vl", "hot")
    assert engine.hot is not None
    assert (engine.hot.path / HELD).exists(), "the next engine removes it where this one is killed"
    engine.close()
    assert not engine.hot.path.exists()


@pytest.mark.parametrize(
    ("sync", "adapter", "message"),
    [
        ("hot", {"parts": ["language_model", "vision_tower"]}, r"would leave out those on the vision_tower"),
        ("hot", {"parts": ["projector"]}, r"language model only and would leave out those on the projector"),
        ("hot", {"use_dora": True}, "vLLM has no DoRA"),
        ("warm", {}, "give auto, merged or hot"),
    ],
)
def test_what_vllm_cannot_load_is_refused(sync: str, adapter: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("qwen2_5_vl", sync, **adapter)


def test_auto_merges_where_vllm_cannot_or_runs_on_a_cpu() -> None:
    assert build("qwen2_5_vl", "auto")[1].hot is None
    family, engine = build("qwen2_5_vl", "auto", parts=ALL)
    assert engine.hot is None
    assert trainer_logprobs(family, requests(family)[0].prompt, (1, 2))
