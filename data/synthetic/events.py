"""Videos with a timed event: a shape that is to be seen from one second to another, among others that stay.

Written as MP4 (needs the extra `video`) or as image files, one per frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from vlrft.data.scene import Shape, draw_scene, name_of
from vlrft.data.synthetic.base import Scene, SyntheticOptions
from vlrft.data.synthetic.pictures import COLORS, KINDS, Color, Kind, check_edge, place_boxes, random_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EventsOptions(SyntheticOptions):
    """Difficulty: length of the video, fineness of the times, movement, distractors. Lengths in pixels, times in s."""

    size: tuple[PositiveInt, PositiveInt] = (56, 56)
    duration: int = Field(8, ge=2)
    """Whole seconds."""
    fps: int = Field(4, gt=0)
    """Frames per second of the file."""
    step: int = Field(1, gt=0)
    """Start and end of an event are multiples of this."""
    min_length: int = Field(2, gt=0)
    """Shortest event."""
    distractors: int = Field(0, ge=0)
    """Shapes of other names that are there all the time."""
    moving: bool = False
    """Whether the asked shape walks across the picture while it is there."""
    colors: list[Color] = Field(default_factory=lambda: list(COLORS[:4]), min_length=1)
    kinds: list[Kind] = Field(default_factory=lambda: list(KINDS[:3]), min_length=1)
    edge: int = Field(28, gt=1)
    grid: int = Field(14, gt=0)
    container: Literal["mp4", "frames"] = "mp4"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_edge(self.edge, self.size)
        if self.min_length > self.duration or self.duration % self.step or self.min_length % self.step:
            raise ValueError(
                f"duration {self.duration} and min_length {self.min_length} must be multiples of step {self.step}, "
                "and min_length at most duration"
            )
        if self.distractors and len(set(self.colors)) * len(set(self.kinds)) < 2:
            raise ValueError("distractors need a second colour or kind")
        return self


class Events:
    """The generator `events`; task `temporal_grounding`, answer `[start, end]` in seconds."""

    name: ClassVar[str] = "events"
    version: ClassVar[int] = 1
    options: ClassVar[type[SyntheticOptions]] = EventsOptions

    def plan(self, generator: np.random.Generator, options: EventsOptions) -> Scene:
        names = [random_name(generator, options.colors, options.kinds)]
        while len(names) <= options.distractors:
            other = random_name(generator, options.colors, options.kinds)
            if other != names[0]:
                names.append(other)
        boxes = place_boxes(generator, len(names), options.size, edge=options.edge, grid=options.grid)
        shapes = [Shape(color=c, kind=k, box=box) for (c, k), box in zip(names, boxes, strict=True)]
        units, shortest = options.duration // options.step, options.min_length // options.step
        length = int(generator.integers(shortest, units + 1))
        start = int(generator.integers(0, units - length + 1)) * options.step
        span = (start, start + length * options.step)

        def draw(stem: Path, ground: np.random.Generator) -> dict[str, Any]:
            frames = _frames(shapes, span, options, ground)
            return {"videos": [_save(frames, stem, options)]}

        return Scene(
            content=repr((span, [(s.color, s.kind, s.box) for s in shapes])),
            row={
                "task": "temporal_grounding",
                "prompt": f"the {name_of(shapes[0])} is to be seen",
                "answer": list(span),
                "meta": {"duration": float(options.duration), "label": name_of(shapes[0])},
            },
            draw=draw,
        )


def _frames(
    shapes: Sequence[Shape], span: tuple[int, int], options: EventsOptions, ground: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """RGB frames; the first shape is drawn in those whose time lies in the span."""
    asked, others = shapes[0], list(shapes[1:])
    frames = []
    for number in range(options.duration * options.fps):
        second = number / options.fps
        there = span[0] <= second < span[1]
        moved = _moved(asked, (second - span[0]) / (span[1] - span[0]), options) if options.moving else asked
        frames.append(
            draw_scene([*others, *([moved] if there else [])], size=options.size, noise=0.0, generator=ground)
        )
    return frames


def _moved(shape: Shape, share: float, options: EventsOptions) -> Shape:
    """From the left edge to the right one, on its own height."""
    x = round(share * (options.size[0] - options.edge))
    box = (x, shape.box[1], x + options.edge, shape.box[3])
    return Shape(kind=shape.kind, color=shape.color, box=box)


def _save(frames: Sequence[NDArray[np.uint8]], stem: Path, options: EventsOptions) -> Any:
    from PIL import Image

    if options.container == "mp4":
        path = stem.with_suffix(".mp4")
        _write_mp4(path, frames, options.fps)
        return f"media/{path.name}"
    files = [stem.with_name(f"{stem.name}-{i:04d}.png") for i in range(len(frames))]
    for file, frame in zip(files, frames, strict=True):
        Image.fromarray(frame).save(file)
    return {"frames": [f"media/{file.name}" for file in files], "fps": float(options.fps)}


def _write_mp4(path: Path, frames: Sequence[NDArray[np.uint8]], fps: int) -> None:
    """H.264 without loss, so that a decoder gives the drawn colours back (within its conversion to YUV)."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "generated videos are written by PyAV: pip install 'vlrft[video]', or set container: frames"
        ) from error

    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"qp": "0", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
