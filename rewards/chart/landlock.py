"""Landlock: which files a process may still open, bound for ever; through bare system calls, no library needed.

Reading is granted beneath the given folders, writing beneath one private folder; everything else, /proc and the home
folder included, cannot be opened, listed, created or removed. Where the kernel knows how, TCP ports, abstract sockets
and signals to processes outside are closed too. Not covered by Landlock, and closed by the seccomp filter: changing
modes, owners and times. The existence of a path can still be asked for.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Iterable

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_TRUNCATE = 1 << 14
_FILE_RIGHTS = 1 | _WRITE_FILE | _READ_FILE | _TRUNCATE
# Create and remove folders, regular files, links; move between folders (second version). No devices, no sockets.
_MAKE = (1 << 4) | (1 << 5) | (1 << 7) | (1 << 8) | (1 << 12) | (1 << 13)
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NO_NEW_PRIVS = 38


def version() -> int:
    """The version of Landlock that this kernel offers; 0 where there is none."""
    return max(0, int(_libc().syscall(_CREATE, 0, 0, 1)))


def forbid_new_privileges() -> None:
    """What both Landlock and seccomp ask for first. Raises OSError."""
    _checked(_libc().prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def restrict(readable: Iterable[str], writable: str, devices: Iterable[str]) -> None:
    """Bind this process: read beneath `readable`, all in the folder `writable`, read and write the files `devices`.

    Paths that do not exist are passed over. Raises OSError when the kernel refuses.
    """
    abi = version()
    handled = _HANDLED[min(abi, 5)]
    # Version 4 brought TCP bind and connect, version 6 abstract sockets and signals.
    attributes = struct.pack("QQQ", handled, 3, 3)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    libc = _libc()
    ruleset = _checked(libc.syscall(_CREATE, attributes, len(attributes), 0), "landlock_create_ruleset")
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in devices:
            _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
        everything = _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | _MAKE
        _allow(ruleset, writable, everything & handled)
        _checked(libc.syscall(_RESTRICT, ruleset, 0), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    if not os.path.exists(path):
        return
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        granted = rights if os.path.isdir(path) else rights & _FILE_RIGHTS
        rule = struct.pack("=Qi", granted, handle)
        _checked(_libc().syscall(_ADD_RULE, ruleset, 1, rule, 0), f"landlock_add_rule for {path}")
    finally:
        os.close(handle)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return int(result)
