"""Counting: how many shapes of one colour and kind there are among others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from vlrft.data.scene import Shape, name_of
from vlrft.data.synthetic.base import Scene, SyntheticOptions
from vlrft.data.synthetic.pictures import COLORS, KINDS, Color, Kind, check_edge, place_boxes, random_name, save_picture

if TYPE_CHECKING:
    import numpy as np


class CountingOptions(SyntheticOptions):
    """Difficulty: how many there are to count, how many others, and how alike those are."""

    min_count: int = Field(1, ge=0)
    max_count: int = Field(4, ge=0)
    distractors: int = Field(2, ge=0)
    """Shapes that differ from the asked one in colour or kind."""
    colors: list[Color] = Field(default_factory=lambda: list(COLORS[:4]), min_length=1)
    kinds: list[Kind] = Field(default_factory=lambda: list(KINDS[:3]), min_length=1)
    edge: int = Field(14, gt=1)
    """Side of a shape in pixels."""
    grid: int = Field(7, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_edge(self.edge, self.size)
        if self.min_count > self.max_count:
            raise ValueError(f"min_count {self.min_count} exceeds max_count {self.max_count}")
        if self.distractors and len(set(self.colors)) * len(set(self.kinds)) < 2:
            raise ValueError("distractors need a second colour or kind")
        return self


class Counting:
    """The generator `counting`; task `counting`, answer a whole number."""

    name: ClassVar[str] = "counting"
    version: ClassVar[int] = 1
    options: ClassVar[type[SyntheticOptions]] = CountingOptions

    def plan(self, generator: np.random.Generator, options: CountingOptions) -> Scene:
        color, kind = random_name(generator, options.colors, options.kinds)
        count = int(generator.integers(options.min_count, options.max_count + 1))
        names = [(color, kind)] * count
        while len(names) < count + options.distractors:
            other = random_name(generator, options.colors, options.kinds)
            if other != (color, kind):
                names.append(other)
        boxes = place_boxes(generator, len(names), options.size, edge=options.edge, grid=options.grid)
        shapes = [Shape(color=c, kind=k, box=box) for (c, k), box in zip(names, boxes, strict=True)]
        asked = name_of(Shape(color=color, kind=kind, box=(0, 0, 0, 0)))

        def draw(stem: Path, ground: np.random.Generator) -> dict[str, Any]:
            return {"images": [save_picture(stem.with_suffix(".png"), shapes, options.size, ground)]}

        return Scene(
            content=repr((asked, sorted((s.color, s.kind, s.box) for s in shapes))),
            row={"task": "counting", "prompt": f"How many {asked}s are there?", "answer": count,
                 "meta": {"label": asked}},
            draw=draw,
        )  # fmt: skip
