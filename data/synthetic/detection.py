"""Detection: every shape of a scene with its box and label, in a closed vocabulary; some scenes show nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from vlrft.data.scene import Shape
from vlrft.data.synthetic.base import Scene, SyntheticOptions
from vlrft.data.synthetic.pictures import COLORS, KINDS, Kind, check_edge, place_boxes, random_name, save_picture

if TYPE_CHECKING:
    import numpy as np


class DetectionOptions(SyntheticOptions):
    """Difficulty: number of shapes, of labels, and of scenes without any asked one."""

    max_objects: int = Field(3, gt=0)
    labels: list[Kind] = Field(default_factory=lambda: list(KINDS[:3]), min_length=1)
    """The vocabulary: kinds of shapes that count."""
    others: int = Field(1, ge=0)
    """Shapes whose kind is not in the vocabulary, to be left out of the answer."""
    negatives: float = Field(0.1, ge=0.0, le=1.0)
    """Share of scenes with none of the labels."""
    edge: int = Field(21, gt=1)
    grid: int = Field(7, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_edge(self.edge, self.size)
        return self


class Detection:
    """The generator `detection`; task `detection`, answer `[{"bbox", "label"}]` in pixels."""

    name: ClassVar[str] = "detection"
    version: ClassVar[int] = 1
    options: ClassVar[type[SyntheticOptions]] = DetectionOptions

    def plan(self, generator: np.random.Generator, options: DetectionOptions) -> Scene:
        empty = float(generator.random()) < options.negatives
        count = 0 if empty else int(generator.integers(1, options.max_objects + 1))
        rest = [kind for kind in KINDS if kind not in options.labels]
        names = [random_name(generator, COLORS, options.labels) for _ in range(count)]
        names += [random_name(generator, COLORS, rest) for _ in range(options.others if rest else 0)]
        boxes = place_boxes(generator, len(names), options.size, edge=options.edge, grid=options.grid)
        shapes = [Shape(color=c, kind=k, box=box) for (c, k), box in zip(names, boxes, strict=True)]
        # Reading order, so that the reference answer of a scene is one and the same.
        asked = sorted(shapes[:count], key=lambda s: (s.box[1], s.box[0]))

        def draw(stem: Path, ground: np.random.Generator) -> dict[str, Any]:
            return {"images": [save_picture(stem.with_suffix(".png"), shapes, options.size, ground)]}

        return Scene(
            content=repr(sorted((s.color, s.kind, s.box) for s in shapes)),
            row={
                "task": "detection",
                "prompt": f"Detect every {', '.join(options.labels)}.",
                "answer": [{"bbox": list(s.box), "label": s.kind} for s in asked],
                "meta": {"labels": list(options.labels)},
            },
            draw=draw,
        )
