"""ZeRO-3 by DeepSpeed: weights, gradients and optimiser states in parts; weights are gathered where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vlrft.policy import Policy
from vlrft.shard.base import MakeOptimizer, States, entries_of, shapes_of
from vlrft.shard.spread import Spread, move_into_twin
from vlrft.shard.zero import Zero, get_ready, initialize


class Zero3(Spread, Zero):
    """See `base.Strategy`."""

    def start(self, policy: Policy, make_optimizer: MakeOptimizer) -> None:
        twin = self.take(policy)
        self._cut(twin, self._config())
        super().start(twin, make_optimizer)
        _use_in_head(twin)

    def hold(self, reference: Policy) -> Any:
        twin = move_into_twin(reference)
        config = {key: value for key, value in self._config().items() if key != "gradient_clipping"}
        self._cut(twin, config)
        engine = initialize(twin, None, config, self.accelerator.device)
        _use_in_head(twin)
        return engine

    def _cut(self, policy: Policy, config: dict[str, Any]) -> None:
        """Bring a policy to the device in parts, parameter by parameter: DeepSpeed's engine would move it whole."""
        device = self.accelerator.device
        get_ready(device).zero.Init(module=policy, config_dict_or_path=config, dtype=torch.float32)
        for module in policy.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = buffer.to(device) if buffer is not None else None

    def entries(self) -> Iterator[tuple[str, States]]:
        return entries_of(self.policy.model, self.full, self._states, shapes_of(self.plain.model))

    def full(self, parameter: nn.Parameter) -> Tensor:
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def flat_parameters(self) -> list[Tensor]:
        flat: list[Tensor] = self.optimizer.fp32_partitioned_groups_flat
        return flat

    def _link_states(self) -> None:
        """Here they are found by the flat parameter."""

    def _put_state(self, parameter: Any, value: Tensor, key: str) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        # Parts are equal; the last one is padded.
        part = parameter.ds_tensor.numel()
        padded = torch.zeros(part * self.world.size, dtype=value.dtype)
        padded[: value.numel()] = value.flatten()
        own = padded[part * self.world.rank : part * (self.world.rank + 1)]
        safe_set_local_optimizer_state(parameter, own.to(parameter.device), key)

    def release(self) -> None:
        self.give_back()
        self.wrapped.destroy()


def _use_in_head(policy: Policy) -> None:
    """The head multiplies with its child's weight and never calls the child: tell whose weight it needs."""
    import deepspeed

    deepspeed.zero.register_external_parameter(policy.head, policy.head.lm_head.weight)
