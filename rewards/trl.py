"""The built-in rewards with TRL's signature, for a trainer that calls `f(prompts, completions, **columns)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.parse import parse
from vlrft.rewards.base import TargetError
from vlrft.rewards.call import as_score, find, takes_columns

ColumnReward = Callable[..., list[float | None]]


def as_trl(name: str, *, meta: Mapping[str, Any] | None = None, **kwargs: Any) -> ColumnReward:
    """`name` as `f(completions, prompts=None, **columns) -> list[float | None]`, with `__name__` set to it.

    The data set's column `target` is the target; every other column that is a list with one entry per completion is
    read as a key of the reward's `meta` (`image_size`, `coord_space`, `output_mode`, ...).
    meta: the same keys where they are equal for all rows; a column wins over it. kwargs: the reward's options.

    Example: GRPOTrainer(..., reward_funcs=[as_trl("box.iou", meta={"coord_space": "norm_1000"})])
    """
    function = find(name, kwargs)
    if takes_columns(function):
        raise ValueError(f"reward {name!r} has TRL's signature already; give the function itself to the trainer")
    fixed = dict(meta or {})

    def reward(completions: Sequence[Any], prompts: Any = None, **columns: Any) -> list[float | None]:
        count = len(completions)
        rows = {key: column for key, column in columns.items() if isinstance(column, list) and len(column) == count}
        values = []
        for i, completion in enumerate(completions):
            known = {**fixed, **{key: column[i] for key, column in rows.items() if column[i] is not None}}
            target = known.pop("target", None)
            parsed = parse(text_of(completion), str(known.get("output_mode") or "think"))
            try:
                result = function(parsed, target, known)
            except TargetError as error:
                raise TargetError(
                    f"{name}, row {i} (columns: {', '.join(sorted(columns)) or 'none'}): {error}"
                ) from error
            values.append(as_score(name, result).value)
        return values

    reward.__name__ = reward.__qualname__ = name
    reward.__doc__ = getattr(function, "func", function).__doc__
    return reward


def text_of(completion: Any) -> str:
    """The text of one of TRL's completions: a string, or messages, of which the last one of the assistant counts."""
    if isinstance(completion, str):
        return completion
    turns = [m for m in completion if m.get("role", "assistant") == "assistant"]
    content = turns[-1].get("content") if turns else ""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    return content or ""
