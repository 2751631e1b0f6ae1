"""The judge of a run: every reward of the recipe on a sample's completions, weighed into one Score each.

Two passes: first the rewards that look at one completion alone; then those that compare the completions of the sample
or pay right answers only, and so want to know what the others said. Then gates and weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.config import RewardSpec
from vlrft.parse import OUTPUT_MODES, parse
from vlrft.registry import nearest
from vlrft.rewards.awaiting import Loop
from vlrft.rewards.base import RewardError, TargetError, ordered
from vlrft.rewards.columns import question_of
from vlrft.rewards.entry import FORM_FAMILIES, Case, Entry
from vlrft.rewards.gates import Gate, check_gates, read_gate
from vlrft.rewards.schedule import weight_at
from vlrft.types import Sample, Score

logger = logging.getLogger(__name__)

RIGHT = 0.5
"""From which value of its first task reward on an answer is right, unless the recipe says otherwise."""


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
        combine: str = "mean",
        correct: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Find every function, bind its options, and check all that a recipe says of them.

        max_errors: how many completions may lack a part because a reward raised, before the run stops. lenient: see
        `parse`. combine, correct: see RewardsConfig. meta: what every completion's meta holds besides, `max_tokens`.
        Raises UnknownNameError for an unknown reward, ValueError for options, weights or names that cannot work.
        """
        if output_mode not in OUTPUT_MODES:
            raise ValueError(f"unknown output mode {output_mode!r}; use one of {', '.join(OUTPUT_MODES)}")
        if combine not in ("mean", "sum"):
            raise ValueError(f"rewards.combine is {combine!r}; use mean or sum")
        self.output_mode = output_mode
        self.max_errors = max_errors
        self.lenient = lenient
        self.combine = combine
        self.step = 0
        """Finished steps of the stage, which schedules go by; the trainer sets it."""
        self.errors = 0
        """How many completions lack a part because its reward raised."""
        self._fixed = dict(meta or {})
        self._entries = tuple(Entry(spec) for spec in funcs)
        self._correct = read_gate("rewards.correct", correct) if correct is not None else None
        _check_entries(self._entries, self._correct)
        self._loop = Loop()
        self._checked = 0
        self._missing = {key for entry in self._entries for key in entry.spec.when}
        """Keys of `when` that no sample checked so far has."""
        self._unused = {entry.name for entry in self._entries}
        """Rewards that no sample checked so far wants."""
        self._keys: set[str] = set()

    def check(self, sample: Sample, meta: Mapping[str, Any] | None = None) -> None:
        """Raise TargetError, naming sample and reward, when a built-in reward could not judge against its target."""
        known = {"num_tokens": 0, **self._meta(sample, meta or {})}
        about = {"task": sample.task, **known}
        self._checked += 1
        self._keys.update(about)
        self._missing.difference_update(about)
        parts = dict.fromkeys(entry.name for entry in self._entries if not entry.second)
        for entry in self._entries:
            if not entry.applies(about):
                continue
            self._unused.discard(entry.name)
            try:
                entry.probe(sample, {**known, "correct": None} if entry.second else known, parts)
            except TargetError as error:
                raise TargetError(f"sample {sample.id!r}, reward {entry.name!r}: {error}") from error

    def check_when(self) -> None:
        """After all samples went through `check`: raise ValueError for a key of `when` that none of them has."""
        for entry in self._entries if self._checked else ():
            for key in entry.spec.when:
                if key in self._missing:
                    raise ValueError(
                        f"reward {entry.name!r}: when names {key!r}, which no sample has"
                        f"{nearest(key, sorted(self._keys))}; samples have: {', '.join(sorted(self._keys))}"
                    )
            if entry.name in self._unused:
                logger.warning(
                    "reward %s applies to none of %d samples: %s", entry.name, self._checked, entry.spec.when
                )

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
        known = [self._meta(sample, meta) for meta in (metas if metas is not None else [{}] * len(completions))]
        if not known:
            return []
        parsed = tuple(parse(text, self.output_mode, lenient=self.lenient) for text in completions)
        about = {"task": sample.task, **known[0]}
        wanted = [entry for entry in self._entries if entry.applies(about)]
        parts: list[dict[str, float | None]] = [dict.fromkeys(e.name for e in self._entries) for _ in known]
        flags = [set(p.flags) for p in parsed]
        case = Case(sample=sample, parsed=parsed, metas=tuple(known))
        self._pass([e for e in wanted if not e.second], case, parts, flags)
        if later := [e for e in wanted if e.second]:
            names = {e.name for e in later}
            seen = tuple({name: value for name, value in p.items() if name not in names} for p in parts)
            told = tuple({**meta, "correct": self._is_correct(p)} for meta, p in zip(known, parts, strict=True))
            self._pass(later, Case(sample=sample, parsed=parsed, metas=told, parts=seen), parts, flags)
        return [Score(value=self._combine(p), parts=p, flags=ordered(f)) for p, f in zip(parts, flags, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """JSON-like: the count of errors, and the state of every reward that has one, by name."""
        rewards = {entry.name: entry.state() for entry in self._entries if entry.stateful}
        # Through JSON, so that a state read back from a file of rollouts equals one from a checkpoint.
        state: dict[str, Any] = json.loads(json.dumps({"errors": self.errors, "rewards": rewards}))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ValueError when it is of other rewards."""
        stateful = {entry.name: entry for entry in self._entries if entry.stateful}
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
        for entry in self._entries:
            entry.close()

    def _meta(self, sample: Sample, meta: Mapping[str, Any]) -> dict[str, Any]:
        stated = {"target_space": sample.target_space, "output_mode": self.output_mode, "sample_id": sample.id}
        ours = {"prompt": question_of(sample), "media": sample.media, "step": self.step}
        return {**ours, **sample.meta, **self._fixed, **meta, **stated}

    def _pass(
        self,
        entries: Sequence[Entry],
        case: Case,
        parts: Sequence[dict[str, float | None]],
        flags: Sequence[set[str]],
    ) -> None:
        """Run `entries` and put what they say into `parts` and `flags`."""
        waiting = [entry for entry in entries if entry.asynchronous]
        found = {entry.name: entry.run(case, self.step) for entry in entries if not entry.asynchronous}
        if waiting:
            outcomes = self._loop.gather([entry.run_async(case, self.step) for entry in waiting])
            found.update((entry.name, outcome) for entry, outcome in zip(waiting, outcomes, strict=True))
        for entry in entries:
            self._count(entry, [item for item in found[entry.name] if isinstance(item, Exception)], case.sample)
            for item, into, marks in zip(found[entry.name], parts, flags, strict=True):
                if isinstance(item, Score):
                    into[entry.name] = item.value
                    into.update({f"{entry.name}/{key}": v for key, v in item.parts.items() if key != entry.name})
                    marks.update(item.flags)

    def _count(self, entry: Entry, errors: Sequence[Exception], sample: Sample) -> None:
        """Log each error once, count the completions that it took a part from, and stop the run when they are many."""
        for error in dict.fromkeys(errors):
            if isinstance(error, TargetError):
                raise TargetError(f"sample {sample.id!r}, reward {entry.name!r}: {error}") from error
            logger.warning("reward %s raised on sample %s: %s", entry.name, sample.id, error, exc_info=error)
            self.errors += errors.count(error)
            if self.errors > self.max_errors:
                raise RewardError(
                    f"reward {entry.name!r} raised on sample {sample.id!r}: {type(error).__name__}: {error}; that is "
                    f"error {self.errors}, and rewards.max_errors is {self.max_errors}. Mend the reward or the sample"
                ) from error

    def _is_correct(self, parts: Mapping[str, float | None]) -> bool | None:
        """Whether an answer is right, going by its parts; None when nothing that applies says so."""
        if self._correct is not None:
            return self._correct.holds(parts)
        values = (parts[entry.name] for entry in self._entries if entry.judges_task)
        return next((value >= RIGHT for value in values if value is not None), None)

    def _combine(self, parts: Mapping[str, float | None]) -> float | None:
        weighed: list[tuple[float, float]] = []
        for entry in self._entries:
            value = parts[entry.name]
            is_open = entry.gate.holds(parts) if entry.gate is not None else True
            if value is not None and is_open is not None:
                weighed.append((weight_at(entry.spec.weight, self.step), value if is_open else 0.0))
        total = sum(weight for weight, _ in weighed)
        if total == 0.0:
            return None
        return sum(weight * value for weight, value in weighed) / (total if self.combine == "mean" else 1.0)


def _check_entries(entries: Sequence[Entry], correct: Gate | None) -> None:
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"rewards.funcs lists {', '.join(twice)} twice: parts are kept by name; give one a `name`")
    points = {0} | {step for e in entries if isinstance(e.spec.weight, list) for step, _ in e.spec.weight}
    for step in sorted(points):
        if not any(weight_at(entry.spec.weight, step) > 0.0 for entry in entries):
            at = f" at step {step}" if step else ""
            raise ValueError(
                f"rewards.funcs gives no reward a weight above 0{at}, so nothing could be learned; set one"
            )
    check_gates({entry.name: entry.gate for entry in entries}, names)
    check_gates({"rewards.correct": correct}, [entry.name for entry in entries if not entry.second])
    needy = [entry.name for entry in entries if entry.needs_correct]
    if needy and correct is None and not any(entry.judges_task for entry in entries):
        raise ValueError(
            f"reward {needy[0]!r} pays right answers only, and no reward of the list says which are right (none of "
            f"{', '.join(f'{f}*' for f in FORM_FAMILIES)} does): add one, set rewards.correct, or give it "
            "kwargs: {correct_only: false}"
        )
