"""Several images in one prompt: which of them shows another shape than the rest, or one of another colour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from vlrft.data.scene import Shape
from vlrft.data.synthetic.base import Scene, SyntheticOptions
from vlrft.data.synthetic.pictures import COLORS, KINDS, Color, Kind, check_edge, place_boxes, random_name, save_picture

if TYPE_CHECKING:
    import numpy as np


class OddOneOutOptions(SyntheticOptions):
    """Difficulty: number of images, and in what the odd one differs."""

    size: tuple[PositiveInt, PositiveInt] = (56, 56)
    images: int = Field(3, ge=3, le=26)
    colors: list[Color] = Field(default_factory=lambda: list(COLORS[:4]), min_length=2)
    kinds: list[Kind] = Field(default_factory=lambda: list(KINDS[:3]), min_length=1)
    edge: int = Field(28, gt=1)
    grid: int = Field(14, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_edge(self.edge, self.size)
        if len(set(self.colors)) * len(set(self.kinds)) < 2:
            raise ValueError("the odd image needs a second colour or kind")
        return self


class OddOneOut:
    """The generator `odd_one_out`; task `choice`, answer a letter."""

    name: ClassVar[str] = "odd_one_out"
    version: ClassVar[int] = 2
    options: ClassVar[type[SyntheticOptions]] = OddOneOutOptions

    def plan(self, generator: np.random.Generator, options: OddOneOutOptions) -> Scene:
        usual = random_name(generator, options.colors, options.kinds)
        odd = usual
        while odd == usual:
            odd = random_name(generator, options.colors, options.kinds)
        answer = int(generator.integers(options.images))
        names = [odd if i == answer else usual for i in range(options.images)]
        places = [place_boxes(generator, 1, options.size, edge=options.edge, grid=options.grid)[0] for _ in names]
        shapes = [Shape(color=c, kind=k, box=box) for (c, k), box in zip(names, places, strict=True)]

        def draw(stem: Path, ground: np.random.Generator) -> dict[str, Any]:
            files = [stem.with_name(f"{stem.name}-{i}.png") for i in range(len(shapes))]
            return {"images": [save_picture(f, [s], options.size, ground) for f, s in zip(files, shapes, strict=True)]}

        return Scene(
            content=repr([(s.color, s.kind, s.box) for s in shapes]),
            row={
                "task": "choice",
                "prompt": f"Which image shows {_difference(usual, odd)} than the others?",
                "answer": chr(ord("A") + answer),
                "meta": {"options": [f"image {i + 1}" for i in range(options.images)]},
            },
            draw=draw,
        )


def _difference(usual: tuple[str, str], odd: tuple[str, str]) -> str:
    """In words; both are (colour, kind)."""
    if usual[1] == odd[1]:
        return "a shape of another color"
    return "another shape" if usual[0] == odd[0] else "a shape of another kind and color"
