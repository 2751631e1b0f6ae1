"""The warm process behind the sandbox: Matplotlib is imported once, every program gets a fork of it.

The server itself never holds a program or a result. A request carries three descriptors: a file with the input, a pipe
for the output, and a socket on which the end is told; the child reads and writes the first two by itself. So no child
can find in the memory that it inherits what another one was given. Started by sandbox.py with a clean environment.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import importlib.machinery
import json
import os
import secrets
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlrft.rewards.chart import bubblewrap, confinement, landlock
from vlrft.rewards.chart.confinement import Limits, Walls

FOLDER_BYTES = 64 * 2**20
FOLDER_ENTRIES = 256
"""What a program may hold in its working folder; beyond, it is killed."""

_TICK_SECONDS = 0.04
_DONE = 4
"""The handle on which a child says that it is done."""

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
    done: int
    """Says that the result is written, so that nobody waits until the process has been taken down."""
    told: socket.socket
    folder: Path
    deadline: float
    ended: bool = False
    """Whether its end was told: what remains of it is killed, and only has to be cleared away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """A locked-in child that waits for its job: what a fork costs is paid while nobody waits for it."""

    pid: int
    channel: socket.socket
    done: int
    folder: Path


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
    from vlrft.rewards.chart import measuring, painter, program_run, recorder, stand_ins

    measuring.remember_measures()
    for program in _USUAL * 3:  # repeated: the interpreter specialises code that it has seen a few times
        _try_out(program)
        for number in plt.get_fignums():
            painter.paint(recorder.page(plt.figure(number)))
        plt.close("all")
    stand_ins.install(program_run.record)
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

    def __init__(self, control: socket.socket, base: Path, walls: Walls | None) -> None:
        self.control, self.base, self.walls = control, base, walls
        self.children: dict[int, Child] = {}
        self.number = 0
        self.parent = os.getppid()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        self.base_bytes = pages * os.sysconf("SC_PAGE_SIZE")

    def serve(self) -> None:
        """Until the client closes its end or is gone."""
        self.spare = self._fork()
        while os.getppid() == self.parent:
            poll = select.poll()
            poll.register(self.control, select.POLLIN)
            for child in self.children.values():
                poll.register(child.pidfd, select.POLLIN)
                if not child.ended:
                    poll.register(child.done, select.POLLIN)
                    poll.register(child.told, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(1000 * (_TICK_SECONDS if self.children else 2.0))}
            if self.control.fileno() in ready and not self._accept():
                break
            for child in list(self.children.values()):
                self._watch(child, ready)
        for child in self.children.values():
            _kill(child)
        os.kill(self.spare.pid, signal.SIGKILL)

    def _accept(self) -> bool:
        """Hand a job over to the waiting child, and fork the next one. False when the client closed its end."""
        message, handles, _, _ = socket.recv_fds(self.control, 4096, 3)
        if not message:
            return False
        source, output, told = handles
        spare, self.spare = self.spare, self._fork()
        with spare.channel:
            socket.send_fds(spare.channel, [message], [source, output])
        os.close(source)
        os.close(output)
        self.children[spare.pid] = Child(
            pid=spare.pid,
            pidfd=os.pidfd_open(spare.pid),
            done=spare.done,
            told=socket.socket(fileno=told),
            folder=spare.folder,
            deadline=time.monotonic() + json.loads(message)["timeout_s"],
        )
        return True

    def _fork(self) -> Spare:
        self.number += 1
        folder = self.base / str(self.number)
        folder.mkdir(mode=0o700)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        done, says_done = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.setsid()
                code = run_child(theirs, says_done, folder, self)
            finally:
                os._exit(code)
        theirs.close()
        os.close(says_done)
        return Spare(pid=pid, channel=ours, done=done, folder=folder)

    def _watch(self, child: Child, ready: set[int]) -> None:
        if child.pidfd in ready:
            self._clear(child)
        elif child.ended:
            return
        elif child.done in ready and (said := os.read(child.done, 64)):
            self._end(child, killed="" if said == b"1" else "denied")
        elif child.told.fileno() in ready or time.monotonic() > child.deadline:
            self._end(child, killed="timeout")
        elif self.walls is not None and _overfull(child.folder):
            self._end(child, killed="denied")

    def _end(self, child: Child, *, code: int = 0, killed: str = "") -> None:
        """Kill what is left and tell how it ended: `killed` in the words of a flag's second half."""
        child.ended = True
        _kill(child)
        try:
            child.told.send(json.dumps({"code": code, "killed": killed}).encode())
        except OSError as error:
            sys.stderr.write(f"nobody waited for a chart: {error}\n")
        child.told.close()

    def _clear(self, child: Child) -> None:
        """The process is gone: its status, its handles, its folder."""
        _, status = os.waitpid(child.pid, 0)
        if not child.ended:
            self._end(child, code=os.waitstatus_to_exitcode(status))
        os.close(child.pidfd)
        os.close(child.done)
        del self.children[child.pid]
        remove_tree(child.folder)


