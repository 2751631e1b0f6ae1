"""Rows of another trainer's batch, and which of them are one group.

A group is a run of neighbouring rows that are equal in everything but what belongs to one completion: trainers repeat
a sample once per completion. Rows that share a `sample_id` are a group wherever they stand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OF_COMPLETION = frozenset(
    (
        *("completion", "completions", "completion_ids", "num_tokens", "correct", "accuracy", "calls", "result"),
        *("response", "response_length", "response_token_ids", "finish_reason", "is_truncated", "logprobs"),
        *("messages", "request_id", "rollout_infos", "rollout_logprobs", "add_eos", "environments"),
    )
)
"""Columns that say something of one completion, and so differ within a group: ours, TRL's, EasyR1's and ms-swift's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion with what its trainer knows of it."""

    text: str
    target: Any
    meta: Mapping[str, Any]
    where: str
    """What messages call this row."""
    shared: Any = None
    """What else the rows of a group have in common, such as the trainer's own prompt."""


def groups_of(rows: Sequence[Row], num_generations: int | None = None) -> list[list[int]]:
    """The indices of the rows of each group, in order of their first rows.

    num_generations: so many rows in a row are a group, whatever they hold. Raises ValueError when they do not come out
    even.
    """
    if num_generations is not None:
        if len(rows) % num_generations:
            raise ValueError(
                f"{len(rows)} rows are no multiple of num_generations={num_generations}; the trainer must hand over "
                "whole groups"
            )
        return [list(range(start, start + num_generations)) for start in range(0, len(rows), num_generations)]
    groups: list[list[int]] = []
    by_id: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        key = row.meta.get("sample_id")
        if key is not None:
            if str(key) not in by_id:
                groups.append(by_id.setdefault(str(key), []))
            by_id[str(key)].append(i)
        elif groups and groups[-1][-1] == i - 1 and _same_sample(rows[i - 1], row):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _same_sample(a: Row, b: Row) -> bool:
    keys = a.meta.keys() - OF_COMPLETION
    if keys != b.meta.keys() - OF_COMPLETION:
        return False
    alike = same(a.target, b.target) and same(a.shared, b.shared)
    return alike and all(same(a.meta[key], b.meta[key]) for key in keys)


def same(a: Any, b: Any) -> bool:
    """Equality that looks into lists and mappings, takes arrays whole, and holds NaN equal to NaN."""
    if a is b:
        return True
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    if hasattr(a, "shape") and hasattr(b, "shape"):
        return tuple(a.shape) == tuple(b.shape) and bool((a == b).all())
    return bool(a == b)
