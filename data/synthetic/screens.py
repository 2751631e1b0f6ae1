"""Screens of an imaginary program, drawn with real text: find the element that an instruction means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from vlrft.data.problems import DataError
from vlrft.data.synthetic.base import Scene, SyntheticOptions

if TYPE_CHECKING:
    import numpy as np
    from PIL import ImageDraw, ImageFont

BUTTONS = ("Save", "Open", "Close", "Print", "Delete", "Search", "Help", "Undo", "Copy", "Paste", "Send", "Cancel")
FIELDS = ("Name", "Email", "City", "Phone", "Title", "Date")
BOXES = ("Remember me", "Full screen", "Show grid", "Dark mode", "Autosave", "Mute sound")
WORDS = ("maple", "river", "orange", "planet", "window", "garden")

_ROW, _PAD = 22, 6
_TRIES = 50


class ScreensOptions(SyntheticOptions):
    """Difficulty: number of elements, size of the screen, and whether an action is asked for or only a place."""

    size: tuple[PositiveInt, PositiveInt] = (224, 168)
    elements: int = Field(5, ge=2, le=20)
    task: Literal["gui_grounding", "gui_action"] = "gui_grounding"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Element:
    kind: Literal["button", "field", "box"]
    text: str
    box: tuple[int, int, int, int]


class Screens:
    """The generator `screens`; task `gui_grounding` (answer the element's box) or `gui_action` (answer an action)."""

    name: ClassVar[str] = "screens"
    version: ClassVar[int] = 2
    options: ClassVar[type[SyntheticOptions]] = ScreensOptions

    def plan(self, generator: np.random.Generator, options: ScreensOptions) -> Scene:
        elements = _elements(generator, options)
        asked = elements[int(generator.integers(len(elements)))]
        word = WORDS[int(generator.integers(len(WORDS)))]
        prompt = {
            "button": f"Click the {asked.text} button.",
            "field": f'Type "{word}" into the {asked.text} field.',
            "box": f'Tick the box "{asked.text}".',
        }[asked.kind]
        typed = asked.kind == "field"
        answer: Any = list(asked.box)
        if options.task == "gui_action":
            answer = {
                "action": "type" if typed else "click",
                "box": list(asked.box),
                **({"text": word} if typed else {}),
            }
        elif typed:
            prompt = f"Click the {asked.text} field."

        def draw(stem: Path, _ground: np.random.Generator) -> dict[str, Any]:
            path = stem.with_suffix(".png")
            _draw_screen(path, elements, options.size)
            return {"images": [f"media/{path.name}"]}

        return Scene(
            content=repr((prompt, [(e.kind, e.text, e.box) for e in elements])),
            row={"task": options.task, "prompt": prompt, "answer": answer, "meta": {"element": asked.kind}},
            draw=draw,
        )


def _elements(generator: np.random.Generator, options: ScreensOptions) -> list[_Element]:
    """Rows from the top, each a field, a tick box or some buttons, at random places from the left."""
    for _ in range(_TRIES):
        left = {kind: list(generator.permutation(words)) for kind, words in _WORDS_OF.items()}
        made: list[_Element] = []
        x, y = _PAD, _PAD
        while len(made) < options.elements and y + _ROW <= options.size[1]:
            # Kinds whose words are used up are left aside. (Twenty elements need words of all three.)
            kinds = [kind for kind in _KINDS if left[kind]]
            kind = kinds[int(generator.integers(len(kinds)))]
            x += int(generator.integers(0, 3)) * _PAD
            width = int(_font().getlength(str(left[kind][0]))) + {"button": 16, "field": 70, "box": 24}[kind]
            if x + width > options.size[0] - _PAD:
                x, y = _PAD, y + _ROW + _PAD
                continue
            made.append(_Element(kind=kind, text=str(left[kind].pop(0)), box=(x, y, x + width, y + _ROW)))
            x += width + _PAD
        if len(made) == options.elements:
            return made
    raise DataError(
        f"{options.elements} elements do not fit a {options.size[0]}x{options.size[1]} screen; enlarge size"
    )


_KINDS: tuple[Literal["button", "field", "box"], ...] = ("button", "field", "box")
_WORDS_OF = {"button": BUTTONS, "field": FIELDS, "box": BOXES}


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size=12)


def _draw_screen(path: Path, elements: Sequence[_Element], size: tuple[int, int]) -> None:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", size, (240, 240, 244))
    pen = ImageDraw.Draw(image)
    for element in elements:
        _draw_element(pen, element)
    image.save(path)


def _draw_element(pen: ImageDraw.ImageDraw, element: _Element) -> None:
    x1, y1, x2, y2 = element.box
    middle, ink = (y1 + y2) / 2, (20, 20, 30)
    edges = (x1, y1, x2 - 1, y2 - 1)
    if element.kind == "button":
        pen.rounded_rectangle(edges, radius=4, fill=(205, 215, 235), outline=(90, 100, 130))
        pen.text(((x1 + x2) / 2, middle), element.text, fill=ink, font=_font(), anchor="mm")
    elif element.kind == "field":
        pen.rectangle(edges, fill=(255, 255, 255), outline=(120, 120, 130))
        pen.text((x1 + 5, middle), element.text, fill=(130, 130, 140), font=_font(), anchor="lm")
    else:
        pen.rectangle((x1 + 2, middle - 6, x1 + 14, middle + 6), fill=(255, 255, 255), outline=ink)
        pen.text((x1 + 19, middle), element.text, fill=ink, font=_font(), anchor="lm")
