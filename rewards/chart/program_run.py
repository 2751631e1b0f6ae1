"""Run one program inside the sandbox and write its pages: what it saved or showed last, else what it left open.

Saving draws nothing and writes no file: the figure is recorded as it then was. Unseeded random numbers are the same in
every run, since every child is a copy of one warm process.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import sys
import traceback
import types
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from vlrft.rewards.chart.recorder import page

MAGIC = b"VLRFTCH1"
_DENIED = (errno.EPERM, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENOSYS, errno.ENOTTY)

_pages: dict[Figure, dict[str, Any]] = {}


def hook_saving() -> None:
    """Make saving and showing record; called once in the warm server."""
    original = FigureCanvasBase.print_figure

    def print_figure(self: FigureCanvasBase, filename: Any, *args: Any, **kwargs: Any) -> Any:
        _record(self.figure)
        if isinstance(filename, str | os.PathLike):
            return None
        return original(self, filename, *args, **kwargs)

    def show(*_args: Any, **_kwargs: Any) -> None:
        for number in plt.get_fignums():
            _record(plt.figure(number))

    FigureCanvasBase.print_figure = print_figure  # type: ignore[method-assign]
    plt.show = show
    Figure.show = lambda self, *_args, **_kwargs: _record(self)  # type: ignore[method-assign]


def run(code: str) -> dict[str, Any]:
    """`{"pages": [...]}`, or `{"failure": kind, "error": text}` with kind syntax, memory, denied or crash."""
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
        except SystemExit:
            plt.get_fignums()  # a program may end itself: what it drew until then counts
        for number in plt.get_fignums():
            figure = plt.figure(number)
            if figure not in _pages:
                _record(figure)
    except BaseException as error:
        return _failure(_kind(error), error)
    return {"pages": list(_pages.values())}


def write(output: int, result: dict[str, Any]) -> None:
    """One frame into the file `output`: MAGIC, length, JSON."""
    body = json.dumps(result, allow_nan=False, separators=(",", ":")).encode()
    frame = MAGIC + struct.pack(">Q", len(body)) + body
    while frame:
        frame = frame[os.write(output, frame) :]


def _record(figure: Any) -> None:
    _pages[figure] = page(figure)


def _kind(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in _DENIED):
        return "denied"
    return "crash"


def _failure(kind: str, error: BaseException) -> dict[str, Any]:
    lines = traceback.format_exception_only(error)
    return {"failure": kind, "error": "".join(lines).strip()[-500:]}
