"""The client of vLLM servers against small servers of our own."""

from __future__ import annotations

import importlib.util
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scripted_server import DROP, scripted

from vlrft.cli import is_user_error
from vlrft.dist import World
from vlrft.engines import vllm_http
from vlrft.engines.base import EngineLostError
from vlrft.engines.canary import StaleWeightsError
from vlrft.engines.server import VLLMServerEngine
from vlrft.engines.sync import load_policy
from vlrft.engines.vllm_http import EngineUnreachableError, PassingError, ServerRefusalError, VLLMServer
from vlrft.log import UserError
from vlrft.ports import free_ports

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vllm is not installed: pip install 'vlrft[vllm]'"
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_http, "_FIRST_PAUSE", 0.01)


@pytest.fixture
def client() -> Iterator[Any]:
    made: list[VLLMServer] = []

    def make(url: str, **settings: Any) -> VLLMServer:
        made.append(VLLMServer(url, **{"timeout_s": 5.0, "retries": 3, **settings}))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.mark.parametrize("trouble", [(503, {"error": {"message": "busy"}}), (500, "no JSON of vLLM's"), DROP])
def test_what_may_pass_is_asked_for_again(client: Any, trouble: Any) -> None:
    with scripted(x=[trouble, trouble, (200, {"ok": 1})]) as server:
        assert client(server.url).ask("POST", "/x", body=b"{}") == {"ok": 1}
        assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refusal_is_not_asked_for_again_and_says_why(client: Any, status: int) -> None:
    with scripted(x=[(status, {"error": {"message": "n must be at most 4"}})]) as server:
        with pytest.raises(ServerRefusalError, match=rf"{server.url} refused /x with status {status}: n must be at"):
            client(server.url).ask("POST", "/x")
        assert len(server.asked) == 1


def test_what_went_wrong_in_a_worker_is_not_asked_for_again(client: Any) -> None:
    said = "Call to collective_rpc method failed: Worker failed with error 'no such file'"
    with scripted(collective_rpc=[(500, {"error": {"message": said}})]) as server:
        with pytest.raises(ServerRefusalError, match="no such file"):
            client(server.url).rpc("reload_weights", weights_path="/nowhere")
        assert len(server.asked) == 1


def test_weights_that_a_server_cannot_load_are_told_with_the_next_step(client: Any) -> None:
    failed = (500, {"error": {"message": "Worker failed with error 'no module or parameter named layers.2'"}})
    with scripted(abort_requests=[(200, {})], collective_rpc=[failed]) as server:
        with pytest.raises(UserError, match=r"layers.2.*another model, or does not see.*engine.kwargs.weights_dir"):
            load_policy(client(server.url), "/nowhere", "a-1")
        assert server.asked == ["/abort_requests", "/collective_rpc"]


def test_silence_ends_with_the_time_limit(client: Any) -> None:
    with scripted(x=[1.0]) as server:
        began = time.monotonic()
        with pytest.raises(EngineUnreachableError, match=r"ReadTimeout.*asked 2 times over \d+ s"):
            client(server.url, timeout_s=0.1, retries=1).ask("GET", "/x")
        assert time.monotonic() - began < 0.9


def test_the_pauses_grow_up_to_a_limit(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_http, "_LONGEST_PAUSE", 0.05)
    pauses: list[float] = []
    with scripted(x=[DROP]) as server:
        asking = client(server.url, retries=4)
        monkeypatch.setattr(asking._abandoned, "wait", pauses.append)
        with pytest.raises(EngineUnreachableError, match="asked 5 times"):
            asking.ask("GET", "/x")
    assert pauses == [0.01, 0.02, 0.04, 0.05]


def test_an_answer_that_does_not_do_is_asked_for_again(client: Any) -> None:
    def accept(answer: dict[str, bool]) -> None:
        if not answer["success"]:
            raise PassingError("in use")

    with scripted(x=[(200, {"success": False}), (200, {"success": True})]) as server:
        assert client(server.url).ask("POST", "/x", accept=accept) == {"success": True}
    with scripted(x=[(200, {"success": False})]) as server, pytest.raises(EngineUnreachableError, match="in use"):
        client(server.url).ask("POST", "/x", accept=accept)


def test_a_request_waits_for_a_server_that_comes_back(client: Any) -> None:
    with scripted(x=[DROP, (200, 1)], health=[(503, {}), (503, {}), (200, {})]) as server:
        assert client(server.url, retries=1, comes_back_in=10.0).ask("GET", "/x") == 1
        assert server.asked.count("/health") == 3
    with scripted(x=[DROP], health=[(503, {})]) as server:
        asking = client(server.url, retries=1, comes_back_in=10.0)
        asking.gave_up = lambda: "it ended six times"
        with pytest.raises(EngineUnreachableError, match="it ended six times"):
            asking.ask("GET", "/x")


def test_the_next_healthy_server_is_asked_in_the_place_of_a_dead_one(client: Any) -> None:
    (closed,) = free_ports(1)
    with (
        scripted(x=[(500, {"error": "broken"})], health=[(200, {})]) as broken,
        scripted(x=[(200, 3)], health=[(200, {})]) as sound,
    ):
        dead, first, second = (client(url, retries=2) for url in (f"http://127.0.0.1:{closed}", broken.url, sound.url))
        assert dead.ask("GET", "/x", others=[first, second]) == 3
        assert broken.asked == ["/health", "/x"]
        with pytest.raises(EngineUnreachableError, match=rf"broken, nor did {dead.url} in its place"):
            first.ask("GET", "/x", others=[dead])


def test_connections_notice_a_cut_link_after_half_a_minute(client: Any) -> None:
    """The options of the very socket that a request goes over; tests/test_two_hosts.py cuts a link."""
    with scripted(x=[(200, 1)]) as server, client(server.url)._client.stream("GET", "/x") as response:
        sock = response.extensions["network_stream"].get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        found = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
        assert found == [10, 5, 4, 30_000]
        response.read()


class OneOfTwo(World):
    """A rank that hears what the other one has said."""

    def __init__(self, rank: int, heard: Any = None) -> None:
        super().__init__(rank, 2)
        self.heard, self.said = heard, None

    def gather(self, value: Any) -> list[Any]:
        self.said = value
        return [self.heard, value] if self.rank else [value, self.heard]


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [
        (UserError("wrong key"), UserError),
        (ServerRefusalError("wrong key", 404), UserError),
        (StaleWeightsError("old"), StaleWeightsError),
        (EngineUnreachableError("gone"), EngineLostError),
        (RuntimeError("NCCL"), RuntimeError),
        (OSError(28, "no space left"), RuntimeError),
    ],
)
def test_what_one_rank_meets_at_a_push_ends_the_others_alike(error: Exception, elsewhere: type[Exception]) -> None:
    """Status 2 of any rank keeps `--max-restarts` from starting them again."""
    engine = VLLMServerEngine.__new__(VLLMServerEngine)
    engine.fleet = None

    def fails() -> None:
        raise error

    engine.world = first = OneOfTwo(0)
    with pytest.raises(type(error)):
        engine._together(fails)
    engine.world = OneOfTwo(1, heard=first.said)
    with pytest.raises(elsewhere, match=re.escape(str(error))) as met:
        engine._together(lambda: None)
    assert type(met.value) is elsewhere
    assert is_user_error(met.value) == is_user_error(error)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"engine.kwargs.base_urls: .* write http://host:port"):
        VLLMServer(url, timeout_s=1.0, retries=0)
