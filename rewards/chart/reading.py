"""Elements of a chart, read off its paint commands in the trusted process.

Nothing that a program says about its chart is believed. What counts is paint: a text is one that was painted, a colour
is one that was painted with, a series' values are the pixels of its marks, turned back into data by the frame of its
axes; and the image is painted from the same commands. A command must have the form that painting asks for (schema.py),
and paint that nobody can see (too thin, too faint, too small, in the colour of what lies beneath, covered later,
outside the canvas or its clip) is nothing (visibility.py). So a forged result is either no drawing, and fails, or is
itself a drawing: of what it shows. What a program does choose, as any program may, is what its marks are called (line,
bar, legend) and which numbers its axes stand for; a bar must then be a rectangle, a pie slice round, an axes must hold
paint of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlrft.rewards.chart.commands import Array, Codes, Frame, NotADrawingError, Op, Page, Path, TooLargeError
from vlrft.rewards.chart.marks import is_placed, moved, places
from vlrft.rewards.chart.raster import Work, are_there
from vlrft.rewards.chart.sampling import FAINTEST, MIN_ALPHA
from vlrft.rewards.chart.schema import checked
from vlrft.rewards.chart.visibility import Shown, shown

__all__ = ["KINDS", "NotADrawingError", "TooLargeError", "layout", "read"]

KINDS = ("line", "bar", "barh", "wedge", "patch", "scatter", "lines", "area", "marks", "contour", "mesh", "image")
"""Roles of owners that make a series."""

MAX_COLOURS = 24
"""Distinct colours that one series lists; of more, evenly chosen ones."""
POOL = 16
"""Side of the grid of mean colours that stands for an image's values."""

_FRAMED = 5
"""Strokes of a frame that are looked at: the last ones, which are its sides."""

Seen = tuple[Op, Shown]
"""A command that shows, and which of its marks do."""


