"""The watch over the processes of vLLM servers, with small programs in their place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from vlrft.engines import vllm_process
from vlrft.engines.base import EngineLostError
from vlrft.engines.server import VLLMServerEngine
from vlrft.engines.vllm_http import PassingError
from vlrft.engines.vllm_process import Fleet, serve_arguments
from vlrft.log import UserError

LISTENS = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def fleet_of(monkeypatch: pytest.MonkeyPatch, program: str, log_dir: Path, **settings: Any) -> Fleet:
    """A fleet of which every server is a small Python program."""
    monkeypatch.setattr(vllm_process, "server_command", lambda: [sys.executable, "-c", program])
    given = {"replicas": 1, "devices": None, "start_timeout_s": 30.0, "revived": lambda url: None, **settings}
    return Fleet(log_dir, {}, log_dir=log_dir, **given)


def server_of(fleet: Fleet, index: int = 0) -> int:
    """Process id of a server itself."""
    process = fleet.replicas[index].process
    assert process is not None
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def wait_until(truth: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_dead_server_is_started_anew_at_its_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    back: list[str] = []
    fleet = fleet_of(monkeypatch, LISTENS, tmp_path, replicas=2, revived=back.append)
    urls = fleet.start()
    first = server_of(fleet)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: back == [urls[0]])
    assert server_of(fleet) != first
    left = [server_of(fleet, i) for i in range(2)]
    fleet.close()
    assert fleet.failure is None
    assert not any(map(is_alive, left))


def test_signals_that_a_scheduler_sends_to_every_process_leave_the_servers_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The trainer goes on to its next stop point, and needs them until then."""
    fleet = fleet_of(monkeypatch, LISTENS, tmp_path)
    fleet.start()
    process, server = fleet.replicas[0].process, server_of(fleet)
    assert process is not None
    for pid in (process.pid, server):
        for name in ("USR1", "USR2", "HUP", *(["TERM"] if pid == process.pid else [])):
            subprocess.run(["sh", "-c", f"kill -{name} {pid}"], check=True)  # by another than the trainer
    time.sleep(0.6)
    assert is_alive(server)
    assert server_of(fleet) == server
    began = time.monotonic()
    fleet.close()
    assert not is_alive(server)
    assert time.monotonic() - began < 8.0


def test_a_server_ends_with_its_guard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm_process, "_RESTARTS", 0)
    fleet = fleet_of(monkeypatch, LISTENS, tmp_path)
    fleet.start()
    process, server = fleet.replicas[0].process, server_of(fleet)
    assert process is not None
    process.kill()
    wait_until(lambda: not is_alive(server))
    fleet.close()


def test_temporary_logs_stay_when_the_run_ends_with_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for fails in (False, True):
        monkeypatch.setattr(vllm_process, "server_command", lambda: [sys.executable, "-c", LISTENS])
        fleet = Fleet(
            tmp_path, {}, replicas=1, devices=None, log_dir=None, start_timeout_s=30.0, revived=lambda url: None
        )
        (url,) = fleet.start()
        fleet.replicas[0].log.write_text("RuntimeError: no kernel\n")
        engine = VLLMServerEngine.__new__(VLLMServerEngine)
        engine.fleet, engine._start_timeout_s, engine._patience = fleet, 0.1, {"timeout_s": 1.0, "retries": 0}
        server = engine._own(url)
        if fails:
            said = rf"its log is {fleet.replicas[0].log}, which ends so:\nRuntimeError: no kernel"
            with pytest.raises(EngineLostError, match=said), engine._keeping_logs():
                server.ask("GET", "/x", accept=never)
        server.close()
        fleet.close()
        assert fleet.log_dir.exists() is fails


def never(answer: Any) -> None:
    raise PassingError("never good enough")


def test_restarts_count_anew_after_an_hour_of_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm_process, "_RESTARTS", 1)
    fleet = fleet_of(monkeypatch, LISTENS, tmp_path)
    (replica,) = fleet.replicas
    monkeypatch.setattr(fleet, "_await", lambda replica: None)
    monkeypatch.setattr(vllm_process.subprocess, "Popen", lambda *_, **__: None)
    now = 10.0
    monkeypatch.setattr(vllm_process.time, "monotonic", lambda: now)
    replica.start()
    for _ in range(3):
        now += 3601
        fleet._restart(replica)
        now += 5
        fleet._restart(replica)
    assert fleet.failure is None
    fleet._restart(replica)
    assert "has ended 2 times without an hour of work between" in str(fleet.failure)


def test_a_server_that_keeps_ending_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm_process, "_RESTARTS", 1)
    fleet = fleet_of(monkeypatch, LISTENS, tmp_path)
    fleet.start()
    for replica in fleet.replicas:
        at = replica.command.index("-c") + 1
        replica.command[at] = "raise SystemExit('ValueError: no memory')"
    os.kill(server_of(fleet), signal.SIGKILL)
    wait_until(lambda: fleet.failure is not None)
    assert fleet.failure is not None
    assert "has ended 2 times" in fleet.failure
    assert "no memory" in fleet.failure
    fleet.close()


def test_why_a_server_did_not_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fleet = fleet_of(monkeypatch, "raise SystemExit('ValueError: KV cache is too small')", tmp_path)
    with pytest.raises(UserError, match=r"vLLM ended while it started(.|\n)*KV cache is too small"):
        fleet.start()
    assert (tmp_path / "vllm-0.log").is_file()


def test_no_server_outlives_a_killed_trainer(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    nested = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); "
    owner = (
        "import os, subprocess, sys, time\n"
        "guard = subprocess.Popen([sys.executable, '-m', 'vlrft.engines.vllm_guard', str(os.getpid()),"
        f" {str(weights)!r}, sys.executable, '-c', {nested + 'time.sleep(99)'!r}], start_new_session=True)\n"
        "print(guard.pid, flush=True)\n"
        "time.sleep(99)"
    )
    trainer = subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    guard = int(trainer.stdout.readline())

    def children(pid: int) -> list[int]:
        file = Path(f"/proc/{pid}/task/{pid}/children")
        return [int(word) for word in file.read_text().split()] if file.exists() else []

    wait_until(lambda: children(guard) and children(children(guard)[0]))
    family = [guard, *children(guard), *children(children(guard)[0])]
    assert len(family) == 3
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    wait_until(lambda: not any(map(is_alive, family)))
    assert not weights.exists()


def test_settings_become_vllms_options(tmp_path: Path) -> None:
    settings = {"enforce_eager": True, "enable_chunked_prefill": False, "max_model_len": 64, "use_tqdm_on_load": False}
    arguments = serve_arguments(tmp_path, {**settings, "limit_mm_per_prompt": {"image": 3}, "quantization": None})
    assert arguments[:2] == ["--model", str(tmp_path)]
    said = " ".join(arguments)
    assert "--enforce-eager --no-enable-chunked-prefill --max-model-len 64 --limit-mm-per-prompt" in said
    assert '{"image": 3}' in arguments
    assert "tqdm" not in said
    assert "quantization" not in said
