"""The policy's weights as a folder that other engines load, in shared memory where there is some."""

from __future__ import annotations

import copy
import os
import shutil
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vlrft.adapters import plain_state_dict
from vlrft.engines.held_folder import held_folder
from vlrft.log import UserError
from vlrft.models.base import Family

SHARED_MEMORY = Path("/dev/shm")
_SPARE = 1.1
"""Room asked for, as a multiple of the weights."""
_WEIGHTS = "model.safetensors"
_WAITING = ".waiting"
"""No ending that vLLM looks for."""


class WeightFolder:
    """A checkpoint in the published form (config, tokenizer, processor, safetensors), written anew at every sync."""

    def __init__(self, family: Family, parent: Path | None = None) -> None:
        """parent: where the folder is made; None = shared memory if the weights fit there."""
        self.family = family
        self._aside = 0
        self.path, remove = held_folder("vlrft-weights-", _place(family) if parent is None else parent)
        self._remove = weakref.finalize(self, remove)
        family.processor.save_pretrained(self.path)
        config = copy.deepcopy(family.model.config)
        config.architectures = [type(family.model).__name__]
        config.save_pretrained(self.path)
        if family.model.generation_config is not None:
            family.model.generation_config.save_pretrained(self.path)

    def write(self, tensors: Iterable[tuple[str, Tensor]] | None = None, *, merged: bool = True) -> Path:
        """The current weights, or `tensors`, under their published names; returns the folder.

        merged: as `published_tensors`. Where the current ones are spread over ranks this is collective: ranks that do
        not write call `attend_write`.
        """
        self._save(published_tensors(self.family, merged=merged) if tensors is None else tensors, _WEIGHTS)
        return self.path

    def set_aside(self) -> Path:
        """The current weights in a file of the folder that nobody loads before `take`.

        As collective as `write`. Raises UserError where there is no room for it.
        """
        self._aside += 1
        name = f"{self._aside:08d}{_WAITING}"
        try:
            self._save(published_tensors(self.family), name)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the weights for rollouts ahead of training cannot be written to {self.path}: {error}. Set "
                "engine.kwargs.weights_dir to a folder with more room"
            ) from error
        return self.path / name

    def take(self, aside: Path) -> Path:
        """Make what was set aside the folder's weights; returns the folder. What was set aside before it is gone."""
        for older in self.path.glob(f"*{_WAITING}"):
            if older.name < aside.name:
                older.unlink()
        os.replace(aside, self.path / _WEIGHTS)
        return self.path

    def drop(self) -> None:
        """Give the room of the weights back; the rest of the folder stays."""
        (self.path / _WEIGHTS).unlink(missing_ok=True)

    def close(self) -> None:
        self._remove()

    def _save(self, tensors: Iterable[tuple[str, Tensor]], name: str) -> None:
        whole = {published: tensor.contiguous() for published, tensor in tensors}
        save_file(whole, self.path / name, metadata={"format": "pt"})


def attend_write(family: Family) -> None:
    """This rank's part of another's `WeightFolder.write`."""
    if family.spread is not None:
        for _ in family.spread.tensors():
            pass


def published_tensors(family: Family, *, merged: bool = True) -> Iterator[tuple[str, Tensor]]:
    """The trainer's own tensors by their published names; an output head that is also the embedding comes once.

    Nothing is copied but weights with an adapter: `merged` adds it to a copy, else it is left out. Where weights are
    spread over ranks they are whole, on the host, and asking is collective.
    """
    if family.spread is not None:
        # They are gone at the next, unless copied.
        yield from ((family.export_name(name), tensor.to("cpu", copy=True)) for name, tensor in family.spread.tensors())
        return
    seen: set[int] = set()
    state = plain_state_dict(family.model, merged=merged)  # held: addresses of what is freed would come again
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield family.export_name(name), tensor


def _place(family: Family) -> str | None:
    """Shared memory if the weights fit there; None = the system's folder for temporary files."""
    return shared_memory_for(sum(p.nbytes for p in family.model.parameters()))


def shared_memory_for(size: int) -> str | None:
    """Shared memory if `size` bytes fit there; None = the system's folder for temporary files."""
    needed = _SPARE * size
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK) and shutil.disk_usage(SHARED_MEMORY).free > needed:
        return str(SHARED_MEMORY)
    return None
