"""Run a model's chart program where it can do no harm, from the trusted side.

What holds it: a fork of a warm server process (server.py) per program, in a session of its own, with an empty private
folder; Landlock lets it read Python and its packages, and write that folder, nothing else; a seccomp filter kills it
when it tries to start a process, open a socket, trace or signal another; limits on wall and processor time, memory,
file size, open files, folder and result; afterwards its whole process group is killed. Where bubblewrap is installed
and works, the server itself runs within it (bubblewrap.py). Where there is bubblewrap but no Landlock, each child gets
a private view of the file system in its place (mounts.py): it then can list and read what bubblewrap shows, the folders
of the interpreter included, but none of what lies in the base folder. The server starts with a clean environment and
proves at its start that what there is binds. Where there is neither, or no seccomp, nothing runs (SandboxUnavailable)
unless the caller says `allow_unsandboxed=True`. Linux on x86_64 or aarch64, root or not, needs no privilege.

Left open: without bubblewrap, the existence, size and times of a path can be asked for; files that a program removes
while it holds them open or mapped count against their number and its memory, not against its folder; processor caches
are shared.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrft.rewards.chart.frame import PICTURE_BYTES, RESULT_BYTES, unpack

START_SECONDS = 120.0
MEMORY_MIB = 1024
"""What a program may allocate beyond the warm server's own memory."""

_SOURCE = """
import sys
sys.path[:] = {path!r}
from vlrft.rewards.chart.server import main
main()
"""


_FAILURES = {
    "syntax": "unparsable",
    "memory": "sandbox_memory",
    "denied": "sandbox_denied",
    "length": "over_length",
}
"""What a program's own account of its end is called."""


class SandboxUnavailable(RuntimeError):
    """Chart programs cannot be run safely here, or not at all; says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one run ended."""

    pages: tuple[Mapping[str, Any], ...] = ()
    """What was drawn, unchecked; empty when the run failed or drew nothing."""
    flag: str | None = None
    """None, `unparsable` (no Python), `over_length`, `sandbox_timeout`, `sandbox_memory`, `sandbox_denied`,
    `sandbox_crash`."""
    error: str = ""
    """The program's own last words, or ours; hostile text, for people to read."""


