"""The warm process behind the sandbox: Matplotlib is imported once, every program gets a fork of it.

The server itself never holds a program or a result. A request carries three descriptors: a file with the input, a file
for the output, and a socket on which the end is told; the child reads and writes the first two by itself. So no child
can find in the memory that it inherits what another one was given. Started by sandbox.py with a clean environment.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from vlrft.rewards.chart import confinement
from vlrft.rewards.chart.confinement import Limits

FOLDER_BYTES = 64 * 2**20
FOLDER_ENTRIES = 256
"""What a program may hold in its working folder; beyond, it is killed."""

_TICK_SECONDS = 0.04

_USUAL = (
    "import matplotlib.pyplot as p\np.plot([1, 2], 'o-', label='a $x^2$'); p.legend(); p.title('t')\n",
    "import matplotlib.pyplot as p\nf, a = p.subplots(1, 2)\na[0].bar('a', 1); a[1].pie([1, 2]); p.tight_layout()\n",
    "import pandas as d\nd.DataFrame({'u': [1, 2]}).plot.bar()\n",
    "import seaborn as s\ns.barplot(x=['a', 'b'], y=[1, 3])\n",
)
"""Drawn once before the first fork: what they load and cache, no child has to."""


@dataclass(slots=True, kw_only=True)
class Child:
    """A running program and what is known of it."""

    pid: int
    pidfd: int
    told: socket.socket
    folder: Path
    deadline: float
    killed: str = ""
    """Why it was killed, in the words of a flag's second half: timeout, denied."""


def warm_up() -> None:
    """Import what charts import and draw once, so that fonts and caches are there before the first fork."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for name in ("mpl_toolkits.mplot3d", "mpl_toolkits.axes_grid1", "pandas.plotting._matplotlib", "scipy.stats"):
        _optional(name)
    for name in ("seaborn", "matplotlib.animation", "matplotlib.dates", "matplotlib.sankey", "matplotlib.tri"):
        _optional(name)
    matplotlib.rcdefaults()
    matplotlib.rcParams["backend"] = "agg"
    matplotlib.rcParams["figure.max_open_warning"] = 0
    _keep_readable_fonts()
    from vlrft.rewards.chart import painter, program_run, recorder

    for program in _USUAL * 3:  # repeated: the interpreter specialises code that it has seen a few times
        _try_out(program)
        for number in plt.get_fignums():
            painter.paint(recorder.page(plt.figure(number)))
        plt.close("all")
    program_run.hook_saving()
    gc.collect()
    gc.freeze()


def _try_out(program: str) -> None:
    try:
        exec(program, {})
    except ImportError as error:
        sys.stderr.write(f"not warmed up: {error}\n")


def _optional(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        sys.stderr.write(f"charts that need {name} will fail: it is not installed\n")


def _keep_readable_fonts() -> None:
    """A font that a child may not open must not be chosen."""
    from matplotlib.font_manager import fontManager

    allowed = confinement.readable_paths()
    fontManager.ttflist = [f for f in fontManager.ttflist if f.fname.startswith(allowed)]


class Server:
    """Forks a child per request, watches over them, tells how each ended."""

    def __init__(self, control: socket.socket, base: Path, *, sandboxed: bool) -> None:
        self.control, self.base, self.sandboxed = control, base, sandboxed
        self.readable = confinement.readable_paths()
        self.children: dict[int, Child] = {}
        self.number = 0
        self.spare: tuple[int, socket.socket] | None = None
        self.parent = os.getppid()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        self.base_bytes = pages * os.sysconf("SC_PAGE_SIZE")

    def serve(self) -> None:
        """Until the client closes its end or is gone."""
        self._fork_spare()
        while os.getppid() == self.parent:
            poll = select.poll()
            poll.register(self.control, select.POLLIN)
            for child in self.children.values():
                poll.register(child.pidfd, select.POLLIN)
                poll.register(child.told, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(1000 * (_TICK_SECONDS if self.children else 2.0))}
            if self.control.fileno() in ready and not self._accept():
                break
            for child in list(self.children.values()):
                self._watch(child, ready)
        for child in self.children.values():
            _kill(child)
        if self.spare is not None:
            os.kill(self.spare[0], signal.SIGKILL)

    def _accept(self) -> bool:
        message, handles, _, _ = socket.recv_fds(self.control, 4096, 3)
        if not message:
            return False
        request = json.loads(message)
        source, output, told = handles
        self.number += 1
        folder = self.base / str(self.number)
        folder.mkdir(mode=0o700)
        pid = self._hand_over(json.dumps({**request, "folder": str(folder)}).encode(), source, output)
        os.close(source)
        os.close(output)
        self.children[pid] = Child(
            pid=pid,
            pidfd=os.pidfd_open(pid),
            told=socket.socket(fileno=told),
            folder=folder,
            deadline=time.monotonic() + request["timeout_s"],
        )
        self._fork_spare()
        return True

    def _hand_over(self, message: bytes, source: int, output: int) -> int:
        """Give the job to the waiting child. Its pid."""
        if self.spare is None:
            self._fork_spare()
        assert self.spare is not None
        pid, channel = self.spare
        self.spare = None
        with channel:
            socket.send_fds(channel, [message], [source, output])
        return pid

    def _fork_spare(self) -> None:
        """A child that waits for its job: what a fork costs is paid while nobody waits for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.setsid()
                code = run_child(theirs, self)
            finally:
                os._exit(code)
        theirs.close()
        self.spare = pid, ours

    def _watch(self, child: Child, ready: set[int]) -> None:
        if child.pidfd in ready:
            self._end(child)
        elif not child.killed:
            if child.told.fileno() in ready or time.monotonic() > child.deadline:
                child.killed = "timeout"
            elif self.sandboxed and _overfull(child.folder):
                child.killed = "denied"
            if child.killed:
                _kill(child)

    def _end(self, child: Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        _kill_group(child.pid)
        os.close(child.pidfd)
        del self.children[child.pid]
        ended = {"code": os.waitstatus_to_exitcode(status), "killed": child.killed}
        try:
            child.told.send(json.dumps(ended).encode())
        except OSError as error:
            sys.stderr.write(f"nobody waited for a chart: {error}\n")
        child.told.close()
        remove_tree(child.folder)


def run_child(channel: socket.socket, server: Server) -> int:
    """Wait for a job, lock this process in, then run the program or paint the page. The exit code."""
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    kept = fcntl.fcntl(channel.fileno(), fcntl.F_DUPFD, 16)
    os.dup2(kept, 3)
    os.closerange(4, 1 << 20)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vlrft.rewards.chart import painter, program_run

    gc.disable()  # it would only write to memory that is shared until then
    mine = socket.socket(fileno=3)
    message, handles, _, _ = socket.recv_fds(mine, 4096, 2)
    mine.close()
    if not message:
        return 0  # the server ended
    job, (source, output) = json.loads(message), handles
    os.chdir(job["folder"])
    confinement.set_limits(Limits(timeout_s=job["timeout_s"], memory_mib=job["memory_mib"]), server.base_bytes)
    if server.sandboxed:
        confinement.lock_in(job["folder"], server.readable)
    with os.fdopen(source, "rb") as stream:
        given = stream.read()
    if job["job"] == "program":
        program_run.write(output, program_run.run(given.decode("utf-8", "replace")))
        return 0
    image = painter.paint(json.loads(given))
    while image:
        image = image[os.write(output, image) :]
    return 0


def _kill(child: Child) -> None:
    _kill_group(child.pid)
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError) as error:
        if isinstance(error, PermissionError):
            sys.stderr.write(f"cannot kill what remains of {pid}: {error}\n")


