"""The form of a recorded page, checked in full in the trusted process before anything is read off it.

What passes here can be painted by painter.py: every field has the type, the length and the range that painting needs.
And it can be read in bounded time: the pages of one result share a budget of commands, points and image pixels, and an
image is unpacked once. Where a field is missing that has a usual value, the painter takes the same one.
"""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlrft.rewards.chart.commands import (
    GAP,
    Array,
    Box,
    Codes,
    Colour,
    Frame,
    Names,
    NotADrawingError,
    Op,
    Page,
    Path,
    TooLargeError,
)

MAX_PAGES, MAX_AXES, MAX_CLIPS = 16, 256, 512
MAX_EFFORT, MAX_POINTS, MAX_PATHS, MAX_OWNERS = 10_000, 250_000, 60_000, 20_000

_EFFORT = {"text": 1, "path": 3, "markers": 8, "many": 8, "mesh": 8, "image": 8}
_UNFILLED = {"path": 2, "markers": 1}
"""What reading one command costs, about: 3,300 bars or 1,250 collections are read, of one chart or of all together."""

MAX_CANVAS = 2**22 + 2**14
"""Pixels of a page; the recorder draws larger figures at fewer dots per inch (as_json.py), and rounds."""
MAX_IMAGE_PIXELS = 2**22

_NUMBERS = {int, float}
_LINE = 2
_CODES = (1, _LINE, 3, 4, 79)
"""Move, line, quadratic and cubic curve, close: what Matplotlib's paths are made of."""
_DASH_PERIOD, _MAX_DASHES = 0.05, 1e6
_MANY, _NEAR, _MAX_EDGE = 500, 5e3, 2.5e6
"""Points beyond which an outline is measured, pixels within which it is, and how long it may be."""

_HATCH = re.compile(r"[/\\|\-+xXoO.*]{1,16}")
_STYLES = {
    "style": ("normal", "italic", "oblique"),
    "variant": ("normal", "small-caps"),
    "weight": (
        *("ultralight", "light", "normal", "regular", "book", "medium", "roman", "semibold", "demibold", "demi"),
        *("bold", "heavy", "extra bold", "black"),
    ),
    "stretch": (
        *("ultra-condensed", "extra-condensed", "condensed", "semi-condensed", "normal", "semi-expanded"),
        *("expanded", "extra-expanded", "ultra-expanded"),
    ),
}


@dataclass(slots=True)
class Budget:
    """What is left for the pages of one result."""

    effort: int = MAX_EFFORT
    points: int = MAX_POINTS
    paths: int = MAX_PATHS
    owners: int = MAX_OWNERS
    pixels: int = MAX_IMAGE_PIXELS

    def take(self, what: str, number: int) -> int:
        """`number`, counted. Raises TooLargeError."""
        left = getattr(self, what) - number
        if left < 0:
            raise TooLargeError(f"more {what} than are read")
        setattr(self, what, left)
        return number


def checked(pages: Sequence[Mapping[str, Any]]) -> list[Page]:
    """All pages of one result, checked. Raises NotADrawingError, or TooLargeError among those."""
    if len(pages) > MAX_PAGES:
        raise TooLargeError(f"{len(pages)} figures")
    budget = Budget()
    try:
        return [_page(page, budget) for page in pages]
    except NotADrawingError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError, zlib.error) as error:
        raise NotADrawingError(f"{type(error).__name__}: {str(error)[:200]}") from error


def _page(page: Mapping[str, Any], budget: Budget) -> Page:
    width, height = (_integer(side, 1, MAX_CANVAS) for side in page["size"])
    dpi = _number(page["dpi"], 1e4, least=1.0)  # Agg's hatches have as many pixels, and crash with none
    if width * height > MAX_CANVAS or len(page["axes"]) > MAX_AXES or len(page["clips"]) > MAX_CLIPS:
        raise TooLargeError(f"a page of {width} x {height} with {len(page['axes'])} axes, {len(page['clips'])} clips")
    budget.take("effort", len(page["ops"]))
    budget.take("owners", len(page["owners"]))
    frames = tuple(_frame(axes, budget) for axes in page["axes"])
    owners = tuple(_owner(owner, len(frames)) for owner in page["owners"])
    anchors = dict(_anchor(one, len(owners)) for one in page.get("anchors", []))
    clips = tuple(_path(clip, budget) for clip in page["clips"])
    made = []
    for op in page["ops"]:
        one = _common(op, len(owners), len(clips))
        effort = _EFFORT[one.kind] if one.fill is not None else _UNFILLED.get(one.kind, _EFFORT[one.kind])
        budget.take("effort", effort - 1)
        _KINDS[one.kind](one, op, budget, dpi)
        made.append(one)
    return Page(width, height, frames, owners, anchors, clips, tuple(made))


