"""Means of judged rollouts over held-out samples."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from vlrft.types import FinishReason, Group


def summarise(groups: Sequence[Group], names: Sequence[str]) -> dict[str, float]:
    """`eval/<reward>` means (over the samples each applies to), failure shares and the number of samples."""
    rollouts = [r for g in groups for r in g.rollouts]
    row: dict[str, float] = {"eval/n": len(groups)}
    for name in names:
        values = [v for r in rollouts if (v := r.score.parts.get(name)) is not None]
        if values:
            row[f"eval/{name}"] = statistics.fmean(values)
    if rollouts:
        row["eval/mean_length"] = statistics.fmean(len(r.completion.token_ids) for r in rollouts)
        row["eval/truncated_share"] = statistics.fmean(
            r.completion.finish_reason == FinishReason.LENGTH for r in rollouts
        )
    for flag, times in sorted(Counter(f for r in rollouts for f in r.score.flags).items()):
        row[f"eval/flags/{flag}"] = times / len(rollouts)
    return row
