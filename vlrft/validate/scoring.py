"""The rewards of a recipe on right answers, which must score near 1, and on wrong ones, which must score low."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlrft.config import DataConfig
from vlrft.coords import CoordError
from vlrft.data.problems import DataError
from vlrft.data.tasks import TASKS, build_task, tasks_of
from vlrft.data.tasks.templates import whole_templates
from vlrft.rewards.base import RewardError, TargetError
from vlrft.rewards.entry import Entry
from vlrft.rewards.finding import is_builtin
from vlrft.rewards.judge import Judge
from vlrft.rewards.unused import Unused
from vlrft.types import Sample, Score
from vlrft.validate.answers import WHOLE, adversarial
from vlrft.validate.report import Finding, Line, Scores, finding_of, grouped

REFERENCE = "reference"
NEAR_FULL = 0.95
"""A right answer earns at least this of a reward that says whether an answer is right."""
BROKEN = 0.5
"""Below it, not even rounding excuses a right answer."""
PAID = 0.3
"""From this mean on, or this share of the right answer's total, a wrong answer is worth giving."""
MARGIN = 0.05
"""By at least this the right answers' mean total exceeds that of every trick."""
TRICKED = 64
"""Samples to which the wrong answers are given, evenly spread; the right one is given to all."""
RAISED = 3
"""A reward that raised on so many samples is left out of the rest, and one that raises is asked no more of a sample."""
SECONDS = 30.0
"""Time for the answers of one split; slow rewards judge fewer."""

ROUNDED = ("box.", "det.", "seg.", "track.", "gui.")
"""Families whose right answers lose by rounding where objects are small."""
NOT_THE_ANSWER = ("tool.", "agent.", "video.temporal_contrast", "video.semantic", "det.calibration")
"""Rewards that look for what a bare reference answer does not hold: calls, steps, thoughts, confidences."""

