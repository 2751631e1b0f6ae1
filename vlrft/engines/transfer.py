"""Weights from the trainer's device straight into servers', by vLLM's own weight transfer (0.28 or newer).

`nccl` sends them through a group of the trainer and all workers of all servers, over any distance; `ipc` lends them to
a server that runs on the trainer's own GPU. Both go in buffers of 1 GB, so that no second copy of the model exists.
"""

from __future__ import annotations

import base64
import json
import pickle
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from vlrft.engines.base import EngineLostError
from vlrft.engines.sync import abort, at_once, forget, load_policy, stamp_weights
from vlrft.engines.vllm_http import VLLMServer
from vlrft.engines.weights import WeightFolder, published_tensors
from vlrft.log import UserError
from vlrft.models.base import Family
from vlrft.ports import free_ports

TRANSFERS = ("nccl", "ipc")
SYNCS = ("auto", "folder", *TRANSFERS)
Held = list[tuple[str, Tensor]]


def chosen(sync: str, *, own_devices: bool, given: Sequence[str | None], on_cuda: bool) -> str:
    """What `engine.kwargs.sync` comes to. own_devices: servers are started on GPUs that the recipe names. given: the
    transfer that each server given by URL was started with. Raises ValueError or UserError for what cannot be."""
    if sync not in SYNCS:
        raise ValueError(f"engine.kwargs.sync={sync!r} is none of engine.name=vllm_server: use {', '.join(SYNCS)}")
    if sync == "auto":
        can_nccl = on_cuda and (own_devices or (bool(given) and set(given) == {"nccl"}))
        return "nccl" if can_nccl else "folder"
    if sync in TRANSFERS and not on_cuda:
        raise ValueError(f"engine.kwargs.sync={sync} needs a CUDA device; use sync=folder")
    if sync in TRANSFERS and any(other != sync for other in given):
        raise UserError(
            f"engine.kwargs.sync={sync} needs servers that were started with "
            f"--weight-transfer-config '{json.dumps({'backend': sync})}'; start them so, or use sync=folder"
        )
    return sync


