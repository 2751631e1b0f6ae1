"""vLLM itself, in this process: the trainer's ids, media and log-probs, and new weights after every sync."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from vllm_scenes import (
    PARAMS,
    assert_never_sampled,
    assert_new_weights_arrive,
    nudge,
    prompts,
    sampled_gap,
    tiny_family,
)

from vlrft.engines.base import Request, SamplingParams
from vlrft.engines.canary import StaleWeightsError, trainer_logprobs
from vlrft.generators import rng_state
from vlrft.log import UserError
from vlrft.models.base import Family
from vlrft.stages import is_dead_engine

pytest.importorskip("vllm", reason="vllm is not installed: pip install 'vlrft[vllm]'")

from vlrft.engines.vllm import VLLMEngine
from vlrft.engines.vllm_inputs import engine_input

AROUND_THE_START: list[dict[str, Any]] = []
"""The global generators before and after vLLM's start."""


def build(name: str) -> tuple[Family, VLLMEngine]:
    family = tiny_family(name)
    return family, VLLMEngine(family, max_rows=64, max_model_len=2048, enforce_eager=True, kv_cache_memory_bytes=2**28)


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[Family, VLLMEngine]]:
    family, engine = build("qwen2_5_vl")
    AROUND_THE_START.append(rng_state())
    engine.generate([Request(prompt=prompts(family)[0], seeds=(1,))], PARAMS)
    AROUND_THE_START.append(rng_state())
    yield family, engine
    engine.close()


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
@pytest.mark.slow
def test_every_family_equals_the_trainer(name: str) -> None:
    family, engine = build(name)
    try:
        assert sampled_gap(family, engine, prompts(family)) < 1e-5
    finally:
        engine.close()


def test_log_probs_equal_the_trainers_on_images_videos_and_text(stage: tuple[Family, VLLMEngine]) -> None:
    family, engine = stage
    assert sampled_gap(family, engine, prompts(family)) < 1e-5


def test_vllm_is_given_the_trainers_own_ids_and_tensors(stage: tuple[Family, VLLMEngine]) -> None:
    family, _ = stage
    prompt = prompts(family)[4]
    given: Any = engine_input(family, prompt)
    assert given["prompt_token_ids"] == list(prompt.token_ids)
    assert {h for hashes in given["mm_hashes"].values() for h in hashes} == set(prompt.media_digests)
    videos = [item["pixel_values_videos"].data for item in given["mm_kwargs"]["video"]]
    assert torch.equal(torch.cat(videos), prompt.mm["pixel_values_videos"])
    assert videos[0].data_ptr() == prompt.mm["pixel_values_videos"].data_ptr(), "one copy, whatever G is"


def test_the_same_seed_gives_the_same_tokens_whatever_else_is_asked(stage: tuple[Family, VLLMEngine]) -> None:
    family, engine = stage
    scenes = prompts(family)
    alone = engine.generate([Request(prompt=scenes[0], seeds=(5, 6))], PARAMS)
    crowd = engine.generate([Request(prompt=p, seeds=(5, 6)) for p in scenes], PARAMS)
    assert [c.token_ids for c in alone[0]] == [c.token_ids for c in crowd[0]]
    assert alone[0][0].token_ids != alone[0][1].token_ids


def test_replayed_tokens_have_the_trainers_log_probs(stage: tuple[Family, VLLMEngine]) -> None:
    family, engine = stage
    for prompt in prompts(family):
        tokens = family.encode("[12, 40]")
        engine.generate([Request(prompt=prompt, seeds=(1,))], PARAMS)
        assert engine.replay(prompt, tokens) == pytest.approx(trainer_logprobs(family, prompt, tokens), abs=1e-5)


def test_neither_vision_tokens_nor_stops_where_they_are_banned(stage: tuple[Family, VLLMEngine]) -> None:
    assert_never_sampled(*stage)


@pytest.mark.parametrize("part", ["language_model", "vision_tower", "projector"])
def test_new_weights_of_every_part_arrive_and_no_cache_outlives_them(
    stage: tuple[Family, VLLMEngine], part: str
) -> None:
    assert_new_weights_arrive(*stage, part)


