"""The policy's weights as a folder that other engines load, in shared memory where there is some."""

from __future__ import annotations

import copy
import os
import shutil
import weakref
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from vlrft.engines.held_folder import held_folder
from vlrft.models.base import Family

SHARED_MEMORY = Path("/dev/shm")
_SPARE = 1.1
"""Room asked for, as a multiple of the weights."""


class WeightFolder:
    """A checkpoint in the published form (config, tokenizer, processor, safetensors), written anew at every sync."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.path, remove = held_folder("vlrft-weights-", _place(family))
        self._remove = weakref.finalize(self, remove)
        family.processor.save_pretrained(self.path)
        config = copy.deepcopy(family.model.config)
        config.architectures = [type(family.model).__name__]
        config.save_pretrained(self.path)
        if family.model.generation_config is not None:
            family.model.generation_config.save_pretrained(self.path)

    def write(self) -> Path:
        """The current weights under their published names; returns the folder."""
        tensors: dict[str, Tensor] = {}
        written: set[int] = set()
        for name, tensor in self.family.model.state_dict().items():
            if tensor.data_ptr() not in written:  # an output head that is also the embedding is stored once
                written.add(tensor.data_ptr())
                tensors[self.family.export_name(name)] = tensor.contiguous()
        save_file(tensors, self.path / "model.safetensors", metadata={"format": "pt"})
        return self.path

    def close(self) -> None:
        self._remove()


def _place(family: Family) -> str | None:
    """Shared memory if the weights fit there; None = the system's folder for temporary files."""
    needed = _SPARE * sum(p.nbytes for p in family.model.parameters())
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK) and shutil.disk_usage(SHARED_MEMORY).free > needed:
        return str(SHARED_MEMORY)
    return None
