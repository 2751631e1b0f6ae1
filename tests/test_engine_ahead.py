"""Rollouts made ahead of training by a vLLM server: each with the weights of its time, checked before it is used."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import rows_of, versions
from test_ranks import assert_alike, compared
from vllm_scenes import PARAMS, nudge, prompts, sampled_gap, tiny_family

import vlrft
from vlrft.engines.base import Request, SnapshotEngine
from vlrft.engines.canary import Canary, StaleWeightsError
from vlrft.engines.server import VLLMServerEngine
from vlrft.engines.sync import FolderSync, load_policy
from vlrft.engines.vllm_http import ServerRefusalError, VLLMServer
from vlrft.log import UserError
from vlrft.models.base import Family

pytest.importorskip("vllm", reason="vllm is not installed: pip install 'vlrft[vllm]'")

SETTINGS: dict[str, Any] = {"max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 2**28}
MODEL = {"tiny": {"hidden_size": 128, "intermediate_size": 256}}


def frozen(family: Family) -> Family:
    """The policy as it is now."""
    twin = copy.copy(family)
    twin.model = copy.deepcopy(family.model)
    twin.lm_head = twin.model.lm_head
    return twin


@pytest.mark.slow
def test_servers_sample_with_the_weights_of_the_snapshot(tmp_path: Path) -> None:
    """Nobody has asked for anything when the first one is taken: servers start with its weights, not the trainer's."""
    family = tiny_family("qwen2_5_vl")
    engine = VLLMServerEngine(family, max_rows=64, weights_dir=str(tmp_path), **SETTINGS)
    assert isinstance(engine, SnapshotEngine)
    try:
        past, taken = [], []
        for version in range(3):
            taken.append(engine.snapshot(version))
            past.append(frozen(family))
            nudge(family, "language_model")
            nudge(family, "vision_tower")
        for version in (0, 2):
            engine.load(taken[version])
            assert sampled_gap(past[version], engine, prompts(family)) < 1e-5
            (rows,) = engine.generate([Request(prompt=prompts(family)[0], seeds=(1,))], PARAMS)
            assert rows[0].policy_version == version
            assert engine._stamp.endswith(f"-{version}")
        assert not list(tmp_path.glob("*/*.waiting")), "what is behind is removed"
        engine.sync(3)
        assert sampled_gap(family, engine, prompts(family)) < 1e-5, "the trainer's own weights"
        wrong = engine.snapshot(4)
        wrong.logprobs[3] -= 0.01
        with pytest.raises(StaleWeightsError, match=r"policy version 4 .* token 3 of 8"):
            engine.load(wrong)
    finally:
        engine.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_learns_from_rollouts_of_one_step_ago(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    check = Canary.check_all

    def noted(self: Canary, replays: Any, version: int, trainer: list[float] | None = None) -> None:
        check(self, replays, version, trainer)
        assert self.largest < 1e-4
        checked.append(version)

    monkeypatch.setattr(Canary, "check_all", noted)
    weights = tmp_path / "weights"
    weights.mkdir()
    kwargs = {**SETTINGS, "weights_dir": str(weights)}
    engine = {"name": "vllm_server", "max_staleness": 1, "kwargs": kwargs}
    run = vlrft.train(recipe(engine=engine, model=MODEL, train={"steps": 4}, eval={"every": 2}))
    assert versions(run.path) == [{0}, {0}, {1}, {2}]
    trained = [row for row in rows_of(run.path) if row["kind"] == "train"]
    assert [row["rollout/staleness"] for row in trained] == [0, 1, 1, 1]
    assert [row["policy/engine_gap"] < 1e-4 for row in trained[:1]] == [True]
    assert checked == sorted(checked), "weights never go back"
    assert set(checked) == {0, 1, 2, 4}, "evaluations have the current ones"
    assert not list(weights.iterdir())


@pytest.mark.slow
def test_one_rank_and_two_learn_alike_from_rollouts_ahead(tmp_path: Path) -> None:
    engine = {"name": "vllm_server", "max_staleness": 1, "kwargs": SETTINGS}
    training = {"prompts_per_step": 3, "steps": 3}
    one, two = compared(tmp_path, model=MODEL, engine=engine, train=training, eval={"every": 2, "limit": 1})
    assert_alike(one, two, tolerance=1e-3)
    assert versions(two) == [{0}, {0}, {1}]
    lines = [line for path in (two / "rollouts").iterdir() for line in path.read_text().splitlines()]
    assert len([json.loads(line) for line in lines]) >= 9


class Loader:
    """Servers that load what they are told to, or refuse."""

    def __init__(self, refusal: str = "") -> None:
        self.refusal = refusal

    def __call__(self, server: VLLMServer, path: Path, stamp: str) -> None:
        assert (path / "model.safetensors").exists()
        if self.refusal:
            raise ServerRefusalError(self.refusal)


def started(family: Family, monkeypatch: pytest.MonkeyPatch, pushes: list[Any]) -> VLLMServerEngine:
    """An engine whose server is up and answers as the snapshot's weights would."""
    engine = VLLMServerEngine(family, max_model_len=2048)
    engine.servers = [VLLMServer("http://127.0.0.1:9", timeout_s=1, retries=0)]
    monkeypatch.setattr("vlrft.engines.server.weights_stamp", lambda server: pushes[-1][1])
    monkeypatch.setattr("vlrft.engines.sync.load_policy", Loader())
    push = FolderSync.push

    def noted(self: FolderSync, servers: Sequence[VLLMServer], stamp: str, held: Any = None) -> None:
        pushes.append((held, stamp))
        push(self, servers, stamp, held)

    monkeypatch.setattr(FolderSync, "push", noted)
    return engine


@pytest.mark.slow
def test_a_snapshot_is_pushed_once_and_the_trainers_weights_only_after_a_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    family, pushes = tiny_family("qwen2_5_vl"), []  # type: ignore[var-annotated]
    engine = started(family, monkeypatch, pushes)
    first, second = engine.snapshot(0), engine.snapshot(1)
    monkeypatch.setattr(engine, "_replays", lambda server: [lambda prompt, tokens: list(now)])
    now = first.logprobs
    engine.load(first)
    engine.load(first)
    assert [held for held, _ in pushes] == [first.weights]
    engine.generate([], PARAMS)
    assert len(pushes) == 1, "generate does not push what the trainer has meanwhile"
    nudge(family, "language_model")
    now = second.logprobs
    engine.load(second)
    assert engine.policy_version == 1
    engine.sync(1)
    engine.generate([], PARAMS)
    assert len(pushes) == 2, "version 1 is there"
    engine.sync(2)
    now = engine.canary.expected()
    engine._bring_up_to_date([Request(prompt=prompts(family)[0], seeds=(1,))])
    assert pushes[2][0] is None, "the trainer's own"
    now = second.logprobs
    with pytest.raises(StaleWeightsError):
        engine.load(engine.snapshot(3))
    engine.close()


def test_a_server_that_does_not_see_the_folder_is_told_how_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuses(self: VLLMServer, *args: Any, **about: Any) -> None:
        raise ServerRefusalError("Worker failed with error: no such folder")

    monkeypatch.setattr(VLLMServer, "ask", refuses)
    monkeypatch.setattr("vlrft.engines.sync.abort", lambda server: None)
    server = VLLMServer("http://10.0.0.1:8000", timeout_s=1, retries=0)
    with pytest.raises(UserError, match=r"weights_dir to one that it sees, or engine\.kwargs\.sync=nccl"):
        load_policy(server, tmp_path, "run-1")
    server.close()


def test_only_rank_0_keeps_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = VLLMServerEngine(tiny_family("qwen2_5_vl"), max_model_len=2048)
    engine.world.rank = 1
    snapshot = engine.snapshot(7)
    assert (snapshot.policy_version, snapshot.weights, snapshot.logprobs) == (7, None, [])
    assert engine._folder is None
