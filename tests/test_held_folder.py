"""Folders in shared memory: held while their process lives, removed by the next one when it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

if os.name != "posix":
    pytest.skip("no such locks here", allow_module_level=True)

from vlrft.engines.held_folder import HELD, held_folder, remove_left_behind

HOLD = """
import sys, time
from vlrft.engines.held_folder import held_folder
path, remove = held_folder("weights-", sys.argv[1])
(path / "model.safetensors").write_bytes(b"x" * 100)
print(path, flush=True)
time.sleep(60)
"""


def age(path: Path) -> None:
    long_ago = time.time() - 3600
    os.utime(path / HELD, (long_ago, long_ago))


def test_a_killed_process_leaves_nothing_for_long(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        age(left)
        assert remove_left_behind("weights-", tmp_path) == [], "its process lives"
        process.kill()
        process.wait()
        assert (left / "model.safetensors").exists()
        path, remove = held_folder("weights-", tmp_path)
        assert not left.exists()
        assert list(tmp_path.iterdir()) == [path]
        remove()
        assert list(tmp_path.iterdir()) == []
    finally:
        process.kill()
        process.communicate()


def test_own_young_and_foreign_folders_stay(tmp_path: Path) -> None:
    own, remove = held_folder("weights-", tmp_path)
    age(own)
    young = tmp_path / "weights-young"
    young.mkdir()
    (young / HELD).touch()
    (tmp_path / "weights-of-others").mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / HELD).touch()
    age(tmp_path / "else")
    assert remove_left_behind("weights-", tmp_path) == []
    age(young)
    assert remove_left_behind("weights-", tmp_path) == [young]
    remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["else", "weights-of-others"]