def run_child(channel: socket.socket, says_done: int, folder: Path, server: Server) -> int:
    """Wait for a job with most doors closed, close the last, then run the program or paint the page. The exit code."""
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    kept = [fcntl.fcntl(handle, fcntl.F_DUPFD, 16) for handle in (channel.fileno(), says_done)]
    for place, handle in enumerate(kept, start=3):
        os.dup2(handle, place)
    os.closerange(5, 1 << 20)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vlrft.rewards.chart import painter, program_run

    gc.disable()  # it would only write to memory that is shared until then
    os.chdir(folder)
    if server.walls is not None:
        confinement.lock_files(str(folder), server.walls)
    os.environ["HOME"] = os.getcwd()
    mine = socket.socket(fileno=3)
    message, handles, _, _ = socket.recv_fds(mine, 4096, 2)
    mine.close()
    if not message:
        return 0  # the server ended
    job, (source, output) = json.loads(message), handles
    confinement.set_limits(Limits(timeout_s=job["timeout_s"], memory_mib=job["memory_mib"]), server.base_bytes)
    if server.walls is not None:
        confinement.lock_calls()
    with os.fdopen(source, "rb") as stream:
        given = stream.read()
    if job["job"] == "program":
        program_run.write(output, program_run.run(given.decode("utf-8", "replace")))
    else:
        image = painter.paint(json.loads(given))
        while image:
            image = image[os.write(output, image) :]
    os.write(_DONE, b"1")
    return 0


def _kill(child: Child) -> None:
    """The process and its group, as far as they are still there."""
    kills: tuple[Callable[[], object], ...] = (
        lambda: os.killpg(child.pid, signal.SIGKILL),
        lambda: signal.pidfd_send_signal(child.pidfd, signal.SIGKILL),
    )
    for kill in kills:
        try:
            kill()
        except (ProcessLookupError, PermissionError) as error:
            if isinstance(error, PermissionError):
                sys.stderr.write(f"cannot kill what remains of {child.pid}: {error}\n")


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


def forget_places() -> None:
    """Take out of Python's own tables where the trusted process and this library lie, once all is imported."""
    readable = confinement.readable_paths()
    sys.path[:] = [place for place in sys.path if place.startswith(readable)]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not _module_of(finder).startswith("__editable__")]
    for name in [name for name in sys.modules if name.startswith("__editable__")]:
        del sys.modules[name]
    for place in [place for place in sys.path_importer_cache if not place.startswith(readable)]:
        del sys.path_importer_cache[place]
    sys.argv[1:], sys.orig_argv[:] = [], [sys.executable]
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "vlrft":
            for attribute in ("__file__", "__cached__"):
                module.__dict__.pop(attribute, None)
            if "__path__" in module.__dict__:
                module.__path__ = []
            if module.__spec__ is not None:
                module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for name in ("MPLCONFIGDIR", "PATH"):
        os.environ.pop(name, None)


def _module_of(finder: object) -> str:
    return str(getattr(finder, "__module__", ""))


def build_walls(base: Path, *, within_bubblewrap: bool, use_landlock: bool) -> Walls:
    """What keeps this server's children from the file system."""
    hidden = bubblewrap.library_folders() if within_bubblewrap else ()
    return Walls(
        landlock=use_landlock and landlock.version() > 0,
        readable=confinement.readable_paths(),
        base=str(base.parent),  # with what lies beside the children's folders
        hidden=hidden,
    )


def main() -> None:
    """Warm up, prove that the sandbox holds, say so, serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    base, said = Path(sys.argv[2]), set(sys.argv[3:])
    inside = "bubblewrap" in said
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    confinement.hide_memory()
    lack = confinement.missing_means(within_bubblewrap=inside)
    try:
        warm_up()
    except ImportError as error:
        control.send(json.dumps({"missing": str(error)}).encode())
        return
    walls = build_walls(base, within_bubblewrap=inside, use_landlock="landlock" in said)
    forget_places()
    if lack is None and not (inside or walls.landlock):
        lack = "neither Landlock nor bubblewrap was to be used, or what was to be used does not work here"
    if lack is None:
        proof = base / "proof"
        proof.mkdir()
        lack = confinement.failed_proof(str(proof), walls)
    holds = [name for name, there in (("bubblewrap", inside), ("landlock", walls.landlock), ("seccomp", True)) if there]
    control.send(json.dumps({"lack": lack, "holds": holds if lack is None else []}).encode())
    if lack is None or "unsandboxed" in said:
        Server(control, base, walls if lack is None else None).serve()
