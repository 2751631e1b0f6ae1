"""vLLM servers on this machine: the trainer's log-probs, new weights, servers that die in the middle of a rollout."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_ranks import assert_alike, compared
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
from vlrft.engines.server_minder import UNTOUCHED
from vlrft.engines.sync import load_policy, stamp_weights, weights_stamp
from vlrft.engines.vllm_http import EngineUnreachableError
from vlrft.models.base import Family
from vlrft.records import rollout_file

pytest.importorskip("vllm", reason="vllm is not installed: pip install 'vlrft[vllm]'")

from vlrft.engines.server import VLLMServerEngine

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {"max_model_len": 2048, "enforce_eager": True, "kv_cache_memory_bytes": 2**28}


def build(name: str, **more: Any) -> tuple[Family, VLLMServerEngine]:
    family = tiny_family(name)
    return family, VLLMServerEngine(family, max_rows=64, **SETTINGS, **more)


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[Family, VLLMServerEngine]]:
    family, engine = build("qwen2_5_vl")
    yield family, engine
    engine.close()


def server_of(engine: VLLMServerEngine, replica: int = 0) -> int:
    """Process id of vLLM's API server."""
    assert engine.fleet is not None
    process = engine.fleet.replicas[replica].process
    assert process is not None
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def queues_of(servers: list[int]) -> list[Path]:
    """Shared memory between the processes of these servers."""
    found: set[str] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # of another's, or ended meanwhile
            if os.getsid(int(folder.name)) in servers:
                found |= set(re.findall(r"/dev/shm/psm_\w+", (folder / "maps").read_text()))
    assert len(found) >= len(servers)
    return [Path(name) for name in found]


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "internvl"])
def test_every_family_equals_the_trainer(name: str) -> None:
    family, engine = build(name)
    try:
        assert sampled_gap(family, engine, prompts(family)) < 1e-5
    finally:
        engine.close()


def test_log_probs_equal_the_trainers_on_images_videos_and_text(stage: tuple[Family, VLLMServerEngine]) -> None:
    family, engine = stage
    assert sampled_gap(family, engine, prompts(family)) < 1e-5
    for prompt in prompts(family):
        tokens = family.encode("[12, 40]")
        assert engine.replay(prompt, tokens) == pytest.approx(trainer_logprobs(family, prompt, tokens), abs=1e-5)


def test_seeds_bans_and_stops(stage: tuple[Family, VLLMServerEngine]) -> None:
    family, engine = stage
    scenes = prompts(family)
    alone = engine.generate([Request(prompt=scenes[0], seeds=(5, 6))], PARAMS)
    crowd = engine.generate([Request(prompt=p, seeds=(5, 6)) for p in scenes], PARAMS)
    assert [c.token_ids for c in alone[0]] == [c.token_ids for c in crowd[0]]
    assert alone[0][0].token_ids != alone[0][1].token_ids
    assert_never_sampled(family, engine)


@pytest.mark.parametrize("part", ["language_model", "vision_tower", "projector"])
def test_new_weights_of_every_part_arrive_and_no_cache_outlives_them(
    stage: tuple[Family, VLLMServerEngine], part: str
) -> None:
    assert_new_weights_arrive(*stage, part)


