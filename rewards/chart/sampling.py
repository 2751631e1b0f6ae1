"""Where the ink of paint commands is looked at: places along lines, within areas and letters, and how strong it is.

The commands of a page are taken together, since a chart has many small ones. The strength of ink is its alpha, less
where it is thinner or smaller than a pixel; ink that is too thin or too faint has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlrft.rewards.chart.commands import Array, Box, Op, Page
from vlrft.rewards.chart.marks import Marks, extents, is_placed, places
from vlrft.rewards.chart.raster import Cells, along

MIN_STROKE, MIN_FONT = 0.3, 4.0
"""Pixels: thinner lines and smaller letters are nothing."""
MIN_ALPHA = {"text": 0.1, "path": 0.1}
FAINTEST = 0.03
"""Fainter ink is nothing; FAINTEST for all other commands, whose marks often add up."""
HATCHED = 0.12
"""Share of an area that each letter of a hatch fills, about."""

_TEXT, _LINE, _CELLS = 9, 24, 512
"""How many places of a text, of the lines of a command, of a mesh or an image are looked at."""
_INWARDS = 0.85
"""An area is looked at along its outline, drawn in by this much."""
_MATH = re.compile(r"\\[a-zA-Z]+|[\\${}^_]")
_NONE = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Samples:
    """Places in the order of their commands."""

    op: Cells
    """[n]: which command each belongs to."""
    mark: Cells
    """[n]: which of the command's marks."""
    at: Array
    """[n, 2], pixels, y upwards."""
    colour: Array
    """[n, 3], 0 to 1."""
    strength: Array
    """[n], 0 to 1."""
    reach: Array
    """[n]: pixels by which a place may lie outside of a clip and its mark still be seen within."""


@dataclass(frozen=True, slots=True)
class _Layers:
    """Inks of a command's n marks: of areas and of hatches [n, 4], of strokes [n, 4] and their widths [n]."""

    area: Array
    hatch: Array
    stroke: Array
    width: Array


def samples(page: Page, wanted: Sequence[int], regions: Sequence[Box | None], shapes: Mapping[int, Marks]) -> Samples:
    """Of the commands `wanted`. `regions` says where each may paint, `shapes` has the marks of those with outlines."""
    found: list[Samples] = []
    lines: list[tuple[int, Op, Marks, Box]] = []
    texts: list[tuple[int, Op, int]] = []
    for i in wanted:
        op, region = page.ops[i], regions[i]
        if region is None:
            continue
        if op.kind == "text":
            texts += _readable(i, op)
        elif op.kind == "mesh":
            found.append(_mesh(i, op))
        elif op.kind == "image":
            found.append(_image(i, op))
        elif len(shapes[i].points):
            if is_placed(op):
                found += _placed(i, op, shapes[i])
            else:
                lines.append((i, op, shapes[i], region))
    if texts:
        found.append(_texts(texts, page.height))
    if lines:
        found += _lines(lines)
    if not found:
        none, nowhere = np.zeros(0), np.zeros(0, dtype=np.intp)
        return Samples(nowhere, nowhere, np.zeros((0, 2)), np.zeros((0, 3)), none, none)
    order = np.argsort(np.concatenate([one.op for one in found]), kind="stable")
    fields = [np.concatenate([getattr(one, name) for one in found])[order] for name in Samples.__slots__]
    return Samples(*fields)


def _readable(number: int, op: Op) -> list[tuple[int, Op, int]]:
    words = _MATH.sub("", op.text) if op.math else op.text
    if op.size < MIN_FONT or op.edge is None or op.edge[3] < MIN_ALPHA["text"] or not words.strip():
        return []
    return [(number, op, len(words))]


def _texts(texts: Sequence[tuple[int, Op, int]], height: int) -> Samples:
    """Along the middle of the letters, which are taken to be narrow."""
    start = np.array([(op.at[0, 0], height - op.at[0, 1]) for _, op, _ in texts])
    size, turn = np.array([(op.size, math.radians(op.angle)) for _, op, _ in texts]).T
    long = 0.45 * size * [length for _, _, length in texts]
    ahead, up = np.stack([np.cos(turn), np.sin(turn)], 1), np.stack([-np.sin(turn), np.cos(turn)], 1)
    start += 0.3 * size[:, None] * up
    at = start[:, None] + np.linspace(0, 1, _TEXT)[None, :, None] * (long[:, None] * ahead)[:, None]
    edge = np.array([op.edge for _, op, _ in texts])
    op = np.array([i for i, _, _ in texts])
    # A place beyond the canvas or the clip is one that does not show.
    return _made(op, np.zeros_like(op), at.reshape(-1, 2), edge, edge[:, 3], np.ones(len(op)))


def _made(op: Cells, mark: Cells, at: Array, colour: Array, strength: Array, reach: Array) -> Samples:
    """Equally many places `at` for each row of the other fields."""
    each = len(at) // len(op)
    rows = np.repeat(np.arange(len(op)), each)
    return Samples(op[rows], mark[rows], at, colour[rows, :3], strength[rows], reach[rows])


def _cells(number: int, at: Array, colour: Array, alpha: Array) -> Samples:
    op = np.full(len(at), number)
    return _made(op, np.zeros_like(op), at, colour, alpha, np.zeros(len(at)))


