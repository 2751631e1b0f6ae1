"""Checked paint commands, as schema.py makes them of a recorded page and as the others of this package read them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.uint8]
Colour = tuple[float, float, float, float]
Box = tuple[float, float, float, float]
Names = tuple[tuple[str, float], ...]
"""Words on an axis, each with its place in data."""

GAP = 1e9
"""Coordinate of a point that is not there; the largest one that there is."""


class NotADrawingError(ValueError):
    """The result that came out of the sandbox does not describe paint."""


class TooLargeError(NotADrawingError):
    """The result describes more paint than is read."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where an axes lies, in pixels, and what its sides stand for."""

    box: Box
    slot: Box
    x: tuple[str, float, float]
    y: tuple[str, float, float]
    x_names: Names = ()
    y_names: Names = ()


@dataclass(frozen=True, slots=True)
class Path:
    """An outline: points [n, 2] in pixels, and what each is (Matplotlib's codes), None where all are joined."""

    points: Array
    codes: Codes | None


_NO_TABLE = {columns: np.zeros((0, columns)) for columns in (2, 4, 6)}
_NO_ROW, _NO_LENGTHS, _NO_PATH = np.zeros(0), np.zeros(0, dtype=np.intp), Path(_NO_TABLE[2], None)


@dataclass(slots=True, kw_only=True)
class Op:
    """One checked paint command. Which fields it uses depends on `kind`; the others keep their defaults."""

    kind: str
    owner: int
    edge: Colour | None
    fill: Colour | None
    width: float
    dashes: tuple[float, ...]
    """Lengths of the pattern; none for a solid line."""
    hatch: str | None
    hatch_colour: Colour | None
    box: Box | None
    clip: int | None
    path: Path = field(default_factory=lambda: _NO_PATH)
    """Of `path`, `markers` and `many`; there the outlines of all marks in one."""
    lengths: NDArray[np.intp] = field(default_factory=lambda: _NO_LENGTHS)
    """Of `many`: how many points each outline has."""
    at: Array = field(default_factory=lambda: _NO_TABLE[2])
    """Places of `markers`, `many`, `image`, `text`; corners of a `mesh`."""
    matrices: Array = field(default_factory=lambda: _NO_TABLE[6])
    fills: Array = field(default_factory=lambda: _NO_TABLE[4])
    edges: Array = field(default_factory=lambda: _NO_TABLE[4])
    widths: Array = field(default_factory=lambda: _NO_ROW)
    """Of `many`, in turns; `fills` of a `mesh` too."""
    shape: tuple[int, int] = (0, 0)
    """Rows and columns of a `mesh` or an `image`."""
    pixels: NDArray[np.uint8] | None = None
    """Of an `image`, [rows, columns, 4]."""
    text: str = ""
    size: float = 0.0
    """Font size in pixels."""
    angle: float = 0.0
    math: bool = False

    @property
    def dashed(self) -> bool:
        return bool(self.dashes)


@dataclass(frozen=True, slots=True)
class Page:
    """A checked page."""

    width: int
    height: int
    frames: tuple[Frame, ...]
    owners: tuple[tuple[str, int, int], ...]
    anchors: dict[int, tuple[float, float]]
    """By owner, where a text is said to be anchored, in pixels."""
    clips: tuple[Path, ...]
    ops: tuple[Op, ...]
