"""One reward of a recipe, made ready: found, its options bound, and how it is called."""

from __future__ import annotations

import asyncio
import copy
import inspect
import itertools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.config import RewardSpec
from vlrft.parse import Parsed
from vlrft.registry import nearest
from vlrft.rewards.base import Judged, RewardError, TargetError
from vlrft.rewards.columns import columns_for, values_of
from vlrft.rewards.finding import as_score, at_option, find, is_builtin, probe
from vlrft.rewards.gates import Gate, read_gate
from vlrft.rewards.given import check_sendable, reward_of
from vlrft.rewards.options import try_options
from vlrft.rewards.pool import Call, Pool, RewardTimeoutError, left_by
from vlrft.rewards.schedule import check_weight, is_scheduled, options_by_step
from vlrft.rewards.signature import takes_columns, takes_group
from vlrft.types import Sample, Score

FORM_FAMILIES = ("format.", "length.", "repetition.", "thinking.", "language.")
"""Rewards that look at how an answer is given. All others are task rewards: they say whether it is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One sample's completions on their way through the rewards."""

    sample: Sample
    parsed: tuple[Parsed, ...]
    metas: tuple[Mapping[str, Any], ...]
    """One per completion."""
    parts: tuple[Mapping[str, float | None], ...] = ()
    """What the first pass said of each completion; empty while it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variant:
    """The reward with the options that hold from step `start` on."""

    start: int
    function: Callable[..., Any]
    pool: Pool | None


def gate_of(spec: RewardSpec) -> Gate | None:
    """The gate of a reward. Raises ValueError, naming the reward, for a text that is none."""
    return read_gate(f"reward {spec.name or spec.func!r}: gate", spec.gate) if spec.gate is not None else None


class Entry:
    """A RewardSpec at work."""

    def __init__(self, spec: RewardSpec) -> None:
        """Raises UnknownNameError for an unknown function, ValueError for what cannot work, naming the reward."""
        self.spec = spec
        self.name = spec.name or spec.func
        self._variants = [self._variant(*item) for item in options_by_step(self.name, spec.kwargs)]
        self.gate = gate_of(spec)
        check_weight(self.name, spec.weight)
        function = self._variants[0].function
        self.columns, self.group = takes_columns(function), takes_group(function)
        self.builtin = is_builtin(reward_of(spec))
        self.asynchronous = _is_async(function) and spec.workers is None
        self.stateful = hasattr(function, "state_dict")
        self.scheduled = len(self._variants) > 1 or is_scheduled(spec.weight)
        """Whether it matters how far the stage is."""
        option = inspect.signature(function).parameters.get("correct_only")
        self.needs_correct = option is not None and bool(option.default)
        """Pays right answers only, and asks `meta["correct"]` which those are."""
        self.second = self.group or option is not None
        """Judged after the others, whose parts it may look at."""
        if self.stateful and (len(self._variants) > 1 or self._variants[0].pool is not None):
            raise ValueError(
                f"reward {self.name!r} keeps state over the run: it can have neither scheduled options nor processes "
                "of its own; drop the schedule, timeout_s and workers"
            )

    def _variant(self, start: int, options: Mapping[str, Any]) -> _Variant:
        spec = self.spec
        reward = reward_of(spec)
        function = find(reward, options, asynchronous=True)
        if is_builtin(reward):
            try_options(spec.func, function, {**options, **at_option(reward)})
        pooled = spec.workers is not None or (spec.timeout_s is not None and not _is_async(function))
        if pooled:
            check_sendable(spec)
        pool = Pool(reward, options, workers=spec.workers or 1, timeout_s=spec.timeout_s) if pooled else None
        return _Variant(start=start, function=function, pool=pool)

    @property
    def doc(self) -> str | None:
        """The docstring of its function or class."""
        function = self._variants[0].function
        written: str | None = getattr(function, "func", function).__doc__
        return written

    @property
    def judges_task(self) -> bool:
        """True for a reward that can say whether an answer is right."""
        return not self.second and not self.spec.func.startswith(FORM_FAMILIES)

    def applies(self, about: Mapping[str, Any]) -> bool:
        """Whether the recipe wants this reward for a sample of which `about` is known."""
        return all(key in about and _matches(about[key], wanted) for key, wanted in self.spec.when.items())

    def target_of(self, sample: Sample) -> Any:
        """What this reward compares with. Raises TargetError when the sample's meta lacks the key of the spec."""
        key = self.spec.target
        if key is None:
            return sample.target
        if key not in sample.meta:
            known = sorted(map(str, sample.meta))
            raise TargetError(
                f"its target is meta {key!r}, which the sample does not have{nearest(key, known)}; it has: "
                f"{', '.join(known) or 'no meta'}. Add it to the row, or limit the reward by `when`"
            )
        return sample.meta[key]

    def probe(self, sample: Sample, meta: Mapping[str, Any], parts: Mapping[str, float | None]) -> None:
        """Raise TargetError when the sample lacks this reward's target, or a built-in one could not judge by it."""
        target = self.target_of(sample)
        if not self.builtin:
            return
        before = copy.deepcopy(self.state()) if self.stateful else None
        try:
            for variant in self._variants:
                probe(variant.function, target, self._with_lengths((meta,))[0], parts)
        finally:
            if before is not None:
                self.load_state(before)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._variants[0].function.state_dict()  # type: ignore[attr-defined]
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._variants[0].function.load_state_dict(state)  # type: ignore[attr-defined]

    def close(self) -> None:
        """End the processes of its own, if it has any."""
        for variant in self._variants:
            if variant.pool is not None:
                variant.pool.close()

    def run(self, cases: Sequence[Case], step: int) -> list[list[Score | Exception]]:
        """What it says of every completion of every case; where a call failed, its exception.

        Calls in processes of its own run side by side, whichever case they are of.
        """
        variant = self._at(step)
        planned = [self._planned(variant.function, case) for case in cases]
        calls = [call for plan in planned if not isinstance(plan, Exception) for call in plan]
        raw: Sequence[Any]
        try:
            raw = variant.pool.run(calls) if variant.pool is not None else _inline(variant.function, calls)
        except Exception as error:  # no worker can load it
            raw = [error] * len(calls)
        return self._by_case(cases, planned, raw)

    async def run_async(self, cases: Sequence[Case], step: int) -> list[list[Score | Exception]]:
        """As `run`, for an `async def` function: all its calls are awaited at once."""
        function = self._at(step).function
        planned = [self._planned(function, case) for case in cases]
        calls = [call for plan in planned if not isinstance(plan, Exception) for call in plan]
        limited = [self._limited(function(*positional, **named)) for positional, named in calls]
        return self._by_case(cases, planned, await asyncio.gather(*limited, return_exceptions=True))

    def _planned(self, function: Callable[..., Any], case: Case) -> list[Call] | Exception:
        try:
            return self._calls(function, case)
        except (RewardError, TargetError) as error:  # it needs what the sample lacks
            return error

    def _by_case(
        self, cases: Sequence[Case], planned: Sequence[list[Call] | Exception], raw: Sequence[Any]
    ) -> list[list[Score | Exception]]:
        """The results of all calls, in order, as values of each case's completions."""
        found: list[list[Score | Exception]] = []
        results = iter(raw)
        for case, plan in zip(cases, planned, strict=True):
            count = len(case.parsed)
            if isinstance(plan, Exception):
                found.append([plan] * count)
            else:
                found.append(self._scores(list(itertools.islice(results, len(plan))), count))
        return found

    async def _limited(self, call: Coroutine[Any, Any, Any]) -> Any:
        limit = self.spec.timeout_s
        try:
            async with asyncio.timeout(limit) as running:
                return await call
        except SystemExit as error:
            raise left_by(error) from error
        except TimeoutError:
            if not running.expired():
                raise
            raise RewardTimeoutError(f"{self.name} took longer than timeout_s={limit:g} and was cancelled") from None

    def _at(self, step: int) -> _Variant:
        current = next(variant for variant in reversed(self._variants) if variant.start <= step)
        for variant in self._variants:
            if variant is not current and variant.pool is not None:
                variant.pool.close()
        return current

    def _calls(self, function: Callable[..., Any], case: Case) -> list[Call]:
        """One call for all completions, or one for each of them."""
        target = self.target_of(case.sample)
        if self.columns:
            texts = [parsed.text for parsed in case.parsed]
            return [((), columns_for(self.name, function, texts, case.sample, target, case.metas))]
        if self.group:
            metas = self._with_lengths(case.metas)
            return [((Judged(parsed=case.parsed, parts=case.parts, target=target, meta=metas),), {})]
        return [((p, target, m), {}) for p, m in zip(case.parsed, case.metas, strict=True)]

    def _with_lengths(self, metas: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
        """`metas` with the lengths of the whole group: by them a group of one is told from a completion of a larger
        one whose lengths nobody gave."""
        lengths = [meta.get("num_tokens") for meta in metas]
        if not self.spec.func.startswith("length.") or None in lengths or "group_lengths" in metas[0]:
            return metas
        return tuple({**meta, "group_lengths": lengths} for meta in metas)

    def _scores(self, raw: Sequence[Any], count: int) -> list[Score | Exception]:
        if not (self.columns or self.group):
            return [self._score(result) for result in raw]
        try:
            _raise(raw[0])
            results = values_of(self.name, raw[0], count) if self.columns else _listed(self.name, raw[0], count)
        except Exception as error:  # the one call failed, or returned no list of rewards: nobody has a value
            return [error] * count
        return [self._score(result) for result in results]

    def _score(self, result: Any) -> Score | Exception:
        try:
            _raise(result)
            return as_score(self.name, result)
        except Exception as error:  # the call failed, or returned neither a number nor a Score
            return error


def _inline(function: Callable[..., Any], calls: Sequence[Call]) -> list[Any]:
    results = []
    for positional, named in calls:
        try:
            results.append(function(*positional, **named))
        except SystemExit as error:
            results.append(left_by(error))
        except Exception as error:  # whatever a user's function raises; the judge counts and names it
            results.append(error)
    return results


def _raise(result: Any) -> None:
    if isinstance(result, asyncio.CancelledError):
        raise RewardError("the call was cancelled") from result
    if isinstance(result, BaseException):
        raise result


def _listed(name: str, result: Any, count: int) -> Sequence[Any]:
    if not isinstance(result, Sequence) or isinstance(result, str) or len(result) != count:
        raise RewardError(f"{name} must return a list with one Score per completion ({count}), got {result!r:.200}")
    return result


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _matches(value: Any, wanted: Any) -> bool:
    return value == wanted or (isinstance(wanted, list | tuple) and value in wanted)