def _overfull(folder: Path) -> bool:
    """More entries or bytes than allowed; looks at no more entries than that."""
    waiting, entries, size = [str(folder)], 0, 0
    try:
        while waiting:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    entries += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entries > FOLDER_ENTRIES or size > FOLDER_BYTES:
                        return True
    except FileNotFoundError:
        return False  # the program removed it meanwhile: the next look will tell
    except OSError:
        return True  # too deep to be named
    return False


def remove_tree(folder: Path) -> None:
    """Remove `folder` however deep it goes: folders within folders are first lifted to its top."""
    token, lifted = secrets.token_hex(8), 0
    while inner := _folders(folder):
        for name in inner:
            os.chmod(folder / name, 0o700)
            for below in _folders(folder / name):
                lifted += 1
                os.rename(folder / name / below, folder / f"{token}-{lifted}")
            shutil.rmtree(folder / name)
    shutil.rmtree(folder)


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]


def main() -> None:
    """Warm up, prove that the sandbox holds, say so, serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    base, may_go_without = Path(sys.argv[2]), sys.argv[3] == "unsandboxed"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lack = confinement.missing_means()
    try:
        warm_up()
    except ImportError as error:
        control.send(json.dumps({"missing": str(error)}).encode())
        return
    if lack is None:
        proof = base / "proof"
        proof.mkdir()
        lack = confinement.failed_proof(str(proof), confinement.readable_paths())
    control.send(json.dumps({"lack": lack}).encode())
    if lack is None or may_go_without:
        Server(control, base, sandboxed=lack is None).serve()
