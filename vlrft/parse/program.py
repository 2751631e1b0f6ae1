"""The Python program that an answer holds."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^[ \t]{0,3}(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]{0,80}$", re.MULTILINE)
_PYTHON = ("python", "py", "python3")


def read_program(text: str) -> tuple[str | None, int]:
    """(program or None, how many Python blocks `text` holds): the first fenced block named python.

    Without one the first fenced block that names no language, and without any fence the whole text. A fence left open
    reaches to the end. None where that is blank.
    """
    python: list[str] = []
    plain: list[str] = []
    found = False
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened, found = fence, True
        elif fence[1].startswith(opened[1]) and not fence[2]:
            _keep(opened, text[opened.end() : fence.start()], python, plain)
            opened = None
    if opened is not None:
        _keep(opened, text[opened.end() :], python, plain)
    chosen = (python or plain or [""])[0] if found else text
    return (chosen.strip("\n") if chosen.strip() else None), max(len(python), 1 if chosen.strip() else 0)


def _keep(fence: re.Match[str], block: str, python: list[str], plain: list[str]) -> None:
    if fence[2].casefold() in _PYTHON:
        python.append(block)
    elif not fence[2]:
        plain.append(block)
