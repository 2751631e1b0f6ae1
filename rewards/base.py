"""What a reward is: the flags, the callable, the errors.

A reward validates its target before it looks at the completion, and treats a bad completion as a value (0 and a
flag), never as an exception. So a probe with an empty completion checks a target, and an exception always means that
the data or the code is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from vlrft.parse import Parsed
from vlrft.types import Score

FLAGS: tuple[str, ...] = (
    "no_answer",
    "unparsable",
    "lenient",
    "several_answers",
    "invalid_box",
    "out_of_range",
    "non_finite",
    "unknown_label",
    "over_length",
    "sandbox_timeout",
    "sandbox_memory",
    "sandbox_denied",
    "sandbox_crash",
)
"""Every name that `Score.flags` may hold, in the order in which they are listed."""


class Reward(Protocol):
    """A per-sample reward. Keyword arguments with defaults (or bound by `kwargs` in a recipe) may follow."""

    def __call__(self, parsed: Parsed, target: Any, meta: Mapping[str, Any], /) -> Score:
        """The score of one completion; `value` None = does not apply to this sample.

        Raises TargetError when `target`, or what `meta` says of it, cannot be judged against.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One sample's completions as a group-aware reward sees them, after the per-sample rewards.

    `len(group)` is their number; iterating gives the entries of `parsed`.
    """

    parsed: tuple[Parsed, ...]
    """One per completion."""
    parts: tuple[Mapping[str, float | None], ...]
    """What the per-sample rewards said of each completion, by name; empty where a group-aware one is called alone."""
    target: Any
    meta: tuple[Mapping[str, Any], ...]
    """One per completion: what is known of the sample, and `num_tokens` of the completion."""

    def __len__(self) -> int:
        return len(self.parsed)

    def __iter__(self) -> Iterator[Parsed]:
        return iter(self.parsed)


class GroupReward(Protocol):
    """A group-aware reward. Its one positional parameter is named `group`: that is how it is told from the others."""

    def __call__(self, group: Judged) -> list[Score]:
        """One score per completion, in order. Raises TargetError as a Reward does."""


class StatefulReward(Reward, Protocol):
    """A reward that learns over a run. In the table it is a class: every use has a state of its own."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-like; part of a run's checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class TargetError(ValueError):
    """A target that no completion can be judged against; raised before compute is spent."""

    sample_id: str | None = None
    """Of which sample of a batch, where a judge knows."""


class RewardError(RuntimeError):
    """A reward function failed too often, or returned what is not a reward; names the function and the sample."""

    reward: str | None = None
    """Which reward of a judge it is about, where one is."""


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is an int or a float, perhaps not finite; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def ordered(flags: set[str]) -> tuple[str, ...]:
    """`flags` in the order of FLAGS, a user's own ones after them by name."""
    return tuple(sorted(flags, key=lambda f: (FLAGS.index(f) if f in FLAGS else len(FLAGS), f)))
