"""Model FLOPs of a training step: two per weight and token, four per query, key, head and dimension; backward twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from vlrft.models.base import Family
from vlrft.types import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Of one step over all groups."""

    useful: float
    """Every prompt, its media included, once; completions without padding."""
    copied: float
    """What G padded copies of prompt and media take."""


def step_flops(family: Family, groups: Sequence[Group]) -> Flops:
    useful = sum(_group(family, group, copies=False) for group in groups)
    return Flops(useful=3 * useful, copied=3 * sum(_group(family, group, copies=True) for group in groups))


def _group(family: Family, group: Group, *, copies: bool) -> float:
    """Of the forward pass."""
    prompt = len(group.prompt.token_ids)
    lengths = [len(rollout.completion.token_ids) for rollout in group.rollouts]
    vision = _vision(family, group)
    if copies:
        width = max(lengths)
        lengths = [width] * len(lengths)
        tokens = len(lengths) * (prompt + width)
        pairs = len(lengths) * (prompt + width) ** 2 / 2
        vision *= len(lengths)
    else:
        tokens = prompt + sum(lengths)
        pairs = prompt**2 / 2 + sum(length * prompt + length**2 / 2 for length in lengths)
    inner: Any = family.model.model
    text = family.model.config.get_text_config()
    weights = _linear_weights(inner.language_model)
    head = family.lm_head.weight.numel() * sum(lengths)
    return 2.0 * weights * tokens + 4.0 * text.num_hidden_layers * text.hidden_size * pairs + 2.0 * head + vision


def _vision(family: Family, group: Group) -> float:
    """Of one pass over the prompt's images: full attention in some layers, windows in the others (Qwen2.5-VL)."""
    inner: Any = family.model.model
    config = family.model.config.vision_config
    grids = group.prompt.mm["image_grid_thw"]
    full = len(config.fullatt_block_indexes)
    window = (config.window_size // config.patch_size) ** 2
    total = 0.0
    for patches in grids.prod(-1).tolist():
        pairs = full * patches**2 + (config.depth - full) * patches * min(window, patches)
        total += 2.0 * _linear_weights(inner.visual.blocks) * patches + 4.0 * config.hidden_size * pairs
        total += 2.0 * _linear_weights(inner.visual.merger) * patches / config.spatial_merge_size**2
    return total


def _linear_weights(module: nn.Module) -> int:
    return sum(one.weight.numel() for one in module.modules() if isinstance(one, nn.Linear))
