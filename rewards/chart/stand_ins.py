"""What the sandbox puts in the place of Matplotlib's saving, showing and windows, and of threads.

Honest programs save files and read them back, choose a backend with windows, or share work among threads. None of that
is needed for what they draw, and little of it is possible here. Saving records the figure; where the file would lie in
the program's own folder, an empty image of the figure's size is left there. Choosing a backend does nothing. A
`ThreadPoolExecutor` runs each task when it is handed in; plain threads cannot be started, since no limit that holds for
root as well counts them.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import os
from collections.abc import Callable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.backend_bases import FigureCanvasBase, RendererBase
from matplotlib.figure import Figure
from matplotlib.patheffects import PathEffectRenderer
from PIL import Image

from vlrft.rewards.chart.recorder import Recorder

_PICTURES = ("png", "jpg", "jpeg", "tif", "tiff", "webp", "gif", "pdf", "eps")
_NOTHING = '<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}"/>\n'


def install(record: Callable[..., None]) -> None:
    """Replace all of it, in this process; `record(figure, tight=...)` is called when a figure is saved or shown."""
    original = FigureCanvasBase.print_figure

    def print_figure(self: FigureCanvasBase, filename: Any, *args: Any, **kwargs: Any) -> Any:
        bounds = kwargs.get("bbox_inches") or matplotlib.rcParams["savefig.bbox"]
        record(self.figure, tight=bounds == "tight")
        if not isinstance(filename, str | os.PathLike):
            return original(self, filename, *args, **kwargs)
        return leave_picture(os.fspath(filename), self.figure)

    def show(*_args: Any, **_kwargs: Any) -> None:
        for number in plt.get_fignums():
            record(plt.figure(number))

    canvas: Any = FigureCanvasBase
    canvas.print_figure = print_figure
    plt.show = show
    figure: Any = Figure
    figure.show = lambda self, *_args, **_kwargs: record(self)
    for where, name in ((matplotlib, "use"), (plt, "switch_backend")):
        setattr(where, name, _chosen_already)
    effects: Any = PathEffectRenderer
    effects.draw_text = _draw_text_with_effects
    for module in (concurrent.futures, concurrent.futures.thread):
        module.ThreadPoolExecutor = OneByOne  # type: ignore[attr-defined]


def leave_picture(name: str | bytes, figure: Figure) -> None:
    """A blank file in the program's own folder, so that it can be opened again; elsewhere nothing, and no error."""
    if not isinstance(name, str):
        return  # a name in bytes
    kind = name.rpartition(".")[2].lower() if "." in os.path.basename(name) else ""
    name, kind = (name, kind) if kind else (f"{name}.png", "png")
    folder, own = os.path.realpath(os.path.dirname(name) or "."), os.path.realpath(".")
    if os.path.commonpath([folder, own]) != own or not os.path.isdir(folder):
        return
    width, height = (min(max(1, int(side)), 2**14) for side in figure.bbox.size)
    if kind == "svg":
        with open(name, "w") as file:
            file.write(_NOTHING.format(width, height))
    elif kind in _PICTURES:
        Image.new("L", (width, height), 255).save(name)


class OneByOne(concurrent.futures.Executor):
    """A pool that runs each task at once, in the thread of the program."""

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if initializer is not None:
            initializer(*initargs)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """A future that is done."""
        made: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            made.set_result(fn(*args, **kwargs))
        except Exception as error:
            made.set_exception(error)
        return made


def _chosen_already(*_args: Any, **_kwargs: Any) -> None:
    """There is one backend here."""


def _draw_text_with_effects(
    self: Any, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, *rest: Any, **named: Any
) -> None:
    """The effects as the outlines that Matplotlib makes of them, and the text itself over them."""
    RendererBase.draw_text(self, gc, x, y, s, prop, angle, *rest, **named)
    if isinstance(self._renderer, Recorder):
        self._renderer.draw_text(gc, x, y, s, prop, angle, *rest, **named)
