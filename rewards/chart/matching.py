"""Series of two charts one to one, and what their colours and legend entries are worth in that order.

One matching serves data, colours and legend, so that a colour or a label that belongs to another series is not worth
what it would be at its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from vlrft.rewards.chart.colour import ciede2000, lab, rgb
from vlrft.rewards.chart.points import MAX_POINTS, Agreement, Array, compared

MAX_SERIES = 64
"""Series per side that are compared each with each; what lies beyond is compared with its like by number only."""

MAX_ENTRIES = 200
"""Legend entries per side that are matched; what lies beyond counts as not found."""

MAX_SHADES = 24
"""Distinct colours per side that are matched, evenly chosen."""

_LABELLED = 0.1
"""What a common label weighs between series of two kinds; between those of one kind, as much as data or colour."""


@dataclass(slots=True)
class Series:
    """A series of a dump, ready to be compared."""

    kind: str
    place: tuple[int, ...] | None
    fields: dict[str, Any]
    """Those of the dump, `points` as an array."""
    shades: Array
    """Its colours as L*a*b*: none, one, or [points, 3], or else the distinct ones."""
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two series that were matched: numbers of the found and of the true one, and how well they agree."""

    found: int
    truth: int
    data: Agreement
    colour: float


def prepared(elements: Mapping[str, Any]) -> list[Series]:
    """The series of a dump, also of one that records no colours, places or legend."""
    labels: dict[int, set[str]] = defaultdict(set)
    slices: dict[int, dict[int, str]] = defaultdict(dict)
    for words, marks in zip(elements.get("legend", []), elements.get("ties", []), strict=False):
        for series, point in marks:
            labels[series].add(words)
            slices[series].setdefault(point, words)
    made = []
    for number, one in enumerate(elements.get("data", [])):
        rows = np.asarray(one["points"], dtype=float).reshape(len(one["points"]), -1)
        if len(rows) > MAX_POINTS:
            rows = rows[np.linspace(0, len(rows) - 1, MAX_POINTS).astype(int)]
        fields = {**one, "points": rows}
        if one["type"] == "pie" and not one.get("names") and any(point >= 0 for point in slices[number]):
            fields["names"] = [slices[number].get(point, "") for point in range(len(rows))]
        place = tuple(one["axes"]) if "axes" in one else None
        shades = lab(rgb(one.get("colours", [])))
        made.append(Series(one["type"], place, fields, shades, frozenset(labels[number])))
    return made


def matched(found: Sequence[Series], truth: Sequence[Series], rel_tol: float) -> list[Pair]:
    """The best one-to-one matching, by the sum of how well data, colours and labels agree, within one place."""
    pairs, mine, theirs = [], [], []
    for i in range(max(len(found), len(truth))):
        # Most series of a chart that is right stand at their own number.
        own = _pair(found, truth, i, i, rel_tol) if i < min(len(found), len(truth)) else None
        if (
            own is not None
            and own.data.share == 1.0
            and own.colour >= 1.0 - 1e-9
            and found[i].labels == truth[i].labels
        ):
            pairs.append(own)
            continue
        mine += [i] if i < len(found) else []
        theirs += [i] if i < len(truth) else []
    mine, theirs = mine[:MAX_SERIES], theirs[:MAX_SERIES]
    table = {(i, j): _pair(found, truth, i, j, rel_tol) for i in mine for j in theirs}
    weights = np.zeros((len(mine), len(theirs)))
    for row, i in enumerate(mine):
        for column, j in enumerate(theirs):
            weights[row, column] = _weight(table[i, j], found[i], truth[j])
    for best in np.transpose(linear_sum_assignment(weights, maximize=True)):
        pair = table[mine[best[0]], theirs[best[1]]]
        if pair is not None and weights[best[0], best[1]] > 0.0:
            pairs.append(pair)
    return pairs


