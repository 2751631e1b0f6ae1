"""Keys of DeepSpeed's configuration that `parallel.deepspeed` may not set: what they govern is set elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OWNED: Mapping[str, str] = {
    "zero_optimization.stage": "set parallel.strategy",
    "zero_optimization.offload_optimizer.device": "set parallel.offload=optimizer",
    "zero_optimization.offload_param.device": "set parallel.offload=all",
    "zero_optimization.cpu_offload": "set parallel.offload=optimizer",
    "zero_optimization.cpu_offload_param": "set parallel.offload=all",
    "zero_optimization.cpu_offload_use_pin_memory": "set parallel.offload",
    "gradient_accumulation_steps": "vlrft accumulates by itself: set train.micro_batch_tokens",
    "gradient_clipping": "set train.max_grad_norm",
    "train_batch_size": "set train.prompts_per_step",
    "train_micro_batch_size_per_gpu": "set train.micro_batch_tokens",
    "fp16": "zero* trains float32 weights, and parallel.mixed_precision=bf16 computes in bfloat16",
    "bf16": "set parallel.mixed_precision",
    "bfloat16": "set parallel.mixed_precision",
    "amp": "set parallel.mixed_precision",
    "torch_autocast": "set parallel.mixed_precision",
    "data_types": "zero* keeps weights, gradients and optimiser states in float32",
    "optimizer": "set train.learning_rate and train.adam_*",
    "scheduler": "set train.lr_scheduler",
    "zero_allow_untested_optimizer": "vlrft brings the optimiser",
    "zero_force_ds_cpu_optimizer": "vlrft brings the optimiser",
    "elasticity": "vlrft deals out the batches",
}
"""Dotted key -> what to do instead."""


def owned_key(changes: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first key that changes one of OWNED, or replaces the block around it, and what to do instead; None = none."""
    for dotted, instead in OWNED.items():
        value: Any = changes
        for part in dotted.split("."):
            if not isinstance(value, Mapping):
                return dotted, instead  # the block itself is something else
            if part not in value:
                break
            value = value[part]
        else:
            return dotted, instead
    return None
