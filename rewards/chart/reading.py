"""Elements of a chart, read off its paint commands in the trusted process.

Nothing that a program says about its chart is believed. What counts is paint: a text is one that was painted, a colour
is one that was painted with, a series' values are the pixels of its marks, turned back into data by the frame of its
axes; and the image is painted from the same commands. Paint that nobody can see (fully transparent, blank, outside the
canvas or its clip) is nothing. So a forged result is either no drawing, and fails, or is itself a drawing: of what it
shows. What a program does choose, as any program may, is what its marks are called (line, bar, legend) and which
numbers its axes stand for; a bar must then be a rectangle, a pie slice round, an axes must hold paint of its own.
Whether one mark hides another, or has the colour of what lies beneath, is not looked at: a mark that is not in the
reference costs precision all the same.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

KINDS = ("line", "bar", "barh", "wedge", "patch", "scatter", "lines", "area", "marks", "contour", "mesh", "image")
"""Roles of owners that make a series."""

MAX_PAGES, MAX_OPS, MAX_AXES, MAX_SIDE = 16, 50_000, 256, 16_384
MAX_IMAGE_PIXELS = 2**24
MAX_COLOURS = 24
"""Distinct colours that one series lists; of more, evenly chosen ones."""
POOL = 16
"""Side of the grid of mean colours that stands for an image's values."""

_GAP = 1e9
_FAR = 1e12


class NotADrawingError(ValueError):
    """The result that came out of the sandbox does not describe paint."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where an axes lies, in pixels, and what its sides stand for."""

    box: tuple[float, ...]
    slot: tuple[float, ...]
    x: tuple[str, float, float]
    y: tuple[str, float, float]

    def data(self, pixels: Array) -> Array:
        """Pixels to data; to fractions of the frame where its scale is not linear or logarithmic."""
        x0, y0, x1, y1 = self.box
        across = (pixels[:, 0] - x0) / max(x1 - x0, 1e-9)
        up = (pixels[:, 1] - y0) / max(y1 - y0, 1e-9)
        return np.stack([_unscaled(across, self.x), _unscaled(up, self.y)], axis=1)


