"""The seam between an optimiser step and how weights, gradients and optimiser states lie over the ranks.

Whatever the strategy, the loss handed in is this rank's share of the step's loss, and gradients are summed over ranks.
"Full" is a tensor in its whole shape, on every rank that asks; to ask is collective: all ranks, in the same order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlrft.policy import Policy

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vlrft.config import ParallelConfig
    from vlrft.dist import World

WEIGHT = "weight"
ADAM = ("exp_avg", "exp_avg_sq")
"""Optimiser states that have a parameter's shape."""
States = Mapping[str, Tensor]
"""`weight`, and where the optimiser has a state `exp_avg`, `exp_avg_sq` (its shape) and `step` (a number)."""
HOST_TOO = "cuda:nccl,cpu:gloo"
"""Backends of a process group whose messages are tensors on the GPU or on the host."""
MakeOptimizer = Callable[[Policy], torch.optim.Optimizer]


class Strategy(Protocol):
    """One stage's training; a new one is built for each stage."""

    lockstep: bool
    """Whether all ranks must make the same forward and backward passes (`level.level` sees to it)."""
    in_place: bool
    """Whether the vocabulary matrix's gradient may be written past autograd (`HeadOptions.accumulate_in_place`)."""
    policy: Policy
    """The module in training. Its parameters may be parts, or empty between passes."""
    wrapped: Any
    """What to call in its place."""
    optimizer: Any
    """Of which the schedule sets `param_groups[i]["lr"]`."""

    def __init__(
        self, parallel: ParallelConfig, accelerator: Accelerator, world: World, *, max_grad_norm: float
    ) -> None: ...

    def start(self, policy: Policy, make_optimizer: MakeOptimizer) -> None:
        """Take over a whole policy, the same on all ranks, with its parts frozen as the stage wants them."""

    def hold(self, reference: Policy) -> Any:
        """A frozen policy as something to call; takes over its weights."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Gradients of one micro-batch; `last` of this step."""

    def step(self, *, wanted: bool) -> float:
        """Sum gradients over ranks, clip, step; returns the norm before clipping.

        Where that is not finite, or the step not wanted (all ranks say the same), weights and optimiser stay as they
        are, and the gradients are gone.
        """

    def clear(self) -> None:
        """Drop all gradients."""

    def entries(self) -> Iterator[tuple[str, States]]:
        """Each parameter with its full states, and each other tensor of a checkpoint as `weight` alone, one by one.

        A tensor may be the live one, or gone at the next: copy what is kept.
        """

    def load_states(self, states_of: Callable[[str], States]) -> None:
        """Take over optimiser states: `states_of(parameter's name)` -> its full ones, {} for none."""

    def resting(self) -> AbstractContextManager[None]:
        """While the optimiser is not needed: its states on the host, where `parallel.offload` says so."""

    def release(self) -> None:
        """Give the model back whole, in the plain modules that came in. The strategy is of no more use."""


def parameters_once(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by name, tied ones under their first name."""
    return dict(model.named_parameters())


def other_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong into a checkpoint, by name."""
    of_state = {
        name for name, tensor in model.state_dict(keep_vars=True).items() if not isinstance(tensor, nn.Parameter)
    }
    return {name: buffer for name, buffer in model.named_buffers() if name in of_state}


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """Of the parameters, by name."""
    return {name: parameter.shape for name, parameter in parameters_once(model).items()}


def whole(name: str, tensor: Tensor, shapes: Mapping[str, torch.Size]) -> Tensor:
    """`tensor`; raises RuntimeError where it is not of the shape that the parameter came in with."""
    if tensor.shape != shapes[name]:
        raise RuntimeError(
            f"{name} came in with the shape {tuple(shapes[name])} and is {tuple(tensor.shape)} now: the strategy did "
            "not give it back whole, so nothing is saved; look at parallel.deepspeed"
        )
    return tensor


def entries_of(
    model: nn.Module,
    full: Callable[[nn.Parameter], Tensor],
    states_of: Callable[[nn.Parameter], States],
    shapes: Mapping[str, torch.Size],
) -> Iterator[tuple[str, States]]:
    """`Strategy.entries` from a parameter's whole weight and its whole optimiser states ({} for none).

    shapes: `shapes_of` the model as it came in; RuntimeError for a weight of another one.
    """
    for name, parameter in parameters_once(model).items():
        yield name, {WEIGHT: whole(name, full(parameter), shapes).detach(), **states_of(parameter)}
    yield from ((name, {WEIGHT: buffer.detach()}) for name, buffer in other_tensors(model).items())


@contextmanager
def on_host(optimizer: Any, device: torch.device) -> Iterator[None]:
    """All optimiser states in host memory meanwhile, then back on `device`."""
    _move_states(optimizer, torch.device("cpu"))
    try:
        yield
    finally:
        _move_states(optimizer, device)


def _move_states(optimizer: Any, device: torch.device) -> None:
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, Tensor):  # bitsandbytes counts steps in a plain number
                state[key] = value.to(device)


def put_parameters(model: nn.Module, full: Mapping[str, Tensor]) -> None:
    """Make every parameter anew from `full` (by first name), tied ones as one; what hung on the old ones is gone."""
    made: dict[int, nn.Parameter] = {
        id(old): nn.Parameter(full[name], requires_grad=old.requires_grad)
        for name, old in parameters_once(model).items()
    }
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is not None:
                module._parameters[name] = made[id(old)]


def need_process_group(device: torch.device) -> None:
    """A group of this process alone, for a run that no launcher has started: sharding libraries insist on one."""
    # FSDP2 and DeepSpeed call what PyTorch 2.13 is renaming; it says so at every call.
    warnings.filterwarnings("ignore", message=r".*torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    if not dist.is_initialized():
        backend = HOST_TOO if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
