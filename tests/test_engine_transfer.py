"""Weights on their way into servers: what vLLM's senders are given and told, folders set aside, and on a GPU the real
thing."""

from __future__ import annotations

import base64
import json
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scripted_server import scripted
from vllm_scenes import nudge, tiny_family

from vlrft.engines.base import SamplingParams
from vlrft.engines.transfer import (
    PolicySource,
    ServersClient,
    TransferSync,
    address_towards,
    chosen,
    server_environment,
    server_settings,
    transfer_of,
)
from vlrft.engines.vllm_http import EngineUnreachableError, VLLMServer
from vlrft.engines.vllm_process import serve_arguments
from vlrft.engines.weights import WeightFolder, published_tensors
from vlrft.log import UserError
from vlrft.models.base import Family

pytest.importorskip("vllm", reason="vllm is not installed: pip install 'vlrft[vllm]'")

from vlrft.engines.server import VLLMServerEngine

CPU = torch.device("cpu")
OK = (200, {})
ROUTES = ("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update")
CACHES = ("reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache")
PUSHED = ["/start_weight_update", "/update_weights", "/finish_weight_update"]
FORGOTTEN = [*(f"/{name}" for name in CACHES), "/update_weight_version"]


class Told:
    """Two servers of one and of two GPUs, and what they were told: (server, route, body)."""

    def __init__(self) -> None:
        replies = {name: [OK] for name in (*ROUTES, *CACHES[1:], "abort_requests", "update_weight_version")}
        replies["reset_prefix_cache"] = [(200, {"success": True})]
        self._first = scripted(**replies, get_world_size=[(200, {"world_size": 1})])
        self._second = scripted(**replies, get_world_size=[(200, {"world_size": 2})])
        self.scripts = [self._first.__enter__(), self._second.__enter__()]
        self.servers = [VLLMServer(script.url, timeout_s=20, retries=1) for script in self.scripts]
        self.bodies: list[tuple[int, str, Any]] = []
        for index, server in enumerate(self.servers):
            server._once = self._noting(index, server._once)  # type: ignore[method-assign]

    def _noting(self, index: int, once: Any) -> Any:
        def noted(method: str, path: str, body: bytes | None, headers: Any) -> Any:
            self.bodies.append((index, path, json.loads(body) if body else None))
            return once(method, path, body, headers)

        return noted

    def routes(self, index: int) -> list[str]:
        return [path.partition("?")[0] for at, path, _ in self.bodies if at == index]

    def body(self, route: str, index: int = 0) -> Any:
        return next(body for at, path, body in reversed(self.bodies) if path == route and at == index)

    def close(self) -> None:
        for server in self.servers:
            server.close()
        self._first.__exit__(None, None, None)
        self._second.__exit__(None, None, None)


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.close()


@pytest.fixture(scope="module")
def family() -> Family:
    return tiny_family("qwen2_5_vl")


def test_sources_tell_beforehand_exactly_what_they_send(family: Family) -> None:
    source = PolicySource(family, torch.bfloat16, CPU)
    sent = list(source)
    about = [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()]
    assert about == [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in sent]
    assert {tensor.dtype for _, tensor in sent} == {torch.bfloat16}
    own = PolicySource(family, torch.float32, CPU)
    live = {tensor.data_ptr() for _, tensor in published_tensors(family)}
    assert {tensor.data_ptr() for _, tensor in own} == live, "nothing is copied that needs no other type"


def test_sent_names_are_those_of_a_published_checkpoint(family: Family) -> None:
    folder = WeightFolder(family)
    stored = load_file(folder.write() / "model.safetensors")
    folder.close()
    assert {name for name, _ in PolicySource(family, torch.float32, CPU)} == set(stored)


class Sender:
    """In the place of vLLM's: the order of its calls, and the checks that its NCCL sender makes."""

    def __init__(self, init_info: Any, client: Any, source: Any) -> None:
        self.client, self.source, self.received = client, source, []
        if init_info.backend == "ipc":
            client.init_weight_transfer_engine({"packed": init_info.packed})
            return
        from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferInitInfo, worker_init_payload

        info = NCCLWeightTransferInitInfo(
            master_address=init_info.master_address,
            master_port=init_info.master_port,
            rank_offset=1,
            world_size=init_info.world_size,
            packed=init_info.packed,
        )
        client.init_weight_transfer_engine(worker_init_payload(info))

    def send_weights(self) -> None:
        meta = self.source.metadata()
        self.client.start_weight_update()
        self.client.update_weights({"names": [m.name for m in meta]})
        self.received = [(name, tensor.clone()) for name, tensor in self.source]
        assert [name for name, _ in self.received] == [m.name for m in meta]
        self.client.finish_weight_update()


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> list[Sender]:
    from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

    made: list[Sender] = []

    def trainer_init(init_info: Any, *, client: Any, source: Any) -> Sender:
        made.append(Sender(init_info, client, source))
        return made[-1]

    monkeypatch.setattr(WeightTransferTrainerFactory, "trainer_init", trainer_init)
    return made


def sync_of(family: Family, backend: str, folder: WeightFolder) -> TransferSync:
    return TransferSync(family, backend, torch.float32, folder, nullcontext(), CPU)


def test_nccl_numbers_the_workers_of_all_servers_through(family: Family, told: Told, senders: list[Sender]) -> None:
    folder = WeightFolder(family)
    sync = sync_of(family, "nccl", folder)
    sync.push(told.servers, "run-1")
    infos = [told.body("/init_weight_transfer_engine", index)["init_info"] for index in (0, 1)]
    assert [info["rank_offset"] for info in infos] == [1, 2]
    assert [info["world_size"] for info in infos] == [4, 4], "the trainer, one GPU and two"
    assert infos[0]["master_address"] == "127.0.0.1"
    for index in (0, 1):
        assert told.routes(index)[-7:] == [*PUSHED, *FORGOTTEN]
    assert told.body("/update_weight_version", 1) == {"new_version": "run-1"}
    told.bodies.clear()
    sync.push(told.servers, "run-2")
    assert len(senders) == 1, "one connection for all pushes"
    assert "/init_weight_transfer_engine" not in told.routes(0)
    folder.close()


def test_held_weights_are_those_of_their_time(family: Family, told: Told, senders: list[Sender]) -> None:
    folder = WeightFolder(family)
    sync = sync_of(family, "nccl", folder)
    before = {name: tensor.clone() for name, tensor in published_tensors(family)}
    held = sync.hold()
    nudge(family, "language_model")
    sync.push(told.servers, "run-1", held)
    assert all(torch.equal(tensor, before[name]) for name, tensor in senders[0].received)
    stored = load_file(sync.folder_of(held) / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in stored.items())
    sync.push(told.servers, "run-2")
    live = dict(published_tensors(family))
    assert all(torch.equal(tensor, live[name]) for name, tensor in senders[0].received)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in senders[0].received)
    folder.close()


def test_a_transfer_that_failed_is_connected_anew(family: Family, told: Told, senders: list[Sender]) -> None:
    folder = WeightFolder(family)
    sync = sync_of(family, "nccl", folder)
    told.scripts[1].replies["/update_weights"] = [(503, {"error": "gone"}), OK]
    with pytest.raises(EngineUnreachableError, match=r"did not answer /update_weights.* asked 1 times"):
        sync.push(told.servers, "run-1")
    sync.push(told.servers, "run-1")
    assert len(senders) == 2
    folder.close()