def legend_f1(found: Mapping[str, Any], truth: Mapping[str, Any], pairs: Sequence[Pair]) -> float:
    """F1 of legend entries: equal words, at series (or points of them) that were matched."""
    mine, theirs = found["legend"], truth["legend"]
    by_truth = {pair.truth: pair for pair in pairs}
    likeness = np.zeros((len(mine[:MAX_ENTRIES]), len(theirs[:MAX_ENTRIES])))
    by_words: dict[str, list[int]] = defaultdict(list)
    for i, words in enumerate(mine[:MAX_ENTRIES]):
        by_words[" ".join(words.split())].append(i)
    for j, words in enumerate(theirs[:MAX_ENTRIES]):
        for i in by_words.get(" ".join(words.split()), ()):
            likeness[i, j] = _tied_alike(found["ties"][i], truth["ties"][j], by_truth)
    rows, columns = linear_sum_assignment(likeness, maximize=True)
    return 2.0 * float(likeness[rows, columns].sum()) / (len(mine) + len(theirs))


def _tied_alike(
    marks: Sequence[Sequence[int]], true_marks: Sequence[Sequence[int]], by_truth: dict[int, Pair]
) -> float:
    """Share of what the true entry belongs to that the found one belongs to as well; 1 where it belongs to nothing."""
    if not true_marks:
        return 1.0
    own, hits = {(series, point) for series, point in marks}, 0
    for series, point in true_marks:
        pair = by_truth.get(series)
        if pair is not None:
            hits += (pair.found, _counterpart(pair, point)) in own
    return hits / max(len(own), len(true_marks))


def _counterpart(pair: Pair, point: int) -> int:
    """The found point that was compared with a true one; -2 where there was none, -1 for the whole series."""
    if point < 0:
        return -1
    where = np.flatnonzero(pair.data.truth == point)
    return int(pair.data.found[where[0]]) if len(where) else -2


def _pair(found: Sequence[Series], truth: Sequence[Series], i: int, j: int, rel_tol: float) -> Pair | None:
    one, other = found[i], truth[j]
    if one.place is not None and other.place is not None and one.place != other.place:
        return None
    if one.kind != other.kind:
        none = np.zeros(0, dtype=np.intp)
        return Pair(i, j, Agreement(0.0, none, none), 0.0) if one.labels & other.labels else None
    data = compared(one.fields, other.fields, rel_tol)
    return Pair(i, j, data, _colours_alike(one, other, data))


def _weight(pair: Pair | None, one: Series, other: Series) -> float:
    if pair is None:
        return 0.0
    common = len(one.labels & other.labels) / max(1, len(one.labels), len(other.labels))
    return pair.data.share + pair.colour + common * (1.0 if one.kind == other.kind else _LABELLED)


def _colours_alike(one: Series, other: Series, data: Agreement) -> float:
    """Mean of max(0, 1 - dE2000 / 100): point by point where both have a colour for each, else of their best order."""
    a, b = one.shades, other.shades
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    if len(a) == len(b) == 1:
        return float(_alike(a[0], b[0]))
    number, true_number = len(one.fields["points"]), len(other.fields["points"])
    if len(a) in (1, number) and len(b) in (1, true_number) and min(number, true_number) > 1:
        if not len(data.found):
            return 0.0
        shades, true_shades = a[data.found % len(a)], b[data.truth % len(b)]
        return float(_alike(shades, true_shades).sum()) / max(number, true_number)
    a, b = (side[np.linspace(0, len(side) - 1, min(len(side), MAX_SHADES)).astype(int)] for side in (a, b))
    likeness = _alike(a[:, None], b[None])
    rows, columns = linear_sum_assignment(likeness, maximize=True)
    return float(likeness[rows, columns].sum()) / max(len(a), len(b))


def _alike(first: Array, second: Array) -> Array:
    made: Array = np.maximum(0.0, 1.0 - ciede2000(first, second) / 100.0)
    return made