def read(pages: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The elements of all pages together (elements.py has their form).

    Raises NotADrawingError, and TooLargeError among those where there is more than is read.
    """
    made: dict[str, list[Any]] = {name: [] for name in ("text", "type", "layout", "colour", "legend", "data")}
    work = Work()
    for page in checked(pages):
        _read_page(page, made, work)
    return made


def _read_page(page: Page, made: dict[str, list[Any]], work: Work) -> None:
    series: dict[tuple[str, int, int], list[Seen]] = {}
    painted: set[int] = set()
    seen = shown(page, _judged(page), work)
    for op, shows in zip(page.ops, seen, strict=True):
        if shows is False:
            continue
        role, axes, number = page.owners[op.owner]
        if axes >= 0:
            painted.add(axes)
        if op.kind == "text":
            made["legend" if role == "legend" else "text"].append(" ".join(op.text.split()))
        elif role in KINDS and axes >= 0:
            series.setdefault((role, axes, number), []).append((op, shows))
    made["layout"] += layout([page.frames[i].slot for i in sorted(painted)], page.width, page.height)
    for (role, axes, _), ops in series.items():
        kind, points = _series(role, ops, page.frames[axes])
        made["type"].append(kind)
        made["colour"] += [[kind, colour] for colour in _colours(ops)]
        if len(points):
            made["data"].append({"type": kind, "points": points.tolist()})


def _judged(page: Page) -> list[int]:
    """The commands that make elements: texts, series, and of each axes the last strokes of its frame.

    A frame's ticks and grid are many and say no more than that the axes is there.
    """
    made, framed = [], Counter[int]()
    for i in range(len(page.ops) - 1, -1, -1):
        op = page.ops[i]
        role, axes, _ = page.owners[op.owner]
        if op.kind == "text" or (axes >= 0 and role in KINDS):
            made.append(i)
        elif axes >= 0 and op.kind == "path" and framed[axes] < _FRAMED:
            framed[axes] += 1
            made.append(i)
    return made[::-1]


def layout(slots: Sequence[Sequence[float]], width: float, height: float) -> list[list[int]]:
    """[rows, columns, top, bottom, left, right] of each axes, by the edges that the axes share (within 2 %)."""
    left, right = (_ranks([s[i] for s in slots], 0.02 * width) for i in (0, 2))
    bottom, top = (_ranks([-s[i] for s in slots], 0.02 * height) for i in (1, 3))
    rows, columns = max(top, default=-1) + 1, max(left, default=-1) + 1
    return [
        list(cell) for cell in zip([rows] * len(slots), [columns] * len(slots), top, bottom, left, right, strict=True)
    ]


def _ranks(values: Sequence[float], tolerance: float) -> list[int]:
    """Which of the distinct values, in rising order, each one is."""
    ranks, rank, last = [0] * len(values), -1, -math.inf
    for place in sorted(range(len(values)), key=lambda i: values[i]):
        if values[place] > last + tolerance:
            rank, last = rank + 1, values[place]
        ranks[place] = rank
    return ranks


def _series(role: str, ops: Sequence[Seen], frame: Frame) -> tuple[str, Array]:
    """(kind of chart, rows of numbers) of the marks that belong together."""
    if role == "wedge":
        return _pie(ops)
    if role in ("bar", "barh"):
        return _bars(role, ops, frame)
    if role in ("mesh", "image"):
        return role, np.concatenate([_cells(op) for op, _ in ops])
    paths = [one for one in ops if one[0].kind == "path"]
    if role == "line" and not paths:
        role = "scatter"  # markers alone look the same, whoever drew them
    pixels = np.concatenate([_marks(op, shows) for op, shows in (paths or ops)])
    return role, _data(frame, pixels)


def _data(frame: Frame, pixels: Array) -> Array:
    """Pixels to data; to fractions of the frame where its scale is not linear or logarithmic."""
    x0, y0, x1, y1 = frame.box
    across = (pixels[:, 0] - x0) / max(x1 - x0, 1e-9)
    up = (pixels[:, 1] - y0) / max(y1 - y0, 1e-9)
    return np.stack([_unscaled(across, frame.x), _unscaled(up, frame.y)], axis=1)


def _marks(op: Op, shows: Shown) -> Array:
    """Pixels of the marks of one command: a path's points, the places of those marks that show, or their outlines."""
    if op.kind not in ("markers", "many"):
        return _vertices(op.path)
    if is_placed(op):
        return places(op)[np.flatnonzero(shows)]
    if op.kind == "markers":  # how Matplotlib draws a collection of one outline
        return _vertices(op.path)
    outlines = np.repeat(np.arange(len(op.lengths)), op.lengths)
    kept = are_there(op.path.points)
    if op.path.codes is not None:
        kept &= op.path.codes != 79
    if not isinstance(shows, bool):
        kept &= shows[outlines]
    pixels = moved(op.path.points[kept], op.matrices[outlines[kept] % len(op.matrices)])
    return pixels + op.at[0] if len(op.at) else pixels


def _bars(role: str, ops: Sequence[Seen], frame: Frame) -> tuple[str, Array]:
    """Rows of (place, start, end), in data; patches where one is no upright rectangle."""
    rows = []
    for op, _ in ops:
        corners = _vertices(op.path) if op.kind == "path" else np.zeros((0, 2))
        low, high = (corners.min(axis=0), corners.max(axis=0)) if len(corners) else (np.zeros(2), np.zeros(2))
        on_edges = (np.abs(corners - low) <= 0.01) | (np.abs(corners - high) <= 0.01)
        if not 4 <= len(corners) <= 5 or not on_edges.all():
            return "patch", _data(frame, np.concatenate([_marks(*one) for one in ops]))
        rows.append([low, high])
    (x0, y0), (x1, y1) = (_data(frame, np.array(side)).T for side in zip(*rows, strict=True))
    across = [(x0 + x1) / 2, y0, y1] if role == "bar" else [(y0 + y1) / 2, x0, x1]
    return role, np.stack(across, axis=1)


def _pie(ops: Sequence[Seen]) -> tuple[str, Array]:
    """The share of each slice by its painted area; slices must have curves."""
    areas = []
    for op, _ in ops:
        codes = op.path.codes
        if codes is None or 4 not in codes:
            return "patch", np.zeros((0, 1))
        areas.append(_area(op.path.points, codes))
    total = sum(areas)
    return "pie", np.array([[a / total] for a in areas]) if total > 0 else np.zeros((0, 1))


def _area(points: Array, codes: Codes) -> float:
    """Area within one outline of straight lines and cubic curves, exactly."""
    kept = (codes != 79) & are_there(points)
    points, codes = points[kept], codes[kept]
    on = np.flatnonzero(codes == 4)[::3]
    on = on[on + 3 <= len(points)]
    ends = np.ones(len(points), dtype=bool)
    ends[on] = ends[on + 1] = False
    corners = points[ends]
    total = _cross(corners, np.roll(corners, -1, axis=0)).sum()
    p0, p1, p2, p3 = (points[on + i] for i in (-1, 0, 1, 2))
    # What a curve has beyond its chord: Green's theorem over its Bernstein form.
    curved = 6 * _cross(p0, p1) + 3 * _cross(p0, p2) + 3 * _cross(p1, p2) + 3 * _cross(p1, p3) + 6 * _cross(p2, p3)
    total += (curved / 10 - 0.9 * _cross(p0, p3)).sum()
    return abs(float(total)) / 2


def _cross(a: Array, b: Array) -> Array:
    made: Array = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return made


def _cells(op: Op) -> Array:
    """Colours as values: of every cell of a mesh, of a grid of POOL x POOL means of an image; rows of (r, g, b)."""
    if op.kind == "mesh":
        return op.fills[:, :3]
    if op.pixels is None:
        return np.zeros((0, 3))
    bands = [np.array_split(band, POOL, axis=1) for band in np.array_split(op.pixels[..., :3], POOL, axis=0)]
    return np.array([c.mean(axis=(0, 1)) / 255.0 if c.size else np.ones(3) for band in bands for c in band])


def _colours(ops: Sequence[Seen]) -> list[str]:
    """Distinct colours of a series as painted on white, in order: fills where there are any, else strokes."""
    inks = [np.reshape(_inks(op, shows), (-1, 4)) for op, shows in ops]
    if not any(map(len, inks)):
        return []
    rows = np.concatenate(inks)
    r, g, b = np.rint(255 * (rows[:, :3] * rows[:, 3:] + 1.0 - rows[:, 3:])).astype(int).T
    codes = r << 16 | g << 8 | b
    distinct = codes[np.sort(np.unique(codes, return_index=True)[1])]
    if len(distinct) > MAX_COLOURS:
        distinct = distinct[np.linspace(0, len(distinct) - 1, MAX_COLOURS).astype(int)]
    return [f"#{code:06x}" for code in distinct]


def _inks(op: Op, shows: Shown) -> Sequence[Any] | Array:
    """The colours, [r, g, b, alpha], that a command's visible marks are painted with."""
    least = MIN_ALPHA.get(op.kind, FAINTEST)
    if op.kind in ("mesh", "image"):
        return [[*_cells(op).mean(axis=0), 1.0]]
    if op.kind == "many":
        marked = np.flatnonzero(shows)
        for inks in (op.fills, op.edges):
            used = inks[np.unique(marked % len(inks))] if len(inks) else inks
            if (used[:, 3] >= least).any():
                return used[used[:, 3] >= least]
        return []
    filled = op.fill is not None and op.fill[3] >= least
    ink = op.fill if filled else op.edge
    return [] if ink is None else [ink]


def _unscaled(share: Array, side: tuple[str, float, float]) -> Array:
    scale, low, high = side
    if scale == "linear":
        return low + share * (high - low)
    if scale == "log" and low > 0 and high > 0:
        return np.exp(np.clip(math.log(low) + share * (math.log(high) - math.log(low)), -230.0, 230.0))
    return share


def _vertices(path: Path) -> Array:
    """Points of a path without its gaps and without the closing point that stands for none."""
    kept = are_there(path.points)
    if path.codes is not None:
        kept &= path.codes != 79
    return path.points[kept]
