"""Generated tasks for offline use: drawn, seeded, with a known answer."""

from __future__ import annotations

from vlrft.data.synthetic.base import SyntheticTask
from vlrft.registry import resolve

GENERATORS: dict[str, str] = {
    "counting": "vlrft.data.synthetic.counting:Counting",
    "detection": "vlrft.data.synthetic.detection:Detection",
    "odd_one_out": "vlrft.data.synthetic.odd_one_out:OddOneOut",
    "transformation": "vlrft.data.synthetic.transformation:Transformation",
    "screens": "vlrft.data.synthetic.screens:Screens",
    "events": "vlrft.data.synthetic.events:Events",
    "charts": "vlrft.data.synthetic.charts:Charts",
}
"""Generators by name, for sources with `format: synthetic` and `generator: NAME`; built without arguments."""


def build_generator(name: str) -> SyntheticTask:
    """The generator called `name` (in GENERATORS, or `module:attr`). Raises UnknownNameError with the valid names."""
    task: SyntheticTask = resolve(name, GENERATORS, kind="generator")()
    return task
