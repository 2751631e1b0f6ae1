"""How well the points of two series agree, and which of them correspond."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
Names = Sequence[Sequence[Any]]
"""[words, place] of what stands at an axis, by place."""

VALUE_ONLY = ("pie", "mesh", "image")
"""Kinds whose points have no position in their first column."""
MAX_POINTS = 2000

_HALF = 0.45
"""How far off its category's place a mark may stand, in distances of two categories."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The share of points that agree, and the numbers of the points, found and true, that were compared."""

    share: float
    found: Rows
    truth: Rows


def series_likeness(found: Array, truth: Array, rel_tol: float, *, positions: int) -> float:
    """Share of points that agree, over the longer of the two; in order, or sorted, whichever agrees more.

    The first `positions` columns may be off by rel_tol of the true series' span (dates and years are large numbers),
    the others by rel_tol of the true value (and by a hundredth of that of the largest one, for zeros).
    """
    if not len(found) or not len(truth) or found.shape[1] != truth.shape[1]:
        return 0.0
    return _agreement(found, truth, _slack(truth, rel_tol, positions)).share


def compared(found: dict[str, Any], truth: dict[str, Any], rel_tol: float) -> Agreement:
    """Of two series of one kind, in the form of a dump but with an array as `points`.

    Where the true one has names (of categories along an axis, or of slices) they are the coordinates: a mark stands
    where its name stands in the true chart, and nowhere when that does not have it.
    """
    kind, mine, theirs = truth["type"], found["points"], truth["points"]
    if not len(mine) or not len(theirs) or mine.shape[1] != theirs.shape[1]:
        return Agreement(0.0, np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp))
    slack = _slack(theirs, rel_tol, int(kind not in VALUE_ONLY))
    if kind == "pie" and truth.get("names"):
        return _by_name(mine, theirs, slack, found.get("names") or [""] * len(mine), truth["names"])
    sides = ("y",) if kind == "barh" else ("x",) if kind == "bar" else ("x", "y")
    if kind in VALUE_ONLY:
        made = _agreement(mine, theirs, slack)
        factor = min([_in_order(found.get(s), truth[s]) for s in sides if truth.get(s)], default=1.0)
        return Agreement(made.share * factor, made.found, made.truth)
    mine = mine.copy()
    for column, side in enumerate(sides):
        if truth.get(side):
            mine[:, column] = _moved(mine[:, column], found.get(side) or (), truth[side])
            slack[:, column] = np.minimum(np.maximum(slack[:, column], 1e-3), _HALF * gap(truth[side]))
    if kind in ("bar", "barh"):
        apart = gap(truth[sides[0]]) if truth.get(sides[0]) else _least_step(theirs[:, 0])
        slack[:, 0] = slack[:, 0] if apart is None else _HALF * apart
        slack[:, 1:] = np.maximum(
            slack[:, 1:], 0.01 * rel_tol * np.abs(theirs[:, 1:]).max()
        )  # for bars that begin at 0
    return _agreement(mine, theirs, slack)


def gap(names: Names) -> float:
    """Smallest distance of two named places; 1 for a single one."""
    return _least_step(np.array([place for _, place in names])) or 1.0


def _least_step(places: Array) -> float | None:
    """Smallest distance of two places that are not the same but for rounding; None where all are the same."""
    steps = np.diff(np.sort(places))
    steps = steps[steps > 1e-4 * max(float(np.ptp(places)), 1e-9)]
    return float(steps.min()) if len(steps) else None


def _slack(truth: Array, rel_tol: float, positions: int) -> Array:
    slack: Array = rel_tol * np.abs(truth) + 0.01 * rel_tol * np.abs(truth).max(axis=0)
    for column in range(positions):
        span = float(np.ptp(truth[:, column]))
        if span > 0.0:
            slack[:, column] = rel_tol * span
    return slack


def _agreement(found: Array, truth: Array, slack: Array) -> Agreement:
    longest, by = max(len(found), len(truth)), np.lexsort(truth.T[::-1])
    order = np.lexsort(found.T[::-1])
    if len(found) == len(truth):
        own = np.arange(len(truth))
        straight, ranked = _hits(found, truth, slack), _hits(found[order], truth[by], slack[by])
        return Agreement(max(straight, ranked) / longest, *((own, own) if straight >= ranked else (order, by)))
    column, wanted = found[order, 0], truth[by, 0] - slack[by, 0]
    near = np.clip(np.searchsorted(column, wanted), 0, len(order) - 1)
    near, first = np.unique(near, return_index=True)
    mine, theirs = order[near], by[first]
    return Agreement(_hits(found[mine], truth[theirs], slack[theirs]) / longest, mine, theirs)


def _hits(found: Array, truth: Array, slack: Array) -> int:
    return int((np.abs(found - truth) <= slack).all(axis=1).sum())


def _by_name(found: Array, truth: Array, slack: Array, names: Sequence[str], true_names: Sequence[str]) -> Agreement:
    place = {key: i for i, key in enumerate(_counted(names))}
    both = [(place[key], j) for j, key in enumerate(_counted(true_names)) if key in place]
    mine, theirs = (np.array([pair[side] for pair in both], dtype=np.intp) for side in (0, 1))
    return Agreement(_hits(found[mine], truth[theirs], slack[theirs]) / max(len(found), len(truth)), mine, theirs)


def _moved(places: Array, names: Names, true_names: Names) -> Array:
    """Places beside `names` as places beside the same ones of `true_names`; infinite for what those do not have."""
    if not names:
        return np.full(len(places), np.inf)
    at = np.array([place for _, place in names], dtype=float)
    target = dict(zip(_counted([words for words, _ in true_names]), (place for _, place in true_names), strict=True))
    there = np.array([target.get(key, np.inf) for key in _counted([words for words, _ in names])], dtype=float)
    middles = (at[1:] + at[:-1]) / 2
    nearest = np.searchsorted(middles, places)
    made: Array = there[nearest] + (places - at[nearest]) / gap(names) * gap(true_names)
    return made


def _in_order(names: Names | None, true_names: Names) -> float:
    """Share of names that are in the same order, over the longer list."""
    mine: list[str] = [words for words, _ in names or ()]
    theirs: list[str] = [words for words, _ in true_names]
    return sum(a == b for a, b in zip(mine, theirs, strict=False)) / max(len(mine), len(theirs))


def _counted(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name with how often it came before."""
    seen, made = Counter[str](), []
    for name in names:
        made.append((name, seen[name]))
        seen[name] += 1
    return made
