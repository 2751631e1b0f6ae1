"""Runs a command that may not outlive the process that wanted it: `python -m vlrft.engines.vllm_guard PID COMMAND...`.

A vLLM server is several processes; none of them notices the end of a trainer that was killed. This one does, and also
clears away what is left when only one of the server's processes dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

_POLL_S = 0.3
_PATIENCE_S = 8.0
"""Seconds that a server gets to end by itself."""


def guard(owner: int, command: list[str]) -> int:
    """Run `command` until it ends, `owner` is no longer this process's parent, or SIGTERM; returns its exit status."""
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while child.poll() is None and not asked and os.getppid() == owner:
        time.sleep(_POLL_S)
    end_group(child, _PATIENCE_S)
    return child.wait()


def end_group(child: subprocess.Popen[bytes], patience: float) -> None:
    """Ask a session's first process to end, wait up to `patience` seconds, and kill whatever of the session is left."""
    if child.poll() is None:
        child.terminate()
        deadline = time.monotonic() + patience
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all gone


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), sys.argv[2:]))
