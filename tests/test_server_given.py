"""Servers given by URL, as the engine finds and uses them, against small servers of our own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_server import scripted
from vllm_scenes import prompts, tiny_family

from vlrft.engines import server_minder, vllm_http, vllm_process
from vlrft.engines.base import Request, SamplingParams
from vlrft.engines.canary import Canary
from vlrft.engines.server import VLLMServerEngine
from vlrft.engines.vllm_http import EngineUnreachableError, VLLMServer
from vlrft.log import UserError
from vlrft.models.base import Family
from vlrft.ports import free_ports

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed: pip install 'vlrft[vllm]'"
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_http, "_FIRST_PAUSE", 0.01)


@pytest.fixture(scope="module")
def family() -> Family:
    return tiny_family("qwen3_vl")


def info(model: str, **changed: Any) -> dict[str, Any]:
    """What /server_info says of a sound server."""
    settings = {"model": model, "max_model_len": 2048, "dtype": "torch.float32", "logprobs_mode": "processed_logprobs"}
    settings |= {"multimodal_config": {"mm_device_do_normalize": False}, **changed}
    parallel = {"worker_extension_cls": vllm_process.WORKER, "data_parallel_size": 1}
    return {"vllm_config": {"model_config": settings, "parallel_config": parallel, "device_config": {"device": "cpu"}}}


def sound(about: dict[str, Any]) -> dict[str, list[Any]]:
    open_route = [(422, {"error": {"message": "token_ids missing"}})]
    return {
        "version": [(200, {"version": "0.32.0"})],
        "server_info": [(200, about)],
        "inference__v1__generate": open_route,
    }


@needs_vllm
def test_a_url_where_nobody_listens_is_named_with_the_command(family: Family) -> None:
    (port,) = free_ports(1)
    with pytest.raises(UserError, match=rf"127.0.0.1:{port} did not answer.*VLLM_SERVER_DEV_MODE=1 .*MODEL"):
        VLLMServerEngine(family, base_urls=[f"http://127.0.0.1:{port}"])


@needs_vllm
def test_something_else_behind_the_url_is_refused(family: Family) -> None:
    with scripted(version=[(404, {"detail": "?"})]) as server, pytest.raises(UserError, match="is no vLLM server"):
        VLLMServerEngine(family, base_urls=[server.url])


@needs_vllm
def test_a_server_without_the_routes_for_weights_is_refused(family: Family) -> None:
    replies = {**sound({}), "server_info": [(404, {"error": {"message": "Not Found"}})]}
    with scripted(**replies) as server, pytest.raises(UserError, match=r"routes by which.*VLLM_SERVER_DEV_MODE=1"):
        VLLMServerEngine(family, base_urls=[server.url])


@needs_vllm
def test_a_server_without_the_route_for_tokens_is_refused(family: Family) -> None:
    replies = {**sound(info("x/y")), "inference__v1__generate": [(403, {"error": {"message": "disabled"}})]}
    with scripted(**replies) as server, pytest.raises(UserError, match=r"disabled.*--enable-scale-out"):
        VLLMServerEngine(family, base_urls=[server.url])


@needs_vllm
def test_a_server_with_other_log_probs_is_refused(family: Family) -> None:
    about = info("x/y", logprobs_mode="raw_logprobs")
    with scripted(**sound(about)) as server, pytest.raises(UserError, match="without --logprobs-mode processed"):
        VLLMServerEngine(family, base_urls=[server.url])


@needs_vllm
def test_another_model_behind_the_url_is_refused(family: Family, tmp_path: Path) -> None:
    tiny_family("qwen2_5_vl").model.config.save_pretrained(tmp_path)
    said = pytest.raises(UserError, match=r"another model than the trainer's: model_type qwen2_5_vl \(the trainer's")
    with scripted(**sound(info(str(tmp_path)))) as server, said:
        VLLMServerEngine(family, base_urls=[server.url])


@needs_vllm
def test_another_version_is_told(family: Family, caplog: pytest.LogCaptureFixture) -> None:
    with scripted(**{**sound(info("x/y")), "version": [(200, {"version": "0.99.1"})]}) as server:
        VLLMServerEngine(family, base_urls=[server.url]).close()
    assert "runs vLLM 0.99.1; vlrft is tested with 0.32" in caplog.text


@needs_vllm
@pytest.mark.parametrize(
    "changed",
    [
        {"logprobs_mode": None},
        {"multimodal_config": [1]},
        {"dtype": "float33"},
        {"max_model_len": None},
        {"model_config": None},
        {"parallel_config": "?"},
        {"vllm_config": None},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_version_that_describes_itself_otherwise_is_refused(family: Family, changed: dict[str, Any]) -> None:
    about = info("x/y")
    model = about["vllm_config"]["model_config"]
    for key, value in changed.items():
        if key == "logprobs_mode":
            del model[key]
        else:
            (model if key in model else about if key in about else about["vllm_config"])[key] = value
    replies = {**sound(about), "version": [(200, {"version": "0.99.1"})]}
    said = pytest.raises(UserError, match=r"runs vLLM 0.99.1, which describes itself.* 0.32.*Serve with vLLM 0.32")
    with scripted(**replies) as server, said:
        VLLMServerEngine(family, base_urls=[server.url])


@needs_vllm
def test_settings_of_servers_that_run_already_are_refused(family: Family) -> None:
    with pytest.raises(UserError, match=r"engine.kwargs.gpu_memory_utilization is for servers that vlrft starts"):
        VLLMServerEngine(family, base_urls=["http://127.0.0.1:1"], gpu_memory_utilization=0.5)
    with pytest.raises(ValueError, match="devices one entry for each"):
        VLLMServerEngine(family, replicas=2, devices=["0"])


@needs_vllm
def test_a_prompt_that_does_not_fit_is_named(family: Family) -> None:
    with scripted(**sound(info("x/y", max_model_len=64))) as server:
        engine = VLLMServerEngine(family, base_urls=[server.url])
        engine._is_stale = False
        with pytest.raises(UserError, match=r"sample 'a video' has a prompt of \d+ tokens.*it has 64"):
            engine.generate([Request(prompt=prompts(family)[2], seeds=(1,))], SamplingParams(max_tokens=60))
        engine.close()


def test_a_rank_without_prompts_chooses_no_canary(family: Family) -> None:
    canary = Canary(family, 1e-3)
    canary.choose([])
    assert canary.prompt is None
    text, image = prompts(family)[3], prompts(family)[0]
    for shown, expected in (([text], text), ([], text), ([text, image], image), ([], image)):
        canary.choose(shown)
        assert canary.prompt is expected


class RecordingSync:
    """Pushes nothing, and remembers to whom."""

    def __init__(self) -> None:
        self.pushed: list[list[str]] = []

    def push(self, servers: Sequence[VLLMServer], stamp: str, held: Any = None) -> None:
        self.pushed.append([server.url for server in servers])

    def again(self, server: VLLMServer, stamp: str) -> bool:
        self.pushed.append([server.url])
        return True

    def hold_still(self) -> None:
        """Nothing is read from the trainer."""

    def let_move(self) -> None:
        """As above."""


def use(engine: VLLMServerEngine, sync: RecordingSync, monkeypatch: pytest.MonkeyPatch) -> None:
    engine._sync = sync  # type: ignore[assignment]
    monkeypatch.setattr(engine, "_seam", lambda: sync)


def answer_of(prompt: Any, label: str, finish: str = "length", token: int = 5) -> tuple[int, dict[str, Any]]:
    choice = {"index": 0, "finish_reason": finish, "token_ids": [token], "weight_versions": [{"version": label}]}
    choice["logprobs"] = {"content": [{"token_id": token, "logprob": -1.0}]}
    return 200, {"prompt_token_ids": list(prompt.token_ids), "choices": [choice]}


@needs_vllm
def test_answers_of_other_weights_and_aborted_ones_are_asked_for_again(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = prompts(family)[3]
    monkeypatch.setattr(VLLMServerEngine, "_check", lambda self, rank, version: None)

    def answer(label: str, **more: Any) -> tuple[int, dict[str, Any]]:
        return answer_of(prompt, label, **more)

    with scripted(**sound(info("x/y"))) as server:
        engine = VLLMServerEngine(family, base_urls=[server.url])
        sync = RecordingSync()
        use(engine, sync, monkeypatch)
        ours = f"{engine._run}-4"
        server.replies["/weight_info"] = [(200, {"weight_version": "default"})]
        given = [answer("default", token=1), answer(ours, finish="abort", token=2), answer(ours)]
        server.replies["/inference/v1/generate"] = given
        engine.sync(4)
        ((completion,),) = engine.generate([Request(prompt=prompt, seeds=(1,))], SamplingParams(max_tokens=1))
        assert completion.token_ids == (5,)
        assert completion.policy_version == 4
        assert server.asked.count("/inference/v1/generate") == 1 + 3, "one of them a look at the route"
        assert sync.pushed == [[server.url], [server.url]], "again to a server that lost the label meanwhile"
        engine.generate([Request(prompt=prompt, seeds=(1,))], SamplingParams(max_tokens=1))
        assert len(sync.pushed) == 2, "nothing new to push"
        engine.close()


@needs_vllm
@pytest.mark.slow
def test_an_abandoned_engine_ends_what_waits_for_a_server_that_is_gone(family: Family) -> None:
    engine = VLLMServerEngine(family)
    (port,) = free_ports(1)
    engine.servers = [VLLMServer(f"http://127.0.0.1:{port}", timeout_s=5, retries=10_000)]
    engine._is_stale = False
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(engine.generate, [Request(prompt=prompts(family)[3], seeds=(1,))], SamplingParams())
        assert not wait([asked], timeout=0.3).done
        while not asked.done():
            engine.abandon()
            wait([asked], timeout=0.5)
        with pytest.raises(EngineUnreachableError, match="is not needed any more"):
            asked.result()
    engine.close()


@needs_vllm
def test_one_dead_server_of_two_does_not_end_the_run_and_comes_back_with_the_weights(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = prompts(family)[3]
    monkeypatch.setattr(server_minder, "_POLL_S", 0.02)
    monkeypatch.setattr(VLLMServerEngine, "_check", lambda self, rank, version: None)
    with scripted(**sound(info("x/y"))) as lives, scripted(**sound(info("x/y"))) as dies:
        engine = VLLMServerEngine(family, base_urls=[dies.url, lives.url], retries=2)
        sync = RecordingSync()
        use(engine, sync, monkeypatch)
        ours = f"{engine._run}-1"
        lives.replies |= {"/health": [(200, {})], "/weight_info": [(200, {"weight_version": ours})]}
        lives.replies["/inference/v1/generate"] = [answer_of(prompt, ours)]
        dies.replies |= {"/health": [(503, {})], "/inference/v1/generate": [(503, {})]}
        dies.replies["/update_weight_version"] = [(200, {})]
        requests, params = [Request(prompt=prompt, seeds=(seed,)) for seed in range(4)], SamplingParams(max_tokens=1)
        engine.sync(1)
        assert len(engine.generate(requests, params)) == 4
        assert sync.pushed == [[lives.url]], "the other one is left out of the push"
        assert dies.asked.count("/inference/v1/generate") == 1, "none but the look at the route"

        # It is back, with vLLM's own label: the slow answer of the other one leaves time to notice it.
        dies.replies |= {"/health": [(200, {})], "/weight_info": [(200, {"weight_version": "default"})]}
        lives.replies["/inference/v1/generate"] = [0.5, answer_of(prompt, ours)]
        assert len(engine.generate(requests[:1], params)) == 1
        assert [dies.url] in sync.pushed
        assert sorted(engine._reached) == sorted([dies.url, lives.url])
        engine.close()


@needs_vllm
@pytest.mark.parametrize("label", ["default", "other-3"])
def test_a_server_started_anew_by_somebody_gets_the_weights_but_never_another_runs(
    label: str, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = prompts(family)[3]
    monkeypatch.setattr(server_minder, "_POLL_S", 0.02)
    with scripted(**sound(info("x/y"))) as server:
        engine = VLLMServerEngine(family, base_urls=[server.url], retries=8 if label == "default" else 2)
        sync = RecordingSync()
        use(engine, sync, monkeypatch)
        engine._is_stale, engine._stamp = False, f"{engine._run}-2"
        server.replies |= {"/health": [(200, {})], "/weight_info": [(200, {"weight_version": label})]}
        server.replies["/inference/v1/generate"] = [0.5, answer_of(prompt, label)]
        server.replies["/update_weight_version"] = [(200, {})]

        def again(given: VLLMServer, stamp: str) -> bool:
            sync.pushed.append([stamp])
            server.replies["/weight_info"] = [(200, {"weight_version": engine._stamp})]
            server.replies["/inference/v1/generate"] = [answer_of(prompt, engine._stamp)]
            return True

        monkeypatch.setattr(sync, "again", again)
        monkeypatch.setattr(vllm_http, "_FIRST_PAUSE", 0.05)
        ask = [Request(prompt=prompt, seeds=(1,))], SamplingParams(max_tokens=1)
        if label == "default":
            assert len(engine.generate(*ask)) == 1
            assert sync.pushed == [[f"{engine._stamp}-unchecked"]], "no answer counts before the canary has seen it"
            assert "/update_weight_version" in server.asked
        else:
            with pytest.raises(EngineUnreachableError, match="another run pushes weights to it"):
                engine.generate(*ask)
            assert "/weight_info" in server.asked, "it was looked at"
            assert sync.pushed == []
        engine.close()


@needs_vllm
def test_an_answer_to_another_prompt_stops_the_run(family: Family) -> None:
    prompt = prompts(family)[3]
    choice = {"index": 0, "finish_reason": "length", "token_ids": [5], "weight_versions": [{"version": "v"}]}
    with scripted(**sound(info("x/y"))) as server:
        engine = VLLMServerEngine(family, base_urls=[server.url])
        engine._is_stale, engine._stamp = False, "v"
        server.replies["/inference/v1/generate"] = [(200, {"prompt_token_ids": [1, 2], "choices": [choice]})]
        with pytest.raises(RuntimeError, match="'text only': vLLM answered to other prompt tokens than it was given"):
            engine.generate([Request(prompt=prompt, seeds=(1,))], SamplingParams(max_tokens=1))
        engine.close()


def test_runs_of_a_video_are_images_with_all_its_pixels(family: Family) -> None:
    """Qwen3-VL writes the time before every pair of frames; the route takes no mask."""
    prompt = prompts(family)[4]
    runs = family.media_runs(prompt)
    assert [run.kind for run in runs] == ["image"] * (3 + 1 + 2)
    assert all(all(run.is_vision) for run in runs)
    video = torch.cat([run.rows["pixel_values"] for i, run in enumerate(runs) if i != 3])
    assert torch.equal(video, prompt.mm["pixel_values_videos"])
    covered = {run.start + i for run in runs for i in range(len(run.is_vision))}
    assert covered == {i for i, token in enumerate(prompt.token_ids) if token in family.run_ids}  # type: ignore[attr-defined]
    assert len({run.digest for run in runs}) == 6
