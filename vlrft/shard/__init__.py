"""How a model in training is spread over the ranks: whole on each, or in parts. A lazy table: naming one imports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vlrft.registry import resolve

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vlrft.config import Config
    from vlrft.dist import World
    from vlrft.shard.base import Strategy

STRATEGIES: Mapping[str, str] = {
    "ddp": "vlrft.shard.replicated:Replicated",
    "zero1": "vlrft.shard.zero:Zero",
    "zero2": "vlrft.shard.zero:Zero",
    "zero3": "vlrft.shard.zero3:Zero3",
    "fsdp2": "vlrft.shard.fsdp:Fsdp",
}
SPREADS = ("zero3", "fsdp2")
"""Those under which no rank holds the weights."""


def build_strategy(config: Config, accelerator: Accelerator, world: World) -> Strategy:
    """That of `parallel.strategy`, not yet started. `config`: the stage's."""
    strategy_class = resolve(config.parallel.strategy, STRATEGIES, kind="strategy")
    strategy: Strategy = strategy_class(config.parallel, accelerator, world, max_grad_norm=config.train.max_grad_norm)
    return strategy
