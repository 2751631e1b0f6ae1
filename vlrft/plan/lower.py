"""What to lower where a stage does not fit: changes of its config, each counted on top of those before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vlrft.compose import ConfigError
from vlrft.config import Config
from vlrft.setup import check_parallel

if TYPE_CHECKING:
    from vlrft.plan.stage import Planner, StagePlan

Change = tuple[str, Any]
"""A dotted key and its new value."""

_MORE_SHARDED = {"ddp": ("zero2", "zero3"), "zero1": ("zero2", "zero3"), "zero2": ("zero3",), "zero3": (), "fsdp2": ()}
"""By strategy, those that leave less on each rank."""
_SHARE = "engine.kwargs.gpu_memory_utilization"


def lowered(planner: Planner, usable: int, made: StagePlan) -> Iterator[tuple[str, int]]:
    """Changes laid over each other until it fits, the cheapest first, each with the peak that remains.

    vLLM comes first wherever the trainer leaves it enough. What raises the peak, such as DeepSpeed's buffers beside a
    small model, is not among them.
    """
    config, changes = planner.config, _changes(planner, made)
    while made.peak > usable:
        change = _smaller_share(planner, usable, made) or next(changes, None)
        if change is None:
            break
        changed = _changed(config, *change)
        planner.apply(changed)
        after = planner.counted(changed)
        if after.peak <= made.peak:
            config, made = changed, after
            yield f"{change[0]}={change[1]}", after.peak
    planner.apply(planner.config)


def _smaller_share(planner: Planner, usable: int, made: StagePlan) -> Change | None:
    """For vLLM, where it is too much beside what is there with it."""
    share = planner.vllm_share(usable, made)
    if share is None or max(made.beside_vllm.values()) <= usable:
        return None
    return _SHARE, share


def _changes(planner: Planner, made: StagePlan) -> Iterator[Change]:
    config, demand = planner.config, planner.demand
    least = len(demand.longest.token_ids) + demand.completion_tokens
    if made.vllm is not None and not made.vllm.sleeps and not planner.device.on_cpu:
        yield "engine.kwargs.sleep_level", 1
    if made.binds == "rollout" and config.engine.max_rows > demand.generations:
        yield "engine.max_rows", demand.generations
    if made.binds == "evaluation" and config.eval.prompts_per_batch > 8:
        yield "eval.prompts_per_batch", 8
    if config.train.micro_batch_tokens > least:
        yield "train.micro_batch_tokens", least
    if not config.model.gradient_checkpointing:
        yield "model.gradient_checkpointing", True
    if config.model.logprob_cache_mb:
        yield "model.logprob_cache_mb", 0
    if config.parallel.mixed_precision == "no" and config.model.dtype == "float32":
        yield "parallel.mixed_precision", "bf16"
    if planner.device.gpus > 1:
        yield from more_sharded(config)
    if not config.model.freeze_vision_tower:
        yield "model.freeze_vision_tower", True


def more_sharded(config: Config) -> Iterator[Change]:
    """Strategies that leave less on each rank, of those that a run would start with."""
    # Other optimisers go with ddp only (`setup.check_learning`).
    names = _MORE_SHARDED[config.parallel.strategy] if config.train.optimizer == "adamw" else ()
    yield from (change for name in names if _is_accepted(config, change := ("parallel.strategy", name)))


def _is_accepted(config: Config, change: Change) -> bool:
    try:
        check_parallel(_changed(config, *change))
    except ConfigError:
        return False
    return True


def _changed(config: Config, key: str, value: Any) -> Config:
    block, name, *inner = key.split(".")
    old = getattr(config, block)
    if inner:
        value = {**getattr(old, name), inner[0]: value}
    return config.model_copy(update={block: old.model_copy(update={name: value})})