def _common(op: Mapping[str, Any], owners: int, clips: int) -> Op:
    kind, hatch = op["op"], op.get("hatch")
    if kind not in _KINDS:
        raise ValueError(f"no such command: {str(kind)[:40]!r}")
    if op.get("cap", "butt") not in ("butt", "projecting", "round"):
        raise ValueError("no such end of a line")
    if op.get("join", "round") not in ("miter", "round", "bevel"):
        raise ValueError("no such corner of a line")
    if op.get("snap") not in (None, True, False) or op.get("smooth", True) not in (True, False):
        raise ValueError("snapping and smoothing are on or off")
    if hatch is not None and not _HATCH.fullmatch(hatch):
        raise ValueError("no such hatch")
    box, clip, fill = op.get("box"), op.get("clip"), op.get("fill")
    edge = None if op.get("edge") is None else _colour(op["edge"])
    return Op(
        kind=kind,
        owner=_integer(op["owner"], 0, owners - 1),
        edge=edge,
        fill=None if fill is None else _colour(fill),
        width=_number(op.get("width", 1.0), 1e4, least=0.0),
        dashes=() if (dash := _dash(op.get("dash"))) is None else tuple(map(float, dash[1])),
        hatch=hatch,
        hatch_colour=None if hatch is None else _colour(op["hatch_colour"]),
        box=None if box is None else _box(box),
        clip=None if clip is None else _integer(clip, 0, clips - 1),
    )


def _path_op(one: Op, op: Mapping[str, Any], budget: Budget, _dpi: float) -> None:
    one.path = _path(op["path"], budget)
    _can_be_filled(one.path)
    if one.dashed:
        points = one.path.points[(np.abs(one.path.points) < GAP).all(axis=1)]
        _few_dashes(float(np.abs(np.diff(points, axis=0)).sum()), _dash(op["dash"]))


def _markers_op(one: Op, op: Mapping[str, Any], budget: Budget, dpi: float) -> None:
    _path_op(one, op, budget, dpi)
    one.at = _rows(op["at"], budget)


def _many_op(one: Op, op: Mapping[str, Any], budget: Budget, _dpi: float) -> None:
    one.path, one.lengths = _paths(op["paths"], budget)
    _can_be_filled(one.path)
    one.at = _rows(op["at"], budget)
    one.matrices = _table(op["matrices"], 6, 1e6, budget)
    one.fills, one.edges = (_colours(op[key], budget) for key in ("fills", "edges"))
    _colours(op.get("hatch_colours", []), budget)
    one.widths = _table(op["widths"], 0, 1e4, budget)
    if (one.widths < 0).any() or not len(one.matrices):
        raise ValueError("a width below 0, or no matrix")
    dashes = [_dash(dash) for dash in op["dashes"]]
    longest = float(np.abs(np.diff(one.path.points, axis=0)).sum()) * float(np.abs(one.matrices[:, :4]).max())
    for dash in dashes:
        _few_dashes(longest, dash)


def _mesh_op(one: Op, op: Mapping[str, Any], budget: Budget, _dpi: float) -> None:
    rows, columns = (_integer(side, 1, MAX_POINTS) for side in op["shape"])
    one.shape, one.at, one.fills = (rows, columns), _rows(op["at"], budget), _colours(op["fills"], budget)
    if len(one.at) != (rows + 1) * (columns + 1) or len(one.fills) != rows * columns:
        raise ValueError("a mesh whose corners or colours are not as many as its cells say")


