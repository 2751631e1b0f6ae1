"""Generated scenes: coloured shapes on a plain or noisy ground, and a question that names exactly one of them.

Scenes are written once, as PNG files with native rows, into a cache folder named after their options. A training scene
depends on (seed, i) and the scene options only: neither `n` nor the label noise changes what is drawn.

Training and held-out scenes never show the same thing: the layout itself (kinds, colours and boxes) decides on which
side it belongs, whatever the seeds. Held-out layouts differ from each other too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from vlrft.config import Block, RowsConfig
from vlrft.data.problems import DataError
from vlrft.data.scene import COLORS, KINDS, STRETCHED, Shape, draw_scene, name_of, place_shapes
from vlrft.data.synthetic.base import Role, is_held_out, parse_options, whole_folder
from vlrft.registry import nearest

if TYPE_CHECKING:
    import numpy as np

_LAYOUT_VERSION = 2
"""Part of the cache key: raise it when the same options would give other files."""
_TRIES = 2000
"""Layouts drawn for one scene until one is on the right side and new."""


class ShapesOptions(Block):
    """`options` of a source with `format: shapes`. Lengths in pixels."""

    n: int = Field(1024, gt=0)
    """Number of scenes."""
    seed: int = Field(0, ge=0)
    size: tuple[PositiveInt, PositiveInt] = (84, 84)
    """Canvas (width, height)."""
    grid: int = Field(4, gt=0)
    """Every box coordinate is a multiple of this."""
    shapes_per_scene: int = Field(1, gt=0)
    """Shapes do not overlap, and no two of a scene share both colour and kind."""
    kinds: list[str] = Field(default_factory=lambda: ["square", "circle", "triangle"], min_length=1)
    colors: list[str] = Field(default_factory=lambda: ["red", "green", "blue", "yellow"], min_length=1)
    min_size: int = Field(16, gt=0)
    """Shortest and longest edge of a shape's box."""
    max_size: int = Field(48, gt=0)
    noise: float = Field(0.0, ge=0.0)
    """Standard deviation of the ground, in 8-bit levels."""
    box_noise: float = Field(0.0, ge=0.0)
    """Standard deviation of the error of the training label's edges; the true box stays in meta["true_box"]."""
    answer_style: Literal["plain", "json"] = "plain"
    role: Role = "train"
    """Set by the split that asks, never in a recipe: which side of all layouts the scenes come from."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for field, values, known in (("kinds", self.kinds, KINDS), ("colors", self.colors, tuple(COLORS))):
            for value in values:
                if value not in known:
                    raise ValueError(
                        f"{field}: unknown {value!r}{nearest(value, list(known))}; known: {', '.join(known)}"
                    )
        if self.min_size % self.grid or self.max_size % self.grid:
            raise ValueError(
                f"min_size {self.min_size} and max_size {self.max_size} must be multiples of grid {self.grid}"
            )
        if not self.min_size <= self.max_size <= min(self.size):
            raise ValueError(f"need min_size <= max_size <= canvas, got {self.min_size}, {self.max_size}, {self.size}")
        if self.min_size == self.max_size and set(self.kinds) & set(STRETCHED):
            raise ValueError(f"{', '.join(STRETCHED)} have unequal edges and need min_size < max_size")
        if self.shapes_per_scene > len(set(self.kinds)) * len(set(self.colors)):
            raise ValueError(
                "shapes_per_scene exceeds the number of different colour and kind pairs; add colors or kinds"
            )
        return self


def shapes_options(source: RowsConfig, *, role: Role) -> ShapesOptions:
    """The options of a source. Raises DataError for bad ones, and for held-out scenes with noisy labels."""
    options = parse_options(ShapesOptions, source.options, role)
    if role == "eval" and options.box_noise > 0:
        raise DataError("data.eval.options.box_noise: held-out labels must be true; noise is for training labels only")
    return options


def write_shapes(options: ShapesOptions, parent: Path) -> Path:
    """The folder with `rows.jsonl` and `images/*.png` for `options`, below `parent`; made if it is not there yet."""
    content = json.dumps({"version": _LAYOUT_VERSION, **options.model_dump()}, sort_keys=True)
    folder = parent / f"shapes-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    return whole_folder(folder, lambda scratch: _write_into(scratch, options))


def _write_into(folder: Path, options: ShapesOptions) -> None:
    import numpy as np
    from PIL import Image

    (folder / "images").mkdir()
    seen: set[str] = set()
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as rows:
        for index in range(options.n):
            # One stream per purpose, so that label noise and ground noise cannot move the shapes.
            layout, ground, label = (
                np.random.Generator(np.random.PCG64(np.random.SeedSequence([options.seed, index, stream])))
                for stream in range(3)
            )
            shapes = _layout(layout, options, seen)
            file = f"images/{index:06d}.png"
            pixels = draw_scene(shapes, size=options.size, noise=options.noise, generator=ground)
            Image.fromarray(pixels).save(folder / file)
            rows.write(json.dumps(_row(index, file, shapes[0], options, label)) + "\n")


def _layout(generator: np.random.Generator, options: ShapesOptions, seen: set[str]) -> list[Shape]:
    """Shapes of one scene on the side that `options.role` asks for; held out, none that is in `seen` (added to)."""
    for _ in range(_TRIES):
        shapes = place_shapes(
            generator,
            count=options.shapes_per_scene,
            size=options.size,
            grid=options.grid,
            edges=(options.min_size, options.max_size),
            kinds=sorted(set(options.kinds)),
            colors=sorted(set(options.colors)),
        )
        content = repr(sorted((shape.kind, shape.color, shape.box) for shape in shapes))
        if is_held_out(content) != (options.role == "eval") or content in seen:
            continue
        if options.role == "eval":
            seen.add(content)
        return shapes
    raise DataError(
        f"data.{options.role}.options: these options have too few different scenes for {options.n} "
        f"{'held-out ones' if options.role == 'eval' else 'training ones'} (found {len(seen)} in {_TRIES} tries); "
        "lower n, or add kinds, colors or sizes, or a finer grid"
    )


def _row(index: int, file: str, asked: Shape, options: ShapesOptions, label: np.random.Generator) -> dict[str, Any]:
    meta: dict[str, Any] = {"label": name_of(asked), "answer_style": options.answer_style}
    box = list(asked.box)
    if options.box_noise > 0:
        meta["true_box"] = box
        box = _noisy(box, options, label)
    return {
        "id": f"shapes-{options.seed}-{index:06d}",
        "prompt": f"the {name_of(asked)}",
        "images": [file],
        "width": options.size[0],
        "height": options.size[1],
        "boxes": {"box": box, "space": "abs_original"},
        "meta": meta,
    }


def _noisy(box: list[int], options: ShapesOptions, generator: np.random.Generator) -> list[int]:
    """The box with a normal error on each edge: on the grid, inside the canvas, of positive area."""
    errors = generator.normal(0.0, options.box_noise, size=4)
    noisy = [round((edge + error) / options.grid) for edge, error in zip(box, errors, strict=True)]
    for axis in (0, 1):
        cells = options.size[axis] // options.grid
        low = min(max(noisy[axis], 0), cells - 1)
        noisy[axis] = low
        noisy[axis + 2] = min(max(noisy[axis + 2], low + 1), cells)
    return [cell * options.grid for cell in noisy]
