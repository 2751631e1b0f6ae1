"""Targets read once for all completions that are judged against them."""

from __future__ import annotations

import functools
import marshal
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Read = TypeVar("Read")

_KEPT_MOST = 256
_LONGEST_KEPT = 1 << 16
"""Bytes of a target with its meta; longer ones are read anew, so that what is kept stays below 16 MiB."""


def once_per_target(read: Callable[[Any, Mapping[str, Any]], Read]) -> Callable[[Any, Mapping[str, Any]], Read]:
    """`read(target, meta)` that looks its result up by value: all completions of a group have one target.

    By value, so that a target changed in place is read anew. What `read` returns is shared: nobody may change it.
    """
    known: dict[bytes, Read] = {}

    @functools.wraps(read)
    def looked_up(target: Any, meta: Mapping[str, Any]) -> Read:
        try:
            # Version 2 writes equal values alike, and 1 unlike 1.0 and True.
            key = marshal.dumps([target, dict(meta)], 2)
        except ValueError:  # something in it is no plain data
            return read(target, meta)
        if key in known:
            return known[key]
        result = read(target, meta)
        if len(key) <= _LONGEST_KEPT:
            if len(known) >= _KEPT_MOST:
                known.clear()
            known[key] = result
        return result

    return looked_up
