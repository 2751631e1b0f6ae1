"""vLLM gives its memory back while the trainer learns: the order of calls, who rests when, and on a GPU the memory."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from vllm_scenes import PARAMS, nudge, prompts, sampled_gap, tiny_family

from vlrft import pipeline, training
from vlrft.engines.base import Request, RestingEngine, SamplingParams
from vlrft.engines.canary import StaleWeightsError, trainer_logprobs
from vlrft.engines.hf import HFEngine
from vlrft.engines.vllm_sleep import Sleep
from vlrft.stages import is_dead_engine
from vlrft.types import Prompt

pytest.importorskip("vllm", reason="vllm is not installed: pip install 'vlrft[vllm]'")

from vlrft.engines.vllm import VLLMEngine

HERE = f"{__file__}:"


class Recorded:
    """In vLLM's place: notes what it is told, and checks that nobody asks for tokens of an engine that sleeps."""

    def __init__(self, family: Any) -> None:
        self.calls: list[str] = []
        self.missing: set[str] = set()
        self.weights: dict[str, torch.Tensor] = {}
        self.family = family
        executor = types.SimpleNamespace(is_failed=False)
        self.llm_engine = types.SimpleNamespace(
            reset_encoder_cache=lambda: self.note("reset_encoder_cache"), model_executor=executor
        )

    def note(self, call: str) -> None:
        self.calls.append(call)

    def sleep(self, level: int) -> None:
        assert not self.missing, "it sleeps already"
        self.missing = {"weights", "kv_cache"}
        if level == 2:
            self.weights.clear()
        self.note(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        assert self.missing.issuperset(tags), "it is awake"
        self.missing.difference_update(tags)
        self.note(f"wake {' '.join(tags)}")

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        assert "weights" not in self.missing, "there is no memory for weights"
        self.weights = {name: tensor.clone() for name, tensor in kwargs["weights_iterator"]}
        self.note(method)

    def apply_model(self, function: Any) -> None:
        self.note("repack")

    def reset_prefix_cache(self) -> None:
        self.note("reset_prefix_cache")

    def reset_mm_cache(self) -> None:
        self.note("reset_mm_cache")


class Engine(VLLMEngine):
    """With `Recorded` for vLLM, which answers with the trainer's log-probs if it has the weights."""

    def _start(self) -> Any:
        llm = Recorded(self.family)
        llm.collective_rpc("start", {"weights_iterator": self.family.model.state_dict().items()})
        return llm

    def replay(self, prompt: Prompt, token_ids: Sequence[int]) -> list[float]:
        llm: Any = self._llm
        llm.note("canary")
        assert not llm.missing, "vLLM sleeps"
        return trainer_logprobs(self.family, prompt, token_ids) if llm.weights else [0.0] * len(token_ids)

    def _answers(self, work: Sequence[Any], appended: Sequence[int] = ()) -> Iterator[tuple[int, Any]]:
        llm: Any = self._llm
        assert not llm.missing, "vLLM sleeps"
        assert llm.weights, "vLLM has lost its weights"
        llm.note("generate")
        return ((place, None) for place in range(len(work)))

    def _completions(self, request: Request, answer: Any) -> Any:
        return ()

    def told(self) -> list[str]:
        """What vLLM was told since the last call."""
        llm: Any = self._llm
        calls, llm.calls = llm.calls, []
        return calls


def engine_of_level(level: int) -> tuple[Engine, list[Request]]:
    family = tiny_family("qwen2_5_vl")
    engine = Engine(family, max_model_len=2048)
    engine._sleep = Sleep(level)
    return engine, [Request(prompt=prompts(family)[0], seeds=(1,))]


LOADED = ["reload_weights", "repack"]
FORGOTTEN = ["reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache", "canary"]


@pytest.mark.parametrize("level", [1, 2])
def test_weights_are_pushed_before_the_cache_takes_its_room_again(level: int) -> None:
    engine, requests = engine_of_level(level)
    engine.rest()
    engine.generate(requests, PARAMS)
    assert engine.told() == ["start", "canary", "generate"], "nothing rests that has not started"
    engine.rest()
    engine.rest()
    nudge(engine.family, "language_model")
    engine.sync(1)
    engine.generate(requests, PARAMS)
    awake = ["wake weights", *LOADED, "wake kv_cache", *FORGOTTEN, "generate"]
    assert engine.told() == [f"sleep {level}", *awake]
    engine.generate(requests, PARAMS)
    assert engine.told() == ["generate"], "it stays awake until the next rest"


def test_level_1_keeps_weights_that_have_not_moved_and_level_2_pushes_them_again() -> None:
    engine, requests = engine_of_level(1)
    engine.generate(requests, PARAMS)
    engine.rest()
    engine.generate(requests, PARAMS)
    assert engine.told()[-5:] == ["sleep 1", "wake weights", "wake kv_cache", "canary", "generate"]
    engine, requests = engine_of_level(2)
    engine.generate(requests, PARAMS)
    engine.rest()
    engine.generate(requests, PARAMS)
    assert engine.told()[-9:] == ["wake weights", *LOADED, "wake kv_cache", *FORGOTTEN, "generate"]


def test_weights_that_did_not_survive_their_sleep_are_noticed() -> None:
    engine, requests = engine_of_level(1)
    engine.generate(requests, PARAMS)
    engine.rest()
    llm: Any = engine._llm
    llm.weights.clear()
    with pytest.raises(StaleWeightsError, match="log-probs are not the trainer's"):
        engine.generate(requests, PARAMS)


@pytest.mark.parametrize("is_failed", [True, False])
@pytest.mark.parametrize("call", ["sleep", "wake_up", "collective_rpc", "reset_prefix_cache"])
def test_a_dead_worker_is_told_as_vllms_dead_engine(
    call: str, is_failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, requests = engine_of_level(1)
    engine.generate(requests, PARAMS)
    llm: Any = engine._llm
    llm.llm_engine.model_executor.is_failed = is_failed

    def failed(*_: Any, **__: Any) -> None:
        raise RuntimeError("Executor failed.")

    monkeypatch.setattr(llm, call, failed)

    def wake_with_new_weights() -> None:
        engine.rest()
        engine.sync(1)
        engine.generate(requests, PARAMS)

    with pytest.raises(Exception, match=r"EngineCore encountered|Executor failed") as caught:
        wake_with_new_weights()
    assert is_dead_engine(caught.value) == is_failed
    assert is_failed == ("Executor failed" in str(caught.value.__cause__))


def test_nobody_is_woken_for_nothing() -> None:
    engine, requests = engine_of_level(1)
    engine.generate(requests, PARAMS)
    engine.rest()
    engine.told()
    engine.generate([], PARAMS)
    assert engine.told() == []


def test_on_a_cpu_nothing_sleeps_whatever_is_asked() -> None:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("vLLM runs on a GPU here")
    engine = VLLMEngine(tiny_family("qwen2_5_vl"), sleep_level=2)
    assert engine._sleep.level == 0
    assert "enable_sleep_mode" not in engine.settings
    with pytest.raises(ValueError, match=r"engine\.kwargs\.sleep_level=3: write 0"):
        VLLMEngine(engine.family, sleep_level=3)


class Resting(HFEngine):
    """Notes when it is told to rest."""

    told: list[str]

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.told = []

    def rest(self) -> None:
        self.told.append("rest")

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Any:
        self.told.append("generate")
        return super().generate(requests, params)


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_the_engine_rests_before_the_weights_move(stage: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage(engine={"name": f"{HERE}Resting"}, stages=[{"kind": kind}])
    run.rollouts = pipeline.OnPolicy()
    engine, update = run.worker.engine, training.update
    assert isinstance(engine, RestingEngine)
    monkeypatch.setattr(training, "update", lambda *args: (engine.told.append("learn"), update(*args))[1])
    training.STEPS[kind](run)
    assert engine.told == (["generate"] if kind == "grpo" else []) + ["rest", "learn"]
    run.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("level", [1, 2])
def test_memory_is_free_while_it_rests(level: int) -> None:
    family = tiny_family("qwen2_5_vl")
    family.model.to("cuda")
    settings: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": 2**30, "max_model_len": 2048}
    engine = VLLMEngine(family, max_rows=64, sleep_level=level, **settings)
    try:
        assert sampled_gap(family, engine, prompts(family)) < 1e-2
        before = torch.cuda.mem_get_info()[0]
        engine.rest()
        assert torch.cuda.mem_get_info()[0] - before > 0.9 * 2**30
        nudge(family, "language_model")
        engine.sync(1)
        assert sampled_gap(family, engine, prompts(family)) < 1e-2
    finally:
        engine.close()
