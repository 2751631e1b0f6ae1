"""Spatial transformation, as TRANCE asks it: two views, and the steps that turn the first into the second.

Objects are numbered from left to right in the first view. A step is `[function, object number, value]`; no two steps of
a question change the same property of the same object.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from vlrft.data.scene import Shape
from vlrft.data.synthetic.base import Scene, SyntheticOptions
from vlrft.data.synthetic.pictures import COLORS, KINDS, random_name, save_picture

if TYPE_CHECKING:
    import numpy as np

Function = Literal["change_color", "change_shape", "change_position"]
FUNCTIONS: tuple[Function, ...] = get_args(Function)
POSITIONS = ("up", "down")


class TransformationOptions(SyntheticOptions):
    """Difficulty: objects in the scene, and steps between the views."""

    objects: int = Field(2, ge=1, le=5)
    max_steps: int = Field(2, ge=1)
    functions: list[Function] = Field(default_factory=lambda: list(FUNCTIONS), min_length=1)
    edge: int = Field(14, gt=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        width, height = self.size
        # Up, middle and down have to be three places.
        room = self.edge + (2 if "change_position" in self.functions else 0)
        if self.objects * self.edge > width or room > height:
            raise ValueError(
                f"{self.objects} objects of edge {self.edge} side by side, which move up and down, need a canvas of "
                f"{self.objects * self.edge}x{room} at least, and size is {width}x{height}; lower edge or enlarge size"
            )
        return self


class Transformation:
    """The generator `transformation`; task `spatial_transformation`, answer a list of `[function, object, value]`."""

    name: ClassVar[str] = "transformation"
    version: ClassVar[int] = 1
    options: ClassVar[type[SyntheticOptions]] = TransformationOptions

    def plan(self, generator: np.random.Generator, options: TransformationOptions) -> Scene:
        before = _first_view(generator, options)
        possible = [(f, i) for f in options.functions for i in range(len(before))]
        count = int(generator.integers(1, min(options.max_steps, len(possible)) + 1))
        chosen = sorted(int(k) for k in generator.permutation(len(possible))[:count])
        after, steps = list(before), []
        for function, number in (possible[k] for k in chosen):
            after[number], value = _step(generator, function, after[number], options)
            steps.append([function, number, value])

        def draw(stem: Path, ground: np.random.Generator) -> dict[str, Any]:
            views = {"before": before, "after": after}
            files = {view: stem.with_name(f"{stem.name}-{view}.png") for view in views}
            return {"images": [save_picture(files[v], views[v], options.size, ground) for v in views]}

        return Scene(
            content=repr([(s.color, s.kind, s.box) for s in (*before, *after)]),
            row={
                "task": "spatial_transformation",
                "prompt": "Which steps turn the first view into the second? Objects are numbered from left to right, "
                "starting with 0.",
                "answer": steps,
                "meta": {"functions": list(options.functions), "ordered": False},
            },
            draw=draw,
        )


def _first_view(generator: np.random.Generator, options: TransformationOptions) -> list[Shape]:
    """One object per column, so that left to right is plain; in the middle, so that it can move up and down."""
    column, middle = options.size[0] // options.objects, (options.size[1] - options.edge) // 2
    names = [random_name(generator, COLORS, KINDS) for _ in range(options.objects)]
    return [
        Shape(color=c, kind=k, box=_square(i * column + (column - options.edge) // 2, middle, options.edge))
        for i, (c, k) in enumerate(names)
    ]


def _square(x: int, y: int, edge: int) -> tuple[int, int, int, int]:
    return x, y, x + edge, y + edge


def _step(
    generator: np.random.Generator, function: str, shape: Shape, options: TransformationOptions
) -> tuple[Shape, str]:
    """(the shape after the step, the value that was chosen)."""
    if function == "change_position":
        value = POSITIONS[int(generator.integers(2))]
        y = 0 if value == "up" else options.size[1] - options.edge
        return replace(shape, box=_square(shape.box[0], y, options.edge)), value
    field, values = ("color", COLORS) if function == "change_color" else ("kind", KINDS)
    others = [value for value in values if value != getattr(shape, field)]
    value = others[int(generator.integers(len(others)))]
    return (replace(shape, color=value) if field == "color" else replace(shape, kind=value)), value
