"""A private view of the file system for one child, where there is bubblewrap but no Landlock.

All children of a server share its base folder. So each makes namespaces of its own, and lays its folder over the base
folder, over /proc and over whatever else it shall not see; what bubblewrap shows besides is read-only. Bare system
calls, no privilege but that to make a user namespace.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_NEW_NAMESPACES = 0x00020000 | 0x10000000  # mounts, user
_DUMPABLE = 4
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18


def make_private(folder: str, base: str, hidden: Iterable[str]) -> None:
    """Lay `folder` over `base` and over all of `hidden`, and make `base` the working folder. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    _checked(libc.unshare(_NEW_NAMESPACES), "unshare")
    libc.prctl(_DUMPABLE, 1, 0, 0, 0)  # else the files below would be root's
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    libc.prctl(_DUMPABLE, 0, 0, 0, 0)
    _checked(libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None), "mount /")
    own = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # By its handle: once the base folder is covered, its path leads nowhere; /proc, which handles need, comes last.
        source = f"/proc/self/fd/{own}".encode()
        for place in (base, *hidden, "/proc"):
            _checked(libc.mount(source, os.fsencode(place), None, _BIND, None), f"mount {place}")
    finally:
        os.close(own)
    os.chdir(base)


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
