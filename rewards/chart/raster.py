"""Which cells of a coarse grid over the canvas the paint of an outline covers.

A cell counts as covered when its centre is, by the rule that Agg fills by (winding number not 0), so that slivers that
together cover an area cover its cells together. Bounded in time: edges cross rows within a budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlrft.rewards.chart.commands import GAP, Array, Box, Path, TooLargeError

Mask = NDArray[np.bool_]
Cells = NDArray[np.intp]

SIDE = 192
"""Cells along the longer side of a canvas: about three pixels each of a figure of the usual size."""
MAX_CROSSINGS, MAX_CELLS = 2_500_000, 10_000_000
"""Rows that edges may cross, and cells that may be covered, in all pages of a result."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Covered cells: those of `mask` (all where it is None) within rows and columns [top, bottom), [left, right)."""

    top: int
    bottom: int
    left: int
    right: int
    mask: Mask | None
    share: Array | None = None
    """How much of each cell is covered, where that is not all: of a rectangle thinner than a cell."""

    @property
    def place(self) -> tuple[slice, slice]:
        """Its rectangle, as an index into an array over the grid."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(slots=True)
class Work:
    """What is left to do for the pages of one result."""

    crossings: int = MAX_CROSSINGS
    cells: int = MAX_CELLS

    def take(self, crossings: int, cells: int) -> None:
        """Count it. Raises TooLargeError."""
        self.crossings -= crossings
        self.cells -= cells
        if self.crossings < 0 or self.cells < 0:
            raise TooLargeError("more covered area than is read")


class Grid:
    """Cells over a canvas of `width` x `height` pixels; row 0 is at y = 0, below."""

    def __init__(self, width: int, height: int, work: Work) -> None:
        self.scale = min(1.0, SIDE / max(width, height))
        self.rows, self.columns = max(1, round(height * self.scale)), max(1, round(width * self.scale))
        self.work = work

    def cells(self, points: Array) -> Cells:
        """Number of the cell in which each point lies; the nearest one of those beyond the edge."""
        across = np.minimum((points[:, 0] * self.scale).clip(0).astype(np.intp), self.columns - 1)
        up = np.minimum((points[:, 1] * self.scale).clip(0).astype(np.intp), self.rows - 1)
        made: Cells = up * self.columns + across
        return made

    def within(self, box: Box) -> tuple[int, int, int, int]:
        """Rows and columns whose centres lie in `box`: top, bottom, left, right."""
        left, right = (_between(side * self.scale, self.columns) for side in (box[0], box[2]))
        top, bottom = (_between(side * self.scale, self.rows) for side in (box[1], box[3]))
        return top, bottom, left, right

    def rectangle(self, box: Box, region: Box) -> Patch | None:
        """The cells of `box` within `region`; where it is thinner than a cell, their shares."""
        top, bottom, left, right = self.within(box)
        rows = columns = None
        if (box[3] - box[1]) * self.scale < 1.0:
            top, bottom, rows = _shares(box[1] * self.scale, box[3] * self.scale, self.rows)
        if (box[2] - box[0]) * self.scale < 1.0:
            left, right, columns = _shares(box[0] * self.scale, box[2] * self.scale, self.columns)
        within = self.within(region)
        share: Array | None = None
        if rows is not None or columns is not None:
            rows = np.ones(max(0, bottom - top)) if rows is None else rows
            columns = np.ones(max(0, right - left)) if columns is None else columns
            share = np.asarray(
                np.outer(rows[max(0, within[0] - top) :], columns[max(0, within[2] - left) :]), np.float64
            )
        top, left = max(top, within[0]), max(left, within[2])
        bottom, right = min(bottom, within[1]), min(right, within[3])
        if bottom <= top or right <= left:
            return None
        self.work.take(0, (bottom - top) * (right - left))
        return Patch(top, bottom, left, right, None, None if share is None else share[: bottom - top, : right - left])

    def filled(self, points: Array, starts: Cells, region: Box, *, union: bool = False) -> Patch | None:
        """The cells within closed outlines that begin at `starts`, within `region`.

        union: outlines are separate marks, and what lies in several of them is not taken out.
        """
        if len(starts) == 1 and 4 <= len(points) <= 5 and _upright(points):
            low, high = points.min(axis=0), points.max(axis=0)
            return self.rectangle((low[0], low[1], high[0], high[1]), region)
        scaled = points * self.scale
        after = np.arange(1, len(points) + 1)
        ends = np.append(starts[1:], len(points))
        after[ends - 1] = starts
        x0, y0 = scaled.T
        x1, y1 = scaled[after].T
        top, bottom, left, right = self.within(region)
        low, high = (np.ceil(f(y0, y1) - 0.5).clip(top, bottom).astype(np.intp) for f in (np.minimum, np.maximum))
        count = high - low
        total = int(count.sum())
        if not total or right <= left:
            return None
        turn = np.where(y1 > y0, 1.0, -1.0)
        if union:
            area = np.add.reduceat(x0 * y1 - x1 * y0, starts)
            turn *= np.repeat(np.where(area < 0, -1.0, 1.0), ends - starts)
        first, last = int(low[count > 0].min()), int(high[count > 0].max())
        self.work.take(total, 0)
        edge = np.repeat(np.arange(len(points)), count)
        row = np.arange(total) + np.repeat(low - (np.cumsum(count) - count), count)
        slope = (x1 - x0) / np.where(y1 == y0, 1.0, y1 - y0)
        x = x0[edge] + (row + 0.5 - y0[edge]) * slope[edge]
        column = np.ceil(x - 0.5).clip(left, right).astype(np.intp)
        left, right = int(column.min()), int(column.max())
        wide = right - left + 1
        self.work.take(0, (last - first) * wide)
        winding = np.bincount((row - first) * wide + column - left, turn[edge], (last - first) * wide)
        mask = np.abs(winding.reshape(-1, wide)[:, :-1].cumsum(axis=1)) > 0.5
        return Patch(first, last, left, right, mask) if mask.any() else None


def _between(side: float, cells: int) -> int:
    return int(min(max(np.ceil(side - 0.5), 0), cells))


def _shares(low: float, high: float, cells: int) -> tuple[int, int, Array]:
    """(first, end, how much of each) of the cells along one side between two places that are less than a cell apart."""
    first, end = (int(min(max(np.floor(side), 0), cells)) for side in (low, high))
    each = np.arange(first, min(end + 1, cells))
    return first, first + len(each), (np.minimum(high, each + 1) - np.maximum(low, each)).clip(0.0, 1.0)


def _upright(points: Array) -> bool:
    """Is it a rectangle along the axes?"""
    low, high = points.min(axis=0), points.max(axis=0)
    sides = (points == low) | (points == high)
    return bool(sides.all() and (np.abs(np.diff(points[:4], axis=0)) > 0).sum(axis=1).max() == 1)


def are_there(points: Array) -> Mask:
    """Which points are not gaps."""
    made: Mask = np.abs(points).max(axis=1, initial=0.0) < GAP
    return made


def outline(path: Path) -> tuple[Array, Cells, Mask]:
    """A path with its curves cut into straight pieces: (points, where its parts begin, which of its points these are).

    Gaps are left out, and the points that only say that a part is closed.
    """
    points, codes = path.points, path.codes
    kept = are_there(points)
    if codes is None:
        begins = np.zeros(len(points), dtype=bool)
        begins[:1] = True
    else:
        cubic, quadratic = codes == 4, codes == 3
        if cubic.any() or quadratic.any():
            points = _on_the_curves(points, _curves(cubic, 3), _curves(quadratic, 2))
        begins = codes == 1
        kept &= codes != 79
    if kept.all():
        return points, np.flatnonzero(begins), kept
    # A part whose first point is missing begins with the next one that is there.
    part = np.cumsum(begins)[kept]
    return points[kept], np.flatnonzero(np.diff(part, prepend=-1)), kept


def _ends(points: Array, starts: Cells) -> Cells:
    """Numbers of the points at which a straight piece of a line ends."""
    inner = np.ones(len(points), dtype=bool)
    inner[starts] = False
    return np.flatnonzero(inner)


def along(points: Array, starts: Cells, bounds: Cells, regions: Array, number: Cells) -> tuple[Cells, Array]:
    """Places on the lines of several marks, evenly over what of each lies in its region: (mark, place) of each.

    The points of mark i begin at `bounds[i]`, its region is `regions[i]`, and it gets `number[i]` places, or none where
    nothing of it lies there.
    """
    ends = _ends(points, starts)
    mark = np.searchsorted(bounds, ends, side="right") - 1
    a, b = points[ends - 1], points[ends]
    step, box = b - a, regions[mark]
    enter, leave = np.zeros(len(a)), np.ones(len(a))
    for axis in (0, 1):
        side, low, high = a[:, axis], box[:, axis], box[:, axis + 2]
        if ((np.minimum(side, b[:, axis]) >= low) & (np.maximum(side, b[:, axis]) <= high)).all():
            continue
        still = step[:, axis] == 0
        pace = np.where(still, 1.0, step[:, axis])
        first, second = (low - side) / pace, (high - side) / pace
        beside = still & ((side < low) | (side > high))
        enter = np.where(still, np.where(beside, 2.0, enter), np.maximum(enter, np.minimum(first, second)))
        leave = np.where(still, leave, np.minimum(leave, np.maximum(first, second)))
    length = np.hypot(step[:, 0], step[:, 1]) * np.maximum(0.0, leave - enter)
    total, whole = np.cumsum(length), np.bincount(mark, length, len(number))
    number = np.where(whole > 0.01, number, 0)
    of = np.repeat(np.arange(len(number)), number)
    place = np.arange(len(of)) - np.repeat(np.cumsum(number) - number, number)
    wanted = (np.cumsum(whole) - whole)[of] + (place + 0.5) / number[of] * whole[of]
    piece = np.searchsorted(total, wanted).clip(0, max(0, len(total) - 1))
    share = (wanted - total[piece] + length[piece]) / np.maximum(length[piece], 1e-12)
    share = enter[piece] + share.clip(0, 1) * (leave[piece] - enter[piece])
    return of, a[piece] + share[:, None] * step[piece]


def thick(points: Array, starts: Cells, width: float) -> tuple[Array, Cells]:
    """A stroke as rectangles, one for each piece of the line."""
    ends = _ends(points, starts)
    a, b = points[ends - 1], points[ends]
    step = b - a
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9)[:, None]
    aside = np.stack([-step[:, 1], step[:, 0]], axis=1) / length * (width / 2)
    corners = np.stack([a + aside, b + aside, b - aside, a - aside], axis=1)
    return corners.reshape(-1, 2), np.arange(len(a), dtype=np.intp) * 4


def _curves(on: Mask, group: int) -> Cells:
    """Where each curve's first control point is; its end lies `group` - 1 behind, whatever its code, as in Agg."""
    place = np.flatnonzero(on)
    begins = np.flatnonzero(np.diff(place, prepend=-2) > 1)
    order = np.arange(len(place)) - np.repeat(begins, np.diff(np.append(begins, len(place))))
    found: Cells = place[order % group == 0]
    return found[found + group <= len(on)]


def _on_the_curves(points: Array, cubic: Cells, quadratic: Cells) -> Array:
    """Control points moved onto their curves, as many as there were."""
    made = points.copy()
    if cubic.size:
        p0, p1, p2, p3 = (points[cubic + i] for i in (-1, 0, 1, 2))
        made[cubic] = (8 * p0 + 12 * p1 + 6 * p2 + p3) / 27
        made[cubic + 1] = (p0 + 6 * p1 + 12 * p2 + 8 * p3) / 27
    if quadratic.size:
        p0, p1, p2 = (points[quadratic + i] for i in (-1, 0, 1))
        made[quadratic] = (p0 + 2 * p1 + p2) / 4
    return made
