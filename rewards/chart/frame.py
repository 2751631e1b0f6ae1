"""The frame in which a program's result leaves the sandbox: magic, length, one JSON object."""

from __future__ import annotations

import json
from typing import Any

MAGIC = b"VLRFTCH1"
RESULT_BYTES = 8 * 2**20
"""Longest frame."""
PICTURE_BYTES = 2 * RESULT_BYTES
"""Largest image that is painted of a page."""
MAX_ITEMS = 1_250_000
"""Commas and opening brackets that are read: what bounds the time and the memory that reading takes."""

_HEAD = 16


def pack(result: dict[str, Any]) -> bytes:
    """The frame; one that says so where it would be too long. Raises ValueError for numbers that are not finite."""
    body = json.dumps(result, allow_nan=False, separators=(",", ":")).encode()
    if len(body) + _HEAD > RESULT_BYTES or _items(body) > MAX_ITEMS:
        body = json.dumps({"failure": "length", "error": f"{len(body)} bytes of paint commands"}).encode()
    return MAGIC + len(body).to_bytes(8, "big") + body


def unpack(written: bytes) -> dict[str, Any] | None:
    """The object of one whole frame; None for anything else, and for more than a frame."""
    size = int.from_bytes(written[8:_HEAD], "big")
    if written[:8] != MAGIC or len(written) != _HEAD + size:
        return None
    if _items(written) > MAX_ITEMS:
        return {"failure": "length", "error": "more paint commands than are read"}
    try:
        result = json.loads(written[_HEAD:], parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) else None


def _items(body: bytes) -> int:
    return sum(body.count(mark) for mark in b",[{")


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number")
