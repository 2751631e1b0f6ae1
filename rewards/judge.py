"""The judge of a run: every reward of the recipe on one completion, weighed into one Score."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.config import RewardSpec
from vlrft.parse import OUTPUT_MODES, Parsed, parse
from vlrft.rewards.base import RewardError, TargetError, ordered
from vlrft.rewards.call import as_score, check_target, checked, find, takes_columns
from vlrft.types import Sample, Score, TextPart

logger = logging.getLogger(__name__)


class Judge:
    """Weighted mean of the rewards that apply.

    Example: Judge([RewardSpec(func="box.iou", weight=0.9), RewardSpec(func="format.think_answer", weight=0.1)])
    """

    def __init__(
        self,
        funcs: Sequence[RewardSpec],
        output_mode: str = "think",
        max_errors: int = 10,
        *,
        lenient: bool = False,
    ) -> None:
        """Find every function and bind its options.

        max_errors: how many times rewards may raise before the run stops. lenient: see `parse`.
        Raises UnknownNameError for an unknown reward, ValueError for options, weights or names that cannot work.
        """
        if output_mode not in OUTPUT_MODES:
            raise ValueError(f"unknown output mode {output_mode!r}; use one of {', '.join(OUTPUT_MODES)}")
        _check_specs(funcs)
        self.output_mode = output_mode
        self.max_errors = max_errors
        self.lenient = lenient
        self.errors = 0
        """How many times a reward has raised so far."""
        self._specs = tuple(funcs)
        self._functions = {spec.func: find(spec.func, spec.kwargs) for spec in funcs}

    def check(self, sample: Sample, meta: Mapping[str, Any] | None = None) -> None:
        """Raise TargetError, naming sample and reward, when a built-in reward could not judge against its target."""
        known = self._meta(sample, meta or {})
        for spec in self._specs:
            try:
                check_target(spec.func, sample.target, known, **spec.kwargs)
            except TargetError as error:
                raise TargetError(f"sample {sample.id!r}, reward {spec.func!r}: {error}") from error

    def score(self, completion: str, sample: Sample, meta: Mapping[str, Any] | None = None) -> Score:
        """Judge one completion of `sample`.

        completion: raw text with its tags. meta: what the prompt adds to `sample.meta` (`image_size`, `input_size`,
        `coord_space`) and overrides it.
        `parts` holds each reward's unweighted value by name, None where it does not apply or has raised; `value` is
        the mean of the others by weight, None when none is left.

        Raises RewardError once rewards have raised more than `max_errors` times.
        """
        known = self._meta(sample, meta or {})
        parsed = parse(completion, self.output_mode, lenient=self.lenient)
        values: dict[str, float | None] = {}
        parts: dict[str, float | None] = {}
        flags = set(parsed.flags)
        for name, function in self._functions.items():
            result = self._run(name, function, parsed, sample, known)
            values[name] = result.value
            parts.update(result.parts)
            flags.update(result.flags)
        return Score(value=self._weigh(values), parts=parts, flags=ordered(flags))

    def _meta(self, sample: Sample, meta: Mapping[str, Any]) -> dict[str, Any]:
        stated = {"target_space": sample.target_space, "output_mode": self.output_mode, "sample_id": sample.id}
        return {**sample.meta, **meta, **stated}

    def _run(
        self, name: str, function: Callable[..., Any], parsed: Parsed, sample: Sample, meta: Mapping[str, Any]
    ) -> Score:
        try:
            if takes_columns(function):
                value = _score_columns(name, function, parsed.text, sample, meta)
                return Score(value=value, parts={name: value})
            return as_score(name, function(parsed, sample.target, meta))
        except Exception as error:
            self.errors += 1
            logger.warning("reward %s raised on sample %s: %s", name, sample.id, error, exc_info=True)
            if self.errors > self.max_errors:
                raise RewardError(
                    f"reward {name!r} raised on sample {sample.id!r}: {type(error).__name__}: {error}; that is error "
                    f"{self.errors}, and rewards.max_errors is {self.max_errors}. Correct the reward or the sample"
                ) from error
            return Score(value=None, parts={name: None})

    def _weigh(self, values: Mapping[str, float | None]) -> float | None:
        weighed = [(s.weight, v) for s in self._specs if (v := values[s.func]) is not None]
        total = sum(weight for weight, _ in weighed)
        return sum(weight * value for weight, value in weighed) / total if total > 0.0 else None


def _check_specs(funcs: Sequence[RewardSpec]) -> None:
    names = [spec.func for spec in funcs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"rewards.funcs lists {', '.join(twice)} twice: parts are kept by name, so merge the entries")
    for spec in funcs:
        if not math.isfinite(spec.weight) or spec.weight < 0.0:
            raise ValueError(f"reward {spec.func!r} has weight {spec.weight!r}; a weight is finite and not negative")
    if not any(spec.weight > 0.0 for spec in funcs):
        raise ValueError("rewards.funcs gives no reward a weight above 0, so nothing could be learned; set one")


def _score_columns(
    name: str, function: Callable[..., Any], text: str, sample: Sample, meta: Mapping[str, Any]
) -> float | None:
    """Call a function of TRL's signature on a batch of one: target, meta and the question as columns."""
    question = "".join(part.text for part in sample.parts if isinstance(part, TextPart))
    columns = {key: [value] for key, value in {**meta, "target": sample.target, "prompts": question}.items()}
    bound = set(function.keywords) if isinstance(function, functools.partial) else set()
    parameters = inspect.signature(function).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        columns = {p.name: columns[p.name] for p in parameters if p.name in columns}
    columns = {key: column for key, column in columns.items() if key not in bound}
    missing = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    missing = [key for key in missing if key != "completions" and key not in columns]
    if missing:
        known = ", ".join(sorted({*meta, "target", "prompts"}))
        raise RewardError(f"{name} needs the column {', '.join(missing)}; the sample has: {known}")
    result = function(completions=[text], **columns)
    if not isinstance(result, Sequence) or isinstance(result, str) or len(result) != 1:
        raise RewardError(f"{name} must return a list with one number or None per completion (here 1), got {result!r}")
    return checked(name, result[0])
