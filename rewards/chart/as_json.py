"""Matplotlib's paths, points and colours as plain numbers, and no more of them than a picture can show.

Runs inside the sandbox, with the recorder. Outlines of ordinary length are kept point by point, since their points are
data. Longer ones are simplified as Agg simplifies a line before it paints it; of very many marks in one place, one is
kept; a mesh of more cells than pixels is thinned.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

GAP = 1e9
"""Coordinate of a point that is not there; far outside every canvas."""
_FAR = 0.9e9
"""Furthest coordinate of one that is there."""
LONG = 10_000
"""Points beyond which an outline is simplified, and places beyond which those that coincide are dropped."""
MESH = 2**16
"""Cells beyond which a mesh is thinned."""

_SHORTEST_DASHES = 0.1


def path(given: Any, transform: Any) -> list[Any]:
    """[points, codes or None]; curves stay curves. Without a transform to pixels nothing is simplified."""
    if transform is not None:
        given = transform.transform_path(given)
        if len(given.vertices) > LONG and (given.codes is None or not np.isin(given.codes, (3, 4)).any()):
            given = given.cleaned(remove_nans=True, simplify=True)
    vertices, codes = given.vertices, given.codes
    if codes is None:
        return [points(vertices, keep=True), None]
    real = np.asarray(codes) != 0  # what stands behind the end
    kinds = codes[real].astype(int).tolist()
    plain = kinds == [1, *[2] * (len(kinds) - 1)]
    return [points(vertices[real], keep=True), None if plain else kinds]


def points(values: Any, *, keep: bool = False) -> list[list[float]]:
    """Rows of two numbers to a thousandth of a pixel. Gaps (not finite) go, or stay as a number that says so."""
    masked = isinstance(values, np.ma.MaskedArray)
    rows: Any = np.asarray(values.astype(float).filled(np.nan) if masked else values, dtype=float).reshape(-1, 2)
    made: list[list[float]]
    if np.abs(rows).max(initial=0.0) < _FAR:  # not so with a gap
        made = rows.round(4).tolist()
        return made
    finite = np.isfinite(rows).all(axis=1)
    rows = np.clip(rows, -_FAR, _FAR)
    made = (np.where(finite[:, None], rows, GAP) if keep else rows[finite]).round(4).tolist()
    return made


def told_apart(places: Any, *turns: Any) -> Any:
    """Numbers of the last mark in each pixel, where marks are very many; None: keep all.

    turns: what the marks take in turns; kept as they are where they have neither one for all nor one for each.
    """
    if len(places) <= LONG or any(len(one) not in (0, 1, len(places)) for one in turns):
        return None
    rows = np.asarray(places, dtype=float)
    finite = np.isfinite(rows).all(axis=1)
    cells = np.round(np.where(finite[:, None], rows, 0.0).clip(-1e6, 1e6)).astype(np.int64)
    last = len(rows) - 1 - np.unique((cells[:, 0] * 2**24 + cells[:, 1])[::-1], return_index=True)[1]
    return np.sort(last[finite[last]])


def mesh(corners: Any, fills: Any) -> tuple[Any, Any]:
    """Corners [rows + 1, columns + 1, 2] and colours [rows, columns, 4] of a mesh, thinned where it is very fine."""
    rows, columns = fills.shape[:2]
    if rows * columns <= MESH:
        return corners, fills
    side = int(MESH**0.5)
    down, across = (np.arange(0, n, max(1, -(-n // side))) for n in (rows, columns))
    edges = np.append(down, rows)[:, None], np.append(across, columns)[None]
    return corners[edges], fills[down[:, None], across[None]]


def numbers(values: Any) -> list[float]:
    """A flat list without gaps."""
    return [float(v) if abs(v) < GAP else math.copysign(GAP, v) if abs(v) >= GAP else 0.0 for v in values]


def dash(offset: Any, pattern: Any) -> list[Any] | None:
    """[offset, lengths]; None for a solid line, and for dashes too short to be told apart."""
    if pattern is None or len(pattern) < 2 or sum(pattern) < _SHORTEST_DASHES:
        return None
    return [float(offset or 0.0), numbers(pattern)]


def rgba(colour: Any, gc: Any) -> list[float] | None:
    """Four parts in 0 to 1; the graphics context's alpha wins where it is forced."""
    if colour is None:
        return None
    given = colour if isinstance(colour, tuple) else np.ravel(colour).tolist()
    parts = [round(min(max(float(c), 0.0), 1.0), 4) for c in given[:4]]
    if len(parts) < 4:
        parts += [1.0] * (4 - len(parts))
        if gc is not None:
            parts[3] = round(float(gc.get_alpha()), 4)
    elif gc is not None and gc.get_forced_alpha():
        parts[3] = round(float(gc.get_alpha()), 4)
    return parts


def rgbas(colours: Any) -> list[list[float]]:
    """One row for each colour."""
    rows = np.asarray(colours, dtype=float).reshape(-1, 4) if len(colours) else np.zeros((0, 4))
    made: list[list[float]] = np.nan_to_num(rows).clip(0.0, 1.0).round(4).tolist()
    return made
