"""The colours that marks are painted with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlrft.rewards.chart.commands import Array, Op
from vlrft.rewards.chart.sampling import FAINTEST, MIN_ALPHA
from vlrft.rewards.chart.visibility import Shown

MAX_COLOURS = 24
"""Distinct colours that one series lists; of more, evenly chosen ones."""
POOL = 16
"""Side of the grid of mean colours that stands for an image's values."""

MAX_POINTS = 200
"""Points of a series that may have a colour each; of more, the distinct colours are listed."""

Seen = tuple[Op, Shown]
"""A command that shows, and which of its marks do."""


def cells(op: Op) -> Array:
    """Colours as values: of every cell of a mesh, of a grid of POOL x POOL means of an image; rows of (r, g, b)."""
    if op.kind == "mesh":
        return op.fills[:, :3]
    if op.pixels is None:
        return np.zeros((0, 3))
    bands = [np.array_split(band, POOL, axis=1) for band in np.array_split(op.pixels[..., :3], POOL, axis=0)]
    return np.array([c.mean(axis=(0, 1)) / 255.0 if c.size else np.ones(3) for band in bands for c in band])


def colours(ops: Sequence[Seen]) -> list[str]:
    """Distinct colours of a series as painted on white, in order: fills where there are any, else strokes."""
    distinct = list(dict.fromkeys(name for op, shows in ops for name in _hex(_inks(op, shows))))
    if len(distinct) > MAX_COLOURS:
        return [distinct[i] for i in np.linspace(0, len(distinct) - 1, MAX_COLOURS).astype(int)]
    return distinct


def point_colours(ops: Sequence[Seen], points: int) -> list[str]:
    """The colours of a series: one for each of its points where marks and points are as many, else as `colours`."""
    if 1 < points == len(ops) and points <= MAX_POINTS:
        each = [_hex(_inks(*one))[:1] for one in ops]
    elif len(ops) == 1 and ops[0][0].kind == "many" and 1 < points <= MAX_POINTS:
        each = [[name] for name in _marked(*ops[0])]
    else:
        return colours(ops)
    flat = [name for one in each for name in one]
    return flat if len(flat) == points and len(set(flat)) > 1 else colours(ops)


def _marked(op: Op, shows: Shown) -> list[str]:
    """The fill of each visible mark of a collection; none where its marks are not filled."""
    if not len(op.fills) or not (op.fills[:, 3] >= FAINTEST).all():
        return []
    return _hex(op.fills[np.flatnonzero(shows) % len(op.fills)])


def _hex(rows: Sequence[Any] | Array) -> list[str]:
    made = np.reshape(rows, (-1, 4))
    r, g, b = np.rint(255 * (made[:, :3] * made[:, 3:] + 1.0 - made[:, 3:])).astype(int).T
    return [f"#{code:06x}" for code in (r << 16 | g << 8 | b).tolist()]


def _inks(op: Op, shows: Shown) -> Sequence[Any] | Array:
    """The colours, [r, g, b, alpha], that a command's visible marks are painted with."""
    least = MIN_ALPHA.get(op.kind, FAINTEST)
    if op.kind in ("mesh", "image"):
        return [[*cells(op).mean(axis=0), 1.0]]
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
