"""Numbers and texts as answers: how a model writes them."""

from __future__ import annotations

from collections.abc import Sequence


def written_number(value: float | int | str) -> str:
    """A number as text; a whole number without a point."""
    if isinstance(value, str):
        return value
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def first_text(target: str | Sequence[str]) -> str:
    """The first of the references."""
    return target if isinstance(target, str) else target[0]
