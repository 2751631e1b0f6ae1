"""A judge of the rows of another trainer's batch, which scores them as a run scores its own samples."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.config import RewardSpec
from vlrft.rewards.base import TargetError
from vlrft.rewards.call import read
from vlrft.rewards.entry import Case
from vlrft.rewards.finding import is_builtin
from vlrft.rewards.given import reward_of
from vlrft.rewards.grouping import Row, groups_of
from vlrft.rewards.judge import Judge
from vlrft.rewards.keys import is_number_key, number_read, numbers_read
from vlrft.rewards.settings import Settings, options_in
from vlrft.types import Sample, Score, TextPart

logger = logging.getLogger(__name__)

_KEPT_MOST = 64

_LOST_WITHOUT = ("length.budget",)
"""Its budget follows the share of right answers in the group."""


class RowJudge:
    """The judge of `settings` for rows that come from elsewhere. It pickles, with the state of stateful rewards."""

    def __init__(self, settings: Settings, state: Mapping[str, Any] | None = None) -> None:
        """Raises ValueError for rewards and options that cannot work."""
        self.settings = settings
        self.judge = self._judge(settings.specs)
        self._judges: dict[str, Judge] = {}
        """Of a single reward, by options that rows brought along."""
        if state is not None:
            self.judge.load_state_dict(state)
        self._builtin = all(is_builtin(reward_of(spec)) for spec in settings.specs)
        self._groups = 0
        self._asked = False

    def __reduce__(self) -> tuple[Callable[..., RowJudge], tuple[Any, ...]]:
        return RowJudge, (self.settings, self.judge.state_dict())

    def _judge(self, specs: Sequence[RewardSpec]) -> Judge:
        return Judge(
            specs,
            max_errors=self.settings.max_errors,
            combine=self.settings.combine,
            correct=self.settings.correct,
            where="" if self.settings.single else "rewards",
            of_rows=True,
        )

    def _judge_for(self, meta: Mapping[str, Any]) -> Judge:
        """The judge of a row whose meta may hold options of a single reward, as that of `score` may."""
        first, *others = self.settings.specs
        if not (self.settings.single and self._builtin) or self.judge.entries[0].stateful:
            return self.judge
        found = options_in(first.func, meta)
        if not found:
            return self.judge
        key = repr(sorted(found.items()))
        if key not in self._judges:
            if len(self._judges) >= _KEPT_MOST:
                self._judges.clear()
            changed = first.model_copy(update={"kwargs": {**first.kwargs, **found}})
            self._judges[key] = self._judge([changed, *others])
        return self._judges[key]

    @property
    def doc(self) -> str | None:
        """The docstring of a single reward."""
        return self.judge.entries[0].doc if self.settings.single else None

    def score(self, rows: Sequence[Row], step: int | None = None) -> list[Score]:
        """One Score per row, in order. step: finished steps of the trainer, where it tells; schedules go by it.

        Raises TargetError for a target or meta that cannot be judged against, RewardError for a reward that raised.
        """
        self.judge.step = step or 0
        known = {} if step is None else {"step": step}
        groups = self._groups_of(rows)
        cases: list[tuple[Judge, Case]] = []
        for members in groups:
            self._groups += 1
            default = {**known, "sample_id": f"group {self._groups}"} if self.judge.compares else known
            cases.append(self._case([rows[i] for i in members], default))
        found: list[list[Score]] = []
        for judge, together in itertools.groupby(cases, key=lambda case: case[0]):
            judge.step = self.judge.step
            found += self._judged(judge, [case for _, case in together], rows)
        by_row = {
            i: score for members, of in zip(groups, found, strict=True) for i, score in zip(members, of, strict=True)
        }
        return [by_row[i] for i in range(len(rows))]

    def _groups_of(self, rows: Sequence[Row]) -> list[list[int]]:
        """One by one where nothing compares completions, so that a bad target names its own row."""
        if not self.judge.compares:
            return [[i] for i in range(len(rows))]
        return groups_of(rows, self.settings.num_generations)

    def _case(self, rows: Sequence[Row], default: Mapping[str, Any]) -> tuple[Judge, Case]:
        """The rows of one group, read, and the judge for them."""
        settings, first = self.settings, rows[0]
        default = {**default, "lenient_extraction": settings.lenient, **settings.meta}
        metas = tuple({**default, **self._numbers(row.meta)} for row in rows)
        self._ask_for_correctness(first.where, metas)
        sample = Sample(
            id=first.where,
            task=str(metas[0].get("task") or ""),
            parts=(TextPart(text=str(metas[0].get("prompt") or "")),),
            target=self._target(first),
            meta=metas[0],
        )
        parsed = tuple(read(row.text, meta) for row, meta in zip(rows, metas, strict=True))
        try:
            return self._judge_for(metas[0]), Case(sample=sample, parsed=parsed, metas=metas)
        except TargetError as error:
            raise TargetError(f"{error}{self._hint(first, str(error))}") from error

    def _judged(self, judge: Judge, cases: Sequence[Case], rows: Sequence[Row]) -> list[list[Score]]:
        try:
            return judge.score_cases(cases)
        except TargetError as error:
            bad = next((row for row in rows if row.where == error.sample_id), rows[0])
            raise TargetError(f"{error}{self._hint(bad, str(error))}") from error

    def _numbers(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        """`meta` with the numbers that built-in rewards read in place of their texts, as tables hold them."""
        return {key: _number(key, value) for key, value in meta.items()} if self._builtin else meta

    def _target(self, row: Row) -> Any:
        if not self.settings.json_target or not isinstance(row.target, str):
            return row.target
        try:
            return json.loads(row.target)
        except ValueError as error:
            raise TargetError(
                f"{row.where}: target {row.target!r:.200} is not JSON ({error}); leave json_target out for texts"
            ) from error

    def _hint(self, row: Row, said: str) -> str:
        """What to change when the target is the trouble. said: what the reward says of it."""
        if row.target is None and "got None" in said:
            return f" ({self.settings.target!r} says nothing; name where the targets are by target=...)"
        if isinstance(row.target, str) and not self.settings.json_target and _is_json(row.target):
            return f" (the target is the text {row.target!r:.80}, which holds JSON: pass json_target=True)"
        return ""

    def _ask_for_correctness(self, where: str, metas: Sequence[Mapping[str, Any]]) -> None:
        """Say that nobody tells which answers are right, where a reward pays right ones only.

        Raises TargetError where that reward cannot do without.
        """
        if self._asked or self.judge.undecided is None or all("correct" in m or "group_correct" in m for m in metas):
            return
        asking = [entry for entry in self.judge.entries if entry.needs_correct]
        lost = [entry for entry in asking if entry.spec.func in _LOST_WITHOUT]
        text = (
            f"reward {(lost or asking)[0].name!r} pays right answers only, and nobody says which are right: pass "
            "correct='box.iou >= 0.5' (any reward and threshold), or give a column 'correct'"
        )
        if lost:
            raise TargetError(f"{where}: {text}")
        self._asked = True
        logger.warning("%s; until then the length alone decides, but for blank answers", text)


def _number(key: str, value: Any) -> Any:
    if isinstance(value, str):
        return number_read(key, value)
    return numbers_read(key, value) if is_number_key(key) else value


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list | dict)
    except ValueError:
        return False
