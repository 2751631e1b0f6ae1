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

_POLL_S = 0.2
_PATIENCE_S = 8.0
"""Seconds that a server gets to end by itself."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_NOT_FOR_US = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What terminals and schedulers send to every process of a run (`sbatch --signal=USR1@600`): the trainer's business.
The command and what it starts ignore them too, unless they say otherwise."""
NAME = "vlrft.engines.vllm_guard"
"""Of this module, by which a guard is known among processes."""


def guard(owner: int, folder: str, command: list[str]) -> int:
    """Run `command` until it ends, `owner` sends SIGTERM or is no longer our parent; returns its exit status.

    SIGTERM of anybody else is none of ours: a scheduler sends it to every process of a run, and the trainer, which
    goes on to its next stop point, still needs the server. Linux only.
    """
    # Not by a handler, which would not be told who has sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for number in _NOT_FOR_US:
        signal.signal(number, signal.SIG_IGN)
    libc, this = ctypes.CDLL(None), os.getpid()
    # Orphans of the command become children of this process, which then knows when the last has ended.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def tie() -> None:
        """Between fork and exec, in the only thread: the command gets SIGTERM when this process dies in any way."""
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if os.getppid() != this:
            os._exit(1)

    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=tie)
    while child.poll() is None and os.getppid() == owner:
        sent = signal.sigtimedwait({signal.SIGTERM}, _POLL_S)
        if sent is not None and sent.si_pid == owner:
            break
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
