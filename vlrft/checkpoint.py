"""Checkpoints that are whole or absent: written beside their place, synced to disk, then renamed into it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

_STATE = "state.pt"
_WRITING = ".writing-"


def save(run_dir: Path, name: str, state: dict[str, Any], *, keep: int) -> Path:
    """Write `checkpoints/<name>/`, then delete all but the newest `keep`.

    Names sort by age; one that is there already is of the same step, and stays.
    """
    folder = run_dir / "checkpoints"
    final = folder / name
    if final.is_dir():
        return final
    folder.mkdir(parents=True, exist_ok=True)
    for torn in folder.glob(f"{_WRITING}*"):
        shutil.rmtree(torn)
    temporary = folder / f"{_WRITING}{name}"
    temporary.mkdir()
    with (temporary / _STATE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, final)
    _sync_folder(folder)
    for old in complete(run_dir)[:-keep]:
        shutil.rmtree(old)
    return final


def complete(run_dir: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    folder = run_dir / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if not p.name.startswith(_WRITING) and (p / _STATE).is_file())


def load_latest(run_dir: Path) -> dict[str, Any] | None:
    """State of the newest finished checkpoint; None when there is none yet."""
    found = complete(run_dir)
    if not found:
        return None
    # Our own file: it holds sampler and random states, which weights_only loading would refuse.
    state: dict[str, Any] = torch.load(found[-1] / _STATE, map_location="cpu", weights_only=False)
    return state


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