@pytest.mark.parametrize(
    "sabotage", ["nothing is loaded", "vision features are kept", "the head keeps its packed copy"]
)
def test_the_canary_catches_a_sync_that_does_not_arrive(
    stage: tuple[Family, VLLMEngine], sabotage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, engine = stage
    scenes = prompts(family)
    engine.generate([Request(prompt=p, seeds=(3,)) for p in scenes], PARAMS)
    assert engine._llm is not None
    if sabotage == "nothing is loaded":
        monkeypatch.setattr(engine._llm, "collective_rpc", lambda *a, **k: None)
    elif sabotage == "vision features are kept":
        executor: Any = engine._llm.llm_engine.model_executor
        monkeypatch.setattr(executor.driver_worker.worker.model_runner, "reset_encoder_cache", lambda: None)
        monkeypatch.setattr(engine._llm.llm_engine, "reset_encoder_cache", lambda: None)
    else:
        monkeypatch.setattr(engine._llm, "apply_model", lambda function: [0])
    nudge(family, "language_model" if "head" in sabotage else "vision_tower")
    engine.sync(engine.policy_version + 1)
    with pytest.raises(StaleWeightsError, match="log-probs are not the trainer's") as caught:
        engine.generate([Request(prompt=scenes[0], seeds=(3,))], PARAMS)
    assert f"policy version {engine.policy_version}" in str(caught.value)
    monkeypatch.undo()
    assert sampled_gap(family, engine, scenes) < 1e-5, "after a sound sync it goes on"


def test_the_trainers_own_settings_are_left_alone(stage: tuple[Family, VLLMEngine]) -> None:
    family, engine = stage
    state = torch.get_rng_state()
    engine.generate([Request(prompt=prompts(family)[0], seeds=(1, 2))], PARAMS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(1)
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("stage")
def test_vllms_start_leaves_every_generator_alone() -> None:
    before, after = AROUND_THE_START
    assert before["python"] == after["python"]
    assert all(np.array_equal(a, b) for a, b in zip(before["numpy"], after["numpy"], strict=True))
    assert torch.equal(before["torch"], after["torch"])
    assert all(torch.equal(a, b) for a, b in zip(before["cuda"], after["cuda"], strict=True))


def test_steps_of_a_real_learning_rate_that_never_arrive_are_caught(
    stage: tuple[Family, VLLMEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, engine = stage
    requests = [Request(prompt=prompts(family)[0], seeds=(3,))]
    engine.generate(requests, PARAMS)

    def steps(count: int) -> None:
        """As AdamW's first ones with a learning rate of 1e-6."""
        for _ in range(count):
            with torch.no_grad():
                for parameter in family.model.parameters():
                    parameter += 1e-6 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)).sign()
            engine.sync(engine.policy_version + 1)
            engine.generate(requests, PARAMS)

    steps(3)
    assert engine._llm is not None
    monkeypatch.setattr(engine._llm, "collective_rpc", lambda *a, **k: None)
    with pytest.raises(StaleWeightsError, match="did not change at all"):
        steps(10)
    assert engine.canary.largest < engine.canary.tolerance, "not yet far from the trainer"
    monkeypatch.undo()
    steps(1)


@pytest.mark.slow
@pytest.mark.parametrize("then", ["a push", "a rollout"])
def test_a_worker_that_is_killed_is_told_as_a_dead_engine(then: str) -> None:
    family = tiny_family("qwen2_5_vl")
    limits: dict[str, Any] = {"max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 2**28}
    engine = VLLMEngine(family, max_rows=16, tensor_parallel_size=2, **limits)
    requests = [Request(prompt=prompts(family)[0], seeds=(3,))]
    try:
        engine.generate(requests, PARAMS)
        assert engine._llm is not None
        executor: Any = engine._llm.llm_engine.model_executor
        os.kill(executor.workers[1].proc.pid, signal.SIGKILL)
        if then == "a push":
            nudge(family, "language_model")
            engine.sync(1)
        with pytest.raises(Exception, match="EngineCore encountered an issue") as caught:
            engine.generate(requests, PARAMS)
        assert is_dead_engine(caught.value)
    finally:
        engine.close()


def test_a_prompt_that_does_not_fit_is_named(stage: tuple[Family, VLLMEngine]) -> None:
    family, engine = stage
    request = Request(prompt=prompts(family)[4], seeds=(1,))
    with pytest.raises(UserError, match=r"sample 'video, image, video' has a prompt of \d+ tokens.*max_model_len"):
        engine.generate([request], SamplingParams(max_tokens=2048))
