"""What one device holds from step to step: parameters, gradients, optimiser, reference policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from vlrft.adapters import has_adapters
from vlrft.config import Config
from vlrft.plan.four_bit import weight_bytes

GIB = 2**30
CUDA_CONTEXT = GIB // 2
"""Assumed, not measured: what CUDA, cuBLAS and NCCL take before the first tensor."""
CUDA_SLACK = 0.08
"""Assumed, not measured: share of a card that the caching allocator cannot use for what is asked of it."""
BUCKET = 64 * 2**20
"""Gradients that data-parallel ranks sum at once (`vlrft.dist`); a larger one is summed in its own place."""
_SHARDED = {
    "parameters": {"zero3", "fsdp2"},
    "gradients": {"zero2", "zero3", "fsdp2"},
    "optimizer": {"zero1", "zero2", "zero3", "fsdp2"},
}
"""Strategies under which each rank has only its share."""
_REDUCE_BUCKET = 500_000_000
"""DeepSpeed's own default of `zero_optimization.reduce_bucket_size`, in gradients: it takes all of that memory."""
_WHOLE_STATES, _BLOCK, _PAGED = 4096, 256, 100_000
"""bitsandbytes: parameters with fewer numbers than the first keep float32 states; the others share a float32 scale
among so many 8-bit numbers; paged are the states of parameters with at least the third."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """Bytes on each device."""

    parameters: int
    gradients: int
    """Of what learns."""
    optimizer: int
    """Its states; under zero* also DeepSpeed's own float32 copy of the rank's part of what learns."""
    reference: int
    """For the KL term: a copy of what learns, under zero3 and fsdp2 the rank's part of a whole model."""
    gathered: int
    """Sharded parameters that are put together for the layers at work (estimated: two layers and the output head);
    without sharding one bucket of gradients on its way between ranks; under zero* DeepSpeed's buffers of gradients."""

    shards_gradients: bool
    on_host: int
    """What `parallel.offload` and paged optimisers keep in host memory all the time; not in the parts above."""
    away_in_rollouts: int
    """Optimiser states that are on the host during rollouts (offload without DeepSpeed)."""

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.reference


def resident(model: nn.Module, config: Config, *, ranks: int, beta: float) -> Resident:
    """Frozen parts have neither states nor gradients. `model` has plain layers in place of quantised ones
    (`four_bit.stand_in`)."""
    strategy, offload = config.parallel.strategy, config.parallel.offload
    by_deepspeed = strategy.startswith("zero")

    def share(what: str) -> int:
        return ranks if strategy in _SHARDED[what] else 1

    learning = [p for p in model.parameters() if p.requires_grad]
    every, trained = weight_bytes(model), sum(p.nbytes for p in learning)
    parameters, gradients = every // share("parameters"), trained // share("gradients")
    states, paged = _states(learning, config.train.optimizer)
    # The copy is made even where the weights are float32 already, also by ZeRO-3 (DeepSpeed 0.19).
    optimizer = (states + (trained if by_deepspeed else 0)) // share("optimizer")
    reference = _reference(model, every, trained, share("parameters")) if beta > 0 else 0
    hosted = {
        "optimizer": optimizer if offload != "none" and by_deepspeed else 0,
        "gradients": gradients if offload != "none" and strategy in ("zero2", "zero3") else 0,
        "parameters": parameters if offload == "all" and strategy in _SHARDED["parameters"] else 0,
        "reference": reference if offload == "all" and strategy in _SHARDED["parameters"] else 0,
    }
    return Resident(
        parameters=parameters - hosted["parameters"],
        gradients=gradients - hosted["gradients"],
        optimizer=optimizer - hosted["optimizer"],
        reference=reference - hosted["reference"],
        on_host=sum(hosted.values()) + paged,
        away_in_rollouts=optimizer if offload != "none" and not by_deepspeed else 0,
        shards_gradients=share("gradients") > 1,
        gathered=_gathered(model, trained, ranks, sharded=share("parameters") > 1, config=config),
    )


def _states(learning: Iterable[nn.Parameter], optimizer: str) -> tuple[int, int]:
    """Bytes of AdamW's two states on the device, and of those that are paged. torch's are of the parameter's own type,
    those of bitsandbytes float32 or 8 bits."""
    on_device = paged = 0
    for parameter in learning:
        numbers = parameter.numel()
        if optimizer == "adamw":
            on_device += 2 * parameter.nbytes
            continue
        small = optimizer.endswith("8bit") and numbers >= _WHOLE_STATES
        states = 2 * numbers * (1 if small else 4)
        on_device += 2 * 4 * -(-numbers // _BLOCK) if small else 0
        if optimizer.startswith("paged") and numbers >= _PAGED:
            paged += states
        else:
            on_device += states
    return on_device, paged


def _reference(model: nn.Module, every: int, trained: int, parts: int) -> int:
    """See `vlrft.reference`: adapters of its own, a copy that shares what is frozen, or a model that is cut up."""
    return trained if has_adapters(model) or parts == 1 else every // parts


def _gathered(model: nn.Module, trained: int, ranks: int, *, sharded: bool, config: Config) -> int:
    buffers = _deepspeed_buffers(config) if config.parallel.strategy.startswith("zero") else 0
    if ranks == 1:
        return buffers
    if not sharded:
        return buffers or min(BUCKET, trained)
    inner: Any = model
    layer = max(_bytes(layer) for layer in inner.model.language_model.layers)
    return buffers + 2 * layer + _bytes(inner.lm_head)


def _deepspeed_buffers(config: Config) -> int:
    """Of gradients on their way: one per type that is sent, under autocast bfloat16 and float32."""
    zero = config.parallel.deepspeed.get("zero_optimization", {})
    if not zero.get("contiguous_gradients", True):
        return 0
    numbers = int(zero.get("reduce_bucket_size", _REDUCE_BUCKET))
    doubled = 2 if zero.get("overlap_comm") and config.parallel.strategy != "zero3" else 1
    return numbers * doubled * (6 if config.parallel.mixed_precision == "bf16" else 4)


def _bytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())