def read(pages: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The elements of all pages together (elements.py has their form). Raises NotADrawingError."""
    made: dict[str, list[Any]] = {name: [] for name in ("text", "type", "layout", "colour", "legend", "data")}
    if len(pages) > MAX_PAGES:
        raise NotADrawingError(f"{len(pages)} figures")
    for page in pages:
        try:
            _read_page(page, made)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError, zlib.error) as error:
            raise NotADrawingError(f"{type(error).__name__}: {str(error)[:200]}") from error
    return made


def _read_page(page: Mapping[str, Any], made: dict[str, list[Any]]) -> None:
    width, height = (_number(side, MAX_SIDE) for side in page["size"])
    frames = [_frame(axes) for axes in page["axes"]]
    if len(frames) > MAX_AXES or len(page["ops"]) > MAX_OPS or min(width, height) < 1:
        raise ValueError("too large, or without a canvas")
    images = [op["shape"] for op in page["ops"] if op["op"] == "image"]
    if sum(_number(h, MAX_SIDE) * _number(w, MAX_SIDE) for h, w in images) > MAX_IMAGE_PIXELS:
        raise ValueError("too many image pixels")
    owners = [(str(role), int(axes), int(series)) for role, axes, series in page["owners"]]
    series: dict[tuple[str, int, int], list[Mapping[str, Any]]] = {}
    painted: set[int] = set()
    for op in page["ops"]:
        role, axes, number = owners[_index(op["owner"], owners)]
        if not _visible(op, (0.0, 0.0, width, height)):
            continue
        if axes >= 0:
            painted.add(_index(axes, frames))
        if op["op"] == "text":
            made["legend" if role == "legend" else "text"].append(" ".join(str(op["text"]).split()))
        elif role in KINDS and axes >= 0:
            series.setdefault((role, axes, number), []).append(op)
    made["layout"] += layout([frames[i].slot for i in sorted(painted)], width, height)
    for (role, axes, _), ops in series.items():
        kind, points = _series(role, ops, frames[axes])
        made["type"].append(kind)
        made["colour"] += [[kind, colour] for colour in _colours(ops)]
        if len(points):
            made["data"].append({"type": kind, "points": points.tolist()})


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


def _series(role: str, ops: Sequence[Mapping[str, Any]], frame: _Frame) -> tuple[str, Array]:
    """(kind of chart, rows of numbers) of the marks that belong together."""
    if role == "wedge":
        return _pie(ops)
    if role in ("bar", "barh"):
        return _bars(role, ops, frame)
    if role in ("mesh", "image"):
        return role, np.concatenate([_cells(op) for op in ops])
    paths = [op for op in ops if op["op"] == "path"]
    if role == "line" and not paths:
        role = "scatter"  # markers alone look the same, whoever drew them
    pixels = np.concatenate([_marks(op) for op in (paths or ops)])
    return role, frame.data(pixels)


def _marks(op: Mapping[str, Any]) -> Array:
    """Pixels of the marks of one command: a path's points, markers' places, outlines of what has none."""
    if op["op"] == "path":
        return _vertices(op["path"])
    places = _rows(op["at"])
    if len(places) > 1 or _off_origin(places):
        return places
    if op["op"] == "markers":  # how Matplotlib draws a collection of one outline
        return _vertices(op["path"])
    matrix = op["matrices"][0]
    moved = [_vertices(path) for path in op["paths"]]
    pixels = np.concatenate(moved) if moved else np.zeros((0, 2))
    a, b, c, d, e, f = (_number(m, _FAR) for m in matrix)
    at = places[0] if len(places) else np.zeros(2)
    return np.stack([pixels @ np.array([a, c]) + e, pixels @ np.array([b, d]) + f], axis=1) + at


def _off_origin(places: Array) -> bool:
    return bool(len(places) and np.abs(places).max() > 0)


def _bars(role: str, ops: Sequence[Mapping[str, Any]], frame: _Frame) -> tuple[str, Array]:
    """Rows of (place, start, end), in data; patches where one is no upright rectangle."""
    rows = []
    for op in ops:
        corners = _vertices(op["path"]) if op["op"] == "path" else np.zeros((0, 2))
        low, high = (corners.min(axis=0), corners.max(axis=0)) if len(corners) else (np.zeros(2), np.zeros(2))
        on_edges = np.isclose(corners, low, atol=0.01) | np.isclose(corners, high, atol=0.01)
        if not 4 <= len(corners) <= 5 or not on_edges.all():
            return "patch", frame.data(np.concatenate([_marks(op) for op in ops]))
        (x0, y0), (x1, y1) = frame.data(np.stack([low, high]))
        rows.append([(x0 + x1) / 2, y0, y1] if role == "bar" else [(y0 + y1) / 2, x0, x1])
    return role, np.array(rows)


def _pie(ops: Sequence[Mapping[str, Any]]) -> tuple[str, Array]:
    """The share of each slice by its painted area; slices must have curves."""
    areas = []
    for op in ops:
        points, codes = op["path"]
        if codes is None or 4 not in codes:
            return "patch", np.zeros((0, 1))
        areas.append(_area(_rows(points), codes))
    total = sum(areas)
    return "pie", np.array([[a / total] for a in areas]) if total > 0 else np.zeros((0, 1))


def _area(points: Array, codes: Sequence[int]) -> float:
    """Area within one outline of straight lines and cubic curves (each code 4 starts or continues a curve)."""
    outline: list[Array] = []
    i = 0
    steps = np.linspace(0.0, 1.0, 9)[1:, None]
    while i < len(codes):
        if codes[i] == 4 and outline and i + 2 < len(codes):
            p0, (p1, p2, p3) = outline[-1], points[i : i + 3]
            curve = (
                (1 - steps) ** 3 * p0
                + 3 * (1 - steps) ** 2 * steps * p1
                + 3 * (1 - steps) * steps**2 * p2
                + steps**3 * p3
            )
            outline += list(curve)
            i += 3
            continue
        if codes[i] != 79:
            outline.append(points[i])
        i += 1
    shape = np.array(outline)
    ahead = np.roll(shape, -1, axis=0)
    return abs(float((shape[:, 0] * ahead[:, 1] - shape[:, 1] * ahead[:, 0]).sum())) / 2


def _cells(op: Mapping[str, Any]) -> Array:
    """Colours as values: of every cell of a mesh, of a grid of POOL x POOL means of an image; rows of (r, g, b)."""
    if op["op"] == "mesh":
        return np.array([c[:3] for c in op["fills"]], dtype=float).reshape(-1, 3)
    if op["op"] != "image":
        return np.zeros((0, 3))
    pixels = image_pixels(op)[..., :3] / 255.0
    bands = [np.array_split(band, POOL, axis=1) for band in np.array_split(pixels, POOL, axis=0)]
    return np.array([c.mean(axis=(0, 1)) if c.size else np.ones(3) for band in bands for c in band])


def image_pixels(op: Mapping[str, Any]) -> NDArray[np.uint8]:
    """uint8 [height, width, 4] of an image command. Raises ValueError."""
    height, width = (int(_number(side, MAX_SIDE)) for side in op["shape"])
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(base64.b64decode(op["pixels"], validate=True), 4 * height * width + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"image: {error}") from error
    return np.frombuffer(raw, dtype=np.uint8).reshape(height, width, 4)


def _colours(ops: Sequence[Mapping[str, Any]]) -> list[str]:
    """Distinct colours of a series as painted on white, in order: fills where there are any, else strokes."""
    seen: dict[str, None] = {}
    for op in ops:
        if op["op"] in ("mesh", "image"):
            mean = _cells(op).mean(axis=0)
            inks: list[Any] = [[*mean, 1.0]]
        elif op["op"] == "many":
            inks = [c for c in op["fills"] if _inked(c)] or [c for c in op["edges"] if _inked(c)]
        else:
            inks = [op["fill"] if _inked(op.get("fill")) else op.get("edge")]
        for ink in inks:
            r, g, b, a = (_number(part, 1.0) for part in ink)
            seen["#" + "".join(f"{round(255 * (max(0.0, c) * a + 1.0 - a)):02x}" for c in (r, g, b))] = None
    names = list(seen)
    return (
        names
        if len(names) <= MAX_COLOURS
        else [names[i] for i in np.linspace(0, len(names) - 1, MAX_COLOURS).astype(int)]
    )


def _visible(op: Mapping[str, Any], canvas: tuple[float, float, float, float]) -> bool:
    """Does the command leave paint on the canvas, within its clip?"""
    kind = op["op"]
    region = canvas if op.get("box") is None else _overlap(canvas, [_number(n, _FAR) for n in op["box"]])
    if kind == "text":
        (place,) = _rows(op["at"])
        reach = 2.0 * len(str(op["text"])) * _number(op["font"]["size"], 1000.0)
        near = all(-reach <= p <= side + reach for p, side in zip(place, canvas[2:], strict=True))
        return near and bool(str(op["text"]).strip()) and _inked(op.get("edge")) and op["font"]["size"] >= 1
    if kind == "image":
        return image_pixels(op)[..., 3].any().item() and _touches(_rows(op["at"]), region, max(op["shape"]))
    if kind == "mesh":
        return any(_inked(c) for c in op["fills"]) and _touches(_rows(op["at"]), region)
    if kind == "many":
        stroked = any(_inked(c) for c in op["edges"]) and any(_number(w, _FAR) > 0 for w in op["widths"])
        shapes = [_vertices(path) for path in op["paths"]]
        grown = max(abs(_number(m, _FAR)) for matrix in op["matrices"] for m in matrix[:4])
        sized = any(_sized(shape * grown, stroked) for shape in shapes)
        return sized and (stroked or any(_inked(c) for c in op["fills"])) and _touches(_marks(op), region, 1.0)
    if kind not in ("path", "markers"):
        raise ValueError(f"no such command: {kind!r}")
    stroked = _inked(op.get("edge")) and _number(op["width"], _FAR) > 0
    shape = _vertices(op["path"])
    inked = _sized(shape, stroked) and (stroked or _inked(op.get("fill")))
    return inked and _touches(_marks(op), region, 1.0)


def _sized(shape: Array, stroked: bool) -> bool:
    """Has an outline any extent that ink could show: length for a stroke, both sides for a fill?"""
    if not len(shape):
        return False
    extent = np.ptp(shape, axis=0)
    return bool((extent.max() if stroked else extent.min()) > 0.01)


def _inked(colour: Any) -> bool:
    return colour is not None and _number(colour[3], 1.0) > 0.01


def _touches(points: Array, region: Sequence[float] | None, slack: float = 0.0) -> bool:
    if region is None or not len(points):
        return False
    low, high = points.min(axis=0) - slack, points.max(axis=0) + slack
    return bool(low[0] <= region[2] and high[0] >= region[0] and low[1] <= region[3] and high[1] >= region[1])


def _overlap(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float, float] | None:
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _frame(axes: Mapping[str, Any]) -> _Frame:
    box, slot = (tuple(_number(n, _FAR) for n in axes[key]) for key in ("frame", "slot"))
    if len(box) != 4 or len(slot) != 4:
        raise ValueError("an axes is not a box")
    sides = [(str(axes[k][0]), _number(axes[k][1], 1e300), _number(axes[k][2], 1e300)) for k in ("x", "y")]
    # Shrunk by its aspect, an axes lies within its slot; a slot that does not hold it is not where it was painted.
    inside = slot[0] - 2 <= box[0] and slot[1] - 2 <= box[1] and box[2] <= slot[2] + 2 and box[3] <= slot[3] + 2
    return _Frame(box, slot if inside else box, sides[0], sides[1])


def _unscaled(share: Array, side: tuple[str, float, float]) -> Array:
    scale, low, high = side
    if scale == "linear":
        return low + share * (high - low)
    if scale == "log" and low > 0 and high > 0:
        return np.exp(np.clip(math.log(low) + share * (math.log(high) - math.log(low)), -690.0, 690.0))
    return share


def _vertices(path: Any) -> Array:
    """Points of a path without its gaps and without the closing point that stands for none."""
    points, codes = path
    rows = _rows(points)
    if codes is not None:
        if len(codes) != len(rows):
            raise ValueError("a path's codes and points differ in number")
        rows = rows[np.asarray(codes) != 79]
    kept: Array = rows[(np.abs(rows) < _GAP).all(axis=1)]
    return kept


def _rows(values: Any) -> Array:
    rows = np.asarray(values, dtype=float).reshape(-1, 2)
    if not np.isfinite(rows).all():
        raise ValueError("a coordinate is not finite")
    return rows


def _number(value: Any, limit: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= limit:
        raise ValueError(f"{str(value)[:40]!r} is not a number up to {limit:g}")
    return float(value)


def _index(value: Any, of: Sequence[Any]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(of):
        raise IndexError(f"{str(value)[:40]!r} names none of {len(of)}")
    return value
