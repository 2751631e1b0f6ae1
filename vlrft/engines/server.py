"""vLLM in processes of its own: servers that vlrft starts, or that are given by URL, asked over HTTP.

Requests go to the servers in turn. New weights reach all of them before the next rollout that needs them, and the
canary checks each. Of several ranks, rank 0 starts the servers and pushes the weights; every rank asks for its own
completions.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from vlrft.dist import World
from vlrft.engines.base import EngineLostError, Request, Sampled, SamplingParams, in_order
from vlrft.engines.canary import Canary, Replay, StaleWeightsError, accompany
from vlrft.engines.server_asking import at_once, refuse_other, replay_in
from vlrft.engines.server_checks import GivenServer, look_at, refuse_settings
from vlrft.engines.server_minder import Minder
from vlrft.engines.sync import FolderSync, Snapshot, WeightSync, stamp_weights, weights_stamp
from vlrft.engines.transfer import TRANSFERS, TransferSync, chosen, server_environment, server_settings
from vlrft.engines.vllm_http import VLLMServer
from vlrft.engines.vllm_process import Fleet
from vlrft.engines.vllm_shared import (
    SETTINGS,
    known_settings,
    of_platform,
    refuse_too_long,
    require_vllm,
    sampling_fields,
    weight_dtype,
)
from vlrft.engines.vllm_wire import GENERATE, completions, request_body
from vlrft.engines.weights import WeightFolder, attend_write
from vlrft.log import UserError
from vlrft.models.base import Family
from vlrft.types import Completion, Prompt

logger = logging.getLogger(__name__)

_KEPT = (UserError, StaleWeightsError, EngineLostError)
_EXPECTED = (*_KEPT, OSError, RuntimeError)
"""What a rank may meet at a sync: told to the other ranks, which would wait for it for ever."""


class VLLMServerEngine:
    """Engine over vLLM servers. Its own start at the first rollout, with the weights of that moment."""

    known_settings = staticmethod(known_settings)

    def __init__(
        self,
        family: Family,
        *,
        max_rows: int = 512,
        attention: str = "auto",
        precision: str = "no",
        base_urls: Sequence[str] | None = None,
        replicas: int = 1,
        devices: Sequence[str] | None = None,
        timeout_s: float = 1800.0,
        retries: int = 8,
        start_timeout_s: float = 900.0,
        sync: str = "auto",
        weights_dir: str | None = None,
        log_dir: str | None = None,
        max_model_len: int = 8192,
        dtype: str | None = None,
        canary_tolerance: float | None = None,
        **settings: Any,
    ) -> None:
        """base_urls: servers that run already; None = start `replicas` of them. devices: CUDA_VISIBLE_DEVICES of each
        that is started. timeout_s: longest wait for one answer. retries: how often a request is repeated, with pauses
        that grow to 10 s. start_timeout_s: longest wait for a server to be up. sync: how new weights get into the
        servers: folder, nccl, ipc (`transfer.py`); auto = nccl where trainer and servers have GPUs of their own, else
        folder. weights_dir: a folder that trainer and servers see, for weights on their way; None = shared memory of
        this machine. log_dir: of the servers' logs; None = a temporary folder. max_rows, max_model_len, dtype and
        `settings` (arguments of `vllm.LLM`) are for servers that are started; canary_tolerance as for engine.name=vllm.

        Raises UserError for a given server that is not there or cannot be used, ImportError where vLLM is missing.
        """
        require_vllm("vllm_server")
        self.family = family
        self.policy_version = 0
        self.world = World()
        self.servers: list[VLLMServer] = []
        self.fleet: Fleet | None = None
        self.max_model_len = max_model_len
        self._patience: dict[str, Any] = {"timeout_s": timeout_s, "retries": retries}
        self._start_timeout_s = start_timeout_s
        self._weights_dir = None if weights_dir is None else Path(weights_dir)
        self._log_dir = None if log_dir is None else Path(log_dir)
        self._replicas, self._devices = replicas, devices
        self._dtype = weight_dtype(family, precision, dtype)
        self._shards: dict[str, int] = {}
        self._are_given = base_urls is not None
        if base_urls is not None:
            refuse_settings({**settings, **({"replicas": replicas} if replicas != 1 else {})}, devices)
            self._use_given(base_urls, sync)
        else:
            self._plan_own({"max_num_seqs": max_rows, **settings}, sync)
        self.canary = Canary.of(family, self._dtype, canary_tolerance, kind=attention)
        self._sync: WeightSync | None = None
        self._folder: WeightFolder | None = None
        self._writing = threading.RLock()
        """Held while a server that was started anew gets the weights, and while a push begins."""
        self._loaded: Snapshot | None = None
        """Whose weights the servers have, where it is not the trainer's of the last `sync`."""
        self._is_stale = True
        self._pushing = False
        """Whether whoever finds a server without the right weights can leave it to the push under way."""
        self._lost = False
        """Whether a server has lost the weights of the last push, which nobody has any more."""
        self._reached: list[str] = []
        """URLs of the servers that the last push has reached: those asked first."""
        self._checked = False
        """Whether the canary has seen the weights of the last push."""
        self._stamp, self._pushed = "", 0
        """Label and policy version of the last push."""
        self._run = uuid.uuid4().hex[:8]

    def _use_given(self, base_urls: Sequence[str], sync: str) -> None:
        given = [look_at(VLLMServer(url, **self._patience), self.family) for url in base_urls]
        self._take(given)
        self._dtype = given[0].dtype
        self._way = chosen(
            sync, own_devices=False, given=[one.transfer for one in given], on_cuda=torch.cuda.is_available()
        )

    def _plan_own(self, settings: dict[str, Any], sync: str) -> None:
        replicas, devices = self._replicas, self._devices
        if replicas < 1 or (devices is not None and len(devices) != replicas):
            raise ValueError(
                f"engine.kwargs: replicas={replicas} needs to be 1 or more, and devices one entry for each"
            )
        self._shards = {"": int(settings.get("data_parallel_size", 1))}
        self._way = chosen(sync, own_devices=devices is not None, given=(), on_cuda=torch.cuda.is_available())
        ours = {**SETTINGS, "dtype": str(self._dtype).removeprefix("torch."), "max_model_len": self.max_model_len}
        platform = of_platform(self.family, self.max_model_len)
        self.settings = {**ours, **platform, **server_settings(self._way), **settings}

    def join(self, world: World) -> None:
        """Work as one of several ranks: all must call `sync` and `generate` equally often, if need be with nothing to
        ask. Called once, before either. Raises UserError where weights can only be sent by one process."""
        if world.size > 1 and self._way == "ipc":
            raise UserError(
                "engine.kwargs.sync=ipc works with one process that trains; use nccl or folder with several"
            )
        self.world = world.apart()
        self._run = self.world.gather(self._run)[0]

    def sync(self, policy_version: int) -> None:
        """The weights are pushed when the next rollout needs them: many steps may pass without one."""
        self._is_stale = self._is_stale or policy_version != self.policy_version
        self.policy_version = policy_version

    def snapshot(self, policy_version: int) -> Snapshot:
        """The trainer's weights of now, with what the canary must find in them. All ranks call, on their main threads,
        while the weights stand still; rank 0 keeps a copy until `load`."""
        if not self.world.is_main:
            accompany(self.family)
            attend_write(self.family)
            return Snapshot(policy_version=policy_version)
        logprobs = self.canary.expected()
        return Snapshot(policy_version=policy_version, weights=self._seam().hold(), logprobs=logprobs)

    def load(self, snapshot: Snapshot) -> None:
        """Sample with the snapshot's weights until the next one, or `sync`. All ranks call, on the thread that then
        asks for completions."""
        is_new = snapshot is not self._loaded or self._is_stale
        if not any(self.world.gather(is_new)):
            return
        self.policy_version = version = snapshot.policy_version
        self._renew(version, lambda: self._check(0, version, snapshot.logprobs), snapshot)
        self._loaded = snapshot

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[tuple[Completion, ...]]:
        """Row i of a request samples with the seed `seeds[0] + i`, so a request that is repeated, after whatever
        failure and at whatever server, gives the same tokens."""
        return in_order(self.stream(requests, params))

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sampled]:
        """As `generate`, each request's completions when they are there."""
        if any(self.world.gather(self._is_stale or self._lost)):
            self._bring_up_to_date(requests)
        refuse_too_long(requests, params, self.max_model_len)
        waits = self.world.size > 1 and (self._are_given or self._way in TRANSFERS)
        with self._giving_again(), self._keeping_logs():
            if requests:
                yield from self._asked(requests, params)
            if waits:  # until all are done: only rank 0 can give a server that came back its weights
                self.world.gather(None)
            if self.fleet is not None and self.fleet.failure is not None:
                raise EngineLostError(self.fleet.failure)

    def _asked(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sampled]:
        version, stamp = self._pushed, self._stamp
        first = [server for server in self.servers if server.url in self._reached] or self.servers
        last = [server for server in self.servers if server not in first]

        def one(index: int) -> tuple[Completion, ...]:
            request, at = requests[index], (self.world.rank + index) % len(first)
            server, *others = [*first[at:], *first[:at], *last]
            body = request_body(self.family, request.prompt, sampling_fields(request, params, self.family))
            answer = server.ask(
                "POST", GENERATE, body=body, accept=lambda answer: refuse_other(answer, stamp), others=others
            )
            return completions(self.family, request, answer, version)

        return at_once(self.servers, one, len(requests))

    @contextmanager
    def _giving_again(self) -> Iterator[None]:
        """Rank 0's, while rollouts are under way: servers that come back get the weights of the last push."""
        if self._sync is None:
            yield
            return
        if self._loaded is None:
            self._sync.hold_still()
        minder = Minder(self.servers, self._run, self._stamp, self._give_again) if self._are_given else nullcontext()
        try:
            with minder:
                yield
        finally:
            self._sync.let_move()

    @contextmanager
    def _keeping_logs(self) -> Iterator[None]:
        """Where it ends with an error, temporary logs of servers stay: the error may be theirs."""
        try:
            yield
        except Exception:
            if self.fleet is not None:
                self.fleet.keeps_logs = True
            raise

    def replay(self, prompt: Prompt, token_ids: Sequence[int]) -> list[float]:
        """Log-probs of a given completion's tokens, at temperature 1 and without bans, in the first server."""
        return replay_in(self.family, self.servers[0])(prompt, token_ids)

    def abandon(self) -> None:
        """Have what another thread asks for end: see `InterruptibleEngine`."""
        for server in self.servers:
            server.abandon()

    def close(self) -> None:
        """Stop the servers that were started, and remove the folder of weights."""
        for server in self.servers:
            server.close()
        if self.fleet is not None:
            self.fleet.close()
        if self._folder is not None:
            self._folder.close()
        self.fleet, self._folder, self._sync = None, None, None

    def _take(self, given: Sequence[GivenServer]) -> None:
        self.servers = [one.server for one in given]
        self._shards = {one.server.url: one.shards for one in given}
        self.max_model_len = min(one.max_model_len for one in given)

    def _bring_up_to_date(self, requests: Sequence[Request]) -> None:
        """Push and check the weights, if any rank has something to ask for. All ranks take part."""
        self.canary.choose([request.prompt for request in requests])
        if not any(self.world.gather(bool(requests))):
            return
        # That of rank 0: `sync` may be called meanwhile, on some ranks sooner than on others.
        version = self.world.gather(self.policy_version)[0]
        checking = self.world.gather(self.canary.prompt is not None).index(True)
        self._renew(version, lambda: self._check(checking, version))
        self._loaded = None

    def _renew(self, version: int, check: Callable[[], None], snapshot: Snapshot | None = None) -> None:
        """Push the current weights, or the snapshot's, and `check` them. All ranks take part."""
        stamp = f"{self._run}-{version}"
        held = None if snapshot is None else snapshot.weights
        self._together(lambda: self._push(stamp, held, is_held=snapshot is not None))
        urls, self._reached = self.world.gather(([server.url for server in self.servers], self._reached))[0]
        if not self.servers:
            self.servers = [self._own(url) for url in urls]
        self._together(check)
        self._stamp, self._pushed, self._checked = stamp, version, True
        self._is_stale = self.policy_version != version

    def _together(self, work: Callable[[], None]) -> None:
        with self._keeping_logs():
            self.world.together(work, _EXPECTED, _KEPT)

    def _push(self, stamp: str, held: Any, *, is_held: bool) -> None:
        if not self.world.is_main:
            if not is_held:
                attend_write(self.family)
            return
        sync = self._seam()
        with self._writing:  # not while a server that came back is given the weights of the push before
            self._pushing, self._checked, self._lost = True, False, False
        if not is_held:
            sync.hold_still()
        servers = self._there()
        try:
            if not servers:
                self._start(sync.folder_of(held))
                servers = self.servers
                for server in servers:
                    stamp_weights(server, stamp)
            else:
                sync.push(servers, stamp, held)
            self._stamp = stamp
        finally:
            self._pushing = False
        for server in servers:
            if weights_stamp(server) != stamp:  # it died and came back while others were pushed to
                sync.again(server, stamp)
        self._reached = [server.url for server in servers]

    def _there(self) -> list[VLLMServer]:
        """The servers to push to. Of several given ones some may be away: they get the weights when they are back."""
        if not self._are_given or self._way in TRANSFERS or len(self.servers) == 1:
            return self.servers
        there = [server for server in self.servers if server.is_healthy()]
        if 0 < len(there) < len(self.servers):
            away = [server.url for server in self.servers if server not in there]
            logger.warning("%s cannot be reached; the run goes on with %d others", ", ".join(away), len(there))
        return there or self.servers

    def _start(self, path: Path) -> None:
        self.fleet = Fleet(
            path,
            self.settings,
            replicas=self._replicas,
            devices=self._devices,
            log_dir=self._log_dir,
            start_timeout_s=self._start_timeout_s,
            revived=self._revived,
            writing=self._writing,
            env=server_environment(self._way),
        )
        self.servers = [self._own(url) for url in self.fleet.start()]

    def _seam(self) -> WeightSync:
        """How weights get into the servers; rank 0's alone."""
        if self._sync is None:
            self._folder = WeightFolder(self.family, self._weights_dir)
            if self._way == "folder":
                self._sync = FolderSync(self._folder, self._writing)
            else:
                self._sync = TransferSync(self.family, self._way, self._dtype, self._folder, self._writing)
        return self._sync

    def _own(self, url: str) -> VLLMServer:
        server = VLLMServer(url, comes_back_in=self._start_timeout_s, **self._patience)
        fleet = self.fleet
        if fleet is not None:
            server.gave_up = lambda: fleet.failure
            server.last_words = lambda: fleet.told_of(url)
        return server

    def _revived(self, url: str) -> None:
        """A server that we have started anew is up, with the weights that the folder has."""
        server = VLLMServer(url, **self._patience)
        try:
            self._give_again(server, loads=self._sync is not None and not self._sync.fills_folder)
        finally:
            server.close()

    def _give_again(self, server: VLLMServer, *, loads: bool = True) -> None:
        """Give a server that came back the weights of the last push, check and label them. A push does so by itself."""
        with self._writing:
            if self._pushing:
                return
            if loads and self._sync is not None and not self._sync.again(server, f"{self._stamp}-unchecked"):
                self._lost = True
                return
            for replay in self._replays(server) if self._checked else ():
                self.canary.check_again(replay, self._pushed)
            stamp_weights(server, self._stamp)
            self._reached = sorted({*self._reached, server.url})

    def _check(self, rank: int, version: int, trainer: list[float] | None = None) -> None:
        if self.world.rank == rank:
            reached = [server for server in self.servers if server.url in self._reached]
            replays = [replay for server in reached for replay in self._replays(server)]
            self.canary.check_all(replays, version, trainer)
        elif trainer is None:
            accompany(self.family)

    def _replays(self, server: VLLMServer) -> list[Replay]:
        """One for each engine behind a server (data_parallel_size)."""
        shards = self._shards.get(server.url) or self._shards.get("", 1)
        return [replay_in(self.family, server, shard if shards > 1 else None) for shard in range(shards)]