def test_a_server_that_came_back_reads_the_last_push_from_its_folder(
    family: Family, told: Told, senders: list[Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = WeightFolder(family)
    sync = sync_of(family, "nccl", folder)
    held = sync.hold()
    before = dict(held)
    sync.push(told.servers, "run-1", held)
    nudge(family, "language_model")
    read: list[Path] = []
    monkeypatch.setattr(VLLMServer, "rpc", lambda self, method, **about: read.append(Path(about["weights_path"])))
    told.servers[0].repacks = False
    sync.again(told.servers[0], "run-1")
    stored = load_file(read[0] / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in stored.items())
    sync.push(told.servers, "run-2")
    assert len(senders) == 2, "it left the group"
    folder.close()


def test_a_server_that_came_back_while_the_trainer_moves_waits_for_the_next_push(
    family: Family, told: Told, senders: list[Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer's weights of now are not those of the last push: under its label they would pass for them."""
    folder = WeightFolder(family)
    sync = sync_of(family, "nccl", folder)
    read: list[Path] = []
    monkeypatch.setattr(VLLMServer, "rpc", lambda self, method, **about: read.append(Path(about["weights_path"])))
    told.servers[0].repacks = False
    sync.hold_still()
    sync.push(told.servers, "run-1")
    before = {name: tensor.clone() for name, tensor in published_tensors(family)}
    sync.let_move()
    nudge(family, "language_model")
    assert not sync.again(told.servers[0], "run-1")
    assert not read
    assert told.routes(0)[-1] == "/update_weight_version", "it is told nothing"
    sync.push(told.servers, "run-2")
    assert len(senders) == 2, "it left the group"

    sync.hold_still()
    pushed = {name: tensor.clone() for name, tensor in published_tensors(family)}
    assert sync.again(told.servers[0], "run-2")
    sync.let_move()
    nudge(family, "language_model")
    assert sync.again(told.servers[0], "run-2"), "the folder has them now"
    stored = load_file(read[-1] / "model.safetensors")
    assert all(torch.equal(tensor, pushed[name]) for name, tensor in stored.items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in stored.items())
    folder.close()


def test_weights_do_not_move_while_they_are_read_for_a_server_that_came_back(
    family: Family, told: Told, senders: list[Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = WeightFolder(family)
    sync = sync_of(family, "nccl", folder)
    sync.hold_still()
    sync.push(told.servers, "run-1")
    order: list[str] = []
    reading = threading.Event()

    def write(held: Any) -> Path:
        reading.set()
        time.sleep(0.2)
        order.append("read")
        return folder.path

    monkeypatch.setattr(folder, "write", write)
    monkeypatch.setattr(VLLMServer, "rpc", lambda self, method, **about: None)
    thread = threading.Thread(target=sync.again, args=(told.servers[0], "run-1"))
    thread.start()
    reading.wait()
    sync.let_move()
    order.append("moves")
    thread.join()
    assert order == ["read", "moves"]
    folder.close()


def test_what_nobody_has_any_more_is_pushed_before_the_next_rollout(
    family: Family, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = VLLMServerEngine(family)
    engine._sync = sync = sync_of(family, "nccl", WeightFolder(family))
    engine._is_stale, engine._stamp, engine._checked = False, "run-1", False
    engine._revived(told.servers[0].url)
    assert engine._lost
    assert told.scripts[0].asked == [], "no label either"
    brought: list[bool] = []
    monkeypatch.setattr(engine, "_bring_up_to_date", lambda requests: brought.append(engine._lost))
    engine.generate([], SamplingParams())
    assert brought == [True]
    sync.folder.close()


def test_handles_of_cuda_memory_are_pickled_as_vllm_unpickles_them(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferUpdateInfo

    handles = {"GPU-1": (1, b"\x00\xff", None)}
    about = {"names": ["a"], "dtype_names": ["float32"], "shapes": [[2]], "tensor_sizes": [8]}
    ServersClient(told.servers[:1]).update_weights({**about, "ipc_handles": handles})
    sent = told.body("/update_weights")["update_info"]
    assert pickle.loads(base64.b64decode(sent["ipc_handles_pickled"])) == handles
    for name, value in server_environment("ipc").items():
        monkeypatch.setenv(name, value)
    assert IPCWeightTransferUpdateInfo(**sent).ipc_handles == handles
    assert server_environment("nccl") == {}


def test_servers_are_started_for_the_transfer() -> None:
    arguments = serve_arguments(Path("/model"), server_settings("nccl"))
    at = arguments.index("--weight-transfer-config")
    assert json.loads(arguments[at + 1]) == {"backend": "nccl"}
    assert server_settings("folder") == {}
    assert transfer_of({"weight_transfer_config": {"backend": "nccl"}}) == "nccl"
    assert transfer_of({"weight_transfer_config": None}) is None


def test_auto_takes_the_way_that_is_open() -> None:
    assert chosen("auto", own_devices=True, given=(), on_cuda=False) == "folder"
    assert chosen("auto", own_devices=True, given=(), on_cuda=True) == "nccl"
    assert chosen("auto", own_devices=False, given=(), on_cuda=True) == "folder", "the trainer's own GPU"
    assert chosen("auto", own_devices=False, given=["nccl", "nccl"], on_cuda=True) == "nccl"
    assert chosen("auto", own_devices=False, given=["nccl", None], on_cuda=True) == "folder"
    assert chosen("ipc", own_devices=False, given=(), on_cuda=True) == "ipc"


def test_ways_that_are_closed_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"sync='tcp' is none of engine\.name=vllm_server: use auto, folder, nccl, ipc"
    ):
        chosen("tcp", own_devices=False, given=(), on_cuda=True)
    with pytest.raises(ValueError, match=r"sync=nccl needs a CUDA device; use sync=folder"):
        chosen("nccl", own_devices=True, given=(), on_cuda=False)
    with pytest.raises(UserError, match=r"--weight-transfer-config '\{\"backend\": \"nccl\"\}'"):
        chosen("nccl", own_devices=False, given=["nccl", None], on_cuda=True)


def test_addresses_are_those_that_servers_reach() -> None:
    assert address_towards(["http://127.0.0.1:8000"]) == "127.0.0.1"


def test_folders_keep_what_is_set_aside_until_it_is_taken(family: Family, tmp_path: Path) -> None:
    folder = WeightFolder(family, tmp_path)
    written: list[dict[str, torch.Tensor]] = []
    asides = []
    for part in ("language_model", "vision_tower", "projector"):
        nudge(family, part)
        written.append({name: tensor.clone() for name, tensor in published_tensors(family)})
        asides.append(folder.set_aside())
    assert not list(folder.path.glob("*.safetensors")), "nobody loads what waits"
    for index in (0, 2):
        stored = load_file(folder.take(asides[index]) / "model.safetensors")
        assert all(torch.equal(tensor, written[index][name]) for name, tensor in stored.items())
    assert not asides[1].exists(), "older ones are of no more use"
    folder.close()
    assert not list(tmp_path.iterdir())
