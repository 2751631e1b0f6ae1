"""One vLLM server as its clients see it: requests that are safe to repeat, patience, and plain words where it ends.

A request carries its own seeds, so asking again gives the same tokens: whatever is lost on the way is asked for again.
Sockets use keep-alive and a limit on unacknowledged data, so that a cut link is noticed while an answer is awaited.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from vlrft.engines.base import EngineLostError
from vlrft.log import UserError

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
"""Seconds between two attempts; the pauses double."""
_CONNECT_S = 10.0
_HEALTH_S = 5.0
_DEAD_AFTER_S = 30
"""Seconds without a sign of life from the other end after which the connection counts as cut."""
_OF_A_WORKER = "Worker failed with error"
"""How vLLM begins what went wrong inside a worker: asking again would give the same."""


class EngineUnreachableError(EngineLostError):
    """A server did not answer, however often it was asked."""


class ServerRefusalError(UserError):
    """A server has answered that it cannot or will not do what it was asked."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class PassingError(Exception):
    """A failure that may be over when asked again."""


def keepalive_options() -> list[tuple[int, int, int]]:
    """(level, option, value) for `setsockopt`: probes after 10 idle seconds, the end after _DEAD_AFTER_S."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", _DEAD_AFTER_S * 1000),
    ):
        if hasattr(socket, name):  # not all of them exist outside Linux
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


class VLLMServer:
    """A client of one server; safe to use from several threads."""

    def __init__(self, url: str, *, timeout_s: float, retries: int, comes_back_in: float = 0.0) -> None:
        """timeout_s: longest wait for one answer. retries: how often a request is repeated after its first failure.
        comes_back_in: seconds that a dead server may take to be up again, where someone starts it anew; 0 = nobody.

        Raises ValueError for a URL that is none.
        """
        import httpx

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"engine.kwargs.base_urls: {url!r} is no URL of a server; write http://host:port")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.retries = retries
        self.comes_back_in = comes_back_in
        self.gave_up: Callable[[], str | None] = lambda: None
        """Why nobody starts this server anew any more."""
        self.last_words: Callable[[], str] = lambda: "its log, on the machine of rank 0, says why it ended"
        """What is known of a server that vlrft started, for the end of a message."""
        self.repacks = True
        """Whether its workers are `vllm_worker.PolicyWorker` too."""
        self._abandoned = threading.Event()
        key = os.environ.get("VLLM_API_KEY")  # as the server itself reads it
        self._client = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_S),
            # A connection per request: none that the server has closed meanwhile.
            transport=httpx.HTTPTransport(
                socket_options=keepalive_options(),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            ),
            headers={"Authorization": f"Bearer {key}"} if key else None,
            trust_env=False,
        )

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        retries: int | None = None,
        accept: Callable[[Any], None] | None = None,
        others: Sequence[VLLMServer] = (),
    ) -> Any:
        """The server's JSON answer (None where it gives none). accept: raises PassingError for one to ask again for.
        others: servers whose answer is as good, in the order in which they are asked when one has failed.

        Raises ServerRefusalError for an answer that asking again would not change, EngineUnreachableError when all
        `retries` are used up.
        """
        retries = self.retries if retries is None else retries
        started, asked = time.monotonic(), self
        for attempt in range(retries + 1):
            try:
                answer = asked._once(method, path, body, headers)
                if accept is not None:
                    accept(answer)
                return answer
            except PassingError as error:
                last, failed = error, asked
                logger.warning("%s%s, attempt %d of %d: %s", asked.url, path, attempt + 1, retries + 1, error)
            if attempt < retries:
                self._abandoned.wait(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt))
                asked = self._next([self, *others], asked)
            if self._abandoned.is_set():
                raise EngineUnreachableError(f"what was asked of {self.url} is not needed any more")
        spent = time.monotonic() - started
        instead = f", nor did {', '.join(other.url for other in others)} in its place" if others else ""
        raise EngineUnreachableError(
            f"engine.name=vllm_server: {failed.url} did not answer {path}: {last}{instead}. It was asked "
            f"{retries + 1} times over {spent:.0f} s (engine.kwargs.retries, engine.kwargs.timeout_s). "
            f"{failed._next_step()}"
        )

    def rpc(self, method: str, **arguments: str) -> Any:
        """Call a method of every worker of the server (a route of VLLM_SERVER_DEV_MODE=1)."""
        import json

        body = json.dumps({"method": method, "kwargs": arguments}).encode()
        return self.ask("POST", "/collective_rpc", body=body)

    def is_healthy(self) -> bool:
        import httpx

        try:
            return bool(self._client.get("/health", timeout=_HEALTH_S).status_code == 200)
        except httpx.TransportError:
            return False

    def abandon(self) -> None:
        """Nobody waits for the requests under way any more: have the server stop them, so that they return."""
        import httpx

        self._abandoned.set()
        try:
            self._client.post("/abort_requests", json={}, timeout=_HEALTH_S)
        except httpx.TransportError as error:
            logger.warning("%s could not be told to stop: %s", self.url, error)

    def renew(self) -> None:
        """After `abandon`: requests are made again."""
        self._abandoned.clear()

    def close(self) -> None:
        self._client.close()

    def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None) -> Any:
        import httpx

        sent = {"Content-Type": "application/json", **(headers or {})}
        try:
            response = self._client.request(method, path, content=body, headers=sent)
        except httpx.TransportError as error:
            raise PassingError(f"{type(error).__name__}: {error}") from error
        said = _said(response)
        if response.status_code >= 500 and _OF_A_WORKER not in said:
            raise PassingError(f"status {response.status_code}: {said}")
        if response.status_code >= 400:
            text = f"{self.url} refused {path} with status {response.status_code}: {said}"
            raise ServerRefusalError(text, response.status_code)
        return response.json() if response.content else None

    def _next(self, ring: Sequence[VLLMServer], failed: VLLMServer) -> VLLMServer:
        """The first server behind `failed` that is up; where none is, `failed` itself, once it is back."""
        at = ring.index(failed) + 1
        found = next((server for server in (*ring[at:], *ring[: at - 1]) if server.is_healthy()), failed)
        if found is failed:
            failed._wait_until_back()
        return found

    def _wait_until_back(self) -> None:
        deadline = time.monotonic() + self.comes_back_in
        while time.monotonic() < deadline and not self._abandoned.is_set() and not self.is_healthy():
            if reason := self.gave_up():
                raise EngineUnreachableError(reason)
            self._abandoned.wait(0.5)

    def _next_step(self) -> str:
        if self.comes_back_in:
            return f"vlrft started this server: {self.last_words()}"
        port = urlsplit(self.url).port or 80
        return f"Start it (vllm serve MODEL --port {port}, see docs/engines.md) or correct the URL"


def _said(response: Any) -> str:
    """The reason in an error answer of vLLM's, or its first words."""
    if response.status_code < 400:
        return ""
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return str(response.text[:500])
