"""vLLM's own LoRA layers instead of merged weights: a sync writes and loads the adapter alone, a few megabytes."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from vlrft.adapters import VLLM_RANKS, hot_load_obstacle, save_adapter
from vlrft.engines.held_folder import held_folder
from vlrft.engines.weights import shared_memory_for
from vlrft.models.base import Family

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest


class HotAdapter:
    """The trainer's adapter as vLLM takes it: written anew and under a new number at every sync."""

    def __init__(self, family: Family) -> None:
        self.family = family
        parameters = [p for name, p in family.model.named_parameters() if ".lora_" in name]
        place = shared_memory_for(2 * sum(p.nbytes for p in parameters))
        self.path, remove = held_folder("vlrft-adapter-", place)
        self._remove = weakref.finalize(self, remove)
        self.request: LoRARequest | None = None
        """What every request of a rollout names."""

    def settings(self) -> dict[str, Any]:
        """Arguments of `vllm.LLM`."""
        assert self.family.adapter is not None, "made for a model with an adapter"
        rank = next(rank for rank in VLLM_RANKS if rank >= self.family.adapter.r)
        return {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": rank}

    def load(self, llm: LLM) -> None:
        """Put the current adapter in the place of the last one.

        A new number each time: vLLM never mistakes it, or keys and values computed with it, for another version.
        """
        from vllm.lora.request import LoRARequest

        number = 1
        if self.request is not None:
            number = self.request.lora_int_id + 1
            llm.llm_engine.remove_lora(self.request.lora_int_id)
        save_adapter(self.family.model, self.path)
        self.request = LoRARequest(lora_name=f"policy-{number}", lora_int_id=number, lora_path=str(self.path))
        if not llm.llm_engine.add_lora(self.request):
            raise RuntimeError(f"vLLM did not take the adapter in {self.path}: set engine.kwargs.adapter_sync=merged")

    def close(self) -> None:
        self._remove()


def hot_adapter(family: Family, sync: str) -> HotAdapter | None:
    """For `engine.kwargs.adapter_sync`: None where weights are merged. Raises ValueError where `hot` cannot be.

    auto merges on a CPU: vLLM's LoRA layers are slow there, and weights that are in memory anyway cost little to load.
    """
    if sync not in ("auto", "merged", "hot"):
        raise ValueError(f"engine.kwargs.adapter_sync={sync!r}: give auto, merged or hot")
    if family.adapter is None:
        return None
    obstacle = hot_load_obstacle(family.adapter)
    if sync == "hot" and obstacle is not None:
        raise ValueError(f"engine.kwargs.adapter_sync=hot: {obstacle}; use merged, which does what auto would do here")
    hot = sync == "hot" or (sync == "auto" and obstacle is None and family.model.device.type == "cuda")
    return HotAdapter(family) if hot else None
