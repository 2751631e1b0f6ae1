"""The policy's weights as a folder that other engines load, in shared memory where there is some."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import weakref
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from vlrft.adapters import plain_state_dict
from vlrft.models.base import Family

SHARED_MEMORY = Path("/dev/shm")
_SPARE = 1.1
"""Room asked for, as a multiple of the weights."""


class WeightFolder:
    """A checkpoint in the published form (config, tokenizer, processor, safetensors), written anew at every sync."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.path = Path(tempfile.mkdtemp(prefix="vlrft-weights-", dir=_place(family)))
        self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        family.processor.save_pretrained(self.path)
        config = copy.deepcopy(family.model.config)
        config.architectures = [type(family.model).__name__]
        config.save_pretrained(self.path)
        if family.model.generation_config is not None:
            family.model.generation_config.save_pretrained(self.path)

    def write(self, *, merged: bool = True) -> Path:
        """The current weights under their published names; returns the folder.

        merged: adapters are added to their weights, in copies; else they are left out.
        """
        tensors: dict[str, Tensor] = {}
        written: set[int] = set()
        for name, tensor in plain_state_dict(self.family.model, merged=merged).items():
            if tensor.data_ptr() not in written:  # an output head that is also the embedding is stored once
                written.add(tensor.data_ptr())
                tensors[self.family.export_name(name)] = tensor.contiguous()
        save_file(tensors, self.path / "model.safetensors", metadata={"format": "pt"})
        return self.path

    def close(self) -> None:
        self._remove()


def _place(family: Family) -> str | None:
    """Shared memory if the weights fit there; None = the system's folder for temporary files."""
    return shared_memory_for(sum(p.nbytes for p in family.model.parameters()))


def shared_memory_for(size: int) -> str | None:
    """Shared memory if `size` bytes fit there; None = the system's folder for temporary files."""
    needed = _SPARE * size
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK) and shutil.disk_usage(SHARED_MEMORY).free > needed:
        return str(SHARED_MEMORY)
    return None
