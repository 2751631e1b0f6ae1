"""The policy's weights as a folder that other engines load, in shared memory where there is some."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from vlrft.models.base import Family

SHARED_MEMORY = Path("/dev/shm")
_SPARE = 1.1
"""Room asked for, as a multiple of the weights."""


class WeightFolder:
    """A checkpoint in the published form (config, tokenizer, processor, safetensors), written anew at every sync."""

    def __init__(self, family: Family, parent: Path | None = None) -> None:
        """parent: where the folder is made; None = shared memory if the weights fit there."""
        self.family = family
        self.path = Path(tempfile.mkdtemp(prefix="vlrft-weights-", dir=_place(family) if parent is None else parent))
        self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        family.processor.save_pretrained(self.path)
        config = copy.deepcopy(family.model.config)
        config.architectures = [type(family.model).__name__]
        config.save_pretrained(self.path)
        if family.model.generation_config is not None:
            family.model.generation_config.save_pretrained(self.path)

    def write(self) -> Path:
        """The current weights under their published names; returns the folder.

        Where they are spread over ranks this is collective: ranks that do not write call `attend_write`.
        """
        tensors = {self.family.export_name(name): tensor.contiguous() for name, tensor in _tensors(self.family)}
        save_file(tensors, self.path / "model.safetensors", metadata={"format": "pt"})
        return self.path

    def close(self) -> None:
        self._remove()


def attend_write(family: Family) -> None:
    """This rank's part of another's `WeightFolder.write`."""
    if family.spread is not None:
        for _ in family.spread.tensors():
            pass


def _tensors(family: Family) -> Iterator[tuple[str, Tensor]]:
    """An output head that is also the embedding comes once."""
    if family.spread is not None:
        # Whole ones are gone at the next, unless copied; the folder's memory is the host's.
        yield from ((name, tensor.to("cpu", copy=True)) for name, tensor in family.spread.tensors())
        return
    written: set[int] = set()
    for name, tensor in family.model.state_dict().items():
        if tensor.data_ptr() not in written:
            written.add(tensor.data_ptr())
            yield name, tensor


def _place(family: Family) -> str | None:
    """Shared memory if the weights fit there; None = the system's folder for temporary files."""
    needed = _SPARE * sum(p.nbytes for p in family.model.parameters())
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK) and shutil.disk_usage(SHARED_MEMORY).free > needed:
        return str(SHARED_MEMORY)
    return None
