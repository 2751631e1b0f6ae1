"""Drawing of one generated scene with numpy alone, so that the same seed gives the same pixels everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlrft.data.problems import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (30, 60, 220),
    "yellow": (235, 215, 30),
    "purple": (140, 40, 170),
    "orange": (245, 140, 20),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
KINDS = ("square", "circle", "triangle", "diamond", "rectangle", "ellipse")
STRETCHED = ("rectangle", "ellipse")
"""Kinds with unequal edges: otherwise a rectangle could not be told from a square."""

GROUND = 128
_TRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One shape. It covers the pixels x1..x2-1, y1..y2-1 at most and touches all four edges of its box."""

    kind: str
    color: str
    box: tuple[int, int, int, int]
    """x1, y1, x2, y2 in pixels."""


def name_of(shape: Shape) -> str:
    """Such as "red square"."""
    return f"{shape.color} {shape.kind}"


def place_shapes(
    generator: np.random.Generator,
    *,
    count: int,
    size: tuple[int, int],
    grid: int,
    edges: tuple[int, int],
    kinds: Sequence[str],
    colors: Sequence[str],
) -> list[Shape]:
    """`count` shapes with disjoint boxes on the grid and pairwise different names.

    `edges` = shortest and longest edge. Raises DataError when they do not fit the canvas.
    """
    pairs = generator.permutation(len(kinds) * len(colors))[:count]
    names = [(kinds[int(p) // len(colors)], colors[int(p) % len(colors)]) for p in pairs]
    for _ in range(_TRIES):
        shapes: list[Shape] = []
        for kind, color in names:
            box = _draw_box(generator, kind=kind, size=size, grid=grid, edges=edges)
            if any(_overlap(box, other.box) for other in shapes):
                break
            shapes.append(Shape(kind=kind, color=color, box=box))
        if len(shapes) == count:
            return shapes
    raise DataError(
        f"{count} shapes of {edges[0]}..{edges[1]} px do not fit a {size[0]}x{size[1]} canvas without overlap; "
        "lower shapes_per_scene or max_size, or enlarge size"
    )


def draw_scene(
    shapes: Sequence[Shape], *, size: tuple[int, int], noise: float, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """RGB pixels [height, width, 3]. `noise` = standard deviation of the ground in 8-bit levels; shapes are plain."""
    import numpy as np

    width, height = size
    pixels = np.full((height, width, 3), GROUND, dtype=np.uint8)
    if noise > 0:
        ground = generator.normal(GROUND, noise, size=pixels.shape)
        pixels = np.clip(np.rint(ground), 0, 255).astype(np.uint8)
    for shape in shapes:
        x1, y1, x2, y2 = shape.box
        pixels[y1:y2, x1:x2][_mask(shape.kind, x2 - x1, y2 - y1)] = COLORS[shape.color]
    return pixels


def _draw_box(
    generator: np.random.Generator, *, kind: str, size: tuple[int, int], grid: int, edges: tuple[int, int]
) -> tuple[int, int, int, int]:
    shortest, longest = edges[0] // grid, edges[1] // grid
    width = height = int(generator.integers(shortest, longest + 1))
    if kind in STRETCHED:
        while height == width:
            height = int(generator.integers(shortest, longest + 1))
    x = int(generator.integers(0, size[0] // grid - width + 1))
    y = int(generator.integers(0, size[1] // grid - height + 1))
    return x * grid, y * grid, (x + width) * grid, (y + height) * grid


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _mask(kind: str, width: int, height: int) -> NDArray[np.bool_]:
    """Pixels [height, width] that the shape covers, by their centres."""
    import numpy as np

    if kind in ("square", "rectangle"):
        return np.ones((height, width), dtype=np.bool_)
    # -1..1 from edge to edge, at pixel centres
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = ((np.arange(height) + 0.5) / height * 2 - 1)[:, None]
    edge = 1 + 1e-9
    covered: NDArray[np.bool_]
    if kind == "triangle":
        # The apex row is one pixel deep, hence the row's lower edge and not its centre.
        covered = np.abs(x) <= (np.arange(1, height + 1) / height)[:, None] * edge
    elif kind == "diamond":
        covered = np.abs(x) + np.abs(y) <= edge
    else:
        covered = x**2 + y**2 <= edge
    return covered
