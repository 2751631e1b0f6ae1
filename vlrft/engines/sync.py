"""How a policy's weights get into servers, behind one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlrft.engines.vllm_http import PassingError, ServerRefusalError, VLLMServer
from vlrft.engines.weights import WeightFolder
from vlrft.log import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Weights of the trainer for rollouts ahead of training."""

    policy_version: int
    weights: Any = None
    """As the way to push them keeps them; None on ranks that do not push."""
    logprobs: list[float] = field(default_factory=list)
    """What the trainer made of the canary's answer with them."""


class WeightSync(Protocol):
    """Sends weights; whether they have arrived, the canary says."""

    fills_folder: bool
    """Whether the folder has the weights of every push, so that a server that is started anew reads them there."""

    def hold(self) -> Any:
        """The trainer's weights of now, kept until they are pushed once."""

    def folder_of(self, held: Any = None) -> Path:
        """A folder with the current weights, or those held, for servers that start."""

    def push(self, servers: Sequence[VLLMServer], stamp: str, held: Any = None) -> None:
        """Load the current weights, or those held, into every server, forget what was computed from the old ones, and
        label them with `stamp`, which every answer then carries. Nothing may be asked of the servers meanwhile."""

    def again(self, server: VLLMServer, stamp: str) -> bool:
        """Give one server, which was started anew, what the last push gave; False where that is gone, since the
        trainer's weights may have moved: the next push has to."""

    def hold_still(self) -> None:
        """From here on, until `let_move`, the trainer's weights are those of the last push."""

    def let_move(self) -> None:
        """They may move; returns when nobody reads them."""


class FolderSync:
    """Through a folder that trainer and servers see: shared memory, or `weights_dir` for servers on other machines."""

    fills_folder = True

    def __init__(self, folder: WeightFolder, writing: AbstractContextManager[object]) -> None:
        """writing: held while the folder is written."""
        self.folder = folder
        self.writing = writing

    def hold(self) -> Path:
        return self.folder.set_aside()

    def folder_of(self, held: Path | None = None) -> Path:
        with self.writing:
            return self.folder.write() if held is None else self.folder.take(held)

    def push(self, servers: Sequence[VLLMServer], stamp: str, held: Path | None = None) -> None:
        path = self.folder_of(held)
        at_once(servers, lambda server: load_policy(server, path, stamp))

    def again(self, server: VLLMServer, stamp: str) -> bool:
        load_policy(server, self.folder.path, stamp)
        return True

    def hold_still(self) -> None:
        """The folder has what was pushed, whatever the trainer does."""

    def let_move(self) -> None:
        """As above."""


def at_once(servers: Sequence[VLLMServer], work: Callable[[VLLMServer], object]) -> None:
    """`work` with every server, side by side; raises what the first of them raised."""
    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(work, servers))


def load_policy(server: VLLMServer, path: Path, stamp: str) -> None:
    """Have a server load the checkpoint in `path`. Raises UserError where it cannot, as when it does not see it."""
    abort(server)
    try:
        server.rpc("reload_weights", weights_path=str(path))
    except ServerRefusalError as error:
        raise UserError(
            f"{error}. It could not load the trainer's weights from {path}: it serves another model, or does not see "
            "this folder (set engine.kwargs.weights_dir to one that it sees, or engine.kwargs.sync=nccl); the server's "
            "log says more"
        ) from error
    if server.repacks:
        server.rpc("repack_policy")
    forget(server)
    stamp_weights(server, stamp)


def abort(server: VLLMServer) -> None:
    """End whatever a cut link has left behind."""
    server.ask("POST", "/abort_requests", body=b"{}")


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


def weights_stamp(server: VLLMServer, retries: int | None = None) -> str:
    """The label that a server's weights have. retries: as for `VLLMServer.ask`."""
    return str(server.ask("GET", "/weight_info", retries=retries)["weight_version"])
