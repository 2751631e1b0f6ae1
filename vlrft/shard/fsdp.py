"""FSDP2 (`fully_shard` of PyTorch): weights, gradients and optimiser states in parts, block by block.

On a device mesh of our own: accelerate does not shard on the CPU, and says nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlrft.policy import Policy
from vlrft.shard.base import (
    ADAM,
    MakeOptimizer,
    States,
    entries_of,
    need_process_group,
    on_host,
    parameters_once,
    shapes_of,
)
from vlrft.shard.spread import Spread, move_into_twin

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vlrft.config import ParallelConfig
    from vlrft.dist import World


class Fsdp(Spread):
    """See `base.Strategy`."""

    lockstep = True
    in_place = False
    optimizer: Any

    def __init__(
        self, parallel: ParallelConfig, accelerator: Accelerator, world: World, *, max_grad_norm: float
    ) -> None:
        self.parallel, self.accelerator, self.world, self.max_grad_norm = parallel, accelerator, world, max_grad_norm
        on_cuda = accelerator.device.type == "cuda"
        self.moves, self.on_host = (on_cuda and parallel.offload == name for name in ("optimizer", "all"))

    def start(self, policy: Policy, make_optimizer: MakeOptimizer) -> None:
        self.policy = self.take(policy)
        self.wrapped = self._shard(self.policy)
        self.optimizer = make_optimizer(self.policy)

    def hold(self, reference: Policy) -> Any:
        return self._shard(move_into_twin(reference))

    def _shard(self, policy: Policy) -> Policy:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        device = self.accelerator.device
        need_process_group(device)
        half = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else None
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (self.world.size,)),
            "mp_policy": MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None),
            "offload_policy": CPUOffloadPolicy() if self.on_host else OffloadPolicy(),
        }
        # Each call moves what it cuts up to the device, so that no GPU holds more than its parts and one block.
        for block in blocks(policy.model):
            fully_shard(block, **settings)
        fully_shard(policy, **settings)
        refuse_whole(policy)
        return policy

    def backward(self, loss: Tensor, *, last: bool) -> None:
        # It averages over ranks; ours are shares of one sum.
        (loss * self.world.size).backward()

    def step(self, *, wanted: bool) -> float:
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        length = float(_whole(norm))
        if wanted and math.isfinite(length):
            self.optimizer.step()
        self.clear()
        return length

    def clear(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def full(self, parameter: nn.Parameter) -> Tensor:
        return _whole(parameter.detach())

    def entries(self) -> Iterator[tuple[str, States]]:
        return entries_of(self.policy.model, self.full, self._states, shapes_of(self.plain.model))

    def _states(self, parameter: Tensor) -> States:
        return {key: _whole(value) for key, value in self.optimizer.state.get(parameter, {}).items()}

    def load_states(self, states_of: Callable[[str], States]) -> None:
        from torch.distributed.tensor import DTensor, distribute_tensor

        for name, parameter in parameters_once(self.policy.model).items():
            found = states_of(name) if parameter.requires_grad else {}
            if found:
                assert isinstance(parameter, DTensor)
                state: dict[str, Tensor] = {"step": found["step"].to(parameter.device)}
                for key in ADAM:
                    # All ranks have read the whole: each keeps its part.
                    part = distribute_tensor(
                        found[key].to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
                    )
                    state[key] = part.to(parameter.device)  # which is the host under parallel.offload=all
                self.optimizer.state[parameter] = state

    def resting(self) -> AbstractContextManager[None]:
        return on_host(self.optimizer, self.accelerator.device) if self.moves else nullcontext()

    def release(self) -> None:
        self.give_back()


def blocks(model: nn.Module) -> list[nn.Module]:
    """Members of the outermost lists of modules: layers of the language model and of the vision tower."""
    found: list[nn.Module] = []
    for child in model.children():
        found.extend(child if isinstance(child, nn.ModuleList) else blocks(child))
    return [block for block in found if any(True for _ in block.parameters())]


def refuse_whole(policy: Policy) -> None:
    """Raise RuntimeError where a parameter has not been cut up: then every rank would hold it, unnoticed."""
    from torch.distributed.tensor import DTensor, Shard

    for name, parameter in parameters_once(policy).items():
        if not isinstance(parameter, DTensor) or not any(isinstance(p, Shard) for p in parameter.placements):
            raise RuntimeError(f"parallel.strategy=fsdp2 has left {name} whole; report the version of PyTorch")


def _whole(tensor: Any) -> Tensor:
    from torch.distributed.tensor import DTensor

    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole
