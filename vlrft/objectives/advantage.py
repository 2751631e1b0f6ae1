"""Rewards of one group -> advantages of its rollouts. Pure functions of floats."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vlrft.types import Group

Advantage = Callable[[Sequence[float], bool], list[float]]
"""(rewards of one group, scale by the group's std?) -> one advantage per rollout."""

STD_EPSILON = 1e-4


def group(rewards: Sequence[float], scale: bool = True) -> list[float]:
    """(r - mean) / (std + 1e-4) with the n-1 std (GRPO); without the division it is Dr.GRPO's (methods E.1)."""
    mean = statistics.fmean(rewards)
    centred = [r - mean for r in rewards]
    if not scale:
        return centred
    std = statistics.stdev(rewards)
    return [c / (std + STD_EPSILON) for c in centred]


def rloo(rewards: Sequence[float], scale: bool = False) -> list[float]:
    """G/(G-1) (r - mean): each rollout against the mean of the others (RLOO). `scale` does not apply."""
    size = len(rewards)
    mean = statistics.fmean(rewards)
    return [(r - mean) * size / (size - 1) for r in rewards]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """Groups with advantages, and those that carry no gradient."""

    kept: tuple[Group, ...]
    dropped: tuple[Group, ...]
    """Zero-spread groups: every rollout has the same reward, so every advantage is 0."""


def assign(groups: Sequence[Group], advantage: Advantage, *, scale: bool, drop_flat: bool) -> Assigned:
    """Give every group its advantages; with `drop_flat`, set zero-spread groups aside."""
    kept: list[Group] = []
    dropped: list[Group] = []
    for item in groups:
        rewards = item.rewards
        flat = max(rewards) == min(rewards)
        values = [0.0] * len(rewards) if flat else advantage(rewards, scale)
        (dropped if flat and drop_flat else kept).append(replace(item, advantages=tuple(values)))
    return Assigned(kept=tuple(kept), dropped=tuple(dropped))
