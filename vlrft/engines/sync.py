"""How a policy's weights get into servers, behind one call."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Protocol

from vlrft.engines.vllm_http import PassingError, ServerRefusalError, VLLMServer
from vlrft.engines.weights import WeightFolder
from vlrft.log import UserError


class WeightSync(Protocol):
    """Sends the current weights; whether they have arrived, the canary says."""

    def push(self, servers: Sequence[VLLMServer], stamp: str) -> None:
        """Load the trainer's weights into every server, forget what was computed from the old ones, and label them
        with `stamp`, which every answer then carries. Nothing may be asked of the servers meanwhile."""


class FolderSync:
    """Through a folder that trainer and servers see: shared memory, or `weights_dir` for servers on other machines."""

    def __init__(
        self, folder: WeightFolder, writing: AbstractContextManager[object], written: str | None = None
    ) -> None:
        """writing: held while the folder is written. written: stamp of what it holds already."""
        self.folder = folder
        self.writing = writing
        self.written = written

    def push(self, servers: Sequence[VLLMServer], stamp: str) -> None:
        """The folder is written once per stamp: where weights are spread over ranks, all of them take part in that."""
        if stamp != self.written:
            with self.writing:
                self.folder.write()
            self.written = stamp
        path = str(self.folder.path)
        with ThreadPoolExecutor(len(servers)) as pool:
            list(pool.map(lambda server: load_policy(server, path, stamp), servers))


def load_policy(server: VLLMServer, path: str, stamp: str) -> None:
    """Have a server load the checkpoint in `path`, which it must see too. Raises UserError where it cannot."""
    server.ask("POST", "/abort_requests", body=b"{}")  # whatever a cut link has left behind
    try:
        server.rpc("reload_weights", weights_path=path)
    except ServerRefusalError as error:
        raise UserError(
            f"{error}. It could not load the trainer's weights from {path}: it serves another model, or does not see "
            "this folder (set engine.kwargs.weights_dir to one that it sees); the server's log says more"
        ) from error
    if server.repacks:
        server.rpc("repack_policy")
    forget(server)
    stamp_weights(server, stamp)


def forget(server: VLLMServer) -> None:
    """Drop keys and values, media and vision features of the weights before."""

    def accept(answer: dict[str, bool]) -> None:
        if not answer["success"]:
            raise PassingError("the prefix cache is in use")

    server.ask("POST", "/reset_prefix_cache?reset_running_requests=true", accept=accept)
    server.ask("POST", "/reset_mm_cache")
    server.ask("POST", "/reset_encoder_cache")


def stamp_weights(server: VLLMServer, stamp: str) -> None:
    """Label the weights that the server has now: every completion comes back with it."""
    server.ask("POST", "/update_weight_version", body=f'{{"new_version": "{stamp}"}}'.encode())


def weights_stamp(server: VLLMServer) -> str:
    """The label that a server's weights have."""
    return str(server.ask("GET", "/weight_info")["weight_version"])
