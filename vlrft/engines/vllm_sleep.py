"""vLLM's memory on the trainer's device, given back while the trainer learns (`LLM.sleep` and `LLM.wake_up`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vllm import LLM

LEVELS = (0, 1, 2)


def sleep_level(asked: int | None) -> int:
    """The level that this machine can do; None = 1. On a CPU 0: there vLLM has nothing to give back.

    Raises ValueError for a level that there is not.
    """
    from vllm.platforms import current_platform

    if asked is not None and asked not in LEVELS:
        raise ValueError(f"engine.kwargs.sleep_level={asked}: write 0 (off), 1 (weights to the host) or 2 (dropped)")
    if not current_platform.is_sleep_mode_available():
        return 0
    return 1 if asked is None else asked


class Sleep:
    """Keeps vLLM's weights on the host (level 1), or drops them (level 2), from `begin` to `end`; the KV cache goes
    in both. Level 0 does nothing."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.is_on = False

    @property
    def has_lost_weights(self) -> bool:
        return self.is_on and self.level == 2

    def begin(self, llm: LLM) -> None:
        """vLLM has no request under way."""
        if self.level and not self.is_on:
            llm.sleep(level=self.level)
            self.is_on = True

    def end(self, llm: LLM, load: Callable[[], None]) -> None:
        """`load` puts the weights that are wanted into vLLM, before the KV cache takes its room again."""
        if not self.is_on:
            load()
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what the trainer's allocator keeps is room that vLLM needs
        llm.wake_up(tags=["weights"])
        load()
        llm.wake_up(tags=["kv_cache"])
        self.is_on = False
