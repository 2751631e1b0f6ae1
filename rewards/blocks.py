"""What several answer blocks cost, in one place for all families.

Of several blocks one counts, the last or the first, as the output mode says. Where they differ, the value of a reward
that judges the answer is divided by the number of different ones: a model that cannot decide is not paid in full.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from vlrft.parse import Parsed
from vlrft.types import Score

NOT_THE_ANSWER = (
    *("format.", "length.", "repetition.", "thinking.", "language."),
    *("tool.", "agent.step_kind", "video.", "compat."),
)
"""Families that judge the form or other blocks, and the peers' own rewards, which keep their values."""


class Shared:
    """A per-sample reward whose value is divided by the number of different answers in the completion's blocks."""

    def __init__(self, reward: Callable[..., Any]) -> None:
        functools.update_wrapper(self, reward, updated=())
        self._reward = reward

    def __call__(self, parsed: Parsed, target: Any, meta: Mapping[str, Any], /, **options: Any) -> Any:
        score = self._reward(parsed, target, meta, **options)
        if parsed.answers < 2 or not isinstance(score, Score) or not score.value:
            return score
        return dataclasses.replace(score, value=score.value / parsed.answers)

    def __getattr__(self, name: str) -> Any:
        """The reward's own attributes: its state, its options where they are bound."""
        if name.startswith("__") or name == "_reward":
            raise AttributeError(name)
        return getattr(self._reward, name)


def shared(name: str, reward: Callable[..., Any]) -> Callable[..., Any]:
    """`reward`, a built-in one called `name`, made to count the answer blocks where it judges the answer."""
    return reward if name.startswith(NOT_THE_ANSWER) else Shared(reward)
