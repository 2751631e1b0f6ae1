"""vLLM servers that vlrft starts: their command, ports and logs, and a watch that starts a dead one anew.

They end with `close()`, at exit, and when this process dies in any way (`vllm_guard`).
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from vlrft.engines import vllm_guard
from vlrft.engines.vllm_http import VLLMServer
from vlrft.log import UserError
from vlrft.ports import free_ports

logger = logging.getLogger(__name__)

WORKER = "vlrft.engines.vllm_worker.PolicyWorker"
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # the routes for weights and caches; the servers listen on this machine alone
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
_OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
_OFFLINE_ONLY = ("use_tqdm_on_load",)
_RESTARTS = 5
"""How often one server is started anew before the run gives up."""
_SOUND_S = 3600.0
"""A server that has run for so many seconds has earned all its restarts again."""
_SHOWN_LINES = 12
_POLL_S = 0.3
_AGAIN_S = 1.0
"""Seconds after which a guard is asked again to end its server."""


def serve_arguments(model: Path, settings: Mapping[str, Any]) -> list[str]:
    """vLLM's command line for `settings`, which are arguments of `vllm.LLM`."""
    arguments = ["--model", str(model), "--worker-extension-cls", WORKER, "--enable-scale-out"]
    arguments.append("--disable-uvicorn-access-log")
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if name in _OFFLINE_ONLY or value is None:
            continue
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            arguments += [f"--{flag}", json.dumps(value) if isinstance(value, (dict, list)) else str(value)]
    return arguments


def server_command() -> list[str]:
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        # `vllm serve` of vllm-cpu ends at once: it looks for a package called vllm (0.32). This is what it would run.
        return [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]


class Replica:
    """One server process, on a port of its own that it keeps when it is started anew."""

    def __init__(
        self,
        port: int,
        weights: Path,
        settings: Mapping[str, Any],
        log: Path,
        *,
        devices: str | None,
        env: Mapping[str, str],
    ) -> None:
        self.port, self.log = port, log
        listening = ["--host", "127.0.0.1", "--port", str(port)]
        self.command = [
            *(sys.executable, "-m", vllm_guard.NAME, str(os.getpid()), str(weights)),
            *(*server_command(), *serve_arguments(weights, settings), *listening),
        ]
        self.env = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
        self.env |= {**ENVIRONMENT, **env}
        if devices is not None:
            self.env["CUDA_VISIBLE_DEVICES"] = devices
        self.process: subprocess.Popen[bytes] | None = None
        self.starts, self.started = 0, 0.0
        """How often, not counting those before a sound run, and when last (`time.monotonic()`)."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        now = time.monotonic()
        self.starts = 1 if now - self.started > _SOUND_S else self.starts + 1
        self.started = now
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True
            )

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def last_words(self) -> str:
        """The log's lines that say what went wrong, else its last ones."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        telling = [line for line in lines if "Error" in line and "Traceback" not in line]
        return "\n".join((telling or lines)[-_SHOWN_LINES:])


