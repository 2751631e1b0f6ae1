"""Why a reward of a recipe applies to no sample: a slip in its `when`, or rows of a kind that are not there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.registry import nearest
from vlrft.rewards.entry import Entry

VALUES_KEPT = 20
"""How many values of a key of `when` are remembered for messages."""
_NEAR = 0.75
"""From this likeness on a value that no sample has is taken for a slip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """A reward that applies to none of the samples."""

    text: str
    key: str | None
    """The key of `when` that none of them satisfies; None where only the conditions together leave out all."""
    wanted: tuple[Any, ...]
    """The values that `when` wants there."""
    slip: bool
    """One of the values is nearly one that the samples have."""
    alternative: bool
    """Another reward with the same key applies, so this one may be for rows of a kind that is not there."""


def shown(value: Any) -> str:
    """A value of a key of `when` in a message."""
    return f"{value!r:.60}"


def why_unused(
    entry: Entry, values: Mapping[str, Mapping[str, None]], keys: Sequence[str], count: int, used: Sequence[Entry]
) -> Unused:
    """values: what `count` samples have under keys of `when`. keys: all that they have. used: rewards that apply."""
    when = entry.spec.when
    for key, value in when.items():
        wanted = tuple(value) if isinstance(value, list | tuple) else (value,)
        have, asked = list(values[key]), [shown(item) for item in wanted]
        if not have:
            text = (
                f"reward {entry.name!r}: when names {key!r}, which no sample has{nearest(key, list(keys))}; samples "
                f"have: {', '.join(keys)}"
            )
            return Unused(text=text, key=key, wanted=wanted, slip=True, alternative=False)
        if set(asked) & set(have):
            continue
        near = [match for item in asked for match in difflib.get_close_matches(item, have, n=1, cutoff=_NEAR)]
        meant = f"; did you mean {near[0]}?" if near else ""
        more = ", ..." if len(have) == VALUES_KEPT else ""
        return Unused(
            text=f"reward {entry.name} applies to none of {count} samples: its `when` wants {key} to be "
            f"{' or '.join(asked)}{meant}; samples have: {', '.join(have)}{more}",
            key=key,
            wanted=wanted,
            slip=bool(near),
            alternative=any(key in other.spec.when for other in used),
        )
    text = (
        f"reward {entry.name} applies to none of {count} samples: each condition of its `when` holds for some of them, "
        f"but never all at once: {when}"
    )
    return Unused(text=text, key=None, wanted=(), slip=False, alternative=False)
