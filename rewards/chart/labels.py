"""What a figure's texts name: category names on its axes, and the places that the texts of a pie stand at.

Runs inside the sandbox, with the recorder, after the figure was drawn. The trusted process believes a name only where
its text is painted beside its place (naming.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryFormatter
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from vlrft.rewards.chart import as_json

_NAMING = (StrCategoryFormatter, FixedFormatter, FuncFormatter)
"""Formatters that may give names; the others write numbers and dates in some form."""


def names(axis: Axis) -> list[list[Any]]:
    """[words, place in data] of each labelled major tick, where a formatter may name categories."""
    if not isinstance(axis.get_major_formatter(), _NAMING):
        return []
    made = []
    for tick in axis.majorTicks:
        words = tick.label1.get_text() or tick.label2.get_text()
        (place,) = as_json.numbers([float(tick.get_loc())])
        if words.strip():
            made.append([words, place])
    return made


def anchors(owners: Sequence[Sequence[Any]], artists: Sequence[Artist]) -> list[list[Any]]:
    """[number of the owner, x, y] of the texts in axes that hold a pie: where, in pixels, each is anchored.

    owners: all of the page, of which the first is the figure; artists: those of the others, in order.
    """
    pies = {place for role, place, _ in owners if role == "wedge"}
    made = []
    for number, artist in enumerate(artists if pies else (), start=1):
        role, place, _ = owners[number]
        if role == "text" and place in pies and isinstance(artist, Text):
            made.append([number, *as_json.numbers(_anchor(artist))])
    return made


def _anchor(text: Text) -> Any:
    """Pixels of the point that an annotation points at, and that any other text is aligned to."""
    if isinstance(text, Annotation) and text.xycoords == "data" and text.axes is not None:
        return text.axes.transData.transform(text.xy)
    return text.get_transform().transform(text.get_unitless_position())
