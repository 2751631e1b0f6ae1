"""The marks of one paint command as outlines, where they are painted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlrft.rewards.chart.commands import GAP, Array, Op
from vlrft.rewards.chart.raster import Cells, outline

_MANY_POINTS = 20_000
"""Where repeated outlines have more points than this, each mark is its bounding box."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of one command, in pixels and in order."""

    points: Array
    """[m, 2], all outlines as one."""
    starts: Cells
    """Where its parts begin; a mark may have several."""
    bounds: Cells
    """[n + 1]: where the points of each mark begin."""


def is_placed(op: Op) -> bool:
    """Has each mark a place of its own, beside its outline?"""
    return len(op.at) > 1 or bool(len(op.at) and np.abs(op.at).max() > 0)


def places(op: Op) -> Array:
    """Where the marks of a command are that `is_placed`, [n, 2]."""
    if not len(op.matrices):
        return op.at
    each = np.arange(max(len(op.lengths), len(op.at)))
    placed: Array = op.at[each % len(op.at)] + op.matrices[each % len(op.matrices), 4:]
    return placed


def marks(op: Op) -> Marks:
    """Of a `path`, `markers` or `many` command."""
    points, starts, kept = outline(op.path)
    if op.kind == "path":
        return Marks(points, starts, np.array([0, len(points)]))
    lengths = op.lengths if op.kind == "many" else np.array([len(op.path.points)])
    if not len(lengths) or not len(points) or (op.kind == "markers" and not len(op.at)):
        return Marks(np.zeros((0, 2)), np.zeros(0, dtype=np.intp), np.zeros(1, dtype=np.intp))
    matrices = op.matrices if len(op.matrices) else np.array([[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]])
    begins = np.zeros(len(points), dtype=bool)
    begins[starts] = True
    count = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[kept], minlength=len(lengths))
    each = np.arange(max(len(lengths), len(op.at)))
    of = each % len(lengths)
    if len(each) > len(lengths) and count[of].sum() > _MANY_POINTS:
        points, begins, count = _boxes(points, count)
    first, number = np.cumsum(count) - count, count[of]
    bounds = np.append(0, np.cumsum(number))
    mark = np.repeat(each, number)
    source = np.arange(bounds[-1]) - bounds[mark] + first[of][mark]
    made = moved(points[source], matrices[mark % len(matrices)])
    if len(op.at):
        made += op.at[mark % len(op.at)]
    new = begins[source]
    new[bounds[:-1][number > 0]] = True
    return Marks(made, np.flatnonzero(new), bounds)


def moved(points: Array, matrices: Array) -> Array:
    """Each point by its affine matrix (a, b, c, d, e, f)."""
    a, b, c, d, e, f = matrices.T
    x, y = points.T
    return np.stack([a * x + c * y + e, b * x + d * y + f], axis=1)


def extents(points: Array, bounds: Cells) -> tuple[Array, Array]:
    """Lowest and highest coordinates of each mark, [n, 2]; GAP where it has no points."""
    some = np.diff(bounds) > 0
    low, high = np.full((2, len(some), 2), GAP)
    if some.any():
        low[some] = np.minimum.reduceat(points, bounds[:-1][some])
        high[some] = np.maximum.reduceat(points, bounds[:-1][some])
    return low, high


def _boxes(points: Array, count: Cells) -> tuple[Array, Cells, Cells]:
    """The bounding boxes of outlines in their place; of one without points, none."""
    low, high = extents(points, np.append(0, np.cumsum(count)))
    some = count > 0
    corners = np.stack([low, np.stack([high[:, 0], low[:, 1]], 1), high, np.stack([low[:, 0], high[:, 1]], 1)], axis=1)
    begins = np.tile([True, False, False, False], int(some.sum()))
    return corners[some].reshape(-1, 2), begins, np.where(some, 4, 0)
