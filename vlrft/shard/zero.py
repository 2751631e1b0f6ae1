"""ZeRO-1 and ZeRO-2 by DeepSpeed: weights whole on every rank, optimiser states (2: and gradients) in parts.

DeepSpeed's engine is driven directly. accelerate's wrapper steps inside `backward`, before anyone has seen the norm of
the gradients, and a second plugin of it per stage is one more state that outlives the stage.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlrft.policy import Policy
from vlrft.shard.base import (
    ADAM,
    MakeOptimizer,
    States,
    entries_of,
    need_process_group,
    parameters_once,
    put_parameters,
    shapes_of,
    whole,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vlrft.config import ParallelConfig
    from vlrft.dist import World


class Zero:
    """See `base.Strategy`."""

    lockstep = True
    in_place = False
    policy: Policy
    wrapped: Any
    optimizer: Any

    def __init__(
        self, parallel: ParallelConfig, accelerator: Accelerator, world: World, *, max_grad_norm: float
    ) -> None:
        self.parallel, self.accelerator, self.world = parallel, accelerator, world
        self.stage = int(parallel.strategy.removeprefix("zero"))
        self.max_grad_norm = max_grad_norm
        self._is_finite = True
        """Whether every loss of this step so far was."""

    def start(self, policy: Policy, make_optimizer: MakeOptimizer) -> None:
        self.policy, self.shapes = policy, shapes_of(policy.model)
        self.wrapped = initialize(policy, make_optimizer(policy), self._config(), self.accelerator.device)
        self.optimizer = self.wrapped.optimizer

    def _config(self) -> dict[str, Any]:
        """DeepSpeed's configuration; `parallel.deepspeed` is laid over it."""
        on_host = {"device": "cpu", "pin_memory": self.accelerator.device.type == "cuda"}
        zero: dict[str, Any] = {"stage": self.stage}
        if self.parallel.offload != "none":
            zero["offload_optimizer"] = on_host
        if self.parallel.offload == "all":
            zero["offload_param"] = on_host
        ours: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            # Accumulation is ours: `set_gradient_accumulation_boundary`.
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.max_grad_norm,
            "steps_per_print": 2**31,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            # Else the host's update needs an Adam that is compiled at the first start.
            "zero_force_ds_cpu_optimizer": False,
            # As in the other strategies: float32 weights, products in bfloat16.
            "torch_autocast": {"enabled": self.accelerator.mixed_precision == "bf16", "dtype": "bfloat16"},
        }
        return _over(ours, self.parallel.deepspeed)

    def hold(self, reference: Policy) -> Any:
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._is_finite = self._is_finite and bool(torch.isfinite(loss.detach()))
        if last and not self._is_finite:
            # DeepSpeed gives a step up when its gradients are not finite: make the loss show in them, on all ranks.
            loss = loss * float("nan")
        if last:
            self._is_finite = True
        self.wrapped.set_gradient_accumulation_boundary(last)
        # It averages over ranks; ours are shares of one sum.
        self.wrapped.backward(loss * self.world.size)

    def step(self, *, wanted: bool) -> float:
        """wanted: follows from the losses that `backward` has seen."""
        self.wrapped.step()
        return float(self.wrapped.get_global_grad_norm())

    def clear(self) -> None:
        """`step` has, whether it was taken or not."""

    def entries(self) -> Iterator[tuple[str, States]]:
        return entries_of(self.policy.model, lambda parameter: parameter, self._states, self.shapes)

    def _states(self, parameter: Tensor) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = [state["step"] for state in self.optimizer.optimizer.state.values() if "step" in state]
        if not parameter.requires_grad or not steps:
            return {}
        states = {key: safe_get_full_optimizer_state(parameter, key) for key in ADAM}
        return {**states, "step": torch.as_tensor(steps[0], dtype=torch.float32).to("cpu", copy=True)}

    def load_states(self, states_of: Callable[[str], States]) -> None:
        """One count of steps serves all parameters: the largest. One without states starts from zeros."""
        learning = {n: p for n, p in parameters_once(self.policy.model).items() if p.requires_grad}
        steps = [states["step"] for name in learning if (states := states_of(name))]
        if not steps:
            return
        self._make_states(torch.stack([step.float() for step in steps]).max())
        for name, parameter in learning.items():
            found = states_of(name)
            for key in ADAM if found else ():
                self._put_state(parameter, found[key], key)

    def _make_states(self, step: Tensor) -> None:
        for flat in self.flat_parameters():
            state = {key: torch.zeros_like(flat.data) for key in ADAM}
            self.optimizer.optimizer.state[flat] = {**state, "step": step.clone().to(flat.device)}
        self._link_states()

    def flat_parameters(self) -> list[Tensor]:
        """This rank's parts of all parameters, as the inner optimiser knows them."""
        flat: list[Tensor] = self.optimizer.single_partition_of_fp32_groups
        return flat

    def _link_states(self) -> None:
        self.optimizer._lazy_init_hp_params_optimizer_state()

    def _put_state(self, parameter: Tensor, value: Tensor, key: str) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)

    def resting(self) -> AbstractContextManager[None]:
        """With `parallel.offload` they are on the host at all times."""
        return nullcontext()

    def release(self) -> None:
        parameters = parameters_once(self.policy.model)
        full = {n: whole(n, p.detach(), self.shapes).clone() for n, p in parameters.items()}
        self.wrapped.destroy()
        self.accelerator.free_memory()
        put_parameters(self.policy.model, full)


def initialize(
    module: Policy, optimizer: torch.optim.Optimizer | None, config: dict[str, Any], device: torch.device
) -> Any:
    """DeepSpeed's engine over `module`; without an optimiser one that only answers."""
    engine, *_ = get_ready(device).initialize(model=module, optimizer=optimizer, config=config)
    return engine


def get_ready(device: torch.device) -> Any:
    """DeepSpeed, imported, with a process group."""
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    need_process_group(device)
    import deepspeed

    # Its own all-reduce on the CPU would be compiled at the first start, for minutes; gloo is there.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed reads it in every step. accelerate, which takes a process for one of several by it, has looked already.
    os.environ.setdefault("LOCAL_RANK", "0")
    return deepspeed


def _over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` laid over `base`, key by key."""
    merged = copy.copy(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _over(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