@dataclass(slots=True)
class Sandbox:
    """A warm server and the way to it; several threads may use it at once. Close it, or leave that to the exit."""

    allow_unsandboxed: bool = False
    memory_mib: int = MEMORY_MIB
    means: tuple[str, ...] = ("bubblewrap", "landlock")
    """What to use where it works; seccomp and limits always are."""
    holds: tuple[str, ...] = ()
    """What holds the programs, known once the server has started."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _control: socket.socket | None = field(default=None, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _base: str = ""
    """The folder of all children's folders, within `_home`."""
    _home: str = ""
    _owner: int = 0

    def run(self, code: str, *, timeout_s: float) -> Outcome:
        """Run a program and return what it drew. Raises SandboxUnavailable, never for what the program does."""
        ended, written = self._request("program", code.encode("utf-8", "replace"), timeout_s)
        flag = _flag_of_end(ended)
        if flag is not None:
            return Outcome(flag=flag, error=f"the program's process ended: {ended}")
        if not written:
            return Outcome(flag="sandbox_crash", error="the program ended its process and left no chart")
        result = unpack(written)
        if result is None:
            return Outcome(flag="sandbox_denied", error="the program wrote to the channel of its result")
        if "failure" in result:
            kind = str(result["failure"])
            return Outcome(flag=_FAILURES.get(kind, "sandbox_crash"), error=str(result.get("error"))[:500])
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
        """(how the child ended, what it wrote). A server that died is started afresh, once."""
        message = json.dumps({"job": job, "timeout_s": timeout_s, "memory_mib": self.memory_mib}).encode()
        largest = RESULT_BYTES if job == "program" else PICTURE_BYTES
        source = os.memfd_create("source")
        try:
            os.pwrite(source, given, 0)
            for _ in range(2):
                ended, written = self._ask(message, source, timeout_s + START_SECONDS, largest)
                if ended is not None:
                    return ended, written
        finally:
            os.close(source)
        raise SandboxUnavailable("the chart sandbox's server ended twice over one program; its messages are on stderr")

    def _ask(self, message: bytes, source: int, patience: float, largest: int) -> tuple[dict[str, Any] | None, bytes]:
        """Hand a job over and wait for its end; None in its place when the server ended instead."""
        control: socket.socket | None = None
        # A pipe for the result, and no file: so files that a program writes may be limited to less.
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        with ours, theirs, os.fdopen(reader, "rb", buffering=0), os.fdopen(writer, "wb", buffering=0) as to_us:
            try:
                with self._lock:
                    control = self._connected()
                    socket.send_fds(control, [message], [source, writer, theirs.fileno()])
                theirs.close()
                to_us.close()
                told, written = _awaited(ours, reader, patience, largest)
            except OSError:
                told, written = b"", b""
        if told:
            ended: dict[str, Any] = json.loads(told)
            return ended, written
        with self._lock:
            if self._control is control:  # else another thread has started a fresh one already
                self._close()
        return None, b""

    def _connected(self) -> socket.socket:
        if self._control is None or self._owner != os.getpid():
            self._start()
        assert self._control is not None
        return self._control

    def _start(self) -> None:
        if not sys.platform.startswith("linux"):
            raise SandboxUnavailable(f"chart programs run on Linux only, and this is {sys.platform}")
        self._owner = os.getpid()
        self._home = tempfile.mkdtemp(prefix="vlrft-charts-")
        self._base = os.path.join(self._home, "programs")
        os.mkdir(self._base)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        means, before, settings = set(self.means), list[str](), _environment()
        if "bubblewrap" in means:
            from vlrft.rewards.chart import bubblewrap

            if bubblewrap.lack() is None:
                before = bubblewrap.command(self._home)
                settings |= bubblewrap.settings(os.path.join(self._home, "matplotlib"))
            else:
                means -= {"bubblewrap"}
        source = _SOURCE.format(path=[str(Path(p).resolve()) for p in sys.path])
        words = sorted(means | ({"unsandboxed"} if self.allow_unsandboxed else set()))
        with theirs:
            self._process = subprocess.Popen(
                [*before, sys.executable, "-s", "-P", "-c", source, str(theirs.fileno()), self._base, *words],
                pass_fds=[theirs.fileno()],
                env=settings,
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
            raise SandboxUnavailable(
                f"chart programs need Matplotlib: pip install 'vlrft[charts]' (README, Install; {said['missing']})"
            )
        if said["lack"] is not None and not self.allow_unsandboxed:
            self._close()
            raise SandboxUnavailable(
                f"{said['lack']}; chart programs are untrusted code and are not run without a sandbox "
                "(allow_unsandboxed=True runs them all the same, with your rights)"
            )
        self.holds = tuple(said.get("holds", ()))

    def _close(self) -> None:
        if self._owner == os.getpid():
            if self._control is not None:
                self._control.close()
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            shutil.rmtree(self._home, ignore_errors=True)
        self._control = self._process = None


def _awaited(ours: socket.socket, reader: int, patience: float, largest: int) -> tuple[bytes, bytes]:
    """(what is told of the end, what came through the pipe by then: all, or a little more than `largest` bytes)."""
    deadline, waiting = time.monotonic() + patience, select.poll()
    os.set_blocking(reader, False)
    waiting.register(ours, select.POLLIN)
    waiting.register(reader, select.POLLIN)
    parts: list[bytes] = []
    told, more = b"", True
    while not told:
        ready = {handle for handle, _ in waiting.poll(max(0.0, 1000.0 * (deadline - time.monotonic())))}
        if not ready:
            return b"", b""
        if ours.fileno() in ready:
            told = ours.recv(4096)
            if not told:
                return b"", b""
        # In this order: what was written before the end was told is in the pipe by now.
        if more and (reader in ready or told) and not _take(reader, parts, largest):
            waiting.unregister(reader)
            more = False
    return told, b"".join(parts)


def _take(reader: int, parts: list[bytes], largest: int) -> bool:
    """Read what is there. False at the end, and where there is too much: then the writer may wait for its end."""
    size = sum(map(len, parts))
    while size <= largest:
        try:
            part = os.read(reader, 1 << 20)
        except BlockingIOError:
            return True
        if not part:
            return False
        parts.append(part)
        size += len(part)
    return False


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
