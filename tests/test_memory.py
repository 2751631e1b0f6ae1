"""Freed heap memory goes back to the system when there is enough of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from vlrft.memory import release_freed

def resident():
    return [int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS')][0] * 1024

# 64 KiB each, below the size that malloc maps by itself; the last one keeps the heap's top in place.
small = [torch.ones(2**14) for _ in range(12000)]
keep = torch.ones(2**14)
full = resident()
del small
before = resident()
release_freed()
print(full - before, full - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim is glibc's")
def test_large_holes_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    without, with_release = map(int, done.stdout.split())
    assert with_release >= 600 * 2**20
    assert without < with_release
