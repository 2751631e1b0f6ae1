"""Functions of TRL's signature, `f(completions, prompts=None, **columns)`, called on all completions of one sample."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.rewards.base import RewardError
from vlrft.rewards.finding import checked
from vlrft.rewards.plain import plain
from vlrft.types import Sample, TextPart


def question_of(sample: Sample) -> str:
    """The text of the question, without media and format instructions."""
    return "".join(part.text for part in sample.parts if isinstance(part, TextPart))


def columns_for(
    name: str,
    function: Callable[..., Any],
    texts: Sequence[str],
    sample: Sample,
    target: Any,
    metas: Sequence[Mapping[str, Any]],
) -> dict[str, list[Any]]:
    """The keyword arguments of one call: the completions and, as far as `function` takes them, everything known.

    target: the column of that name. metas: one per completion; what one of them lacks is None there. Raises RewardError
    for a column that nobody has.
    """
    question = question_of(sample)
    rows = [
        {**meta, "target": target, "prompts": question, "completions": text}
        for text, meta in zip(texts, metas, strict=True)
    ]
    columns = {key: [row.get(key) for row in rows] for key in {key: None for row in rows for key in row}}
    bound = set(function.keywords) if isinstance(function, functools.partial) else set()
    parameters = inspect.signature(function).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        columns = {p.name: columns[p.name] for p in parameters if p.name in columns}
    columns = {key: column for key, column in columns.items() if key not in bound}
    missing = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    missing = [key for key in missing if key not in columns and key not in bound]
    if missing:
        known = ", ".join(sorted(rows[0].keys() - {"completions"}))
        raise RewardError(f"{name} needs the column {', '.join(missing)}; the sample has: {known}")
    return columns


def values_of(name: str, result: Any, count: int) -> list[float | None]:
    """What such a function returned, checked: `count` finite numbers or None. Raises RewardError.

    Arrays and tensors, and those of one number in a list, are taken as lists and numbers.
    """
    result = plain(result)
    if not isinstance(result, Sequence) or isinstance(result, str) or len(result) != count:
        raise RewardError(
            f"{name} must return a list with one number or None per completion (here {count}), got {result!r:.200}"
        )
    return [checked(name, value) for value in result]
