"""What one device holds from step to step: parameters, gradients, optimiser, reference policy; and what vLLM takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vlrft.config import Config
from vlrft.models.base import Family, head_size

GIB = 2**30
CUDA_CONTEXT = GIB // 2
"""Assumed, not measured: what CUDA, cuBLAS and NCCL take before the first tensor."""
CUDA_SLACK = 0.08
"""Assumed, not measured: share of a card that the caching allocator cannot use for what is asked of it."""
BUCKET = 64 * 2**20
"""Gradients that data-parallel ranks sum at once (`vlrft.dist`)."""
_SHARDED = {
    "parameters": {"zero3", "fsdp2"},
    "gradients": {"zero2", "zero3", "fsdp2"},
    "optimizer": {"zero1", "zero2", "zero3", "fsdp2"},
}
"""Strategies under which each rank has only its share."""
_VLLM_SHARE = 0.92
"""vLLM's own default of `gpu_memory_utilization`; on a CPU it is a share of the machine's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """Bytes on each device."""

    parameters: int
    gradients: int
    optimizer: int
    reference: int
    """The frozen copy for the KL term."""
    gathered: int
    """Sharded parameters that are put together for the layers at work (estimated: two layers and the output head);
    without sharding one bucket of gradients on its way between ranks."""

    shards_gradients: bool
    on_host: int
    """What `parallel.offload` keeps in host memory all the time; not in the parts above."""
    away_in_rollouts: int
    """Optimiser states that are on the host during rollouts (offload without DeepSpeed)."""

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLM:
    """vLLM on the same device, in bytes."""

    weights: int
    """Its own copy."""
    reserved: int
    """All that it takes: `gpu_memory_utilization` of the device, or weights and `kv_cache_memory_bytes`."""
    cache_per_token: int
    """Keys and values of one token."""
    folder: int
    """The weights as files, in shared memory: host, not device."""

    @property
    def cache_tokens(self) -> int:
        """Tokens whose keys and values fit, before what vLLM keeps for its own activations."""
        return max(0, self.reserved - self.weights) // self.cache_per_token


def resident(model: nn.Module, config: Config, *, ranks: int, beta: float) -> Resident:
    """AdamW with two states per trained parameter, in its own type; frozen parts have neither state nor gradient."""
    strategy, offload = config.parallel.strategy, config.parallel.offload

    def share(what: str) -> int:
        return ranks if strategy in _SHARDED[what] else 1

    every = sum(p.nbytes for p in model.parameters())
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    parameters, optimizer = every // share("parameters"), 2 * trained // share("optimizer")
    hosted_optimizer = optimizer if offload != "none" and strategy.startswith("zero") else 0
    hosted_parameters = parameters if offload == "all" and share("parameters") > 1 else 0
    return Resident(
        parameters=parameters - hosted_parameters,
        gradients=trained // share("gradients"),
        optimizer=optimizer - hosted_optimizer,
        reference=every // share("parameters") if beta > 0 else 0,
        on_host=hosted_optimizer + hosted_parameters,
        away_in_rollouts=optimizer if offload != "none" and not hosted_optimizer else 0,
        shards_gradients=share("gradients") > 1,
        gathered=_gathered(model, trained, ranks, sharded=share("parameters") > 1),
    )


def _gathered(model: nn.Module, trained: int, ranks: int, *, sharded: bool) -> int:
    if ranks == 1:
        return 0
    if not sharded:
        return min(BUCKET, trained)
    inner: Any = model
    layer = max(_bytes(layer) for layer in inner.model.language_model.layers)
    return 2 * layer + _bytes(inner.lm_head)


def vllm_memory(family: Family, config: Config, capacity: int | None) -> VLLM | None:
    """None for an engine that is not vLLM in the trainer's process. capacity: bytes of the device, where known."""
    if config.engine.name != "vllm":
        return None
    settings = config.engine.kwargs
    half = config.parallel.mixed_precision == "bf16" or settings.get("dtype") in ("bfloat16", "float16")
    numbers = sum(p.numel() for p in family.model.parameters())
    size = 2 if half else next(family.model.parameters()).element_size()
    per_token = cache_bytes_per_token(family.model, size)
    reserved = numbers * size + int(settings.get("kv_cache_memory_bytes") or 0)
    if not settings.get("kv_cache_memory_bytes") and capacity is not None:
        reserved = max(reserved, int(settings.get("gpu_memory_utilization", _VLLM_SHARE) * capacity))
    folder = sum(p.nbytes for p in family.model.parameters())
    return VLLM(weights=numbers * size, reserved=reserved, cache_per_token=per_token, folder=folder)


def cache_bytes_per_token(model: Any, element_size: int) -> int:
    """Keys and values of one token in all layers."""
    text = model.config.get_text_config()
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * head_size(model.config) * element_size)


def _bytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())
