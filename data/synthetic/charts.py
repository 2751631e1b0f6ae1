"""Charts with the Matplotlib program that draws them: the picture is asked for as code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, PositiveInt, model_validator

from vlrft.data.synthetic.base import Scene, SyntheticOptions

if TYPE_CHECKING:
    import numpy as np

ChartKind = Literal["line", "bar", "barh", "scatter", "pie"]
KINDS: tuple[ChartKind, ...] = get_args(ChartKind)
TITLES = ("Sales", "Rainfall", "Visitors", "Output", "Score", "Cost")
NAMES = ("north", "south", "east", "west", "spring", "autumn")
COLORS = ("red", "green", "blue", "orange", "purple", "black")

_LEAST = (160, 120)
"""Smallest picture in which Matplotlib's default margins leave a chart that can be read."""


class ChartsOptions(SyntheticOptions):
    """Difficulty: kinds of charts, points per series, series."""

    size: tuple[PositiveInt, PositiveInt] = (320, 240)
    """Of the picture in pixels, drawn at 80 dots per inch."""
    kinds: list[ChartKind] = Field(default_factory=lambda: list(KINDS), min_length=1)
    points: int = Field(4, ge=2, le=6)
    max_series: int = Field(2, ge=1, le=3)
    """Of line, bar and scatter charts."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size[0] < _LEAST[0] or self.size[1] < _LEAST[1]:
            raise ValueError(
                f"size {self.size[0]}x{self.size[1]} has no room for axes and title; make it {_LEAST[0]}x{_LEAST[1]} "
                "or larger"
            )
        return self


class Charts:
    """The generator `charts`; task `chart_to_code`, answer the program."""

    name: ClassVar[str] = "charts"
    version: ClassVar[int] = 1
    options: ClassVar[type[SyntheticOptions]] = ChartsOptions

    def plan(self, generator: np.random.Generator, options: ChartsOptions) -> Scene:
        kind = options.kinds[int(generator.integers(len(options.kinds)))]
        single = kind in ("pie", "barh")
        series = 1 if single else int(generator.integers(1, options.max_series + 1))
        body = _pie(generator, options.points) if kind == "pie" else _series(generator, kind, series, options.points)
        title = TITLES[int(generator.integers(len(TITLES)))]
        inches = tuple(side / 80 for side in options.size)
        program = "\n".join(
            [
                "import matplotlib.pyplot as plt",
                f"fig, ax = plt.subplots(figsize=({inches[0]:g}, {inches[1]:g}), dpi=80)",
                *body,
                f"ax.set_title({title!r})",
                *(["ax.legend()"] if series > 1 else []),
                "",
            ]
        )

        def draw(stem: Path, _ground: np.random.Generator) -> dict[str, Any]:
            path = stem.with_suffix(".png")
            _render(program, path)
            return {"images": [f"media/{path.name}"]}

        return Scene(
            content=program,
            row={
                "task": "chart_to_code",
                "prompt": "Write the Matplotlib program that draws this chart.",
                "answer": program,
                "meta": {"chart": kind},
            },
            draw=draw,
        )


def _numbers(generator: np.random.Generator, count: int) -> list[int]:
    return [int(v) for v in generator.integers(1, 20, size=count)]


def _pick(generator: np.random.Generator, words: tuple[str, ...], count: int) -> list[str]:
    return [words[int(k)] for k in generator.permutation(len(words))[:count]]


def _pie(generator: np.random.Generator, points: int) -> list[str]:
    colors = _pick(generator, COLORS, points)
    labels = _pick(generator, NAMES, points)
    return [f"ax.pie({_numbers(generator, points)}, labels={labels}, colors={colors})"]


def _series(generator: np.random.Generator, kind: ChartKind, count: int, points: int) -> list[str]:
    colors, labels = _pick(generator, COLORS, count), _pick(generator, NAMES, count)
    lines = []
    for number, (color, label) in enumerate(zip(colors, labels, strict=True)):
        values = _numbers(generator, points)
        style = f"color={color!r}, label={label!r}"
        if kind == "line":
            lines.append(f"ax.plot({list(range(points))}, {values}, {style})")
        elif kind == "scatter":
            lines.append(f"ax.scatter({list(range(points))}, {values}, {style})")
        elif kind == "barh":
            lines.append(f"ax.barh({_pick(generator, NAMES, points)}, {values}, color={color!r})")
        else:
            width = 0.8 / count
            places = [round(i - 0.4 + (number + 0.5) * width, 3) for i in range(points)]
            lines.append(f"ax.bar({places}, {values}, {width:g}, {style})")
    return lines


def _render(program: str, path: Path) -> None:
    """Run our own program (no model wrote it) and save its figure."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("generated charts are drawn by Matplotlib: pip install 'vlrft[charts]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scope: dict[str, Any] = {}
    exec(program, scope)
    scope["fig"].savefig(path)
    plt.close(scope["fig"])
