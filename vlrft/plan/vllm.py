"""vLLM in the trainer's process: what it takes of the device while it samples, and while the trainer learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlrft.adapters import is_adapter
from vlrft.config import Config
from vlrft.models.base import Family, head_size

ASLEEP = 2**30
"""Assumed, not measured: CUDA graphs and buffers that vLLM keeps on a GPU while it sleeps."""
_SHARE = 0.92
"""vLLM's own default of `gpu_memory_utilization`; on a CPU it is a share of the machine's memory."""
_MAX_MODEL_LEN = 8192
"""`engine.kwargs.max_model_len`, where it is not said (`engines/vllm.py`)."""
_SIZES: dict[Any, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a number, by `engine.kwargs.dtype`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLM:
    """vLLM on the same device, in bytes."""

    weights: int
    """Its own copy."""
    reserved: int
    """All that it takes: `gpu_memory_utilization` of the device, or weights and `kv_cache_memory_bytes`."""
    asleep: int
    """What it keeps while the trainer learns; all of it where it does not sleep."""
    sleeps: bool
    share: float | None
    """`gpu_memory_utilization`; None where `kv_cache_memory_bytes` stands for it, or the memory is not known."""
    least: int
    """It does not start with less: weights, and keys and values of one row of `max_model_len` tokens."""
    cache_per_token: int
    """Keys and values of one token."""
    folder: int
    """The weights as files, in shared memory: host, not device."""

    @property
    def cache_tokens(self) -> int:
        """Tokens whose keys and values fit, before what vLLM keeps for its own activations."""
        return max(0, self.reserved - self.weights) // self.cache_per_token


def vllm_memory(family: Family, config: Config, capacity: int | None, *, on_cpu: bool) -> VLLM | None:
    """None for an engine that is not vLLM in the trainer's process. capacity: bytes of the device, where known.

    An adapter is not counted: it is merged into vLLM's weights, or small beside them.
    """
    if config.engine.name != "vllm":
        return None
    settings, model = config.engine.kwargs, family.model
    own = [p for name, p in model.named_parameters() if not is_adapter(name)]
    size = _SIZES.get(settings.get("dtype"), 2 if config.parallel.mixed_precision == "bf16" else own[0].element_size())
    weights = size * sum(p.numel() for p in own)
    per_token = _cache_bytes_per_token(model, size)
    cache = settings.get("kv_cache_memory_bytes")
    share = None if cache or capacity is None else float(settings.get("gpu_memory_utilization", _SHARE))
    reserved = weights + int(cache or 0)
    if share is not None and capacity is not None:
        reserved = max(reserved, int(share * capacity))
    sleeps = not on_cpu and settings.get("sleep_level") != 0
    return VLLM(
        weights=weights,
        reserved=reserved,
        asleep=min(reserved, ASLEEP) if sleeps else reserved,
        sleeps=sleeps,
        share=share,
        least=weights + per_token * int(settings.get("max_model_len", _MAX_MODEL_LEN)),
        cache_per_token=per_token,
        folder=sum(p.nbytes for p in own),
    )


def _cache_bytes_per_token(model: Any, element_size: int) -> int:
    """Keys and values of one token in all layers."""
    text = model.config.get_text_config()
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * head_size(model.config) * element_size)
