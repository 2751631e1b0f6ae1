"""Weights, gradients and optimiser whole on every rank; gradients are summed once per optimiser step. The default.

Ranks may differ in micro-batches and media as they like, since nothing else is collective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlrft.policy import Policy
from vlrft.shard.base import ADAM, MakeOptimizer, States, entries_of, on_host, parameters_once, shapes_of

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vlrft.config import ParallelConfig
    from vlrft.dist import World


class Replicated:
    """See `base.Strategy`. accelerate puts modules on the device and under autocast; it does not wrap them in DDP."""

    lockstep = False
    in_place = True
    policy: Policy
    wrapped: Any
    optimizer: Any

    def __init__(
        self, parallel: ParallelConfig, accelerator: Accelerator, world: World, *, max_grad_norm: float
    ) -> None:
        self.accelerator, self.world, self.max_grad_norm = accelerator, world, max_grad_norm
        self.moves = parallel.offload == "optimizer" and accelerator.device.type == "cuda"

    def start(self, policy: Policy, make_optimizer: MakeOptimizer) -> None:
        # The stage before has let go of its optimiser; accelerate has not.
        self.accelerator.free_memory()
        self.policy = policy
        # As for evaluation: precision and device, but no DDP, since gradients are summed once per step.
        self.wrapped = self.accelerator.prepare_model(policy, evaluation_mode=True)
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(policy))

    def hold(self, reference: Policy) -> Any:
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        if loss.requires_grad:  # not so a text where only the vision tower learns
            self.accelerator.backward(loss)

    def step(self, *, wanted: bool) -> float:
        self.world.sum_gradients(self.policy.model.parameters())
        norm = float(self.accelerator.clip_grad_norm_(self.policy.model.parameters(), self.max_grad_norm))
        if wanted and math.isfinite(norm):
            self.optimizer.step()
        else:
            self.clear()
        return norm

    def clear(self) -> None:
        """All but the vocabulary matrix's gradient, which is set to zero: every step has one, and fresh memory of its
        size costs more than the zeros."""
        weight = self.policy.head.lm_head.weight
        gradient = weight.grad
        self.optimizer.zero_grad(set_to_none=True)
        if gradient is not None:
            weight.grad = gradient.zero_()

    def entries(self) -> Iterator[tuple[str, States]]:
        return entries_of(self.policy.model, lambda parameter: parameter, self._states, shapes_of(self.policy.model))

    def _states(self, parameter: Tensor) -> States:
        states = {key: torch.as_tensor(value) for key, value in self.optimizer.state.get(parameter, {}).items()}
        # bitsandbytes shares its tables between parameters, and a file wants tensors with memory of their own.
        return {key: value if key in ADAM else value.clone() for key, value in states.items()}

    def load_states(self, states_of: Callable[[str], States]) -> None:
        for name, parameter in parameters_once(self.policy.model).items():
            if parameter.requires_grad and (found := states_of(name)):
                states: dict[str, Any] = {key: value.to(parameter.device) for key, value in found.items()}
                if "exp_avg" not in states:  # bitsandbytes counts steps in a plain number
                    states["step"] = int(states["step"])
                self.optimizer.state[parameter] = states

    def resting(self) -> AbstractContextManager[None]:
        return on_host(self.optimizer, self.accelerator.device) if self.moves else nullcontext()

    def release(self) -> None:
        self.accelerator.free_memory()
