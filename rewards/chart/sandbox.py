"""Run a model's chart program where it can do no harm, from the trusted side.

What holds it: a fork of a warm server process (server.py) per program, in a session of its own, with an empty private
folder; Landlock lets it read Python and its packages, and write that folder, nothing else; a seccomp filter kills it
when it tries to start a process, open a socket, trace or signal another; limits on wall and processor time, memory,
file size, open files, folder and result; afterwards its whole process group is killed. The server starts with a clean
environment and proves at its start that both Landlock and seccomp bind. Where they do not, nothing runs
(SandboxUnavailable) unless the caller says `allow_unsandboxed=True`. Linux on x86_64 or aarch64, root or not, needs no
privilege. bubblewrap is not used: Landlock and seccomp cover what it would add.

Left open: the existence, size and times of a path can be asked for, and processor caches are shared.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAGIC = b"VLRFTCH1"
RESULT_BYTES = 16 * 2**20
START_SECONDS = 120.0
MEMORY_MIB = 1024
"""What a program may allocate beyond the warm server's own memory."""

_SOURCE = """
import sys
sys.path[:] = {path!r}
from vlrft.rewards.chart.server import main
main()
"""


class SandboxUnavailable(RuntimeError):
    """Chart programs cannot be run safely here, or not at all; says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one run ended."""

    pages: tuple[Mapping[str, Any], ...] = ()
    """What was drawn, unchecked; empty when the run failed or drew nothing."""
    flag: str | None = None
    """None, `unparsable` (no Python), `sandbox_timeout`, `sandbox_memory`, `sandbox_denied`, `sandbox_crash`."""
    error: str = ""
    """The program's own last words, or ours; hostile text, for people to read."""


@dataclass(slots=True)
class Sandbox:
    """A warm server and the way to it; several threads may use it at once. Close it, or leave that to the exit."""

    allow_unsandboxed: bool = False
    memory_mib: int = MEMORY_MIB
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _control: socket.socket | None = field(default=None, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _base: str = ""
    _owner: int = 0

    def run(self, code: str, *, timeout_s: float) -> Outcome:
        """Run a program and return what it drew. Raises SandboxUnavailable, never for what the program does."""
        ended, written = self._request("program", code.encode("utf-8", "replace"), timeout_s)
        flag = _flag_of_end(ended)
        if flag is not None:
            return Outcome(flag=flag, error=f"the program's process ended: {ended}")
        if not written:
            return Outcome(flag="sandbox_crash", error="the program ended its process and left no chart")
        result = _framed(written)
        if result is None:
            return Outcome(flag="sandbox_denied", error="the program wrote to the channel of its result")
        if "failure" in result:
            kind = str(result["failure"])
            known = {"syntax": "unparsable", "memory": "sandbox_memory", "denied": "sandbox_denied"}
            return Outcome(flag=known.get(kind, "sandbox_crash"), error=str(result.get("error"))[:500])
        pages = result.get("pages")
        if not isinstance(pages, list) or not all(isinstance(p, dict) for p in pages):
            return Outcome(flag="sandbox_denied", error="the result holds no list of pages")
        return Outcome(pages=tuple(pages))

    def paint(self, page: Mapping[str, Any], *, timeout_s: float) -> bytes | None:
        """PNG bytes of a recorded page, painted by Agg in a sandboxed child; None when that failed."""
        ended, written = self._request("paint", json.dumps(page).encode(), timeout_s)
        return written if _flag_of_end(ended) is None and written.startswith(b"\x89PNG") else None

    def close(self) -> None:
        """End the server and all that runs in it, and remove its folder."""
        with self._lock:
            self._close()

    def _request(self, job: str, given: bytes, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        source, output = os.memfd_create("source"), os.memfd_create("output")
        try:
            os.pwrite(source, given, 0)
            ended = self._ask({"job": job, "timeout_s": timeout_s, "memory_mib": self.memory_mib}, source, output)
            return ended, os.pread(output, RESULT_BYTES + 1, 0)
        finally:
            os.close(source)
            os.close(output)

    def _ask(self, request: Mapping[str, Any], source: int, output: int) -> dict[str, Any]:
        """How the child ended. A server that died is started afresh, once."""
        message = json.dumps(request).encode()
        for _ in range(2):
            control: socket.socket | None = None
            ours, theirs = socket.socketpair()
            with ours, theirs:
                try:
                    with self._lock:
                        control = self._connected()
                        socket.send_fds(control, [message], [source, output, theirs.fileno()])
                    theirs.close()
                    ours.settimeout(float(request["timeout_s"]) + START_SECONDS)
                    told = ours.recv(4096)
                except OSError:
                    told = b""
            if told:
                ended: dict[str, Any] = json.loads(told)
                return ended
            with self._lock:
                if self._control is control:  # else another thread has started a fresh one already
                    self._close()
        raise SandboxUnavailable("the chart sandbox's server ended twice over one program; its messages are on stderr")

    def _connected(self) -> socket.socket:
        if self._control is None or self._owner != os.getpid():
            self._start()
        assert self._control is not None
        return self._control

    def _start(self) -> None:
        if not sys.platform.startswith("linux"):
            raise SandboxUnavailable(f"chart programs run on Linux only, and this is {sys.platform}")
        self._owner = os.getpid()
        self._base = tempfile.mkdtemp(prefix="vlrft-charts-")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = _SOURCE.format(path=[str(Path(p).resolve()) for p in sys.path])
        mode = "unsandboxed" if self.allow_unsandboxed else "sandboxed"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-c", source, str(theirs.fileno()), self._base, mode],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        atexit.register(self.close)
        self._control.settimeout(START_SECONDS)
        try:
            said = json.loads(self._control.recv(4096) or b'{"lack": "the server ended while it started"}')
        except TimeoutError:
            said = {"lack": f"the server did not start within {START_SECONDS:g} s"}
        self._control.settimeout(None)
        if "missing" in said:
            self._close()
            raise SandboxUnavailable(f"chart programs need Matplotlib: pip install 'vlrft[charts]' ({said['missing']})")
        if said["lack"] is not None and not self.allow_unsandboxed:
            self._close()
            raise SandboxUnavailable(
                f"{said['lack']}; chart programs are untrusted code and are not run without a sandbox "
                "(allow_unsandboxed=True runs them all the same, with your rights)"
            )

    def _close(self) -> None:
        if self._owner == os.getpid():
            if self._control is not None:
                self._control.close()
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            shutil.rmtree(self._base, ignore_errors=True)
        self._control = self._process = None


def _environment() -> dict[str, str]:
    """What the server needs of ours: no keys, no tokens, one thread."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "MPLCONFIGDIR") if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "MPLBACKEND": "agg", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def _flag_of_end(ended: Mapping[str, Any]) -> str | None:
    """What the way in which a process ended says; None when it ended by itself with success."""
    code, killed = ended["code"], ended["killed"]
    if killed:
        return f"sandbox_{killed}"
    if code == 0:
        return None
    named = {-31: "sandbox_denied", -24: "sandbox_timeout", -25: "sandbox_denied"}  # SIGSYS, SIGXCPU, SIGXFSZ
    return named.get(code, "sandbox_crash")


def _framed(written: bytes) -> dict[str, Any] | None:
    """The JSON object of one whole frame; None for anything else, and for more than a frame."""
    size = int.from_bytes(written[8:16], "big")
    if written[:8] != MAGIC or len(written) != 16 + size:
        return None
    try:
        result = json.loads(written[16:], parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) else None


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number")
