"""The elements of a drawn chart, and how well those of two charts agree.

Elements in their JSON form (a recorded dump, and what `recorded` makes of a program):

    {"text": ["Sales", "0", "10"], "type": ["bar", "line"], "layout": [[rows, columns, top, bottom, left, right]],
     "colour": [["bar", "#1f77b4"]], "legend": ["2023"], "data": [{"type": "bar", "points": [[position, low, high]]}]}
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vlrft.rewards.base import TargetError
from vlrft.rewards.chart.colour import similarity

Elements = Mapping[str, Any]
Array = NDArray[np.float64]

NAMES = ("text", "type", "layout", "colour", "legend", "data")
VALUE_ONLY = ("pie", "mesh", "image")
"""Kinds whose points have no position in their first column."""

MAX_MATCHED = 200
"""Items per side that are matched; what lies beyond still counts as not found."""
MAX_SERIES = 64
MAX_POINTS = 2000


def check_elements(target: Mapping[str, Any]) -> Elements:
    """A recorded dump as it was given. Raises TargetError that names the field; a missing element is not judged."""
    unknown = sorted(map(str, set(target) - set(NAMES)))
    if unknown or not target:
        raise TargetError(f"a chart dump holds {', '.join(NAMES)}; got {unknown or 'none of them'}")
    checks = {"text": _is_text, "type": _is_text, "legend": _is_text, "layout": _is_cell, "colour": _is_colour}
    for name, items in target.items():
        fits = checks.get(name, _is_series)
        if not isinstance(items, list) or not all(fits(item) for item in items):
            raise TargetError(f"chart dump: {name} has the wrong form, {str(items)[:120]!r}; record the chart afresh")
    if not any(target.values()):
        raise TargetError("chart dump: every element is empty, so no chart can be judged against it")
    return target


def agreement(found: Elements, truth: Elements, rel_tol: float) -> dict[str, float | None]:
    """F1 of each element, in [0, 1]; None where both have none of it, or the truth does not record it."""
    scored: dict[str, float | None] = {}
    for name in NAMES:
        given, wanted = found.get(name, []), truth.get(name)
        if wanted is None or not (given or wanted):
            scored[name] = None
        elif name == "colour":
            scored[name] = _matched_f1(_colour_likeness(given, wanted), given, wanted)
        elif name == "data":
            scored[name] = _matched_f1(_data_likeness(given, wanted, rel_tol), given, wanted)
        else:
            scored[name] = multiset_f1([_key(g) for g in given], [_key(w) for w in wanted])
    return scored


def multiset_f1(found: Sequence[Any], truth: Sequence[Any]) -> float:
    """2 |found and truth| / (|found| + |truth|), items counted as often as they occur."""
    shared = (Counter(found) & Counter(truth)).total()
    return 2.0 * shared / (len(found) + len(truth))


def series_likeness(found: Array, truth: Array, rel_tol: float, *, positions: int) -> float:
    """Share of points that agree, over the longer of the two; in order, or sorted, whichever agrees more.

    The first `positions` columns may be off by rel_tol of the true series' span (dates and years are large numbers),
    the others by rel_tol of the true value (and by a hundredth of that of the largest one, for zeros).
    """
    longest = max(len(found), len(truth))
    if not len(found) or not len(truth) or found.shape[1] != truth.shape[1]:
        return 0.0
    slack = rel_tol * np.abs(truth) + 0.01 * rel_tol * np.abs(truth).max(axis=0)
    for column in range(positions):
        span = float(np.ptp(truth[:, column]))
        if span > 0.0:
            slack[:, column] = rel_tol * span
    ranked, by = truth[np.lexsort(truth.T[::-1])], np.lexsort(truth.T[::-1])
    ordered = found[np.lexsort(found.T[::-1])]
    if len(found) == len(truth):
        hits = max(_hits(found, truth, slack), _hits(ordered, ranked, slack[by]))
    else:
        near = np.clip(np.searchsorted(ordered[:, 0], ranked[:, 0] - slack[by][:, 0]), 0, len(ordered) - 1)
        first = np.unique(near, return_index=True)[1]
        hits = _hits(ordered[near[first]], ranked[first], slack[by][first])
    return hits / longest


def _hits(found: Array, truth: Array, slack: Array) -> int:
    return int((np.abs(found - truth) <= slack).all(axis=1).sum())


def _data_likeness(given: Sequence[Any], wanted: Sequence[Any], rel_tol: float) -> Array:
    made = np.zeros((min(len(given), MAX_SERIES), min(len(wanted), MAX_SERIES)))
    columns = [(w["type"], _thinned(w["points"])) for w in wanted[:MAX_SERIES]]
    for i, one in enumerate(given[:MAX_SERIES]):
        points = _thinned(one["points"])
        for j, (kind, truth) in enumerate(columns):
            if one["type"] == kind:
                made[i, j] = series_likeness(points, truth, rel_tol, positions=int(kind not in VALUE_ONLY))
    return made


def _thinned(points: Sequence[Any]) -> Array:
    """As an array of at most MAX_POINTS rows, evenly chosen."""
    rows = np.asarray(points, dtype=float).reshape(len(points), -1)
    return rows if len(rows) <= MAX_POINTS else rows[np.linspace(0, len(rows) - 1, MAX_POINTS).astype(int)]


def _colour_likeness(given: Sequence[Any], wanted: Sequence[Any]) -> Array:
    rows, columns = given[:MAX_MATCHED], wanted[:MAX_MATCHED]
    if not rows or not columns:
        return np.zeros((len(rows), len(columns)))
    alike = similarity([c for _, c in rows], [c for _, c in columns])
    same_kind = np.array([[r[0] == c[0] for c in columns] for r in rows])
    return np.where(same_kind, alike, 0.0)


def _matched_f1(likeness: Array, given: Sequence[Any], wanted: Sequence[Any]) -> float:
    """Best one-to-one assignment, its sum as the hits of an F1."""
    rows, columns = linear_sum_assignment(likeness, maximize=True)
    total = float(likeness[rows, columns].sum())
    return min(1.0, 2.0 * total / (len(given) + len(wanted)))


def _key(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else " ".join(str(item).split())


def _is_text(item: Any) -> bool:
    return isinstance(item, str)


def _is_cell(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 6 and all(isinstance(i, int) for i in item)


def _is_colour(item: Any) -> bool:
    if not isinstance(item, list) or len(item) != 2 or not all(isinstance(part, str) for part in item):
        return False
    return re.fullmatch(r"#[0-9a-fA-F]{6}", item[1]) is not None


def _is_series(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return False
    points = item.get("points")
    if not isinstance(points, list) or not all(isinstance(p, list) and p for p in points):
        return False
    if len({len(p) for p in points}) > 1:
        return False
    numbers = [n for p in points for n in p]
    return all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= 1e300 for n in numbers)
