"""A page's canvas as a coarse grid of colours, and what each paint command covers of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrft.rewards.chart.commands import Array, Box, Op, Page
from vlrft.rewards.chart.marks import Marks
from vlrft.rewards.chart.raster import Cells, Grid, Mask, Patch, Work, outline, thick
from vlrft.rewards.chart.sampling import HATCHED

_FEW = 16
"""Marks of one command that are painted one by one; of more, all in their mean colour."""

_LARGE_LETTER = 64.0
"""Pixels: text from this size on hides what lies beneath."""


@dataclass(slots=True)
class Cover:
    """Cells that a command paints over, with what."""

    patch: Patch
    colour: Array
    """[3], or [rows, columns, 3] over the patch."""
    alpha: float | Array


class Canvas:
    """The grid of one page, the colours so far, and where clips let paint through."""

    def __init__(self, page: Page, work: Work) -> None:
        self.page = page
        self.whole: Box = (0.0, 0.0, float(page.width), float(page.height))
        self.grid = Grid(page.width, page.height, work)
        self.colours = np.ones((self.grid.rows, self.grid.columns, 3))
        self._clips: dict[int, tuple[Box, Mask | None]] = {}

    def region(self, op: Op) -> Box | None:
        """Where a command's clip lets it paint, in pixels; None where that is nowhere."""
        x0, y0, x1, y1 = self.whole
        boxes = [] if op.box is None else [op.box]
        if op.clip is not None:
            boxes.append(self._clip(op.clip)[0])
        for box in boxes:
            x0, y0, x1, y1 = max(x0, box[0]), max(y0, box[1]), min(x1, box[2]), min(y1, box[3])
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def clipped(self, op: Op, points: Array) -> Mask | None:
        """Which points lie in the cells that the command's clip path lets through; None where all of a box do."""
        clip = None if op.clip is None else self._clip(op.clip)[1]
        return None if clip is None else clip.ravel()[self.grid.cells(points)]

    def paint(self, op: Op, cover: Cover) -> None:
        """Lay it over the colours."""
        below, mask = self.colours[cover.patch.place], self._mask(op, cover.patch)
        if cover.patch.share is None and isinstance(cover.alpha, float) and cover.alpha == 1.0:
            below[... if mask is None else mask] = cover.colour
            return
        alpha = cover.alpha if cover.patch.share is None else cover.alpha * cover.patch.share
        alpha = alpha if isinstance(alpha, float) else alpha[..., None]
        mixed = below + (cover.colour - below) * alpha
        self.colours[cover.patch.place] = mixed if mask is None else np.where(mask[..., None], mixed, below)

    def hide(self, op: Op, cover: Cover, through: Array) -> None:
        """Take what it covers off `through`, the share of each cell that later paint lets through."""
        mask, patch = self._mask(op, cover.patch), cover.patch
        covered = cover.alpha if mask is None else mask * cover.alpha
        if patch.share is not None:  # slivers beside each other cover their cell together
            through[patch.place] = np.maximum(0.0, through[patch.place] - covered * patch.share)
        else:
            through[patch.place] *= 1.0 - covered

    def _clip(self, number: int) -> tuple[Box, Mask | None]:
        """(bounding box, cells within; None where that is the whole box) of a clip path."""
        if number not in self._clips:
            points, starts, _ = outline(self.page.clips[number])
            box: Box = (0.0, 0.0, 0.0, 0.0)
            patch, mask = None, None
            if len(points):
                (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
                box, patch = (x0, y0, x1, y1), self.grid.filled(points, starts, self.whole)
            if patch is None or patch.mask is not None:
                mask = np.zeros((self.grid.rows, self.grid.columns), dtype=bool)
                if patch is not None:
                    mask[patch.place] = patch.mask
            self._clips[number] = box, mask
        return self._clips[number]

    def _mask(self, op: Op, patch: Patch) -> Mask | None:
        clip = None if op.clip is None else self._clip(op.clip)[1]
        if clip is None:
            return patch.mask
        return clip[patch.place] if patch.mask is None else clip[patch.place] & patch.mask


def covers(canvas: Canvas, op: Op, shape: Marks | None, region: Box) -> list[Cover]:
    """What a command covers within `region`; `shape` has its marks, where it has outlines."""
    if op.kind == "image":
        return _image(canvas, op, region)
    if op.kind == "mesh":
        return _mesh(canvas, op, region)
    if op.kind == "text":
        return _letters(canvas, op, region)
    assert shape is not None
    if op.kind == "many":
        return _many(canvas.grid, op, shape, region)
    inks = [] if op.fill is None else [(op.fill, 1.0)]
    if op.hatch_colour is not None:
        inks.append((op.hatch_colour, min(1.0, HATCHED * len(op.hatch or ""))))
    inks = [(colour, share) for colour, share in inks if colour[3] * share > 0.01]
    made = []
    if inks and len(shape.points) > 2:
        patch = canvas.grid.filled(shape.points, shape.starts, region, union=op.kind == "markers")
        made += [cover for colour, share in inks for cover in _cover(patch, np.array(colour), share)]
    if is_wide(op, canvas.grid) and op.edge is not None and len(shape.points):
        stroke = canvas.grid.filled(*thick(shape.points, shape.starts, op.width), region, union=True)
        made += _cover(stroke, np.array(op.edge))
    return made


def is_wide(op: Op, grid: Grid) -> bool:
    """Has a path a stroke that covers whole cells?"""
    return op.kind == "path" and op.edge is not None and op.width * grid.scale >= 1.0


def _cover(patch: Patch | None, colour: Array, share: float = 1.0) -> list[Cover]:
    return [] if patch is None else [Cover(patch, colour[:3], float(colour[3]) * share)]


def _many(grid: Grid, op: Op, shape: Marks, region: Box) -> list[Cover]:
    number = len(shape.bounds) - 1
    if not len(op.fills) or not op.fills[:, 3].any() or len(shape.points) < 3:
        return []
    if number > _FEW or len(op.fills) == 1:
        patch = grid.filled(shape.points, shape.starts, region, union=True)
        return _cover(patch, op.fills[:number].mean(axis=0))
    made = []
    for i in range(number):
        begin, end = shape.bounds[i], shape.bounds[i + 1]
        if end - begin > 2:
            starts = shape.starts[(shape.starts >= begin) & (shape.starts < end)] - begin
            patch = grid.filled(shape.points[begin:end], starts, region)
            made += _cover(patch, op.fills[i % len(op.fills)])
    return made


def _letters(canvas: Canvas, op: Op, region: Box) -> list[Cover]:
    """Very large text as a block."""
    if op.size < _LARGE_LETTER or op.edge is None:
        return []
    turn = np.radians(op.angle)
    along, up = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    x, y = op.at[0]
    start = np.array([x, canvas.page.height - y])
    end = start + 0.6 * op.size * len(op.text) * along
    corners = np.array([start - 0.2 * op.size * up, end - 0.2 * op.size * up, end + op.size * up, start + op.size * up])
    return _cover(canvas.grid.filled(corners, np.zeros(1, dtype=np.intp), region), np.array(op.edge))


def _image(canvas: Canvas, op: Op, region: Box) -> list[Cover]:
    """The pixels at the centres of the cells; Agg paints the first row lowest."""
    assert op.pixels is not None
    (x, y), (height, width) = op.at[0], op.shape
    patch = canvas.grid.rectangle((x, y, x + width, y + height), region)
    if patch is None:
        return []
    rows = ((np.arange(patch.top, patch.bottom) + 0.5) / canvas.grid.scale - y).astype(np.intp).clip(0, height - 1)
    columns = ((np.arange(patch.left, patch.right) + 0.5) / canvas.grid.scale - x).astype(np.intp).clip(0, width - 1)
    taken = op.pixels[rows[:, None], columns[None]] / 255.0
    alpha = taken[..., 3] * (1.0 if op.edge is None else op.edge[3])
    return [Cover(patch, taken[..., :3], alpha)]


def _mesh(canvas: Canvas, op: Op, region: Box) -> list[Cover]:
    """Cell by cell where rows and columns are straight, else the whole in its mean colour."""
    rows, columns = op.shape
    corners = op.at.reshape(rows + 1, columns + 1, 2)
    across, up = corners[0, :, 0], corners[:, 0, 1]
    straight = np.abs(corners[..., 0] - across[None]).max() < 0.5 and np.abs(corners[..., 1] - up[:, None]).max() < 0.5
    rising = [np.diff(side) >= 0 for side in (across, up)]
    if not straight or not all(r.all() or not r.any() for r in rising):
        rim = np.concatenate([corners[0], corners[1:, -1], corners[-1, -2::-1], corners[-2:0:-1, 0]])
        patch = canvas.grid.filled(rim, np.zeros(1, dtype=np.intp), region)
        return _cover(patch, op.fills.mean(axis=0))
    patch = canvas.grid.rectangle((across.min(), up.min(), across.max(), up.max()), region)
    if patch is None:
        return []
    row = _between(up, (np.arange(patch.top, patch.bottom) + 0.5) / canvas.grid.scale)
    column = _between(across, (np.arange(patch.left, patch.right) + 0.5) / canvas.grid.scale)
    taken = op.fills.reshape(rows, columns, 4)[row[:, None], column[None]]
    return [Cover(patch, taken[..., :3], taken[..., 3])]


def _between(sides: Array, at: NDArray[np.floating[Any]]) -> Cells:
    """Which of the strips between `sides`, rising or falling, each coordinate lies in."""
    if sides[-1] < sides[0]:
        return len(sides) - 2 - _between(sides[::-1], at)
    made: Cells = (np.searchsorted(sides, at, side="right") - 1).clip(0, len(sides) - 2)
    return made
