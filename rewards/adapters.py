"""Our rewards in other trainers: verl, EasyR1 and ms-swift. (TRL's signature: `trl.py`. Theirs in ours: `foreign.py`.)

`to_*` give a function or class with the trainer's own signature; they take the same forms of rewards and the same
options as `as_trl`, which explains them, but for what the trainer cannot do. None of the trainers is imported. All that
is made here pickles when the options do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from vlrft.rewards.foreign import from_easyr1, from_swift, from_verl
from vlrft.rewards.grouping import Row
from vlrft.rewards.plain import plain
from vlrft.rewards.rows import RowJudge
from vlrft.rewards.settings import Rewards, Settings, settings_of
from vlrft.rewards.trl import RowReward, read_rows, unpacked

__all__ = ["from_easyr1", "from_swift", "from_verl", "to_easyr1", "to_swift", "to_verl"]


def to_verl(
    rewards: Rewards,
    /,
    *,
    meta: Mapping[str, Any] | None = None,
    target: str = "ground_truth",
    json_target: bool = False,
    name: str | None = None,
    correct: str | None = None,
    combine: str | None = None,
    lenient_extraction: bool | None = None,
    max_errors: int | None = None,
    **options: Any,
) -> VerlReward:
    """`compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float`, for verl.

    `extra_info` is the meta, and what its own key `meta` holds. target: `ground_truth`, or a key of `extra_info`. A
    reward that does not apply is worth 0: verl knows no None. The other options are those of `as_trl`.

    Raises ValueError for rewards that compare the completions of a group, since verl hands over one at a time, and for
    schedules, since it tells no step.
    """
    settings = settings_of(
        rewards, options, meta=meta, target=target, json_target=json_target, name=name, correct=correct,
        combine=combine, lenient=lenient_extraction, num_generations=None, max_errors=max_errors,
    )  # fmt: skip
    rows = RowJudge(settings)
    _refuse_groups(rows, "verl's compute_score gets one completion at a time")
    _refuse_schedules(rows, "verl")
    return VerlReward(rows)


class VerlReward(RowReward):
    """What `to_verl` makes."""

    def __call__(
        self,
        data_source: str,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> float:
        shown = dict(extra_info or {})
        where = f"data_source {data_source!r}, extra_info {shown!r:.200}"
        row = _row(solution_str, {**shown, "ground_truth": ground_truth}, self.rows.settings.target, where)
        return self.rows.score([row])[0].value or 0.0


def to_easyr1(
    rewards: Rewards,
    /,
    *,
    meta: Mapping[str, Any] | None = None,
    target: str = "ground_truth",
    json_target: bool = False,
    name: str | None = None,
    correct: str | None = None,
    combine: str | None = None,
    lenient_extraction: bool | None = None,
    num_generations: int | None = None,
    max_errors: int | None = None,
    **options: Any,
) -> EasyR1Reward:
    """`compute_score(reward_inputs) -> [{"overall": ..., "<reward>": ...}, ...]`, EasyR1's batch form.

    Of every input `response` is the completion and `response_length` its `num_tokens`; all other keys are meta. A
    single input, EasyR1's sequential form, gives a single dict. A reward that does not apply is worth 0 and counts for
    nothing in `overall`. The options are those of `as_trl`. EasyR1 tells prompts apart by `ground_truth` alone, so
    where neighbouring prompts have the same one, state num_generations for rewards that compare a group.

    Raises ValueError for schedules, since EasyR1 tells no step.
    """
    settings = settings_of(
        rewards, options, meta=meta, target=target, json_target=json_target, name=name, correct=correct,
        combine=combine, lenient=lenient_extraction, num_generations=num_generations, max_errors=max_errors,
    )  # fmt: skip
    rows = RowJudge(settings)
    _refuse_schedules(rows, "EasyR1")
    return EasyR1Reward(rows)


class EasyR1Reward(RowReward):
    """What `to_easyr1` makes."""

    def __call__(self, reward_inputs: Sequence[Mapping[str, Any]] | Mapping[str, Any], **_: Any) -> Any:
        if isinstance(reward_inputs, Mapping):
            _refuse_groups(self.rows, "EasyR1's sequential reward type gives one completion at a time (use its batch)")
            return self([reward_inputs])[0]
        rows = []
        for i, given in enumerate(reward_inputs):
            known = {key: value for key, value in given.items() if key != "response"}
            if "response_length" in known:
                known.setdefault("num_tokens", known.pop("response_length"))
            rows.append(_row(given["response"], known, self.rows.settings.target, f"input {i}"))
        scores = self.rows.score(rows)
        return [
            {"overall": score.value or 0.0, **{name: part or 0.0 for name, part in score.parts.items()}}
            for score in scores
        ]


def to_swift(
    rewards: Rewards,
    /,
    *,
    meta: Mapping[str, Any] | None = None,
    target: str = "solution",
    json_target: bool = False,
    name: str | None = None,
    correct: str | None = None,
    combine: str | None = None,
    lenient_extraction: bool | None = None,
    num_generations: int | None = None,
    max_errors: int | None = None,
    **options: Any,
) -> type[SwiftReward]:
    """A class for ms-swift's table of ORMs: `orms["box_iou"] = to_swift("box.iou")`.

    Its instances are called with `completions` and the data set's columns as keywords, and return one number or None
    per completion. The options and the reading of columns are those of `as_trl`; `target` is `solution` here. Every
    instance has a state of its own where the reward keeps one.
    """
    settings = settings_of(
        rewards, options, meta=meta, target=target, json_target=json_target, name=name, correct=correct,
        combine=combine, lenient=lenient_extraction, num_generations=num_generations, max_errors=max_errors,
    )  # fmt: skip
    RowJudge(settings)  # a wrong name or option is an error here, not in the trainer
    return _swift_class(settings)


class SwiftReward:
    """Base of the classes that `to_swift` makes; instances pickle."""

    settings: ClassVar[Settings]

    def __init__(self, *_: Any, **__: Any) -> None:
        """ms-swift may hand over its arguments, which are not looked at."""
        self.rows = RowJudge(self.settings)

    def __reduce__(self) -> tuple[Callable[..., SwiftReward], tuple[Any, ...]]:
        return _swift_instance, (self.rows,)

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        rows = read_rows(self.rows.settings.target, completions, columns.pop("prompts", None), columns)
        step = getattr(columns.get("trainer_state"), "global_step", None)
        return [score.value for score in self.rows.score(rows, step)]


def _swift_class(settings: Settings) -> type[SwiftReward]:
    return type(settings.name, (SwiftReward,), {"settings": settings, "__module__": __name__})


def _swift_instance(rows: RowJudge) -> SwiftReward:
    instance = _swift_class(rows.settings)()
    instance.rows = rows
    return instance


def _row(text: str, known: Mapping[str, Any], target: str, where: str) -> Row:
    meta = {key: value for key, value in plain(known).items() if value is not None}
    wanted = meta.pop(target, None)
    meta.pop("ground_truth", None)
    return Row(text=text, target=wanted, meta=unpacked(meta, where), where=where)


def _refuse_groups(rows: RowJudge, why: str) -> None:
    grouped = [entry.name for entry in rows.judge.entries if entry.group]
    if grouped:
        raise ValueError(
            f"reward {grouped[0]!r} compares the completions of a group, but {why}; leave it out, or use a trainer "
            "that hands over whole groups (vlrft, TRL, ms-swift, EasyR1 in batches)"
        )


def _refuse_schedules(rows: RowJudge, trainer: str) -> None:
    if rows.judge.scheduled:
        raise ValueError(f"{trainer} does not tell a reward at which step it is, so nothing can be scheduled; drop it")
