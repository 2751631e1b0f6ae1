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
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlrft.rewards.chart.commands import Array, Codes, Frame, NotADrawingError, Op, Page, Path, TooLargeError
from vlrft.rewards.chart.inks import Seen, cells, colours, point_colours
from vlrft.rewards.chart.legends import Drawn, Key, paints, ties
from vlrft.rewards.chart.marks import is_placed, moved, places
from vlrft.rewards.chart.naming import Written, as_numbers, category_names, role_of, slice_names
from vlrft.rewards.chart.points import VALUE_ONLY
from vlrft.rewards.chart.raster import Work, are_there
from vlrft.rewards.chart.schema import checked
from vlrft.rewards.chart.visibility import Shown, shown

__all__ = ["KINDS", "NotADrawingError", "TooLargeError", "layout", "read"]

KINDS = ("line", "bar", "barh", "wedge", "patch", "scatter", "lines", "area", "marks", "contour", "mesh", "image")
"""Roles of owners that make a series."""

_ROUNDED = 1e-6
"""Of an axis, what pixels are rounded by, about: nearer to 0 than that is 0."""
_FRAMED = 5
"""Strokes of a frame that are looked at: the last ones, which are its sides."""

NOWHERE = (-1, -1)
"""The place of a text that belongs to no axes, or to one that shows nothing."""


@dataclass(slots=True)
class _Read:
    """What was found on one page."""

    texts: list[Written] = field(default_factory=list)
    legends: dict[int, Key] = field(default_factory=dict)
    words: list[tuple[str, int, int]] = field(default_factory=list)
    """Of each text of a legend: itself, the legend's owner, its number among the texts there."""
    series: dict[tuple[str, int, int], list[Seen]] = field(default_factory=lambda: defaultdict(list))
    painted: set[int] = field(default_factory=set)


def read(pages: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The elements of all pages together (elements.py has their form).

    Raises NotADrawingError, and TooLargeError among those where there is more than is read.
    """
    made: dict[str, list[Any]] = {name: [] for name in ("text", "type", "layout", "colour", "legend", "data")}
    made |= {"roles": [], "ties": []}
    work, figures = Work(), 0
    for page in checked(pages):
        before = sum(map(len, made.values()))
        _write(page, _seen(page, work), figures, made)
        figures += sum(map(len, made.values())) > before
    return made


def _seen(page: Page, work: Work) -> _Read:
    found = _Read()
    for op, shows in zip(page.ops, shown(page, _judged(page), work), strict=True):
        role, axes, number = page.owners[op.owner]
        if role == "legend" and (shows is not False or op.kind != "text"):
            found.legends.setdefault(op.owner, Key(NOWHERE)).add(op, page.height)
        if shows is False:
            continue
        if axes >= 0 and role not in ("title", "text"):
            found.painted.add(axes)
        if op.kind == "text":
            words = " ".join(op.text.split())
            if role == "legend":
                found.words.append((words, op.owner, len(found.legends[op.owner].texts) - 1))
            else:
                found.texts.append(Written(words, op.owner, role, axes, op))
        elif role in KINDS and axes >= 0:
            found.series[role, axes, number].append((op, shows))
    return found


def _write(page: Page, found: _Read, figure: int, made: dict[str, list[Any]]) -> None:
    """Add what one page holds to the elements."""
    axes = sorted(found.painted)
    grid = layout([page.frames[i].slot for i in axes], page.width, page.height)
    place = {i: (cell[2], cell[4]) for i, cell in zip(axes, grid, strict=True)}
    made["layout"] += grid
    _write_texts(page, found, figure, place, made)
    names = category_names(page, found.texts)
    drawn: list[Drawn] = []
    begin = len(made["data"])
    for (role, number, _), ops in found.series.items():
        kind, points = _series(role, ops, page.frames[number])
        made["type"].append(kind)
        made["colour"] += [[kind, colour] for colour in colours(ops)]
        if not len(points):
            continue
        own = point_colours(ops, len(points))
        points, named = _named(kind, points, names[number])
        if kind == "pie" and (slices := _slices(page, ops, points, number, found)):
            named = {"names": slices}
        one = {"type": kind, "axes": [figure, *place[number]], "points": points.tolist(), "colours": own}
        made["data"].append(one | named)
        drawn.append(Drawn(place[number], paints(ops), own, len(points)))
    tied = {}
    for owner, key in found.legends.items():
        key.place = place.get(page.owners[owner][1], NOWHERE)
        tied[owner] = ties(key, drawn)
    for words, owner, entry in found.words:
        made["legend"].append(words)
        made["ties"].append([[begin + series, point] for series, point in tied[owner][entry]])


def _slices(page: Page, ops: Sequence[Seen], points: Array, axes: int, found: _Read) -> list[str]:
    return slice_names(page, [op for op, _ in ops], points[:, 0].tolist(), axes, found.texts)


def _write_texts(
    page: Page, found: _Read, figure: int, place: Mapping[int, tuple[int, int]], made: dict[str, list[Any]]
) -> None:
    """Texts with their roles. Where all axes are in one place, the labels of the figure are theirs."""
    shared = Counter(place.values())
    (only,) = shared if len(shared) == 1 else (NOWHERE,)
    for text in found.texts:
        at = place.get(text.axes, NOWHERE)
        role = role_of(text, page, shared[at] > 1)
        made["text"].append(text.words)
        made["roles"].append([role, figure, *(only if at == NOWHERE and role != "annotation" else at)])


def _named(kind: str, points: Array, names: Mapping[str, Any]) -> tuple[Array, dict[str, Any]]:
    """(points, {"x": [[name, place]], "y": ...}): the names of categories along the axes that hold the positions.

    Bars stand on one axis. Of other marks y is named where each stands at a name.
    """
    if kind == "pie":
        return points, {}
    sides = {"bar": ("x",), "barh": ("y",)}.get(kind, ("x", "y"))
    made = {}
    for column, side in enumerate(sides):
        kept = names[side]
        if kind not in VALUE_ONLY:
            at = np.array([place for _, place in kept])
            off = np.abs(points[:, column, None] - at).min(axis=1, initial=np.inf)
            if side == "y" and kind != "barh" and (off > 0.05).any():
                continue
            kept, changed = as_numbers(kept, points[:, column])
            points = np.concatenate([points[:, :column], changed[:, None], points[:, column + 1 :]], axis=1)
        if kept:
            made[side] = [list(one) for one in kept]
    return points, made


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
        return _pie(ops, frame)
    if role in ("bar", "barh"):
        return _bars(role, ops, frame)
    if role in ("mesh", "image"):
        return role, np.concatenate([cells(op) for op, _ in ops])
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


def _pie(ops: Sequence[Seen], frame: Frame) -> tuple[str, Array]:
    """The share of each slice by its painted area; slices must have curves."""
    areas = []
    for op, _ in ops:
        codes = op.path.codes
        if codes is None or 4 not in codes:
            return "patch", _data(frame, np.concatenate([_marks(*one) for one in ops]))
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


def _unscaled(share: Array, side: tuple[str, float, float]) -> Array:
    scale, low, high = side
    if scale == "linear":
        value = low + share * (high - low)
        return np.where(np.abs(value) <= _ROUNDED * abs(high - low), 0.0, value)
    if scale == "log" and low > 0 and high > 0:
        return np.exp(np.clip(math.log(low) + share * (math.log(high) - math.log(low)), -230.0, 230.0))
    return share


def _vertices(path: Path) -> Array:
    """Points of a path without its gaps and without the closing point that stands for none."""
    kept = are_there(path.points)
    if path.codes is not None:
        kept &= path.codes != 79
    return path.points[kept]
