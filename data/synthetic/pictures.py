"""Coloured shapes at chosen places, as PNG files: what the still generators draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from vlrft.data.problems import DataError
from vlrft.data.scene import Shape, draw_scene

if TYPE_CHECKING:
    import numpy as np

Color = Literal["red", "green", "blue", "yellow", "purple", "orange"]
Kind = Literal["square", "circle", "triangle", "diamond"]
COLORS: tuple[Color, ...] = get_args(Color)
KINDS: tuple[Kind, ...] = get_args(Kind)

_TRIES = 500


def place_boxes(
    generator: np.random.Generator, count: int, size: tuple[int, int], *, edge: int, grid: int
) -> list[tuple[int, int, int, int]]:
    """`count` disjoint squares of side `edge` on the grid. Raises DataError when they do not fit the canvas."""
    columns, rows = (size[0] - edge) // grid + 1, (size[1] - edge) // grid + 1
    for _ in range(_TRIES):
        boxes: list[tuple[int, int, int, int]] = []
        for _ in range(_TRIES):
            if len(boxes) == count:
                return boxes
            x, y = (int(generator.integers(0, limit)) * grid for limit in (columns, rows))
            if all(abs(x - a) >= edge or abs(y - b) >= edge for a, b, _, _ in boxes):
                boxes.append((x, y, x + edge, y + edge))
    raise DataError(f"{count} shapes of {edge} px do not fit a {size[0]}x{size[1]} canvas; lower max_count or edge")


def check_edge(edge: int, size: tuple[int, int]) -> None:
    """Raise ValueError when no shape of side `edge` fits the canvas."""
    if edge > min(size):
        raise ValueError(f"edge {edge} does not fit the canvas of size {size[0]}x{size[1]}; lower edge or enlarge size")


def random_name(generator: np.random.Generator, colors: Sequence[str], kinds: Sequence[str]) -> tuple[str, str]:
    """(colour, kind)."""
    return colors[int(generator.integers(len(colors)))], kinds[int(generator.integers(len(kinds)))]


def save_picture(path: Path, shapes: Sequence[Shape], size: tuple[int, int], generator: np.random.Generator) -> str:
    """Draw and save; returns the file's place within the generated folder."""
    from PIL import Image

    Image.fromarray(draw_scene(shapes, size=size, noise=0.0, generator=generator)).save(path)
    return f"media/{path.name}"
