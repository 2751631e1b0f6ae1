"""What the texts of a page stand for: their roles, the names of categories on an axis, the names of a pie's slices.

A name counts where its text was painted beside the place that it is said to name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vlrft.rewards.chart.commands import Array, Box, Frame, Names, Op, Page
from vlrft.rewards.chart.points import Rows
from vlrft.rewards.chart.raster import outline

_AXES_ROLES = {f"{side}{part}": f"{side}{role}" for side in "xyz" for part, role in (("axis", "tick"), ("label",) * 2)}
ROLES = ("title", "annotation", *_AXES_ROLES.values())

_NUMBER = re.compile(r"([^\w\-.]{0,2})(-?[\d,]*\.?\d+(?:e[+-]?\d+)?)\s*([^\d\s]{0,3})", re.IGNORECASE)
"""A number as formatters write it: an amount, a share, thousands."""
_SHARE = re.compile(r"[\d.,]+\s*%")
_LONGEST_NUMBER = 40
_MAX_NAMES, _MAX_ALIKE, _MAX_SLICES = 1000, 64, 200
"""Names on one axis, texts there with the same words, and slices of one pie that are looked at."""
_ROUNDING = 0.51
"""What a number that says how large a slice is may be off, since it is rounded."""


@dataclass(frozen=True, slots=True)
class Written:
    """A text that shows, and who it belongs to."""

    words: str
    owner: int
    role: str
    axes: int
    op: Op


def role_of(text: Written, page: Page, twins: bool) -> str:
    """One of ROLES; with `twins` (two axes in one place) a text at the upper or right side says so.

    What belongs to no axes is judged by its place: above all of them it is a title, below or beside them a label.
    """
    x, y = text.op.at[0, 0], page.height - text.op.at[0, 1]
    if text.axes < 0:
        return _figure_role(x, y, text.op, [frame.box for frame in page.frames])
    role = "title" if text.role == "title" else _AXES_ROLES.get(text.role, "annotation")
    left, bottom, right, top = page.frames[text.axes].box
    if twins and (x > (left + right) / 2 if role[0] == "y" else role[0] == "x" and y > (bottom + top) / 2):
        return f"far {role}"
    return role


def _figure_role(x: float, y: float, op: Op, boxes: Sequence[Box]) -> str:
    if not boxes:
        return "annotation"
    if y > max(box[3] for box in boxes):
        return "title"
    if op.angle % 180 == 90:
        outside = x < min(box[0] for box in boxes) or x > max(box[2] for box in boxes)
        return "ylabel" if outside else "annotation"
    return "xlabel" if y < min(box[1] for box in boxes) else "annotation"


# ---- categories


def category_names(page: Page, texts: Iterable[Written]) -> list[dict[str, Names]]:
    """Of each axes the names along x and y, by place, that are painted there.

    An axes that has none takes those of one that shares its side: the same pixels and the same limits.
    """
    painted: dict[tuple[int, str, str], list[Written]] = defaultdict(list)
    for text in texts:
        alike = painted[text.axes, text.role[:1], text.words] if text.role in ("xaxis", "yaxis") else None
        if alike is not None and len(alike) < _MAX_ALIKE:
            alike.append(text)
    own = []
    for number, frame in enumerate(page.frames):
        own.append({side: _painted_names(page, frame, number, side, painted) for side in ("x", "y")})
    shared: dict[tuple[object, ...], Names] = {}
    for names, frame in zip(own, page.frames, strict=True):
        for side in ("x", "y"):
            if names[side]:
                shared.setdefault(_side(frame, side), names[side])
    return [
        {side: names[side] or shared.get(_side(frame, side), ()) for side in ("x", "y")}
        for names, frame in zip(own, page.frames, strict=True)
    ]


def _side(frame: Frame, side: str) -> tuple[object, ...]:
    first, limits = (0, frame.x) if side == "x" else (1, frame.y)
    return side, round(frame.box[first]), round(frame.box[first + 2]), limits


def _painted_names(
    page: Page, frame: Frame, number: int, side: str, painted: dict[tuple[int, str, str], list[Written]]
) -> Names:
    first, (scale, low, high) = (0, frame.x) if side == "x" else (1, frame.y)
    given = frame.x_names if side == "x" else frame.y_names
    start, end = frame.box[first], frame.box[first + 2]
    if scale != "linear" or low == high:
        return ()
    made = []
    for words, place in given[:_MAX_NAMES]:
        pixel = start + (place - low) / (high - low) * (end - start)
        line = next(filter(None, (" ".join(line.split()) for line in words.splitlines())), "")
        if any(_beside(page, text.op, first, pixel) for text in painted.get((number, side, line), ())):
            made.append((" ".join(words.split()), place))
    made.sort(key=lambda one: one[1])
    return tuple(made)


def _beside(page: Page, op: Op, axis: int, pixel: float) -> bool:
    """Can a text that is aligned to this pixel along x (axis 0) or y be painted where it is?"""
    at = op.at[0, 0] if axis == 0 else page.height - op.at[0, 1]
    return bool(abs(at - pixel) <= op.size * (2.0 + 0.75 * len(op.text)))


def as_numbers(names: Names, places: Array) -> tuple[Names, Array]:
    """(names, places), where names that are numbers become the places: of years as categories, the years.

    Numbers in proportion to their places are the places written down, and name nothing.
    """
    found = [_NUMBER.fullmatch(words.replace("\N{MINUS SIGN}", "-")[:_LONGEST_NUMBER]) for words, _ in names]
    read = [match for match in found if match is not None]
    if not names or len(read) < len(names):
        return names, places
    numbers = np.array([float(match[2].replace(",", "")) for match in read])
    at = np.array([place for _, place in names])
    largest = int(np.abs(at).argmax())
    if at[largest] != 0 and np.allclose(numbers * at[largest], at * numbers[largest], rtol=1e-3, atol=1e-9):
        return (), places
    if any(match[1] or match[3] for match in read) or not np.isfinite(numbers).all():
        return names, places
    return (), _interpolated(places, at, numbers)


def _interpolated(places: Array, at: Array, numbers: Array) -> Array:
    """Linear between `at`, and beyond as between its last two."""
    if len(at) == 1:
        at, numbers = np.append(at, at[0] + 1.0), np.append(numbers, numbers[0] + 1.0)
    piece = np.clip(np.searchsorted(at, places) - 1, 0, len(at) - 2)
    step = np.maximum(at[piece + 1] - at[piece], 1e-12)
    made: Array = numbers[piece] + (places - at[piece]) / step * (numbers[piece + 1] - numbers[piece])
    return made


# ---- slices of a pie


def slice_names(
    page: Page, slices: Sequence[Op], shares: Sequence[float], axes: int, texts: Iterable[Written]
) -> list[str]:
    """The name at each slice, "" without one; no list where none has one.

    shares: how large each slice is, of 1. A text names the slice in which its anchor lies, or the nearest one within
    0.6 of the pie's radius. Numbers that say how large slices are name none.
    """
    said: dict[int, list[str]] = defaultdict(list)
    size: dict[int, Op] = {}
    for text in texts:
        if text.axes == axes and text.owner in page.anchors:
            said[text.owner].append(text.words)
            size.setdefault(text.owner, text.op)
    outlines = [_closed(op) for op in slices]
    if not said or not all(len(one) > 1 for one in outlines) or len(outlines) > _MAX_SLICES:
        return []
    starts = np.cumsum([0, *(len(one) - 1 for one in outlines[:-1])])
    a, b = (np.concatenate([one[side] for one in outlines]) for side in (slice(None, -1), slice(1, None)))
    reach = 0.3 * float(np.ptp(a, axis=0).max())
    names: list[list[str]] = [[] for _ in slices]
    for owner, lines in said.items():
        at, op = np.array(page.anchors[owner]), size[owner]
        # Many lines stand above each other, so the anchor may be that much away.
        beside = op.size * (2.0 + 0.75 * len(op.text) + 1.5 * len(lines))
        away = _distances(at, a, b, starts)
        words = " ".join(line for line in lines if not _SHARE.match(line))
        near = np.hypot(*(at - (op.at[0, 0], page.height - op.at[0, 1]))) <= beside
        if near and words and away.min() <= reach:
            names[int(np.argmin(away))].append(words)
    for order in (1, 0):
        _drop_sizes(names, order, shares)
    joined = [" ".join(one) for one in names]
    return joined if any(joined) else []


def _drop_sizes(names: list[list[str]], order: int, shares: Sequence[float]) -> None:
    """Remove the texts that stand at this place in the order of each slice's, where all are numbers like the shares."""
    there = [k for k, one in enumerate(names) if len(one) > order]
    found = [_NUMBER.fullmatch(names[k][order][:_LONGEST_NUMBER]) for k in there]
    read = [float(match[2].replace(",", "")) for match in found if match is not None]
    if not there or len(read) < len(there):
        return
    wanted = np.array([shares[k] for k in there])
    wanted *= sum(read) / max(float(wanted.sum()), 1e-12)
    if (np.abs(np.array(read) - wanted) <= _ROUNDING + 2e-4 * np.abs(wanted)).all():
        for k in there:
            del names[k][order]


def _closed(op: Op) -> Array:
    points, _, _ = outline(op.path)
    return np.concatenate([points, points[:1]])


def _distances(at: Array, first: Array, second: Array, starts: Rows) -> Array:
    """Of a point from closed outlines, whose pieces begin at `starts`; 0 within."""
    a, b = first - at, second - at
    crosses = (a[:, 1] > 0) != (b[:, 1] > 0)
    slope = np.where(crosses, b[:, 1] - a[:, 1], 1.0)
    right = crosses & (a[:, 0] - a[:, 1] * (b[:, 0] - a[:, 0]) / slope > 0)
    step = b - a
    share = np.clip(-(a * step).sum(axis=1) / np.maximum((step * step).sum(axis=1), 1e-12), 0.0, 1.0)
    away = np.hypot(*(a + share[:, None] * step).T)
    within = np.add.reduceat(right.astype(np.intp), starts) % 2 == 1
    return np.where(within, 0.0, np.minimum.reduceat(away, starts))
