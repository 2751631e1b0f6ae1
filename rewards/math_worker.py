"""The process that runs math-verify: one JSON job a line on stdin, one JSON verdict a line on stdout.

It is run by its path and imports nothing of this package, so that it starts fast and holds no framework. The alarm
that bounds a job ends the whole process (SIGALRM's default), which also stops work inside C code and outlives the
parent; memory is bounded for the process. `math.py` starts a new one where this one has ended.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import resource
import signal
import sys
from typing import Any, TextIO

MEMORY_BYTES = 4 << 30
"""Address space of the process."""


def main() -> None:
    """Serve jobs `{"gold", "answer", "seconds"}` until stdin ends; a verdict is `{"equal", "read"}`.

    gold and answer as math-verify's `parse` wants them. read: False where the answer holds no expression.
    """
    replies = os.fdopen(os.dup(1), "w")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # what a library prints must not pass for a verdict
    logging.disable(logging.CRITICAL)
    _limit_memory()
    from math_verify import parse, verify

    read = functools.lru_cache(maxsize=1024)(functools.partial(parse, parsing_timeout=None))
    _reply(replies, {"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        try:
            gold, answer = read(job["gold"]), read(job["answer"])
            equal = bool(gold and answer) and verify(gold, answer, timeout_seconds=None)
            verdict: dict[str, Any] = {"equal": bool(equal), "read": bool(answer)}
        except MemoryError:
            verdict = {"equal": False, "read": True, "flag": "sandbox_memory"}
        except Exception:  # an expression that the library cannot work with is one that is not read
            verdict = {"equal": False, "read": False}
        signal.setitimer(signal.ITIMER_REAL, 0)
        _reply(replies, verdict)


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _reply(replies: TextIO, verdict: dict[str, Any]) -> None:
    replies.write(json.dumps(verdict) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