class Fleet:
    """All servers of a run, started together and watched by a thread until `close`."""

    def __init__(
        self,
        weights: Path,
        settings: Mapping[str, Any],
        *,
        replicas: int,
        devices: Sequence[str] | None,
        log_dir: Path | None,
        start_timeout_s: float,
        revived: Callable[[str], None],
        writing: AbstractContextManager[object] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """weights: the folder of the model, which is written anew at every push. settings: arguments of `vllm.LLM`.
        devices: CUDA_VISIBLE_DEVICES of each. log_dir: where they write their logs; None = a temporary folder.
        revived: called with the URL of a server that was started anew, before it counts as back.
        writing: held while weights are written, and while a server that was started anew reads them; None = a lock of
        its own. env: what else the servers' environment says.
        """
        self.own_logs = log_dir is None
        self.log_dir = Path(tempfile.mkdtemp(prefix="vlrft-vllm-")) if log_dir is None else log_dir
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.start_timeout_s = start_timeout_s
        self.revived = revived
        self.weights = threading.Lock() if writing is None else writing
        self.failure: str | None = None
        self.keeps_logs = False
        """Whether temporary logs stay when the servers are closed; they do after a failure."""
        ports = free_ports(replicas)
        self.replicas = [
            Replica(
                port,
                weights,
                settings,
                self.log_dir / f"vllm-{i}.log",
                devices=devices[i] if devices else None,
                env=env or {},
            )
            for i, port in enumerate(ports)
        ]
        self._closing = threading.Event()
        self._watch: threading.Thread | None = None
        self._end = weakref.finalize(self, _end_all, self.replicas, self._closing)

    def start(self) -> list[str]:
        """Start all and wait until they answer; returns their URLs. Raises UserError with the log's last words."""
        try:
            for replica in self.replicas:
                logger.info("a vLLM server starts at %s; that may take minutes; its log: %s", replica.url, replica.log)
                replica.start()
            for replica in self.replicas:
                self._await(replica)
        except UserError as error:
            self.failure = str(error)
            self.close()
            raise
        logger.info("all vLLM servers are up")
        watch = threading.Thread(target=_keep, args=(weakref.ref(self), self._closing), name="vllm-watch", daemon=True)
        self._watch = watch
        watch.start()
        return [replica.url for replica in self.replicas]

    def close(self) -> None:
        self._closing.set()
        if self._watch is not None and self._watch is not threading.current_thread():
            self._watch.join()
        self._end()
        if self.own_logs and self.failure is None and not self.keeps_logs:
            shutil.rmtree(self.log_dir, ignore_errors=True)
        elif self.own_logs:
            logger.warning("the logs of the vLLM servers are kept in %s", self.log_dir)

    def told_of(self, url: str) -> str:
        """The log of the server at `url` and its last words."""
        replica = next(replica for replica in self.replicas if replica.url == url)
        return f"its log is {replica.log}, which ends so:\n{replica.last_words()}"

    def _await(self, replica: Replica) -> None:
        client = VLLMServer(replica.url, timeout_s=5.0, retries=0)
        deadline = time.monotonic() + self.start_timeout_s
        try:
            while not client.is_healthy():
                if replica.has_ended():
                    raise UserError(
                        f"engine.name=vllm_server: vLLM ended while it started ({replica.log}):\n{replica.last_words()}"
                    )
                if time.monotonic() > deadline:
                    raise UserError(
                        f"engine.name=vllm_server: vLLM was not ready after {self.start_timeout_s:.0f} s "
                        f"({replica.log}); raise engine.kwargs.start_timeout_s if it is only slow"
                    )
                if self._closing.wait(_POLL_S):
                    raise UserError("engine.name=vllm_server: closed while a server started")
        finally:
            client.close()

    def revive(self) -> None:
        """Start anew what has ended."""
        for replica in self.replicas:
            if replica.has_ended() and not self._closing.is_set():
                self._restart(replica)

    def _restart(self, replica: Replica) -> None:
        if replica.starts > _RESTARTS and time.monotonic() - replica.started <= _SOUND_S:
            self.failure = (
                f"engine.name=vllm_server: the server at {replica.url} has ended {replica.starts} times without "
                f"an hour of work between ({replica.log}):\n{replica.last_words()}\nIt is not started again in this "
                "run; correct what the log says"
            )
            return
        logger.warning("the vLLM server at %s has ended (%s); it is started anew", replica.url, replica.log)
        try:
            with self.weights:
                replica.start()
                self._await(replica)
                self.revived(replica.url)
        except Exception as error:  # of a thread: told to the one that asks for rollouts
            if not replica.has_ended() and not self._closing.is_set():
                self.failure = f"the vLLM server at {replica.url} could not be brought back: {error}"
            return
        logger.warning("the vLLM server at %s is back", replica.url)


def _keep(reference: weakref.ref[Fleet], closing: threading.Event) -> None:
    """Watch a fleet as long as somebody needs it."""
    while not closing.wait(_POLL_S):
        fleet = reference()
        if fleet is None or fleet.failure is not None:
            return
        fleet.revive()
        del fleet


def _end_all(replicas: Sequence[Replica], closing: threading.Event) -> None:
    closing.set()
    running = [replica.process for replica in replicas if replica.process is not None]
    for process in running:
        process.terminate()
    for process in running:
        while process.poll() is None:
            try:
                process.wait(_AGAIN_S)
            except subprocess.TimeoutExpired:
                # Its guard heeds this process alone, and of two SIGTERM at once only the first sender is known.
                process.terminate()