def server_settings(sync: str) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for servers that take weights so."""
    return {"weight_transfer_config": {"backend": sync}} if sync in TRANSFERS else {}


def server_environment(sync: str) -> dict[str, str]:
    """What else a server's environment must say. Handles of `ipc` are pickled, and the server listens on this machine
    alone."""
    return {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"} if sync == "ipc" else {}


class PolicySource:
    """The policy as vLLM's senders read it (`vllm.distributed.weight_transfer.base.WeightSource`)."""

    def __init__(self, family: Family, dtype: torch.dtype, device: torch.device) -> None:
        """dtype: of the servers' weights, which travel in it. device: the one that sends."""
        self.family, self.dtype, self.device = family, dtype, device
        self.held: Held | None = None
        """What is sent in place of the current weights."""

    def metadata(self) -> list[Any]:
        """Name, type and shape of everything that iteration gives, in its order."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        # To ask weights that are spread over ranks for themselves is collective; the empty model knows their shapes.
        about = self._empty() if self.family.spread is not None and self.held is None else self._tensors(merged=False)
        return [ParamMeta(name, self._type(tensor), tuple(tensor.shape)) for name, tensor in about]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._tensors():
            yield name, tensor.to(self.device, self._type(tensor))

    def _tensors(self, *, merged: bool = True) -> Iterator[tuple[str, Tensor]]:
        return published_tensors(self.family, merged=merged) if self.held is None else iter(self.held)

    def _empty(self) -> Iterator[tuple[str, Tensor]]:
        return ((self.family.export_name(name), tensor) for name, tensor in self.family.model.named_parameters())

    def _type(self, tensor: Tensor) -> torch.dtype:
        return self.dtype if tensor.is_floating_point() else tensor.dtype


class ServersClient:
    """Several servers as the one that vLLM's senders talk to (its `VLLMWeightSyncClient`).

    Nothing is asked twice: what a broken transfer has left in a server, only a new connection clears.
    """

    def __init__(self, servers: Sequence[VLLMServer]) -> None:
        self.servers = servers

    def workers(self) -> list[int]:
        """GPUs behind each server."""
        return [int(server.ask("GET", "/get_world_size")["world_size"]) for server in self.servers]

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Ranks go through all servers: those of the second come behind those of the first."""
        infos = {server.url: dict(init_info) for server in self.servers}
        if "rank_offset" in init_info:
            offset = init_info["rank_offset"]
            for server, count in zip(self.servers, self.workers(), strict=True):
                infos[server.url]["rank_offset"] = offset
                offset += count
        # Each answers when all have met.
        at_once(self.servers, lambda server: _tell(server, "init_weight_transfer_engine", init_info=infos[server.url]))

    def start_weight_update(self) -> None:
        self._all("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """CUDA handles, which no JSON holds, are pickled as vLLM reads them."""
        handles = update_info.get("ipc_handles")
        if handles is not None:
            others = {name: value for name, value in update_info.items() if name != "ipc_handles"}
            update_info = {**others, "ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode()}
        self._all("update_weights", update_info=update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The label comes later, when the caches of the old weights are gone."""
        self._all("finish_weight_update")

    def _all(self, route: str, **body: Any) -> None:
        at_once(self.servers, lambda server: _tell(server, route, **body))


class TransferSync:
    """A `WeightSync` by `nccl` or `ipc`. Connected at the first push, and anew after one that has failed."""

    fills_folder = False

    def __init__(
        self,
        family: Family,
        backend: str,
        dtype: torch.dtype,
        folder: WeightFolder,
        writing: AbstractContextManager[object] | None = None,
        device: torch.device | None = None,
    ) -> None:
        """dtype: of the servers' weights. folder: for servers that start; writing: held while it is written. device:
        the one that sends; None = the current CUDA device."""
        self.backend, self.folder = backend, folder
        self.writing = writing if writing is not None else nullcontext()
        device = torch.device("cuda", torch.cuda.current_device()) if device is None else device
        self.source = PolicySource(family, dtype, device)
        self._sender: Any = None
        self._pushed: Held | None = None
        """What was pushed last, where that is not what the trainer has."""
        self._filled = False
        """Whether the folder has what was pushed last."""
        self._still = False
        """Whether the trainer has what was pushed last."""
        self._reading = threading.Lock()
        """Held while either may change, and while the trainer's weights are read for a server that came back."""

    def hold(self) -> Held:
        """On the host: the GPU has no room for another policy."""
        source = self.source
        return [(name, t.to("cpu", source._type(t), copy=True)) for name, t in published_tensors(source.family)]

    def folder_of(self, held: Held | None = None) -> Path:
        with self.writing, self._reading:
            path = self.folder.write(held)
            self._pushed, self._filled = held, True
            return path

    def push(self, servers: Sequence[VLLMServer], stamp: str, held: Held | None = None) -> None:
        with self._reading:
            self._filled = False
        at_once(servers, abort)
        self.source.held = held
        is_cuda = self.source.device.type == "cuda"
        try:
            # A thread of ours would otherwise send from the first GPU.
            with torch.cuda.device(self.source.device) if is_cuda else nullcontext():
                if self._sender is None:
                    self._sender = self._connect(servers)
                self._sender.send_weights()
        except BaseException:
            self._sender = None
            raise
        finally:
            self.source.held = None
        self._pushed = held
        at_once(servers, forget)
        at_once(servers, lambda server: stamp_weights(server, stamp))

    def again(self, server: VLLMServer, stamp: str) -> bool:
        """It is no member of the group any more, so it reads the weights from its folder; the next push connects anew.

        Not called during `push`. The folder is written from what was held or, while they stand still, from the
        trainer's weights. Raises EngineLostError where those are spread over ranks that now wait for rollouts.
        """
        with self.writing, self._reading:
            self._sender = None
            if not self._filled:
                if self._pushed is None and not self._still:
                    return False
                if self._pushed is None and self.source.family.spread is not None:
                    raise EngineLostError(
                        f"the weights that {server.url} has lost are spread over the ranks, which cannot write them "
                        "now: resume the run, or use engine.kwargs.sync=folder"
                    )
                self.folder.write(self._pushed)
                self._filled = True
        load_policy(server, self.folder.path, stamp)
        return True

    def hold_still(self) -> None:
        self._still = True

    def let_move(self) -> None:
        with self._reading:
            self._still = False

    def _connect(self, servers: Sequence[VLLMServer]) -> Any:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        client = ServersClient(servers)
        return WeightTransferTrainerFactory.trainer_init(
            self._about(client), client=client, source=self.source  # type: ignore[arg-type]
        )  # fmt: skip

    def _about(self, client: ServersClient) -> Any:
        """Rank 0 of the trainer sends; it is rank 0 of the transfer too, and the workers come behind it."""
        if self.backend == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            return IPCTrainerInitInfo(rank=0, packed=True)
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(
            rank=0,
            master_address=address_towards([server.url for server in client.servers]),
            master_port=free_ports(1)[0],
            world_size=1 + sum(client.workers()),
        )


def address_towards(urls: Sequence[str]) -> str:
    """This machine's address as the servers see it; one that all can reach, where some run here."""
    found = []
    for parts in map(urlsplit, urls):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
            probe.connect((parts.hostname, parts.port or 80))
            found.append(str(probe.getsockname()[0]))
    return next((address for address in found if not address.startswith("127.")), found[0])


def _tell(server: VLLMServer, route: str, **body: Any) -> None:
    server.ask("POST", f"/{route}", body=json.dumps(body).encode(), retries=0)


def transfer_of(config: Mapping[str, Any]) -> str | None:
    """The transfer that a server's config (`/server_info`) says it was started with."""
    about = config.get("weight_transfer_config")
    return about["backend"] if isinstance(about, Mapping) else None
