"""Our rewards in other trainers, and theirs in ours: verl, EasyR1 and ms-swift. (TRL's signature: `trl.py`.)

`to_*` give a function or class with the trainer's own signature. They take one reward by name, or several with
weights, `{"box.iou": 0.9, "format.think_answer": 0.1}`, whose weighted mean over those that apply is the score; `meta`
holds what is equal for all samples. `from_*` turn a reward written for the trainer into one that a recipe can name:

    # mine.py, then `func: mine.py:score`
    score = from_verl(compute_score, data_source="mine")

None of the trainers is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.base import RewardError, TargetError
from vlrft.rewards.call import as_score, scorer
from vlrft.rewards.trl import ColumnReward, text_of
from vlrft.types import Score

Rewards = str | Mapping[str, float]
PerSample = Callable[[Parsed, Any, Mapping[str, Any]], Score]


class _Scorer:
    """One or several rewards, as one number with parts."""

    def __init__(self, rewards: Rewards, meta: Mapping[str, Any] | None, json_target: bool, options: Any) -> None:
        weights = {rewards: 1.0} if isinstance(rewards, str) else dict(rewards)
        if not weights or not all(0.0 <= weight < float("inf") for weight in weights.values()):
            raise ValueError(f"rewards must be a name, or names with finite weights of at least 0, got {rewards!r}")
        if options and len(weights) > 1:
            raise ValueError(f"options {sorted(options)} are for a single reward; write thresholds as box.acc@0.5")
        self._functions = [(name, weight, scorer(name, options)) for name, weight in weights.items()]
        self._meta = dict(meta or {})
        self._json_target = json_target

    def __call__(self, text: str, target: Any, meta: Mapping[str, Any]) -> tuple[float | None, dict[str, float | None]]:
        """The weighted mean of what applies (None when nothing does), and each reward's value."""
        known = {**self._meta, **meta}
        wanted = self._decoded(target)
        parts = {name: call(text, wanted, known).value for name, _, call in self._functions}
        pairs = [(weight, value) for name, weight, _ in self._functions if (value := parts[name]) is not None]
        total = sum(weight for weight, _ in pairs)
        return (sum(weight * value for weight, value in pairs) / total if total else None), parts

    def _decoded(self, target: Any) -> Any:
        if not self._json_target or not isinstance(target, str):
            return target
        try:
            return json.loads(target)
        except ValueError as error:
            raise TargetError(
                f"target {target!r:.200} is not JSON ({error}); leave json_target out for texts"
            ) from error


def to_verl(
    rewards: Rewards, *, meta: Mapping[str, Any] | None = None, json_target: bool = False, **options: Any
) -> Callable[..., float]:
    """`compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float`, for verl.

    `ground_truth` is the target, `extra_info` the meta. A reward that does not apply is worth 0: verl knows no None.
    json_target: parse a `ground_truth` that is a text as JSON; a parquet column holds boxes and lists so.
    """
    judge = _Scorer(rewards, meta, json_target, options)

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **_: Any
    ) -> float:
        try:
            value, _parts = judge(solution_str, ground_truth, extra_info or {})
        except TargetError as error:
            raise TargetError(
                f"data_source {data_source!r}, extra_info {dict(extra_info or {})!r:.200}: {error}"
            ) from error
        return value or 0.0

    return compute_score


def to_easyr1(
    rewards: Rewards, *, meta: Mapping[str, Any] | None = None, json_target: bool = False, **options: Any
) -> Callable[..., list[dict[str, float]]]:
    """`compute_score(reward_inputs) -> [{"overall": ..., "<reward>": ...}, ...]`, EasyR1's batch form.

    Of every input `response` and `ground_truth` are read, `response_length` as `num_tokens`, and all other keys as
    meta. A reward that does not apply is worth 0 and counts for nothing in `overall`. json_target: as in `to_verl`.
    """
    judge = _Scorer(rewards, meta, json_target, options)

    def compute_score(reward_inputs: Sequence[Mapping[str, Any]], **_: Any) -> list[dict[str, float]]:
        scores = []
        for i, given in enumerate(reward_inputs):
            known = {key: value for key, value in given.items() if key not in ("response", "ground_truth")}
            if "response_length" in known:
                known.setdefault("num_tokens", known.pop("response_length"))
            try:
                value, parts = judge(given["response"], given.get("ground_truth"), known)
            except TargetError as error:
                raise TargetError(f"input {i}: {error}") from error
            scores.append({"overall": value or 0.0, **{name: part or 0.0 for name, part in parts.items()}})
        return scores

    return compute_score


