"""Runs a command that may not outlive the process that wanted it.

`python -m vlrft.engines.vllm_guard PID FOLDER COMMAND...`: FOLDER is removed when the process PID is gone.

A vLLM server is several processes; none of them notices the end of a trainer that was killed. This one does, and also
clears away what is left when only one of the server's processes dies.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

_POLL_S = 0.2
_PATIENCE_S = 8.0
"""Seconds that a server gets to end by itself."""
_PR_SET_CHILD_SUBREAPER = 36


def guard(owner: int, folder: str, command: list[str]) -> int:
    """Run `command` until it ends, `owner` is no longer this process's parent, or SIGTERM; returns its exit status."""
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # Orphans of the command become children of this process, which then knows when the last has ended.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while child.poll() is None and not asked and os.getppid() == owner:
        time.sleep(_POLL_S)
    _end(child)
    if os.getppid() != owner:
        shutil.rmtree(folder, ignore_errors=True)
    return child.wait()


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the command, then what is left of its session and of its shared memory."""
    shared = _shared_memory(child.pid)
    if child.poll() is None:
        child.terminate()
        deadline = time.monotonic() + _PATIENCE_S
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break  # nobody is left
        child.poll()
        _reap(_PATIENCE_S)
    for path in shared:
        path.unlink(missing_ok=True)


def _shared_memory(session: int) -> set[Path]:
    """The queues between the processes of a session: a process that is killed does not remove them."""
    found: set[Path] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session:
                found |= {Path(name) for name in re.findall(r"/dev/shm/psm_\w+", (folder / "maps").read_text())}
        except OSError:
            continue  # has ended meanwhile
    return found


def _reap(patience: float) -> None:
    """Collect children until none is left, for up to `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