def test_the_canary_catches_a_sync_that_does_not_arrive(
    stage: tuple[Family, VLLMServerEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, engine = stage
    scenes = prompts(family)
    engine.sync(engine.policy_version + 1)
    assert sampled_gap(family, engine, scenes) < 1e-5

    def only_stamps(servers: list[Any], stamp: str, held: Any) -> None:
        for server in servers:
            stamp_weights(server, stamp)

    monkeypatch.setattr(engine._sync, "push", only_stamps)
    nudge(family, "vision_tower")
    engine.sync(engine.policy_version + 1)
    with pytest.raises(StaleWeightsError, match="did not change at all"):
        engine.generate([Request(prompt=scenes[0], seeds=(3,))], PARAMS)
    monkeypatch.undo()
    assert sampled_gap(family, engine, scenes) < 1e-5, "after a sound sync it goes on"


def test_a_server_given_by_url_takes_the_policy_and_tells_who_else_pushes(
    stage: tuple[Family, VLLMServerEngine],
) -> None:
    family, owner = stage
    owner.generate([Request(prompt=prompts(family)[0], seeds=(3,))], PARAMS)
    other = tiny_family("qwen2_5_vl")
    nudge(other, "language_model")
    guest = VLLMServerEngine(other, base_urls=[owner.servers[0].url], retries=1)
    assert guest.max_model_len == 2048
    assert sampled_gap(other, guest, prompts(other)) < 1e-5
    assert owner._folder is not None
    load_policy(owner.servers[0], owner._folder.path, UNTOUCHED)  # as if somebody had started it anew
    guest.servers[0].retries = 8
    assert sampled_gap(other, guest, prompts(other)) < 1e-5, "it is given the weights again"
    assert weights_stamp(owner.servers[0]) == guest._stamp
    owner.servers[0].retries, before = 1, owner.servers[0].retries
    with pytest.raises(EngineUnreachableError, match="another run pushes weights to it"):
        owner.generate([Request(prompt=prompts(family)[0], seeds=(3,))], PARAMS)
    guest.close()
    owner.servers[0].retries = before
    owner.sync(owner.policy_version + 1)
    assert sampled_gap(family, owner, prompts(family)) < 1e-5


def test_a_server_killed_in_the_middle_of_a_rollout_changes_nothing(stage: tuple[Family, VLLMServerEngine]) -> None:
    family, engine = stage
    requests = [Request(prompt=p, seeds=(31, 32, 33, 34)) for p in prompts(family)]
    params = SamplingParams(max_tokens=600, ignore_eos=True)
    engine.sync(engine.policy_version + 1)
    began = time.monotonic()
    undisturbed = engine.generate(requests, params)
    took = time.monotonic() - began
    killed: list[int] = []

    def kill() -> None:
        time.sleep(took / 3)
        killed.append(server_of(engine))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    again = engine.generate(requests, params)
    thread.join()
    assert server_of(engine) != killed[0], "it was started anew"
    assert len(again) == len(requests)
    for rows, others in zip(undisturbed, again, strict=True):
        assert [row.token_ids for row in rows] == [row.token_ids for row in others]
        assert [row.policy_version for row in others] == [engine.policy_version] * 4
    nudge(family, "projector")
    engine.sync(engine.policy_version + 1)
    assert sampled_gap(family, engine, prompts(family)) < 1e-5, "it takes new weights as before"


def test_two_replicas_give_the_tokens_of_one_and_leave_nothing_behind() -> None:
    family, two = build("qwen2_5_vl", replicas=2)
    requests = [Request(prompt=p, seeds=(7, 8, 9)) for p in prompts(family)]
    params = SamplingParams(max_tokens=32)
    for version in (0, 1):
        two.sync(version)
        spread = two.generate(requests, params)
        both = two.servers
        for server in both:
            two.servers = [server]
            alone = two.generate(requests, params)
            assert [[r.token_ids for r in rows] for rows in alone] == [[r.token_ids for r in rows] for rows in spread]
        two.servers = both
        nudge(family, "language_model")
    processes = [server_of(two, i) for i in range(2)]
    assert len(set(processes)) == 2
    assert two.fleet is not None
    assert two._folder is not None
    files = [two.fleet.log_dir, two._folder.path, *queues_of(processes)]
    assert all(file.exists() for file in files)
    two.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
    assert not any(file.exists() for file in files)


def test_one_rank_and_two_train_alike(tmp_path: Path) -> None:
    """Uneven shares, and more ranks than held-out samples, so that a rank has nothing to ask for."""
    engine = {"name": "vllm_server", "kwargs": {**SETTINGS, "log_dir": str(tmp_path / "logs")}}
    model = {"tiny": {"hidden_size": 128, "intermediate_size": 256}}
    training = {"prompts_per_step": 3, "steps": 3}
    one, two = compared(tmp_path, model=model, engine=engine, train=training, eval={"every": 2, "limit": 1})
    assert_alike(one, two, tolerance=1e-3)
    for step in (1, 2, 3):
        lines = rollout_file(two, "grpo", step).read_text(encoding="utf-8").splitlines()
        assert len(lines) == 3
        assert {rollout["policy_version"] for line in lines for rollout in json.loads(line)["rollouts"]} == {step - 1}