def _image_op(one: Op, op: Mapping[str, Any], budget: Budget, _dpi: float) -> None:
    rows, columns = (_integer(side, 1, MAX_IMAGE_PIXELS) for side in op["shape"])
    size = 4 * budget.take("pixels", rows * columns)
    one.shape, one.at = (rows, columns), _rows(op["at"], budget)
    # No more is unpacked than the shape says, whatever the stream holds.
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(base64.b64decode(op["pixels"], validate=True), size + 1)
    if len(raw) != size or not unpacker.eof or len(one.at) != 1:
        raise ValueError("an image without its pixels, or without its place")
    one.pixels = np.frombuffer(raw, dtype=np.uint8).reshape(rows, columns, 4)


def _text_op(one: Op, op: Mapping[str, Any], budget: Budget, dpi: float) -> None:
    one.at, one.text, font = _rows(op["at"], budget), op["text"], op["font"]
    if not isinstance(one.text, str) or len(one.at) != 1 or one.edge is None:
        raise ValueError("a text without words, place or colour")
    budget.take("points", len(one.text.encode()))  # which fails where it is no Unicode
    one.size = _number(font["size"], 1e6, least=1e-6) * dpi / 72.0
    one.angle = _number(op.get("angle", 0.0), 1e4)
    one.math = op.get("math", False)
    if one.size > 2000.0 or not isinstance(one.math, bool):
        raise ValueError("a text larger than fonts are, or whose mode is unknown")
    family = font.get("family", [])
    if not isinstance(family, list) or len(family) > 32 or not all(isinstance(f, str) and len(f) < 100 for f in family):
        raise ValueError("no list of font families")
    for key, names in _STYLES.items():
        value = font.get(key, "normal")
        if value not in names:
            if key in ("style", "variant"):
                raise ValueError(f"no such {key} of a font")
            _integer(value, 0, 1000)
    if not set(font) <= {"size", "family", *_STYLES}:
        raise ValueError("a font has no such field")


_KINDS = {
    "path": _path_op,
    "markers": _markers_op,
    "many": _many_op,
    "mesh": _mesh_op,
    "image": _image_op,
    "text": _text_op,
}


def _path(path: Any, budget: Budget) -> Path:
    points, codes = path
    rows = _rows(points, budget)
    return Path(rows, None if codes is None else _codes(codes, np.zeros(min(1, len(rows)), np.intp), len(rows)))


def _paths(paths: Any, budget: Budget) -> tuple[Path, NDArray[np.intp]]:
    """Many paths as one, and how many points each of them has."""
    points: list[Any] = []
    codes: list[Any] = []
    lengths = np.zeros(budget.take("paths", len(paths)), dtype=np.intp)
    for number, (some, kinds) in enumerate(paths):
        fits = kinds is None or (isinstance(kinds, list) and len(kinds) == len(some))
        if not isinstance(some, list) or not fits:
            raise ValueError("a path's codes do not fit its points")
        lengths[number] = len(some)
        points += some
        codes += [1, *[_LINE] * (len(some) - 1)][: len(some)] if kinds is None else kinds
    rows = _rows(points, budget)
    begins = (np.cumsum(lengths) - lengths)[lengths > 0]
    return Path(rows, _codes(codes, begins, len(rows))), lengths


def _codes(codes: Any, begins: NDArray[np.intp], length: int) -> Codes:
    """What each point of paths is, that begin at `begins`."""
    if not isinstance(codes, list) or len(codes) != length:
        raise ValueError("a path's codes do not fit its points")
    kinds = np.array(codes, dtype=float)
    if kinds.ndim != 1 or not (kinds[begins] == 1).all():
        raise ValueError("a path starts with a move")
    if not np.isin(kinds, _CODES).all():
        raise ValueError("no such code of a path")
    return kinds.astype(np.uint8)


def _can_be_filled(path: Path) -> None:
    """Agg holds so many pixels on the edges of one outline, and no more."""
    if len(path.points) > _MANY:
        inside = path.points.clip(-_NEAR, _NEAR)
        if float(np.abs(np.diff(inside, axis=0)).sum()) > _MAX_EDGE:
            raise TooLargeError("a line so long and so winding that it cannot be painted")


def _few_dashes(length: float, dash: list[Any] | None) -> None:
    """Agg lays every dash of a line, wherever it lies."""
    if dash is not None and length / math.fsum(dash[1]) > _MAX_DASHES:
        raise TooLargeError("more dashes than can be painted")