MetaOf = Callable[[Sample], dict[str, Any]]
"""What rewards are told of a sample's prompt: `coord_space`, `image_size`, `input_size`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """One answer that was judged."""

    sample: str
    text: str
    score: Score


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What happened on the way."""

    given: dict[str, list[_Given]] = field(default_factory=dict)
    """By kind of answer."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """(sample, why) where the sample itself cannot be judged or asked."""
    raised: list[tuple[str, str]] = field(default_factory=list)
    """(sample, message) where a reward raised."""
    by_reward: Counter[str] = field(default_factory=Counter)
    """On how many samples each reward raised."""
    left_out: list[str] = field(default_factory=list)
    """Rewards that raised on RAISED samples, and so on most likely all."""
    unjudged: int = 0
    """Samples that time did not suffice for."""


def judge_samples(
    samples: Sequence[Sample], data: DataConfig, judge: Judge, meta_of: MetaOf, *, where: str, scored: bool = True
) -> tuple[Scores | None, list[Finding]]:
    """What `judge`, built with `max_errors=0`, says of the answers to `samples`.

    scored: also give answers; else only the targets and prompts are tried, as a stage does that teaches them.
    """
    tally = _tally(samples, data, judge, meta_of, scored=scored)
    findings = list(_of_samples(tally, where))
    findings += [_of_when(unused, where) for unused in judge.unused()]
    if REFERENCE not in tally.given:
        return None, findings
    entries = [entry for entry in judge.entries if _tells(entry)]
    for entry in entries:
        findings += _of_reference(entry, tally.given[REFERENCE], where)
        if entry.judges_task:
            findings += _of_tricks(entry, tally.given, where)
    findings += _of_totals(tally.given, [entry for entry in judge.entries if _counts(entry)], where)
    names = [entry.name for entry in judge.entries]
    lines = tuple(_line(kind, given, names) for kind, given in tally.given.items())
    return Scores(where=where, space=_space(samples, meta_of), lines=lines), findings


def _tally(samples: Sequence[Sample], data: DataConfig, judge: Judge, meta_of: MetaOf, *, scored: bool) -> _Tally:
    tally, tasks, templates = _Tally(), tasks_of(data), dict[str, str | None]()
    until = time.monotonic() + SECONDS
    for place, sample in _spread(samples):
        task = tasks.get(sample.task) or build_task(sample.task)
        if task.name not in templates:
            templates[task.name] = whole_templates(data, [task.name]).get(task.name)
        try:
            meta = meta_of(sample)
            judge.check(sample, meta)
            space, size, seen = meta["coord_space"], _pair(meta.get("image_size")), _pair(meta.get("input_size"))
            task.user_parts(
                sample, space=space, output_mode=data.output_mode, template=templates[task.name], input_size=seen
            )
            right = task.reference(sample, space=space, image_size=size, input_size=seen, output_mode=data.output_mode)
            wrong = {}
            if scored and place < TRICKED:
                wrong = adversarial(sample, task, space=space, image_size=size, input_size=seen, mode=data.output_mode)
        except (TargetError, CoordError, DataError) as error:
            tally.bad.append((sample.id, str(error)))
            continue
        if scored and time.monotonic() > until:
            tally.unjudged += 1
        elif scored:
            _judge(sample, {REFERENCE: right, **wrong}, meta, judge, tally)
    return tally


def _judge(sample: Sample, answers: Mapping[str, str], meta: Mapping[str, Any], judge: Judge, tally: _Tally) -> None:
    for kind, text in answers.items():
        # Bytes stand in for tokens: no tokenizer is loaded.
        ids = list(text.encode())
        known = {**meta, "num_tokens": max(1, len(ids) // 4), "completion_ids": ids}
        try:
            score = judge.score(text, sample, known)
        except (RewardError, TargetError) as error:
            tally.raised.append((sample.id, f"with the answer `{kind}`: {error}"))
            if isinstance(error, RewardError) and error.reward is not None:
                tally.by_reward[error.reward] += 1
                if tally.by_reward[error.reward] == RAISED:
                    judge.leave_out(error.reward)
                    tally.left_out.append(error.reward)
            return
        tally.given.setdefault(kind, []).append(_Given(sample=sample.id, text=text, score=score))


def _spread(samples: Sequence[Sample]) -> Iterator[tuple[int, Sample]]:
    """All samples, numbered: first TRICKED of them from beginning to end, then the others in their order."""
    stride = max(1, len(samples) // TRICKED)
    first = range(0, len(samples), stride)[:TRICKED]
    chosen = set(first)
    yield from enumerate(samples[i] for i in (*first, *(i for i in range(len(samples)) if i not in chosen)))


def _of_samples(tally: _Tally, where: str) -> Iterator[Finding]:
    for message, places in grouped(tally.bad):
        yield finding_of(
            "problem", where, message, places, "correct these rows, or the reward's `when`, `target` and options"
        )
    for message, places in grouped(tally.raised):
        yield finding_of(
            "problem", where, message, list(dict.fromkeys(places)), "mend the reward; its traceback is logged above"
        )
    if tally.left_out:
        names = ", ".join(tally.left_out)
        what = f"raised on {RAISED} samples, and were left out from there on: {names}"
        yield Finding(level="note", where=where, what=what, count=len(tally.left_out))
    if tally.unjudged:
        judged = len(tally.given.get(REFERENCE, ()))
        yield Finding(
            level="note",
            where=where,
            what=f"{judged} reference answers took {SECONDS:g} s to judge; the others were left out",
            count=tally.unjudged,
        )


def _of_when(unused: Unused, where: str) -> Finding:
    """A reward that applies to nothing: a mistake, unless it is one of several for rows of different kinds."""
    known = unused.key == "task" and all(value in TASKS for value in unused.wanted)
    meant = unused.alternative and (known or not unused.slip)
    return Finding(
        level="note" if meant else "problem",
        where=where,
        what=unused.text,
        next="" if meant else "correct `when` of that reward, or the samples' meta",
    )


def _tells(entry: Entry) -> bool:
    """Whether 1 is what a right answer earns of this reward, by its own description."""
    from vlrft.rewards.describe import describe

    func = entry.spec.func
    if not is_builtin(func) or func.startswith(NOT_THE_ANSWER):
        return False
    if not (entry.judges_task or func.startswith("format.")):
        return False
    return describe(func).range.startswith(("[0, 1]", "{0, 1}"))


def _of_reference(entry: Entry, given: Sequence[_Given], where: str) -> Iterator[Finding]:
    """Right answers that do not score."""
    judged = [(item, value) for item in given if (value := item.score.parts.get(entry.name)) is not None]
    counts = _counts(entry)
    broken = [(item, value) for item, value in judged if value < BROKEN]
    short = [(item, value) for item, value in judged if BROKEN <= value < NEAR_FULL]
    see = f"vlrft rewards show {entry.spec.func} says what it judges; correct the answers, or the reward's options"
    for cases, excuse in ((broken, False), (short, entry.spec.func.startswith(ROUNDED))):
        if not cases:
            continue
        lowest, value = min(cases, key=lambda case: case[1])
        bound = BROKEN if cases is broken else NEAR_FULL
        why = ": no answer can score more, for coordinates are whole numbers there" if excuse else ""
        yield finding_of(
            "warning" if excuse or not counts else "problem", where,
            f"the reference answer scores below {bound:g} by {entry.name}{why} "
            f"(lowest {value:.3f}, sample {lowest.sample}: {lowest.text!r:.160})",
            [item.sample for item, _ in cases],
            "larger images (data.resize, data.max_pixels), or larger objects" if excuse else see,
        )  # fmt: skip


def _of_tricks(entry: Entry, given: Mapping[str, Sequence[_Given]], where: str) -> Iterator[Finding]:
    """Wrong answers that are paid by a reward that should tell."""
    for kind, items in given.items():
        judged = [(item, value) for item in items if (value := item.score.parts.get(entry.name)) is not None]
        if kind == REFERENCE or not judged:
            continue
        mean = statistics.fmean(value for _, value in judged)
        paid = [(item, value) for item, value in judged if value >= BROKEN]
        bound = BROKEN if kind == WHOLE else PAID
        if mean < bound and (not paid or kind == WHOLE):
            continue
        highest, value = max(judged, key=lambda case: case[1])
        yield finding_of(
            "problem" if mean >= bound and kind != WHOLE and _counts(entry) else "warning", where,
            f"the answer `{kind}` earns {mean:.3f} of {entry.name} in the mean of {len(judged)} samples "
            f"(highest {value:.3f}, sample {highest.sample}: {highest.text!r:.160})",
            [item.sample for item, _ in paid],
            "what is asked for nearly fills picture or clip, or lies in the middle: a stricter reward, such as "
            "box.acc@0.75, tells more"
            if kind == WHOLE
            else f"see what is judged: vlrft rewards show {entry.spec.func}; choose a stricter reward or mend the rows",
        )  # fmt: skip


def _of_totals(given: Mapping[str, Sequence[_Given]], entries: Sequence[Entry], where: str) -> Iterator[Finding]:
    """Tricks that are worth as much as the right answer, and right answers that are worth nothing at all."""
    none = [item.sample for item in given[REFERENCE] if item.score.value is None]
    if none:
        yield finding_of(
            "problem", where, "no reward applies to the reference answer", none,
            "add a reward for these samples, or correct `when`",
        )  # fmt: skip
    right = _mean(item.score.value for item in given[REFERENCE])
    for kind, items in given.items():
        mean = _mean(item.score.value for item in items)
        if kind == REFERENCE or right is None or mean is None:
            continue
        if kind != WHOLE and right - mean < MARGIN:
            yield Finding(
                level="problem",
                where=where,
                what=f"the answer `{kind}` is worth {mean:.3f} in all, the reference answer {right:.3f}: the rewards "
                "do not tell them apart, so nothing could be learned",
                count=len(items),
                next="add a reward that says whether the answer is right ('vlrft rewards ls'), or mend your own",
            )
        elif right > 0.0 and mean >= PAID * right:
            yield _paid_in_all(kind, items, mean, right, entries, where)


def _paid_in_all(
    kind: str, items: Sequence[_Given], mean: float, right: float, entries: Sequence[Entry], where: str
) -> Finding:
    """A trick that gets a large share of what the right answer gets, though no single reward need be to blame."""
    by_part = {entry.name: _mean(item.score.parts.get(entry.name) for item in items) for entry in entries}
    paid = [f"{name} {value:.3f}" for name, value in by_part.items() if value is not None and value > 0.0]
    return Finding(
        level="warning",
        where=where,
        what=f"the answer `{kind}` is worth {mean:.3f} in all, {mean / right:.0%} of the reference answer's "
        f"{right:.3f} (its parts: {', '.join(paid)})",
        count=len(items),
        next="give less weight to the rewards that pay it, or a `gate` on one that says whether the answer is right",
    )


def _counts(entry: Entry) -> bool:
    """Whether it has a weight at any time."""
    weight = entry.spec.weight
    return weight > 0 if isinstance(weight, int | float) else any(value > 0 for _, value in weight)


def _line(kind: str, given: Sequence[_Given], names: Sequence[str]) -> Line:
    return Line(
        answer=kind,
        count=len(given),
        total=_mean(item.score.value for item in given),
        parts={name: _mean(item.score.parts.get(name) for item in given) for name in names},
    )


def _mean(values: Iterator[float | None] | Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _space(samples: Sequence[Sample], meta_of: MetaOf) -> str:
    return str(meta_of(samples[0])["coord_space"])


def _pair(size: Any) -> tuple[int, int] | None:
    return (size[0], size[1]) if size else None
