"""What runs inside vLLM's workers."""

from __future__ import annotations

from typing import Any

from torch import nn


def repack_embeddings(model: nn.Module) -> int:
    """Pack embedding tables anew for vLLM's CPU kernels; returns how many there were.

    `reload_weights` leaves the packed copy of a table that is also the output head as it was: the head then belongs to
    the old policy (vLLM 0.32 on the CPU; the canary found it). On other devices nothing is packed.
    """
    packed = [
        module for module in model.modules() if hasattr(module, "cpu_linear") and hasattr(module, "num_embeddings")
    ]
    for module in packed:
        module.quant_method.process_weights_after_loading(module)  # type: ignore[union-attr, operator]
    return len(packed)


class PolicyWorker:
    """What a vLLM server's workers must know besides: `--worker-extension-cls vlrft.engines.vllm_worker.PolicyWorker`.

    vLLM makes it a base class of its own worker, whose model it then finds.
    """

    def repack_policy(self) -> int:
        """`repack_embeddings` for the model of this worker."""
        worker: Any = self
        return repack_embeddings(worker.get_model())