def _mesh(number: int, op: Op) -> Samples:
    rows, columns = op.shape
    corners = op.at.reshape(rows + 1, columns + 1, 2)
    middles = ((corners[:-1, :-1] + corners[1:, 1:]) / 2).reshape(-1, 2)
    chosen = np.linspace(0, len(middles) - 1, min(len(middles), _CELLS)).astype(np.intp)
    return _cells(number, middles[chosen], op.fills[chosen], _alpha(op.fills[chosen], op))


def _image(number: int, op: Op) -> Samples:
    assert op.pixels is not None
    height, width = op.shape
    chosen = np.linspace(0, height * width - 1, min(height * width, _CELLS)).astype(np.intp)
    row, column = chosen // width, chosen % width
    colour = op.pixels[row, column] / 255.0
    at = op.at[0] + np.stack([column, row], axis=1) + 0.5  # Agg paints the first row lowest
    return _cells(number, at, colour, _alpha(colour, op) * (1.0 if op.edge is None else op.edge[3]))


def _alpha(colours: Array, op: Op) -> Array:
    """The alpha of ink that is not too faint, else 0."""
    made: Array = np.where(colours[:, 3] >= MIN_ALPHA.get(op.kind, FAINTEST), colours[:, 3], 0.0)
    return made


def _layers(op: Op, number: int) -> _Layers:
    if op.kind != "many":
        hatch = _NONE
        if op.hatch_colour is not None:
            hatch = (*op.hatch_colour[:3], op.hatch_colour[3] * min(1.0, HATCHED * len(op.hatch or "")))
        each = (op.fill or _NONE, hatch, op.edge or _NONE)
        area, marked, stroke = (np.repeat(np.array([colour]), number, axis=0) for colour in each)
        return _Layers(area, marked, stroke, np.full(number, op.width))
    turn, none = np.arange(number), np.zeros((number, 4))
    area, stroke = (inks[turn % len(inks)] if len(inks) else none for inks in (op.fills, op.edges))
    return _Layers(area, none, stroke, op.widths[turn % len(op.widths)] if len(op.widths) else np.zeros(number))


def _strengths(layers: _Layers, least: Array | float, size: Array) -> list[tuple[Array, Array]]:
    """(colours, strengths) of areas, hatches and strokes of marks of such a size."""
    area = np.minimum(1.0, size).prod(axis=1)
    stroke = np.where(layers.width >= MIN_STROKE, np.minimum(1.0, layers.width), 0.0) * (size.max(axis=1) > 0.01)
    made = []
    for colours, share in ((layers.area, area), (layers.hatch, area), (layers.stroke, stroke)):
        made.append((colours, np.where(colours[:, 3] >= least, colours[:, 3] * share, 0.0)))
    return made


def _placed(number: int, op: Op, shape: Marks) -> list[Samples]:
    """Each mark where it is."""
    (low, high), count = extents(shape.points, shape.bounds), len(shape.bounds) - 1
    mark, at, size = np.arange(count), places(op), high - low
    made = []
    for colour, strength in _strengths(_layers(op, count), MIN_ALPHA.get(op.kind, FAINTEST), size):
        some = np.flatnonzero(strength)
        if len(some):
            reach = size[some].max(axis=1) / 2 + 1.0
            made.append(_made(np.full(len(some), number), mark[some], at[some], colour[some], strength[some], reach))
    return made


def _lines(found: Sequence[tuple[int, Op, Marks, Box]]) -> list[Samples]:
    """Each mark along its outline, and drawn in a little for its area."""
    count = np.array([len(shape.bounds) - 1 for _, _, shape, _ in found])
    shift = np.cumsum([0, *(len(shape.points) for _, _, shape, _ in found)])
    points = np.concatenate([shape.points for _, _, shape, _ in found])
    starts = np.concatenate([shape.starts + by for (_, _, shape, _), by in zip(found, shift, strict=False)])
    bounds = np.concatenate([shape.bounds[:-1] + by for (_, _, shape, _), by in zip(found, shift, strict=False)])
    bounds = np.append(bounds, len(points))
    op = np.repeat([i for i, _, _, _ in found], count)
    mark = np.arange(len(op)) - np.repeat(np.cumsum(count) - count, count)
    region = np.repeat([region for _, _, _, region in found], count, axis=0)
    of, at = along(points, starts, bounds, region, np.repeat(np.maximum(2, _LINE // np.maximum(1, count)), count))
    low, high = extents(points, bounds)
    least = np.repeat([MIN_ALPHA.get(one.kind, FAINTEST) for _, one, _, _ in found], count)
    each = [_layers(one, len(shape.bounds) - 1) for _, one, shape, _ in found]
    layers = _Layers(*(np.concatenate([getattr(one, name) for one in each]) for name in _Layers.__slots__))
    middle = (np.maximum(low, region[:, :2]) + np.minimum(high, region[:, 2:])) / 2
    inwards, made = middle[of] * (1 - _INWARDS) + at * _INWARDS, []
    for place, (colour, strength) in zip((inwards, inwards, at), _strengths(layers, least, high - low), strict=True):
        some = np.flatnonzero(strength[of])
        if len(some):
            o = of[some]
            made.append(_made(op[o], mark[o], place[some], colour[o], strength[o], np.ones(len(o))))
    return made
