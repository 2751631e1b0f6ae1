"""The built-in rewards with TRL's signature, for a trainer that calls `f(prompts, completions, **columns)`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vlrft.parse import parse
from vlrft.rewards.base import Judged, TargetError
from vlrft.rewards.call import as_score, find, takes_columns, takes_group
from vlrft.types import Score

ColumnReward = Callable[..., list[float | None]]


def as_trl(name: str, *, meta: Mapping[str, Any] | None = None, **kwargs: Any) -> ColumnReward:
    """`name` as `f(completions, prompts=None, **columns) -> list[float | None]`, with `__name__` set to it.

    The data set's column `target` is the target; every other column that is a list with one entry per completion is
    read as a key of the reward's `meta` (`image_size`, `coord_space`, `output_mode`, ...). TRL's `completion_ids` give
    `num_tokens`, and the last text of the user in `prompts` gives `prompt`, where no column of that name says it.
    A group-aware reward sees as one group the neighbours whose prompt and target are equal, as TRL repeats them; with
    a column `sample_id`, those that share it.
    meta: the same keys where they are equal for all rows; a column wins over it. kwargs: the reward's options.

    Example: GRPOTrainer(..., reward_funcs=[as_trl("box.iou", meta={"coord_space": "norm_1000"})])
    """
    function = find(name, kwargs)
    if takes_columns(function):
        raise ValueError(f"reward {name!r} has TRL's signature already; give the function itself to the trainer")
    fixed = dict(meta or {})
    grouped = takes_group(function)

    def reward(completions: Sequence[Any], prompts: Any = None, **columns: Any) -> list[float | None]:
        texts = [text_of(completion) for completion in completions]
        known = [{**fixed, **row} for row in _rows(len(texts), prompts, columns)]
        targets = [row.pop("target", None) for row in known]
        keys = [row.get("sample_id", (_question(prompts, i), targets[i])) for i, row in enumerate(known)]
        values: list[float | None] = []
        for rows in _groups(keys) if grouped else ([i] for i in range(len(texts))):
            chosen = [texts[i] for i in rows], targets[rows[0]], [known[i] for i in rows]
            try:
                results = _call(function, *chosen, grouped=grouped)
            except TargetError as error:
                raise TargetError(
                    f"{name}, row {rows[0]} (columns: {', '.join(sorted(columns)) or 'none'}): {error}"
                ) from error
            values += [as_score(name, result).value for result in results]
        return values

    reward.__name__ = reward.__qualname__ = name
    reward.__doc__ = getattr(function, "func", function).__doc__
    return reward


def _rows(count: int, prompts: Any, columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the columns say of each completion; an entry that is None says nothing."""
    lists = {key: column for key, column in columns.items() if isinstance(column, list) and len(column) == count}
    ids = lists.pop("completion_ids", None)
    for i in range(count):
        row = {key: column[i] for key, column in lists.items() if column[i] is not None}
        if ids is not None:
            row.setdefault("num_tokens", len(ids[i]))
        question = _question(prompts, i)
        if question is not None:
            row.setdefault("prompt", question)
        yield row


def _groups(keys: Sequence[Any]) -> Iterator[list[int]]:
    """Runs of neighbours with equal keys."""
    for _, members in itertools.groupby(range(len(keys)), key=lambda i: keys[i]):
        yield list(members)


def _call(
    function: Callable[..., Any],
    texts: Sequence[str],
    target: Any,
    metas: Sequence[Mapping[str, Any]],
    *,
    grouped: bool,
) -> Sequence[Score]:
    parsed = [parse(t, str(m.get("output_mode") or "think")) for t, m in zip(texts, metas, strict=True)]
    if not grouped:
        return [function(parsed[0], target, metas[0])]
    group = Judged(parsed=tuple(parsed), parts=({},) * len(parsed), target=target, meta=tuple(metas))
    results: list[Score] = function(group)
    return results


def _question(prompts: Any, i: int) -> str | None:
    """The text of the prompt of completion `i`: a string, or messages, of which the user's last one counts."""
    if prompts is None:
        return None
    prompt = prompts[i]
    return prompt if isinstance(prompt, str) else _last_text(prompt, "user")


def text_of(completion: Any) -> str:
    """The text of one of TRL's completions: a string, or messages, of which the last one of the assistant counts."""
    return completion if isinstance(completion, str) else _last_text(completion, "assistant")


def _last_text(messages: Sequence[Mapping[str, Any]], role: str) -> str:
    turns = [message for message in messages if message.get("role", role) == role]
    content = turns[-1].get("content") if turns else ""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    return content or ""
