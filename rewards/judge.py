"""The judge of a run: every reward of the recipe on a sample's completions, weighed into one Score each.

Two passes: first the rewards that look at one completion alone; then those that compare the completions of the sample
or pay right answers only, and so want to know what the others said. Then gates and weights.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlrft.parse import parse
from vlrft.rewards.awaiting import Loop
from vlrft.rewards.base import RewardError, TargetError, ordered
from vlrft.rewards.columns import question_of
from vlrft.rewards.entry import Case, Entry
from vlrft.rewards.keys import NearMisses
from vlrft.rewards.schedule import is_scheduled, weight_at
from vlrft.rewards.specs import Spec, make_ready
from vlrft.rewards.unused import VALUES_KEPT, Unused, shown, why_unused
from vlrft.types import Sample, Score

logger = logging.getLogger(__name__)

Asked = tuple[Sequence[str], Sample, Sequence[Mapping[str, Any]] | None]
"""Completions of a sample, the sample, and what is known of each: the arguments of `Judge.score_group`."""

RIGHT = 0.5
"""From which value of its first task reward on an answer is right, unless the recipe says otherwise."""


class Judge:
    """Weighted mean of the rewards that apply.

    Example: Judge([{"func": "box.iou", "weight": 0.9}, {"func": "format.think_answer", "weight": 0.1}])
    """

    def __init__(
        self,
        funcs: Sequence[Spec],
        output_mode: str = "think",
        max_errors: int = 10,
        *,
        lenient: bool = False,
        combine: str = "mean",
        correct: str | None = None,
        meta: Mapping[str, Any] | None = None,
        where: str = "rewards.funcs",
        of_rows: bool = False,
    ) -> None:
        """Find every function, bind and try its options, and check all that a recipe says of them, as `check` does.

        max_errors: how many completions may lack a part because a reward raised, before the run stops. lenient: see
        `parse`. combine, correct: see RewardsConfig. meta: what every completion's meta holds besides, `max_tokens`.
        where: what messages call `funcs`. of_rows: for `score_cases` alone; a meta's own `correct` then counts.
        Raises UnknownNameError for an unknown reward, ImportError for a file that cannot be loaded, ValueError for
        options, weights or names that cannot work.
        """
        ready = make_ready(
            funcs, output_mode=output_mode, combine=combine, correct=correct, where=where, of_rows=of_rows
        )
        self.output_mode = output_mode
        self.max_errors = max_errors
        self.lenient = lenient
        self.combine = combine
        self.step = 0
        """Finished steps of the stage, which schedules go by; the trainer sets it."""
        self.errors = 0
        """How many completions lack a part because its reward raised."""
        self._fixed = dict(meta or {})
        self.entries, self._correct = ready.entries, ready.correct
        self.undecided = ready.undecided
        """A reward that pays right answers only, where no other one says which are right; else None."""
        self.compares = any(entry.group or entry.stateful for entry in self.entries)
        """Whether it matters which completions are judged together."""
        self.scheduled = any(entry.scheduled for entry in self.entries)
        """Whether `step` matters."""
        self._of_rows = of_rows
        self._told: set[tuple[str, ...]] = set()
        """Errors whose traceback has been logged."""
        self._loop = Loop()
        self._checked = 0
        self._values: dict[str, dict[str, None]] = {key: {} for entry in self.entries for key in entry.spec.when}
        """What the samples checked so far have under the keys of `when`, as messages show it."""
        self._unused = {entry.name for entry in self.entries}
        """Rewards that no sample checked so far wants."""
        self._keys: set[str] = set()
        self._near = NearMisses(self.entries)
        self._left_out: set[str] = set()

    def check(self, sample: Sample, meta: Mapping[str, Any] | None = None) -> None:
        """Raise TargetError, naming sample and reward, when a built-in reward could not judge against its target."""
        known = {"num_tokens": 0, **self._meta(sample, meta or {})}
        about = {"task": sample.task, **known}
        self._checked += 1
        self._near.tell(sample.meta)
        self._keys.update(about)
        for key in self._values.keys() & about.keys():
            if len(self._values[key]) < VALUES_KEPT:
                self._values[key][shown(about[key])] = None
        wanted = [entry for entry in self.entries if entry.applies(about)]
        self._unused.difference_update(entry.name for entry in wanted)
        # As if all answers were right: what a group-aware reward wants then, the sample must have.
        parts = {e.name: 1.0 if e in wanted else None for e in self.entries if not e.second}
        for entry in wanted:
            try:
                entry.probe(sample, {**known, "correct": True} if entry.second else known, parts)
            except TargetError as error:
                raise TargetError(f"sample {sample.id!r}, reward {entry.name!r}: {error}") from error

    def check_when(self) -> None:
        """After all samples went through `check`: raise ValueError for a key of `when` that none of them has.

        Rewards that apply to none of them for another reason are warned of.
        """
        for entry in self.entries if self._checked else ():
            for key in entry.spec.when:
                if not self._values[key]:
                    raise ValueError(self._unused_by(entry).text)
            if entry.name in self._unused:
                logger.warning("%s", self._unused_by(entry).text)

    def unused(self) -> list[Unused]:
        """The rewards whose `when` leaves out every sample that went through `check`."""
        return [self._unused_by(entry) for entry in self.entries if self._checked and entry.name in self._unused]

    def _unused_by(self, entry: Entry) -> Unused:
        return why_unused(entry, self._values, sorted(self._keys), self._checked, [
            other for other in self.entries if other.name not in self._unused
        ])  # fmt: skip

    def leave_out(self, name: str) -> None:
        """From now on the reward `name` is not asked, as if it applied to nothing."""
        self._left_out.add(name)

    def score(self, completion: str, sample: Sample, meta: Mapping[str, Any] | None = None) -> Score:
        """Judge one completion of `sample`: a group of one. See `score_group`."""
        return self.score_group([completion], sample, [meta or {}])[0]

    def score_group(
        self, completions: Sequence[str], sample: Sample, metas: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Score]:
        """Judge all completions of `sample`, one Score each.

        completions: raw texts with their tags. metas: for each of them what the prompt and the completion add to
        `sample.meta` (`image_size`, `input_size`, `coord_space`, `num_tokens`), which they override.
        `parts` holds each reward's unweighted value by name and its own parts as `name/part`, None where it does not
        apply or has raised; `value` combines the others, None when none is left.

        Raises RewardError once rewards have raised on more than `max_errors` completions, TargetError for a target
        that cannot be judged against.
        """
        return self.score_groups([(completions, sample, metas)])[0]

    def score_groups(self, groups: Sequence[Asked]) -> list[list[Score]]:
        """As `score_group`, of several samples side by side: async rewards and those with processes wait once."""
        scores: list[list[Score]] = [[] for _ in groups]
        places = [i for i, (completions, *_) in enumerate(groups) if completions]
        cases = [self._case(*groups[i]) for i in places]
        for i, found in zip(places, self.score_cases(cases), strict=True):
            scores[i] = found
        return scores

    def _case(self, completions: Sequence[str], sample: Sample, metas: Sequence[Mapping[str, Any]] | None) -> Case:
        known = [self._meta(sample, meta) for meta in (metas if metas is not None else [{}] * len(completions))]
        parsed = tuple(parse(text, self.output_mode, lenient=self.lenient) for text in completions)
        return Case(sample=sample, parsed=parsed, metas=tuple(known))

    def score_cases(self, cases: Sequence[Case]) -> list[list[Score]]:
        """As `score_group`, of the completions of several samples that are read already, judged side by side.

        A case's `metas` are the whole meta of its completions. Raises TargetError with `sample_id`.
        """
        if self._of_rows:
            for case in cases:
                self._near.tell(case.metas[0])
        works = [_Work(case, self.entries, self._left_out) for case in cases]
        self._pass([entry for entry in self.entries if not entry.second], works)
        for work in works:
            if later := {entry.name for entry in work.wanted if entry.second}:
                seen = [{name: value for name, value in p.items() if name not in later} for p in work.parts]
                told = [self._told_correct(meta, p) for meta, p in zip(work.case.metas, seen, strict=True)]
                work.case = replace(work.case, metas=tuple(told), parts=tuple(seen))
        self._pass([entry for entry in self.entries if entry.second], works)
        return [
            [
                Score(value=self._combine(parts), parts=parts, flags=ordered(flags))
                for parts, flags in zip(work.parts, work.flags, strict=True)
            ]
            for work in works
        ]

    def state_dict(self) -> dict[str, Any]:
        """JSON-like: the count of errors, and the state of every reward that has one, by name."""
        rewards = {entry.name: entry.state() for entry in self.entries if entry.stateful}
        # Through JSON, so that a state read back from a file of rollouts equals one from a checkpoint.
        state: dict[str, Any] = json.loads(json.dumps({"errors": self.errors, "rewards": rewards}))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ValueError when it is of other rewards."""
        stateful = {entry.name: entry for entry in self.entries if entry.stateful}
        if set(stateful) != set(state["rewards"]):
            raise ValueError(
                f"the stored state is of the rewards {sorted(state['rewards'])}, the recipe's that keep one are "
                f"{sorted(stateful)}; resume with the recipe of the run"
            )
        self.errors = state["errors"]
        for name, entry in stateful.items():
            entry.load_state(state["rewards"][name])

    def close(self) -> None:
        """End the processes of the rewards that have some; they start again when needed."""
        for entry in self.entries:
            entry.close()

    def _meta(self, sample: Sample, meta: Mapping[str, Any]) -> dict[str, Any]:
        stated = {"target_space": sample.target_space, "output_mode": self.output_mode, "sample_id": sample.id}
        ours = {"prompt": question_of(sample), "media": sample.media, "step": self.step}
        return {**ours, **sample.meta, **self._fixed, **meta, **stated}

    def _pass(self, entries: Sequence[Entry], works: Sequence[_Work]) -> None:
        """Run `entries` and put what they say into the parts and flags of `works`."""
        wanting = {entry.name: [work for work in works if entry in work.wanted] for entry in entries}
        asked = [entry for entry in entries if wanting[entry.name]]
        cases = {entry.name: [work.case for work in wanting[entry.name]] for entry in asked}
        found = {e.name: e.run(cases[e.name], self.step) for e in asked if not e.asynchronous}
        if waiting := [entry for entry in asked if entry.asynchronous]:
            outcomes = self._loop.gather([entry.run_async(cases[entry.name], self.step) for entry in waiting])
            found.update((entry.name, outcome) for entry, outcome in zip(waiting, outcomes, strict=True))
        results = {name: iter(by_case) for name, by_case in found.items()}
        for work in works:  # sample by sample, so that the first bad one is the one that is named
            for entry in asked:
                if entry in work.wanted:
                    self._put(entry, next(results[entry.name]), work)

    def _put(self, entry: Entry, items: Sequence[Score | Exception], work: _Work) -> None:
        self._count(entry, [item for item in items if isinstance(item, Exception)], work.case.sample)
        for item, into, marks in zip(items, work.parts, work.flags, strict=True):
            if isinstance(item, Score):
                into[entry.name] = item.value
                into.update({f"{entry.name}/{key}": v for key, v in item.parts.items() if key != entry.name})
                marks.update(item.flags)

    def _count(self, entry: Entry, errors: Sequence[Exception], sample: Sample) -> None:
        """Log each error once, count the completions that it took a part from, and stop the run when they are many."""
        for error in dict.fromkeys(errors):
            if isinstance(error, TargetError):
                bad = TargetError(f"sample {sample.id!r}, reward {entry.name!r}: {error}")
                bad.sample_id = sample.id
                raise bad from error
            self.errors += errors.count(error)
            kind, stops = type(error).__name__, self.errors > self.max_errors
            origin = _origin(entry.name, error)
            if not (stops and origin in self._told):  # else what is raised says it all
                logger.warning(
                    "reward %s raised on sample %s: %s: %s (error %d, rewards.max_errors is %d)",
                    entry.name, sample.id, kind, error, self.errors, self.max_errors,
                    exc_info=None if origin in self._told else error,
                )  # fmt: skip
            self._told.add(origin)
            if stops:
                failed = RewardError(
                    f"reward {entry.name!r} raised on sample {sample.id!r}: {kind}: {error}; that is "
                    f"error {self.errors}, and rewards.max_errors is {self.max_errors}. Mend the reward or the sample"
                )
                failed.reward = entry.name
                raise failed from error

    def _told_correct(self, meta: Mapping[str, Any], parts: Mapping[str, float | None]) -> Mapping[str, Any]:
        """`meta` with the word on whether the answer is right, unless a row has, or has to have, its own."""
        if self._of_rows and self._correct is None and ("correct" in meta or self.undecided is not None):
            return meta
        return {**meta, "correct": self._is_correct(parts)}

    def _is_correct(self, parts: Mapping[str, float | None]) -> bool | None:
        """Whether an answer is right, going by its parts; None when nothing that applies says so."""
        if self._correct is not None:
            return self._correct.holds(parts)
        values = (parts[entry.name] for entry in self.entries if entry.judges_task)
        return next((value >= RIGHT for value in values if value is not None), None)

    def metrics(self, parts: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
        """What gates and schedules did at this step: rows of metrics.jsonl.

        parts: of every scored completion. `reward_weight/<name>`: the weight of a reward that has a schedule.
        `gate_closed/<name>`: the share of the completions that a gate applied to, and held back.
        """
        row: dict[str, float] = {}
        for entry in self.entries:
            if is_scheduled(entry.spec.weight):
                row[f"reward_weight/{entry.name}"] = weight_at(entry.spec.weight, self.step)
            if entry.gate is not None:
                given = [entry.gate.holds(p) for p in parts if p.get(entry.name) is not None]
                decided = [is_open for is_open in given if is_open is not None]
                if decided:
                    row[f"gate_closed/{entry.name}"] = decided.count(False) / len(decided)
        return row

    def _combine(self, parts: Mapping[str, float | None]) -> float | None:
        weighed: list[tuple[float, float]] = []
        for entry in self.entries:
            value = parts[entry.name]
            is_open = entry.gate.holds(parts) if entry.gate is not None else True
            if value is not None and is_open is not None:
                weighed.append((weight_at(entry.spec.weight, self.step), value if is_open else 0.0))
        total = sum(weight for weight, _ in weighed)
        if total == 0.0:
            return None
        return sum(weight * value for weight, value in weighed) / (total if self.combine == "mean" else 1.0)


class _Work:
    """A case while it is judged."""

    def __init__(self, case: Case, entries: Sequence[Entry], left_out: Collection[str]) -> None:
        self.case = case
        about = {"task": case.sample.task, **case.metas[0]}
        self.wanted = [entry for entry in entries if entry.applies(about) and entry.name not in left_out]
        self.parts: list[dict[str, float | None]] = [dict.fromkeys(e.name for e in entries) for _ in case.metas]
        self.flags = [set(parsed.flags) for parsed in case.parsed]


def _origin(name: str, error: Exception) -> tuple[str, ...]:
    """Equal for errors of one reward that arise at the same place."""
    trace = (error.__cause__ or error).__traceback__
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(trace)][-1:]
    told = [line for note in getattr(error, "__notes__", []) for line in note.splitlines() if "File " in line]
    return (name, type(error).__name__, *places, *told)
