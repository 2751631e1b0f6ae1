"""Everything that binds one child before it runs a model's program, and the proof that it binds.

Order matters: Landlock (or, within bubblewrap and without Landlock, private mounts) and capabilities, then limits,
seccomp last, since it forbids the calls that the others need. The same steps hold for root and for an ordinary user,
inside containers and outside.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import resource
import signal
import site
import socket
import struct
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass

from vlrft.rewards.chart import landlock, mounts, seccomp

FILE_BYTES = 4 * 2**20
"""Largest file that a child may write. Its result goes through a pipe."""
OPEN_FILES = 48
"""Matplotlib holds two font files open for each face that a chart uses, about thirty with formulas and bold text."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/fonts",
    "/usr/share/zoneinfo",
)
_DEATH_SIGNAL, _DUMPABLE = 1, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one child may use."""

    timeout_s: float
    """Wall time; processor time is limited to a little more."""
    memory_mib: int
    """Address space beyond what the warm server itself holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """What keeps children from the file system."""

    landlock: bool
    """Landlock for each; else private mounts, which hold only within bubblewrap."""
    readable: tuple[str, ...]
    """What Landlock lets a child read."""
    base: str
    """The folder that the children's own folders are in."""
    hidden: tuple[str, ...] = ()
    """What private mounts cover, beside the base folder and /proc."""


def readable_paths() -> tuple[str, ...]:
    """Python, its packages, shared libraries, fonts and time zones: all that a child may read."""
    places = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.join(sys.base_prefix, "lib")}
    packages = {*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    packages |= {p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")}
    return tuple(sorted(p for p in {*places, *packages, *_SYSTEM} if os.path.exists(p)))


def missing_means(*, within_bubblewrap: bool = False) -> str | None:
    """What this system lacks for a sandbox, in words; None where nothing is missing."""
    if not sys.platform.startswith("linux"):
        return f"the chart sandbox is made of Linux's own means, and this is {sys.platform}"
    if not seccomp.supported():
        return "the chart sandbox knows the system calls of x86_64 and aarch64 only"
    if landlock.version() < 1 and not within_bubblewrap:
        return (
            "this kernel offers no Landlock (Linux 5.13 or newer, 'landlock' among its security modules), "
            "and bubblewrap is not installed or does not work here"
        )
    return None


def set_limits(limits: Limits, base_bytes: int) -> None:
    """Resource limits of this process; core dumps off, killed when the server dies."""
    seconds = int(limits.timeout_s) + 2
    memory = base_bytes + limits.memory_mib * 2**20
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    hide_memory()


def hide_memory() -> None:
    """Keep this process's memory and its entries in /proc from others of the same user."""
    ctypes.CDLL(None, use_errno=True).prctl(_DUMPABLE, 0, 0, 0, 0)


def lock_files(folder: str, walls: Walls) -> None:
    """From here on this process opens nothing but what it may, and has no capabilities. Raises OSError."""
    landlock.forbid_new_privileges()
    if walls.landlock:
        landlock.restrict(walls.readable, folder, _DEVICES)
    else:
        mounts.make_private(folder, walls.base, walls.hidden)
    _drop_capabilities()


def lock_calls() -> None:
    """seccomp, after `lock_files`: from here on this process reaches nothing. Raises OSError."""
    seccomp.install(os.getpid())


def _drop_capabilities() -> None:
    """Root keeps its name and loses its powers."""
    header = struct.pack("Ii", 0x20080522, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def failed_proof(folder: str, walls: Walls) -> str | None:
    """Lock children in and let them try to get out: what they could do, in words; None when the sandbox holds."""
    files = _try_files if walls.landlock else functools.partial(_try_mounts, walls)
    trials = (("files", files, 0), ("socket", _try_socket, -signal.SIGSYS), ("fork", _try_fork, -signal.SIGSYS))
    for name, trial, wanted in trials:
        ended = _in_child(trial, folder, walls)
        if ended != wanted:
            return f"the sandbox's self-test of {name} ended with {ended} instead of {int(wanted)}"
    return None


def _in_child(trial: Callable[[], int], folder: str, walls: Walls) -> int:
    pid = os.fork()
    if pid == 0:
        ended = 99
        try:
            lock_files(folder, walls)
            set_limits(Limits(timeout_s=5.0, memory_mib=64), 2**40)
            lock_calls()
            ended = trial()
        finally:
            os._exit(ended)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _try_files() -> int:
    """0 when the root cannot be listed, this process's own /proc not read, and nothing written beside the folder."""
    return _refused(
        lambda: os.listdir("/"),
        lambda: os.open("/proc/self/environ", os.O_RDONLY),
        lambda: os.open(f"/tmp/vlrft-proof-{os.getpid()}", os.O_WRONLY | os.O_CREAT, 0o600),
    )


def _try_mounts(walls: Walls) -> int:
    """0 when other children's folders, /proc and what is hidden are out of sight, and nothing else can be written."""
    name = f"vlrft-proof-{os.getpid()}"
    writable = [os.path.join(place, name) for place in ("/", "/dev", "/dev/shm", *walls.readable)]
    tries = [functools.partial(os.open, place, os.O_WRONLY | os.O_CREAT, 0o600) for place in writable]
    seen = [place for place in (walls.base, "/proc", *walls.hidden) if os.listdir(place)]
    return 90 if seen else _refused(lambda: os.open("/proc/self/environ", os.O_RDONLY), *tries)


def _refused(*tries: Callable[[], object]) -> int:
    """0 when all fail as they should, else the number of the first that did not."""
    for number, attempt in enumerate(tries, start=1):
        try:
            attempt()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EROFS, errno.ENOTDIR):
                return 20 + number
        else:
            return number
    return 0


def _try_socket() -> int:
    socket.socket(socket.AF_INET)
    return 1


def _try_fork() -> int:
    if os.fork() == 0:
        os._exit(2)
    return 1
