"""Everything that binds one child before it runs a model's program, and the proof that it binds.

Order matters: Landlock and capabilities, then limits, seccomp last, since it forbids the calls that the others need.
The same steps hold for root and for an ordinary user, inside containers and outside.
"""

from __future__ import annotations

import ctypes
import errno
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

from vlrft.rewards.chart import landlock, seccomp

OUTPUT_BYTES = 16 * 2**20
"""Largest file, and largest result, that a child may write."""

OPEN_FILES = 64
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


def readable_paths() -> tuple[str, ...]:
    """Python, its packages, shared libraries, fonts and time zones: all that a child may read."""
    places = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.join(sys.base_prefix, "lib")}
    packages = {*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    packages |= {p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")}
    return tuple(sorted(p for p in {*places, *packages, *_SYSTEM} if os.path.exists(p)))


def missing_means() -> str | None:
    """What this system lacks for a sandbox, in words; None where nothing is missing."""
    if not sys.platform.startswith("linux"):
        return f"the chart sandbox is made of Linux's own means, and this is {sys.platform}"
    if not seccomp.supported():
        return "the chart sandbox knows the system calls of x86_64 and aarch64 only"
    if landlock.version() < 1:
        return "this kernel offers no Landlock (Linux 5.13 or newer, 'landlock' among its security modules)"
    return None


def set_limits(limits: Limits, base_bytes: int) -> None:
    """Resource limits of this process; core dumps off, killed when the server dies."""
    seconds = int(limits.timeout_s) + 2
    memory = base_bytes + limits.memory_mib * 2**20
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, OUTPUT_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(_DUMPABLE, 0, 0, 0, 0)


def lock_files(folder: str, readable: tuple[str, ...]) -> None:
    """Landlock and no capabilities: from here on this process opens nothing else. Raises OSError."""
    landlock.forbid_new_privileges()
    landlock.restrict(readable, folder, _DEVICES)
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


def failed_proof(folder: str, readable: tuple[str, ...]) -> str | None:
    """Lock children in and let them try to get out: what they could do, in words; None when the sandbox holds."""
    for trial, wanted in ((_try_files, 0), (_try_socket, -signal.SIGSYS), (_try_fork, -signal.SIGSYS)):
        ended = _in_child(trial, folder, readable)
        if ended != wanted:
            return f"the sandbox's self-test {trial.__name__[1:]} ended with {ended} instead of {int(wanted)}"
    return None


def _in_child(trial: Callable[[], int], folder: str, readable: tuple[str, ...]) -> int:
    pid = os.fork()
    if pid == 0:
        ended = 99
        try:
            lock_files(folder, readable)
            set_limits(Limits(timeout_s=5.0, memory_mib=64), 2**40)
            lock_calls()
            ended = trial()
        finally:
            os._exit(ended)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _try_files() -> int:
    """0 when the root cannot be listed, this process's own /proc not read, and nothing written beside the folder."""
    tries: list[Callable[[], object]] = [
        lambda: os.listdir("/"),
        lambda: os.open("/proc/self/environ", os.O_RDONLY),
        lambda: os.open(f"/tmp/vlrft-proof-{os.getpid()}", os.O_WRONLY | os.O_CREAT, 0o600),
    ]
    for number, attempt in enumerate(tries, start=1):
        try:
            attempt()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT):
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
