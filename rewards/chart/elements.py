"""The elements of a drawn chart, and how well those of two charts agree.

Elements in their JSON form (a recorded dump, and what `recorded` makes of a program):

    {"text": ["Sales", "a"], "type": ["bar"], "layout": [[rows, columns, top, bottom, left, right]],
     "colour": [["bar", "#1f77b4"]], "legend": ["2023"],
     "data": [{"type": "bar", "points": [[position, low, high]], "axes": [figure, top, left], "colours": ["#1f77b4"],
               "x": [["a", position]]}],
     "roles": [["title", figure, top, left], ["xtick", figure, top, left]], "ties": [[[series, point]]]}

`roles` says of each text what it is and where, `ties` of each legend entry to which series (or points) it belongs.
Both, and what a series has besides `type` and `points`, may be missing, as in dumps recorded before there was any:
those texts, entries and colours are then compared as sets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from vlrft.rewards.base import TargetError
from vlrft.rewards.chart.colour import similarity
from vlrft.rewards.chart.matching import Pair, legend_f1, matched, prepared
from vlrft.rewards.chart.points import Array

Elements = Mapping[str, Any]

NAMES = ("text", "type", "layout", "colour", "legend", "data")
BINDINGS = {"roles": "text", "ties": "legend"}
"""What binds the items of an element, one entry for each of them."""

MAX_MATCHED = 200
"""Colours per side that are matched; what lies beyond still counts as not found."""


def check_elements(target: Mapping[str, Any]) -> Elements:
    """A recorded dump as it was given. Raises TargetError that names the field; a missing element is not judged."""
    unknown = sorted(map(str, set(target) - {*NAMES, *BINDINGS}))
    if unknown or not set(target) & set(NAMES):
        names = ", ".join((*NAMES, *BINDINGS))
        raise TargetError(f"a chart dump holds {names}; got {unknown or 'none of them'}; record the chart afresh")
    checks = {"text": _is_text, "type": _is_text, "legend": _is_text, "layout": _is_cell, "colour": _is_colour}
    checks |= {"roles": _is_role, "ties": _is_tie, "data": _is_series}
    for name, items in target.items():
        if not isinstance(items, list) or not all(checks[name](item) for item in items):
            raise TargetError(f"chart dump: {name} has the wrong form, {str(items)[:120]!r}; record the chart afresh")
    for name, bound in BINDINGS.items():
        if name in target and len(target[name]) != len(target.get(bound, [])):
            raise TargetError(f"chart dump: {name} must have one entry for each {bound}; record the chart afresh")
    sizes = [len(one["points"]) for one in target.get("data", [])]
    for series, point in (mark for marks in target.get("ties", []) for mark in marks):
        if not 0 <= series < len(sizes) or not -1 <= point < sizes[series]:
            raise TargetError(f"chart dump: ties name series {series}, point {point}, which data lacks; record afresh")
    if not any(target.get(name) for name in NAMES):
        raise TargetError("chart dump: every element is empty, so no chart can be judged against it")
    return target


def agreement(found: Elements, truth: Elements, rel_tol: float) -> dict[str, float | None]:
    """F1 of each element, in [0, 1]; None where both have none of it, or the truth does not record it."""
    judged = {name: bool(truth.get(name) or (name in truth and found.get(name))) for name in NAMES}
    scored: dict[str, float | None] = dict.fromkeys(NAMES)
    pairs: list[Pair] = []
    series = (prepared(found), prepared(truth))
    if any(judged[name] for name in ("colour", "legend", "data")):
        pairs = matched(*series, rel_tol)
    number = sum(map(len, series))
    for name in (name for name in NAMES if judged[name]):
        given, wanted = found.get(name, []), truth[name]
        if name == "text":
            scored[name] = _text_f1(found, truth)
        elif name == "layout":
            scored[name] = multiset_f1(_cells(found, truth), _cells(truth, truth))
        elif name == "data":
            scored[name] = min(1.0, 2.0 * sum(pair.data.share for pair in pairs) / number)
        elif name == "colour" and truth.get("data") and all("colours" in one for one in truth["data"]):
            scored[name] = min(1.0, 2.0 * sum(pair.colour for pair in pairs) / number)
        elif name == "colour":
            scored[name] = _matched_f1(_colour_likeness(given, wanted), given, wanted)
        elif name == "legend" and "ties" in found and "ties" in truth:
            scored[name] = min(1.0, legend_f1(found, truth, pairs))
        else:
            scored[name] = multiset_f1([_words(g) for g in given], [_words(w) for w in wanted])
    return scored


def _text_f1(found: Elements, truth: Elements) -> float | None:
    """Mean of the F1 of tick labels and the F1 of all other texts, each a role at a place with its words.

    Labels of an axes that shows no series say nothing, unless the true chart has none at all.
    """
    given, wanted = ([_words(text) for text in one.get("text", [])] for one in (found, truth))
    if "roles" not in found or "roles" not in truth:
        return multiset_f1(given, wanted)
    f1s = []
    for ticks in (False, True):
        mine, theirs = _with_role(found, truth, ticks), _with_role(truth, truth, ticks)
        f1s += [multiset_f1(mine, theirs)] if mine or theirs else []
    return sum(f1s) / len(f1s) if f1s else None


def _with_role(elements: Elements, truth: Elements, ticks: bool) -> list[tuple[Any, ...]]:
    filled = {tuple(one["axes"]) for one in elements.get("data", []) if "axes" in one}
    every = not any("axes" in one for one in truth.get("data", []))
    made = []
    for words, (role, *place) in zip(elements["text"], elements["roles"], strict=True):
        is_tick = role.endswith("tick")
        if is_tick == ticks and (every or not is_tick or tuple(place) in filled):
            made.append((role, *place, _words(words)))
    return made


def _cells(elements: Elements, truth: Elements) -> list[tuple[Any, ...]]:
    """Cells of the layout, each with whether it shows a series, where the truth says that of any."""
    if not any("axes" in one for one in truth.get("data", [])):
        return [tuple(cell) for cell in elements.get("layout", [])]
    filled = {tuple(one["axes"][1:]) for one in elements.get("data", []) if "axes" in one}
    return [(*cell, (cell[2], cell[4]) in filled) for cell in elements.get("layout", [])]


def multiset_f1(found: Sequence[Any], truth: Sequence[Any]) -> float:
    """2 |found and truth| / (|found| + |truth|), items counted as often as they occur."""
    shared = (Counter(found) & Counter(truth)).total()
    return 2.0 * shared / (len(found) + len(truth))


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


def _words(item: str) -> str:
    return " ".join(item.split())


def _is_text(item: Any) -> bool:
    return isinstance(item, str)


def _are_integers(item: Any, length: int) -> bool:
    return isinstance(item, list) and len(item) == length and all(isinstance(i, int) for i in item)


def _is_cell(item: Any) -> bool:
    return _are_integers(item, 6)


def _is_role(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 4 and isinstance(item[0], str) and _are_integers(item[1:], 3)


def _is_tie(item: Any) -> bool:
    return isinstance(item, list) and all(_are_integers(mark, 2) for mark in item)


def _is_hex(item: Any) -> bool:
    return isinstance(item, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", item) is not None


def _is_colour(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and _is_hex(item[1])


def _is_number(item: Any) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool) and abs(item) <= 1e300


def _is_name(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and _is_number(item[1])


def _is_series(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return False
    points = item.get("points")
    if not isinstance(points, list) or not all(isinstance(p, list) and p for p in points):
        return False
    if len({len(p) for p in points}) > 1 or not all(_is_number(n) for p in points for n in p):
        return False
    listed = {"colours": _is_hex, "x": _is_name, "y": _is_name, "names": _is_text}
    if not all(
        isinstance(item.get(key, []), list) and all(map(fits, item.get(key, []))) for key, fits in listed.items()
    ):
        return False
    named = len(item["names"]) == len(points) if "names" in item else True
    return named and ("axes" not in item or _are_integers(item["axes"], 3))
