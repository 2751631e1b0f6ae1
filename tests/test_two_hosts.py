"""Two hosts in rehearsal: trainer ranks in one network namespace, a vLLM server in another, a cable that can be cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vlrft.config import TinyModelConfig
from vlrft.engines.vllm_process import WORKER, server_command
from vlrft.models.tiny import save_tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
    ),
]

TRAINER, SERVER = "10.87.0.1", "10.87.0.2"
TINY = {
    "hidden_size": 64, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 64,
    "vision_hidden_size": 32, "vision_layers": 1, "vision_heads": 2, "vision_intermediate_size": 48,
}  # fmt: skip


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Hosts:
    """Two namespaces and the pair of interfaces between them."""

    trainer: str
    server: str
    cable: str

    def run(self, host: str, command: list[str], log: Path, **env: str) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", host, *command], stdout=out, stderr=out, env={**os.environ, **env}
            )

    def cut(self) -> None:
        ip("-n", self.server, "link", "set", self.cable, "down")

    def restore(self) -> None:
        ip("-n", self.server, "link", "set", self.cable, "up")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    name = f"vl{os.getpid() % 100_000}"
    made = Hosts(trainer=f"{name}a", server=f"{name}b", cable=f"{name}q")
    for host in (made.trainer, made.server):
        try:
            ip("netns", "add", host)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        ip(
            "link",
            "add",
            f"{name}p",
            "netns",
            made.trainer,
            "type",
            "veth",
            "peer",
            "name",
            made.cable,
            "netns",
            made.server,
        )
        for host, device, address in ((made.trainer, f"{name}p", TRAINER), (made.server, made.cable, SERVER)):
            ip("-n", host, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", host, "link", "set", device, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield made
    finally:
        for host in (made.trainer, made.server):
            subprocess.run(["ip", "netns", "del", host], check=False)


def wait_for(done: Any, seconds: float, what: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + seconds
    while not done():
        if process.poll() is not None or time.monotonic() > until:
            pytest.fail(f"{what} did not happen; {log.name}:\n{log.read_text()[-4000:]}")
        time.sleep(0.2)


def train_rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows if row["kind"] == "train"]


def test_a_link_is_cut_and_restored(hosts: Hosts, recipe: Any, tmp_path: Path) -> None:
    """Two ranks train through a server on another host. With the cable out for a while they end as without."""
    model = save_tiny(TinyModelConfig(**TINY), tmp_path / "model")
    log = tmp_path / "server.log"
    serve = [
        *server_command(), "--model", str(model), "--host", SERVER, "--port", "8100", "--dtype", "float32",
        "--logprobs-mode", "processed_logprobs", "--enable-scale-out", "--no-mm-device-do-normalize",
        "--enable-prefix-caching", "--worker-extension-cls", WORKER, "--no-enable-chunked-prefill",
        "--max-num-batched-tokens", "16384", "--max-model-len", "512", "--kv-cache-memory-bytes", str(2**28),
        "--enforce-eager",
    ]  # fmt: skip
    env = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    server = hosts.run(hosts.server, serve, log, **env)
    try:
        wait_for(lambda: "Application startup complete" in log.read_text(), 400, "the server's start", server, log)
        whole = trained(hosts, recipe, tmp_path / "whole", model, cut=False)
        cut = trained(hosts, recipe, tmp_path / "cut", model, cut=True)
    finally:
        server.kill()
        server.wait()
    assert len(whole) == len(cut) == 4
    for one, other in zip(whole, cut, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            same = other[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-5))
            assert same, f"{key}: {value} without a cut, {other[key]} with it"


ANSWERS_LATER = """
import http.server, sys, time
asked = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        print("asked", flush=True)
        if len(asked) == 1:
            time.sleep(600)
        self.send_response(200); self.send_header("Content-Length", "1"); self.end_headers(); self.wfile.write(b"7")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((sys.argv[1], 8100), Handler).serve_forever()
"""
ASKS = """
import logging, sys
from vlrft.engines.vllm_http import VLLMServer
logging.basicConfig(level=logging.WARNING, format="%(message)s")
print("answer", VLLMServer(sys.argv[1], timeout_s=600.0, retries=8).ask("GET", "/x"), flush=True)
"""


def test_a_cut_under_an_awaited_answer_is_noticed_after_half_a_minute(hosts: Hosts, tmp_path: Path) -> None:
    """No data is under way that TCP would send again: only the socket's options tell that the other end is gone."""
    served, said = tmp_path / "server.log", tmp_path / "client.log"
    server = hosts.run(hosts.server, [sys.executable, "-c", ANSWERS_LATER, SERVER], served)
    try:
        time.sleep(2.0)
        client = hosts.run(hosts.trainer, [sys.executable, "-c", ASKS, f"http://{SERVER}:8100"], said)
        try:
            wait_for(lambda: "asked" in served.read_text(), 60, "the request", client, said)
            hosts.cut()
            began = time.monotonic()
            wait_for(lambda: "attempt 1 of 9" in said.read_text(), 60, "the warning", client, said)
            assert 20 < time.monotonic() - began < 50
            time.sleep(max(0.0, 42 - (time.monotonic() - began)))
            hosts.restore()
            assert client.wait(timeout=120) == 0, said.read_text()
            assert "answer 7" in said.read_text()
        finally:
            client.kill()
            client.wait()
    finally:
        server.kill()
        server.wait()


def trained(hosts: Hosts, recipe: Any, run: Path, model: Path, *, cut: bool) -> list[dict[str, Any]]:
    kwargs = {"base_urls": [f"http://{SERVER}:8100"], "timeout_s": 120}
    made = recipe(
        model={"tiny": None, "model_name_or_path": str(model)},
        engine={"name": "vllm_server", "kwargs": kwargs},
        train={"steps": 4, "output_dir": str(run)},
    )
    path, log = run.with_suffix(".yaml"), run.with_suffix(".log")
    path.write_text(json.dumps(made))
    command = [sys.executable, "-m", "vlrft", "train", str(path), "--nproc", "2"]
    process = hosts.run(hosts.trainer, command, log)
    try:
        if cut:
            wait_for(lambda: len(train_rows(run)) >= 1, 400, "the first step", process, log)
            hosts.cut()
            time.sleep(8.0)
            assert process.poll() is None, log.read_text()[-4000:]
            assert len(train_rows(run)) < 4, "the run went on without its server"
            hosts.restore()
        assert process.wait(timeout=400) == 0, log.read_text()[-4000:]
    finally:
        process.kill()
    return train_rows(run)
