"""vLLM in each of several processes that train: an engine per rank, which samples that rank's share.

vLLM's "external_launcher" takes the process group that is there, and makes groups of one rank each in it. All ranks
must therefore start their engines at the same time.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from vlrft.dist import World
from vlrft.log import UserError

ONE_PER_RANK = {"distributed_executor_backend": "external_launcher"}
_SPLITS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def refuse_splits(settings: Mapping[str, Any]) -> None:
    """Raises UserError where one engine is to be spread over GPUs, which belong to other ranks."""
    for name in _SPLITS:
        if settings.get(name, 1) != 1:
            raise UserError(
                f"engine.kwargs.{name}={settings[name]} with engine.name=vllm needs one process: with several each has "
                f"an engine of its own on its own GPU. Use engine.name=vllm_server, or leave {name} at 1"
            )


def first_on_this_machine(world: World) -> int:
    """The lowest rank that shares this rank's machine. All ranks call."""
    return world.gather(socket.gethostname()).index(socket.gethostname())


@contextmanager
def keeping_process_group() -> Iterator[None]:
    """vLLM's shutdown ends torch.distributed altogether, also where the trainer has started it (0.32)."""
    destroy = torch.distributed.destroy_process_group

    def destroy_part(group: Any = None) -> None:
        if group is not None:
            destroy(group)

    torch.distributed.destroy_process_group = destroy_part
    try:
        yield
    finally:
        torch.distributed.destroy_process_group = destroy
