"""Which series each entry of a legend belongs to, by the paint of its handle.

Nothing says so but the drawing: the marks left of an entry's text (right of it where texts come first) are its handle,
and the entry belongs to the series that are painted alike: in colour, and among those of one colour by the kind of
paint, its dashes, its hatch or the shape of its markers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlrft.rewards.chart.commands import Op
from vlrft.rewards.chart.inks import Seen, colours
from vlrft.rewards.chart.marks import is_placed, places
from vlrft.rewards.chart.raster import are_there

Paint = tuple[str, str, object]
"""Colour, kind of paint, and what else tells it apart."""

_MAX_PLACED = 64
"""Texts, and handles, of one legend that are brought together."""
_MAX_SERIES = 256
"""Series that a legend is compared with."""


@dataclass(slots=True)
class Drawn:
    """A series, as far as a legend can tell: where it is, how it is painted, which of its points have which colour."""

    place: tuple[int, int]
    paints: set[Paint]
    colours: Sequence[str]
    points: int


@dataclass(slots=True)
class Key:
    """A legend of one page: its texts in order, as (x, middle, size) in pixels, and the paint of its handles."""

    place: tuple[int, int]
    texts: list[tuple[float, float, float]] = field(default_factory=list)
    handles: list[Op] = field(default_factory=list)

    def add(self, op: Op, height: float) -> None:
        if op.kind == "text":
            self.texts.append((float(op.at[0, 0]), float(height - op.at[0, 1] + 0.35 * op.size), op.size))
        elif len(self.handles) < 4 * _MAX_PLACED:
            self.handles.append(op)


def paints(ops: Sequence[Seen]) -> set[Paint]:
    """How a series, or a handle, is painted. Of many commands, the first and the last ones are looked at."""
    some = ops if len(ops) <= _MAX_PLACED else [*ops[: _MAX_PLACED // 2], *ops[-_MAX_PLACED // 2 :]]
    made: set[Paint] = set()
    for op, shows in some:
        kind, detail = _style(op)
        made |= {(colour, kind, detail) for colour in colours([(op, shows)])}
    return made


def ties(key: Key, series: Sequence[Drawn]) -> list[list[list[int]]]:
    """Of each text of a legend, in order, the [series, point] that it belongs to; point -1 for a whole series."""
    handles: list[set[Paint]] = [set() for _ in key.texts]
    for op, entry in zip(key.handles, _entries(key), strict=True):
        if entry is not None:
            handles[entry] |= paints([(op, np.ones(max(1, len(op.lengths), len(op.at)), dtype=bool))])
    every = range(min(len(series), _MAX_SERIES))
    near = [i for i in every if series[i].place == key.place]
    return [_tied(handle, series, near) or _tied(handle, series, every) for handle in handles]


def _style(op: Op) -> tuple[str, object]:
    if op.kind == "markers" or (op.kind == "many" and is_placed(op)):
        points = op.path.points[: op.lengths[0]] if len(op.lengths) else op.path.points
        points = points[are_there(points)][:32]
        shape = np.rint(10 * points / max(float(np.abs(points).max(initial=0.0)), 1e-9))
        return "mark", tuple(shape.ravel().tolist())
    if op.fill is not None or len(op.fills):
        return "fill", op.hatch
    return "stroke", tuple(round(length / max(op.width, 0.1), 1) for length in op.dashes)


def _entries(key: Key) -> list[int | None]:
    """Of each handle the text beside it, on its line."""
    sides = [_extent(op) for op in key.handles]
    if not key.texts:
        return [None] * len(sides)
    texts = np.array(key.texts[:_MAX_PLACED])
    # The frame around all of it is left of no text and right of none.
    reached = [side for side in sides if side is not None and not (side[0] < texts[:, 0].min() < side[1])]
    first = bool(reached) and min(side[0] for side in reached) > float(texts[:, 0].min())
    return [None if side is None else _beside(side, texts, first) for side in sides]


def _beside(side: tuple[float, float, float], texts: Any, texts_first: bool) -> int | None:
    left, right, middle = side
    x, line, size = texts.T
    away = left - x if texts_first else x - right
    fits = (np.abs(line - middle) <= 0.75 * size) & (away > -0.5 * size)
    return int(np.where(fits, away, np.inf).argmin()) if fits.any() else None


def _extent(op: Op) -> tuple[float, float, float] | None:
    """(left, right, middle of its height)."""
    at = places(op) if op.kind in ("markers", "many") and is_placed(op) else op.path.points
    at = at[are_there(at)]
    if not len(at):
        return None
    (left, bottom), (right, top) = at.min(axis=0), at.max(axis=0)
    return float(left), float(right), float(bottom + top) / 2


def _tied(handle: set[Paint], series: Sequence[Drawn], among: Sequence[int] | range) -> list[list[int]]:
    best, tied = 0.0, list[int]()
    for i in among:
        fit = sum(max((_alike(mark, own) for own in series[i].paints), default=0.0) for mark in handle)
        if fit > best + 1e-9:
            best, tied = fit, [i]
        elif fit > 0.0 and fit > best - 1e-9:
            tied.append(i)
    colour_names = {colour for colour, _, _ in handle}
    made = []
    for i in tied:
        one = series[i]
        parts = [k for k, colour in enumerate(one.colours) if colour in colour_names]
        by_point = len(one.colours) == one.points > 1
        made += [[i, k] for k in parts] if by_point else [[i, -1]]
    return made


def _alike(mark: Paint, own: Paint) -> float:
    if mark[0] != own[0]:
        return 0.0
    return 1.0 + 0.5 * (mark[1] == own[1]) + 0.25 * (mark[1:] == own[1:])
