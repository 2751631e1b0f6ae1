"""Our rewards with TRL's signature, for a trainer that calls `f(prompts=..., completions=..., **columns)`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vlrft.rewards.base import TargetError
from vlrft.rewards.grouping import Row
from vlrft.rewards.messages import text_of
from vlrft.rewards.plain import plain
from vlrft.rewards.rows import RowJudge
from vlrft.rewards.settings import Rewards, settings_of
from vlrft.types import Score

ColumnReward = Callable[..., list[float | None]]


def as_trl(
    rewards: Rewards,
    /,
    *,
    meta: Mapping[str, Any] | None = None,
    target: str = "target",
    json_target: bool = False,
    name: str | None = None,
    correct: str | None = None,
    combine: str | None = None,
    lenient_extraction: bool | None = None,
    num_generations: int | None = None,
    max_errors: int | None = None,
    **options: Any,
) -> TrlReward:
    """A reward, or several composed, as `f(completions, prompts=None, **columns) -> list[float | None]`.

    rewards: the name of one, or a function; or names with weights, `{"box.iou": 0.9, "format.think_answer": 0.1}`; or
    a list of what a recipe's `rewards.funcs` says, with gates, schedules and all; or a recipe's whole `rewards` block.
    Several give their weighted mean over those that apply. For separate curves give the trainer one `as_trl` per reward
    instead.

    meta: what is equal for all rows; a column wins over it.
    target: the column of the targets; json_target: a target that is a text is parsed as JSON.
    name: the callable's `__name__`, under which TRL logs it; by default the reward's, or the names joined by "+".
    correct: "box.iou >= 0.5", which answers are right, for rewards that pay right ones only (`length.*`).
    combine, max_errors: as in a recipe (`mean`, 0). lenient_extraction: read answers without tags too.
    num_generations: how many rows in a row are one group; None: a run of rows that are equal in all columns but those
    of one completion (`OF_COMPLETION`). With a column `sample_id`, rows that share it.
    options: those of a single reward.

    Columns, lists, tuples or arrays with one entry per completion, are keys of the rewards' meta; a column `meta` of
    mappings is unpacked, under the other columns. A column that is nearly a key that a built-in reward reads is told
    of once. `completion_ids` give `num_tokens`, the last text of the user in `prompts` gives `prompt`, `trainer_state`
    the step for schedules, and the parts of several rewards go to `log_metric`.

    Raises ValueError for what cannot work; the callable TargetError, naming row and columns, for a target or meta that
    cannot be judged against.

    Example: GRPOTrainer(..., reward_funcs=[as_trl("box.iou", target="solution", meta={"coord_space": "norm_1000"})])
    """
    settings = settings_of(
        rewards, options, meta=meta, target=target, json_target=json_target, name=name, correct=correct,
        combine=combine, lenient=lenient_extraction, num_generations=num_generations, max_errors=max_errors,
    )  # fmt: skip
    rows = RowJudge(settings)
    if settings.single and rows.judge.entries[0].columns:
        raise ValueError(
            f"reward {rewards!r} has TRL's signature already; give the function itself to the trainer, or name it in a "
            "list of several"
        )
    return TrlReward(rows)


class RowReward:
    """A judge of rows under a trainer's signature. It pickles, and keeps the state of its stateful rewards."""

    def __init__(self, rows: RowJudge) -> None:
        self.rows = rows
        self.__name__ = self.__qualname__ = rows.settings.name
        self.__doc__ = rows.doc

    def __reduce__(self) -> tuple[Callable[..., RowReward], tuple[Any, ...]]:
        return type(self), (self.rows,)


class TrlReward(RowReward):
    """What `as_trl` makes."""

    def __repr__(self) -> str:
        return f"<reward {self.__name__} with TRL's signature>"

    def __call__(self, completions: Sequence[Any], prompts: Any = None, **columns: Any) -> list[float | None]:
        rows = read_rows(self.rows.settings.target, completions, prompts, columns)
        step = getattr(columns.get("trainer_state"), "global_step", None)
        scores = self.rows.score(rows, step)
        if not self.rows.settings.single and callable(log := columns.get("log_metric")):
            for part, mean in means(scores).items():
                log(f"rewards/{self.__name__}/{part}", mean)
        return [score.value for score in scores]


def means(scores: Sequence[Score]) -> dict[str, float]:
    """Of every part, over the completions that it applies to."""
    parts = dict.fromkeys(part for score in scores for part in score.parts)
    given = {part: [v for score in scores if (v := score.parts.get(part)) is not None] for part in parts}
    return {part: statistics.fmean(values) for part, values in given.items() if values}


def read_rows(
    target: str, completions: Sequence[Any], prompts: Any, columns: Mapping[str, Any], what: str = "columns"
) -> list[Row]:
    """One Row per completion. A column's entry that is None says nothing; other columns than one-per-row are left.

    Raises TypeError for completions that are no list, ValueError for a column of targets of another length.
    """
    if isinstance(completions, str | bytes | Mapping):
        raise TypeError(f"completions is a list with one entry per completion, got {completions!r:.80}")
    count = len(completions)
    lists = {key: list(column) for key, column in columns.items() if _is_column(column, count)}
    if target in columns and target not in lists:
        raise ValueError(f"the column {target!r} must have one entry per completion ({count}): {columns[target]!r:.80}")
    where = f"({what}: {', '.join(sorted(lists)) or 'none'})"
    ids = lists.pop("completion_ids", None)
    rows = []
    for i, known in enumerate(_known(lists, count)):
        if ids is not None and ids[i] is not None:
            known.setdefault("num_tokens", len(ids[i]))
        question = None if prompts is None else text_of(prompts[i], "user")
        if question is not None:
            known.setdefault("prompt", question)
        rows.append(
            Row(
                text=text_of(completions[i]),
                target=known.pop(target, None),
                meta=known,
                where=f"row {i} {where}",
                shared=None if prompts is None else prompts[i],
            )
        )
    return rows


def _is_column(column: Any, count: int) -> bool:
    listed = isinstance(column, Sequence) and not isinstance(column, str | bytes)
    array = hasattr(column, "tolist") and hasattr(column, "__len__") and getattr(column, "ndim", 1) > 0
    return (listed or array) and len(column) == count


def _known(lists: Mapping[str, Sequence[Any]], count: int) -> Iterator[dict[str, Any]]:
    for i in range(count):
        row = {key: value for key, column in lists.items() if (value := plain(column[i])) is not None}
        yield unpacked(row, f"row {i}")


def unpacked(row: dict[str, Any], where: str) -> dict[str, Any]:
    """`row` with what its own key `meta` holds laid under it."""
    if "meta" not in row:
        return row
    inner = row.pop("meta")
    if not isinstance(inner, Mapping):
        raise TargetError(f"{where}: 'meta' must be a mapping of keys of the rewards' meta, got {inner!r:.80}")
    return {**{str(key): value for key, value in inner.items() if value is not None}, **row}
