"""What validation found, as data, as text for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["problem", "warning", "note"]
"""Only a problem fails the validation."""

EXAMPLES = 3
"""Samples that a finding names."""
_SAID = 2000
"""Characters of a line of a message that are shown in a terminal; only texts of rows are as long."""
_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^\[\]]*\]|\S*/\S+|\d+(?:\.\d+)?")
"""What differs between two messages of one kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing worth knowing."""

    level: Level
    where: str
    """The part of the recipe that it is about."""
    what: str
    count: int = 1
    """How many rows, samples or answers it holds for."""
    examples: tuple[str, ...] = ()
    """The first of them, by file and line or by sample id."""
    next: str = ""
    """What to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRead:
    """What came of reading one split."""

    where: str
    tasks: Mapping[str, int]
    """Samples by task."""
    bad: int
    """Rows that cannot be used."""
    published: int
    """Rows of published files against which no answer can be judged."""
    filtered: int
    """Rows left out by a rule of the recipe."""
    images: int
    videos: int
    limit: int | None
    """Only so many samples of each source were read; None = all."""

    @property
    def samples(self) -> int:
        return sum(self.tasks.values())

    @property
    def rows(self) -> int:
        """Samples, and the rows that are lost: all but what the recipe filters."""
        return self.samples + self.bad + self.published


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One kind of answer, and what it earns in the mean."""

    answer: str
    count: int
    total: float | None
    """The combined value."""
    parts: Mapping[str, float | None]
    """By reward; None where it applied to no sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What the rewards of one split say of right and of wrong answers."""

    where: str
    space: str
    """Coordinate space in which the answers were written."""
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A rendered prompt."""

    where: str
    sample: str
    media: tuple[str, ...]
    """Name, stored size and size as shown of each item."""
    tokens: int
    text: str
    """With one placeholder per media item."""


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything that a validation has found so far."""

    recipe: str
    stages: tuple[str, ...] = ()
    splits: list[SplitRead] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    prompts: list[Shown] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.of("problem")

    def of(self, level: Level) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]

    def add(self, findings: Iterable[Finding]) -> None:
        """Stages may share rows and rewards: what has been said is not said again."""
        self.findings += [finding for finding in findings if finding not in self.findings]

    def as_json(self) -> dict[str, Any]:
        """JSON-like; `ok` first."""
        content = dataclasses.asdict(self)
        for split, read in zip(content["splits"], self.splits, strict=True):
            split |= {"samples": read.samples, "rows": read.rows}
        return {"ok": self.ok, **content}

    def as_text(self) -> str:
        """What the command prints."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.recipe}: {', '.join(self.stages)}"
        for split in self.splits:
            tasks = ", ".join(f"{count} {task}" for task, count in split.tasks.items()) or "no sample"
            limit = f" (the first {split.limit} of each source)" if split.limit is not None else ""
            of = f" of {split.rows} rows" if split.rows > split.samples else ""
            left = f"; {split.bad} bad rows, {split.published} left out as published, {split.filtered} by the recipe"
            yield f"{split.where}: {tasks}{of}{limit}; {split.images} images, {split.videos} videos{left}"
        for scores in self.scores:
            yield ""
            yield f"{scores.where}: mean values of answers written in {scores.space}"
            yield from _table(scores.lines)
        for shown in self.prompts:
            yield ""
            yield f"{shown.where}: prompt of sample {shown.sample}, {shown.tokens} tokens"
            yield from (f"  {item}" for item in shown.media)
            yield from (f"  | {line}" for line in shown.text.splitlines())
        for level in ("problem", "warning", "note"):
            for finding in self.of(level):
                yield ""
                yield from _said(finding)
        yield ""
        yield self._verdict()

    def _verdict(self) -> str:
        counts = [(len(self.of(level)), level) for level in ("problem", "warning", "note")]
        told = ", ".join(f"{count} {level}{'s' * (count != 1)}" for count, level in counts if count)
        return f"{'fine' if self.ok else 'not fine'}: {told or 'nothing to remark'}; {self.seconds:.1f} s"


def grouped(reasons: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """(the first message, the places) for each kind of message of (place, message), the most frequent first."""
    kinds: dict[str, tuple[str, list[str]]] = {}
    for place, message in reasons:
        kinds.setdefault(_VARIABLE.sub("_", message), (message, []))[1].append(place)
    return sorted(kinds.values(), key=lambda kind: -len(kind[1]))


def finding_of(level: Level, where: str, what: str, places: Sequence[str], to_do: str) -> Finding:
    """A finding that holds for all of `places`."""
    return Finding(
        level=level, where=where, what=what, count=len(places), examples=tuple(places[:EXAMPLES]), next=to_do
    )


def _table(lines: Sequence[Line]) -> Iterator[str]:
    names = list(lines[0].parts) if lines else []
    head = ["answer", "n", "total", *names]
    rows = [[x.answer, str(x.count), _number(x.total), *(_number(x.parts[name]) for name in names)] for x in lines]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(["  " + row[0].ljust(widths[0]), *cells])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _said(finding: Finding) -> Iterator[str]:
    times = f"{finding.count} x " if finding.count > 1 else ""
    first, *others = finding.what.splitlines() or [""]
    yield f"{finding.level}: {finding.where}: {times}{_short(first)}"
    yield from (f"  {_short(line.strip())}" for line in others)
    if finding.examples:
        more = ", ..." if finding.count > len(finding.examples) else ""
        yield f"  for example {', '.join(finding.examples)}{more}"
    if finding.next:
        yield f"  next: {finding.next}"


def _short(text: str) -> str:
    return text if len(text) <= _SAID else text[: _SAID - 3] + "..."
