"""Run one program inside the sandbox and write its pages: what it saved or showed last, else what it left open.

Saving and showing record the figure as it then was (stand_ins.py). Unseeded random numbers are the same in every run,
since every child is a copy of one warm process.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
import types
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from vlrft.rewards.chart.frame import pack
from vlrft.rewards.chart.recorder import page

_DENIED = (errno.EPERM, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENOSYS, errno.ENOTTY)

_pages: dict[Figure, dict[str, Any]] = {}
_tight: set[Figure] = set()
_home = ""
"""The program's own folder."""


def run(code: str) -> dict[str, Any]:
    """`{"pages": [...]}`, or `{"failure": kind, "error": text}` with kind syntax, memory, denied or crash."""
    global _home
    _home = os.getcwd()
    main = types.ModuleType("__main__")
    main.__dict__["__file__"] = "chart.py"
    sys.modules["__main__"], sys.argv = main, ["chart.py"]
    try:
        compiled = compile(code, "chart.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return _failure("syntax", error)
    try:
        try:
            exec(compiled, main.__dict__)
        except SystemExit as end:
            if end.code is not None and not (isinstance(end.code, int) and end.code == 0):
                return _failure("crash", end)  # as if it had raised; else what it drew until then counts
        for number in plt.get_fignums():
            figure = plt.figure(number)
            if figure not in _pages:
                record(figure)
    except BaseException as error:
        return _failure(_kind(error), error)
    return {"pages": list(_pages.values())}


def write(output: int, result: dict[str, Any]) -> None:
    """One frame into the pipe `output`."""
    frame = pack(result)
    while frame:
        frame = frame[os.write(output, frame) :]


def record(figure: Any, *, tight: bool = False) -> None:
    """Write down what `figure` shows now, in the place of what it showed before.

    tight: with what lies outside of it, now and whenever it is recorded again.
    """
    if tight:
        _tight.add(figure)
    _pages[figure] = page(figure, tight=True) if figure in _tight else page(figure)


def _kind(error: BaseException) -> str:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "memory"
    if isinstance(error, OSError) and (error.errno in _DENIED or _is_outside(error)):
        return "denied"
    return "crash"


def _is_outside(error: OSError) -> bool:
    """Was it a file outside of the sandbox that is not there? There or not, it would have been refused."""
    name = error.filename
    if error.errno not in (errno.ENOENT, errno.ENOTDIR) or not isinstance(name, str | os.PathLike):
        return False
    own, meant = os.path.realpath(_home or "."), os.path.realpath(name)
    return os.path.commonpath([own, meant]) != own


def _failure(kind: str, error: BaseException) -> dict[str, Any]:
    lines = traceback.format_exception_only(error)
    return {"failure": kind, "error": "".join(lines).strip()[-500:]}