def to_swift(
    rewards: Rewards,
    *,
    meta: Mapping[str, Any] | None = None,
    target: str = "solution",
    json_target: bool = False,
    **options: Any,
) -> type:
    """A class for ms-swift's table of ORMs: `orms["box_iou"] = to_swift("box.iou")`.

    Its instances are called with `completions` and the data set's columns as keywords, and return one number or None
    per completion. target: the column of the targets; columns with one entry per completion are meta. json_target: as
    in `to_verl`. Every instance has a state of its own where the reward keeps one.
    """
    _Scorer(rewards, meta, json_target, options)  # a wrong name or option is an error here, not in the trainer

    class Orm:
        def __init__(self, *_: Any, **__: Any) -> None:
            self._judge = _Scorer(rewards, meta, json_target, options)

        def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
            count = len(completions)
            rows = {key: column for key, column in columns.items() if isinstance(column, list) and len(column) == count}
            values = []
            for i, completion in enumerate(completions):
                known = {key: column[i] for key, column in rows.items() if column[i] is not None}
                try:
                    values.append(self._judge(text_of(completion), known.pop(target, None), known)[0])
                except TargetError as error:
                    raise TargetError(f"row {i}, column {target!r}: {error}") from error
            return values

    return Orm


def from_verl(compute_score: Callable[..., Any], *, data_source: str | None = None) -> PerSample:
    """A per-sample reward out of verl's `compute_score(data_source, solution_str, ground_truth, extra_info)`.

    It gets the whole completion, the sample's target and its meta. Of a dict `score` is the value and every other
    number a part. data_source: what is passed as such; by default `meta["data_source"]`, else "".
    """

    def reward(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
        source = data_source if data_source is not None else meta.get("data_source", "")
        result = compute_score(data_source=source, solution_str=parsed.text, ground_truth=target, extra_info=dict(meta))
        return _from_dict("verl's compute_score", result, "score") if isinstance(result, Mapping) else _plain(result)

    return reward


def from_easyr1(compute_score: Callable[..., Any], *, batch: bool = True, **kwargs: Any) -> PerSample:
    """A per-sample reward out of EasyR1's `compute_score`; its components become parts, `overall` is the value.

    The function gets `response`, `response_length` (`meta["num_tokens"]`, else the number of characters) and
    `ground_truth`: as a list with one such dict, or with batch=False as the dict itself. kwargs: passed on.
    """

    def reward(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
        length = meta.get("num_tokens", len(parsed.text))
        given = {"response": parsed.text, "response_length": length, "ground_truth": target}
        result = compute_score([given], **kwargs)[0] if batch else compute_score(given, **kwargs)
        return _from_dict("EasyR1's compute_score", result, "overall")

    return reward


def from_swift(orm: Any, *, target: str = "solution", **kwargs: Any) -> ColumnReward:
    """A reward of TRL's signature out of one of ms-swift's ORM classes, which has almost that signature.

    target: under which name the ORM wants the target. kwargs: for its constructor.
    """
    instance = orm(**kwargs)

    def reward(completions: Sequence[Any], prompts: Any = None, **columns: Any) -> list[float | None]:
        renamed = {target: columns.pop("target"), **columns} if "target" in columns else columns
        result: list[float | None] = instance(completions=completions, prompts=prompts, **renamed)
        return result

    return reward


def _plain(result: Any) -> Score:
    return as_score("verl's compute_score", result)


def _from_dict(who: str, result: Any, key: str) -> Score:
    if not isinstance(result, Mapping) or key not in result:
        raise RewardError(f"{who} returned {result!r:.200}; expected a dict with {key!r}")
    numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
    checked = {name: as_score(f"{who}: {name}", value).value for name, value in numbers.items()}
    return Score(value=checked.get(key), parts={name: value for name, value in checked.items() if name != key})