def _dash(dash: Any) -> list[Any] | None:
    if dash is None:
        return None
    offset, pattern = dash
    _number(offset, 1e6)
    if not isinstance(pattern, list) or not 2 <= len(pattern) <= 64 or len(pattern) % 2:
        raise ValueError("a pattern of dashes is an even number of lengths")
    if math.fsum(_number(part, 1e6, least=0.0) for part in pattern) < _DASH_PERIOD:
        raise ValueError("dashes that nobody could tell apart")
    return [offset, pattern]


def _owner(owner: Any, axes: int) -> tuple[str, int, int]:
    role, place, series = owner
    if not isinstance(role, str):
        raise TypeError("a role is a word")
    return role, _integer(place, -1, axes - 1), _integer(series, -1, 10**9)


def _anchor(anchor: Any, owners: int) -> tuple[int, tuple[float, float]]:
    owner, x, y = anchor
    return _integer(owner, 0, owners - 1), (_number(x, GAP), _number(y, GAP))


def _frame(axes: Mapping[str, Any], budget: Budget) -> Frame:
    box, slot = _box(axes["frame"]), _box(axes["slot"])
    # Further limits could not be told from infinite ones once a mark lies far outside of them.
    sides = [(str(axes[k][0]), _number(axes[k][1], 1e100), _number(axes[k][2], 1e100)) for k in ("x", "y")]
    # Shrunk by its aspect, an axes lies within its slot; a slot that does not hold it is not where it was painted.
    inside = slot[0] - 2 <= box[0] and slot[1] - 2 <= box[1] and box[2] <= slot[2] + 2 and box[3] <= slot[3] + 2
    names = axes.get("names", {})
    named = [_names(names.get(k, []), budget) for k in ("x", "y")]
    return Frame(box, slot if inside else box, sides[0], sides[1], *named)


def _names(names: Any, budget: Budget) -> Names:
    made = []
    for words, place in names:
        if not isinstance(words, str):
            raise TypeError("a name is words")
        budget.take("points", 1 + len(words.encode()))  # which fails where it is no Unicode
        made.append((words, _number(place, GAP)))
    return tuple(made)


def _rows(values: Any, budget: Budget) -> Array:
    """[n, 2] numbers up to GAP."""
    return _table(values, 2, GAP, budget)


def _colours(values: Any, budget: Budget) -> Array:
    made = _table(values, 4, 1.0, budget)
    if (made < 0).any():
        raise ValueError("a colour below 0")
    return made


def _table(values: Any, columns: int, limit: float, budget: Budget) -> Array:
    """[n, columns], or [n] for no columns. What counts as a number is what counts as one to the painter."""
    if not isinstance(values, list):
        raise TypeError("not a list of rows")
    shape = (budget.take("points", len(values)), columns)[: 2 if columns else 1]
    if not values:
        return np.zeros(shape)
    # As numbers at once: an array of whatever was given would be as wide as its longest text.
    made = np.array(values, dtype=float)
    if made.shape != shape:
        raise ValueError(f"not rows of {columns} numbers")
    if not (np.abs(made) <= limit).all():
        raise ValueError(f"a number beyond {limit:g}")
    return made


def _box(values: Any) -> Box:
    return _four(values, -GAP, GAP)


def _colour(values: Any) -> Colour:
    return _four(values, 0.0, 1.0)


def _four(values: Any, least: float, most: float) -> tuple[float, float, float, float]:
    a, b, c, d = values
    numbers = {type(a), type(b), type(c), type(d)} <= _NUMBERS
    if not (numbers and least <= a <= most and least <= b <= most and least <= c <= most and least <= d <= most):
        raise ValueError(f"not four numbers from {least:g} to {most:g}")
    return float(a), float(b), float(c), float(d)


def _number(value: Any, limit: float, least: float | None = None) -> float:
    if type(value) not in _NUMBERS or not (-limit if least is None else least) <= value <= limit:
        raise ValueError(f"{str(value)[:40]!r} is not a number up to {limit:g}")
    return float(value)


def _integer(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a whole number from {least} to {most}")
    return value
