"""Paint commands of Matplotlib figures: what a figure draws, written down in place of being drawn.

Runs inside the sandbox, in the same interpreter as the program, and is therefore not trusted: what it writes is only
ever read as paint (reading.py) and painted again (painter.py).

One page per figure: `{"size": [w, h], "dpi", "axes": [...], "owners": [[role, axes, series]], "anchors": [[owner, x,
y]], "clips": [...], "ops": [...]}`. Coordinates are pixels, y upwards (of images and texts as Agg takes them). Points
of an axes are turned back into data by its frame: `{"frame", "slot", "x": [scale, low, high], "y": [...], "names":
{"x": [[words, place in data]], "y": [...]}}`. Names and anchors are those of labels.py.
"""

from __future__ import annotations

import base64
import math
import types
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import FigureCanvasBase, register_backend
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.collections import Collection, LineCollection, PathCollection, PolyCollection, QuadMesh
from matplotlib.container import BarContainer
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Wedge
from matplotlib.spines import Spine
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox

from vlrft.rewards.chart import as_json, labels

CANVAS = 2**22
"""Pixels of the largest page."""
_LONGEST_SIDE = 2**23
"""Pixels beyond which Matplotlib would refuse to paint."""

_ROLES: tuple[tuple[type[Artist], str], ...] = (
    (Line2D, "line"),
    (AxesImage, "image"),
    (QuadMesh, "mesh"),
    (ContourSet, "contour"),
    (PathCollection, "scatter"),
    (LineCollection, "lines"),
    (PolyCollection, "area"),
    (Collection, "marks"),
)


class Recorder(RendererAgg):
    """Measures text as Agg does and writes commands down in place of painting them."""

    def __init__(self, width: float, height: float, dpi: float) -> None:
        self.ops: list[dict[str, Any]] = []
        self.clips: list[list[Any]] = []
        self.stack: list[int] = [0]
        self._clip_of: dict[bytes, int] = {}
        super().__init__(1, 1, dpi)  # type: ignore[no-untyped-call]  # nothing is painted: no room for pixels
        self.width, self.height = width, height
        self.bbox = Bbox.from_bounds(0, 0, width, height)

    def _update_methods(self) -> None:
        """Agg would bind its own painting functions here."""

    def option_image_nocomposite(self) -> bool:
        """Images one by one, so that each keeps its owner."""
        return True

    def start_rasterizing(self) -> None: ...

    def stop_rasterizing(self) -> None: ...

    def start_filter(self) -> None: ...

    def stop_filter(self, post_processing: Any) -> None: ...

    def draw_path(self, gc: Any, path: Any, transform: Any, rgbFace: Any = None) -> None:
        self._add("path", gc, path=as_json.path(path, transform), fill=as_json.rgba(rgbFace, gc))

    def draw_markers(
        self,
        gc: Any,
        marker_path: Any,
        marker_trans: Any,
        path: Any,
        trans: Any,
        rgbFace: Any = None,
    ) -> None:
        places = trans.transform(path.vertices)
        chosen = as_json.told_apart(places)
        at = as_json.points(places if chosen is None else places[chosen])
        fill = as_json.rgba(rgbFace, gc)
        self._add("markers", gc, path=as_json.path(marker_path, marker_trans), at=at, fill=fill)

    def draw_path_collection(
        self,
        gc: Any,
        master_transform: Any,
        paths: Any,
        all_transforms: Any,
        offsets: Any,
        offset_trans: Any,
        facecolors: Any,
        edgecolors: Any,
        linewidths: Any,
        linestyles: Any,
        antialiaseds: Any,
        urls: Any,
        offset_position: Any,
        *,
        hatchcolors: Any = None,
    ) -> None:
        if not len(paths):
            return  # Matplotlib asks so whether hatch colours are taken
        places = offset_trans.transform(np.asarray(offsets)) if len(offsets) else np.zeros((0, 2))
        master = np.asarray(master_transform.get_matrix())
        matrices = [master @ np.asarray(m) for m in all_transforms] or [master]
        turns = [paths, matrices, facecolors, edgecolors, np.atleast_1d(linewidths), linestyles]
        turns.append([] if hatchcolors is None else np.reshape(hatchcolors, (-1, 4)))
        chosen = as_json.told_apart(places, *turns)
        if chosen is not None:
            places = places[chosen]
            turns = [one if len(one) < 2 else [one[i] for i in chosen] for one in turns]
        paths, matrices, fills, edges, widths, styles, hatches = turns
        if len(matrices) == 1 and any(len(p.vertices) > as_json.LONG for p in paths):
            drawn = [as_json.path(p, Affine2D(matrices[0])) for p in paths]
            matrices = [np.eye(3)]
        else:
            drawn = [as_json.path(p, None) for p in paths]
        self._add(
            "many",
            gc,
            paths=drawn,
            matrices=[as_json.numbers(m[:2].T.ravel()) for m in matrices],
            at=as_json.points(places),
            fills=as_json.rgbas(fills),
            edges=as_json.rgbas(edges),
            widths=as_json.numbers(widths),
            dashes=[as_json.dash(offset, pattern) for offset, pattern in styles],
            hatch_colours=as_json.rgbas(hatches),
        )

    def draw_quad_mesh(
        self,
        gc: Any,
        master_transform: Any,
        meshWidth: int,
        meshHeight: int,
        coordinates: Any,
        offsets: Any,
        offsetTrans: Any,
        facecolors: Any,
        antialiased: Any,
        edgecolors: Any,
    ) -> None:
        corners = master_transform.transform(np.asarray(coordinates).reshape(-1, 2))
        fills = np.asarray(facecolors).reshape(-1, 4)
        if len(fills) == 1:
            fills = np.repeat(fills, meshHeight * meshWidth, axis=0)
        corners, fills = as_json.mesh(
            corners.reshape(meshHeight + 1, meshWidth + 1, 2), fills.reshape(meshHeight, meshWidth, 4)
        )
        at = as_json.points(corners, keep=True)
        self._add("mesh", gc, shape=list(fills.shape[:2]), at=at, fills=as_json.rgbas(fills))

    def draw_gouraud_triangles(self, gc: Any, triangles_array: Any, colors_array: Any, transform: Any) -> None:
        """Each triangle in the mean of its corners' colours."""
        for corners, colours in zip(triangles_array, colors_array, strict=False):
            path = [as_json.points(transform.transform(corners)), None]
            self._add("path", gc, path=path, fill=as_json.rgba(np.asarray(colours).mean(axis=0), None), edge=None)

    def draw_image(self, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
        pixels = np.ascontiguousarray(im, dtype=np.uint8)
        packed = base64.b64encode(zlib.compress(pixels.tobytes(), 1)).decode()
        self._add("image", gc, at=[[float(x), float(y)]], shape=list(pixels.shape[:2]), pixels=packed)

    def draw_text(
        self,
        gc: Any,
        x: float,
        y: float,
        s: str,
        prop: Any,
        angle: float,
        ismath: Any = False,
        mtext: Any = None,
    ) -> None:
        font = {
            "family": list(prop.get_family()),
            "size": float(prop.get_size_in_points()),
            "style": prop.get_style(),
            "weight": prop.get_weight(),
            "stretch": prop.get_stretch(),
            "variant": prop.get_variant(),
        }
        self._add("text", gc, at=[[float(x), float(y)]], text=s, angle=float(angle), math=bool(ismath), font=font)

    def draw_tex(self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, *, mtext: Any = None) -> None:
        raise RuntimeError("text.usetex needs a LaTeX process, and the sandbox starts none")

    def _add(self, kind: str, gc: Any, **fields: Any) -> None:
        rectangle, hatch = gc.get_clip_rectangle(), gc.get_hatch()
        op = {
            "op": kind,
            "owner": self.stack[-1],
            "edge": as_json.rgba(gc.get_rgb(), None) if gc.get_linewidth() > 0 or kind in ("text", "image") else None,
            "width": float(gc.get_linewidth()),
            "dash": as_json.dash(*gc.get_dashes()),
            "cap": str(gc.get_capstyle()),
            "join": str(gc.get_joinstyle()),
            "hatch": hatch[:16] if hatch else None,
            "hatch_colour": as_json.rgba(gc.get_hatch_color(), None) if hatch else None,
            "snap": gc.get_snap(),
            "smooth": bool(gc.get_antialiased()),
            "box": None if rectangle is None else as_json.numbers(rectangle.extents),
            "clip": self._clip(*gc.get_clip_path()),
        }
        self.ops.append({key: value for key, value in {**op, **fields}.items() if value is not None})

    def _clip(self, path: Any, transform: Any) -> int | None:
        if path is None:
            return None
        made = as_json.path(path, transform)
        key = repr(made).encode()
        if key not in self._clip_of:
            self._clip_of[key] = len(self.clips)
            self.clips.append(made)
        return self._clip_of[key]


class _Canvas(FigureCanvasBase):
    """What Matplotlib saves a figure with where more, or less, than its canvas is asked for."""

    def print_recorded(self, made: Any, **_kwargs: Any) -> None:
        """The page into the list `made`."""
        page = _drawn(self.figure)[0]  # first: Matplotlib may only want to know the renderer, and end it there
        made.append(page)


register_backend("recorded", _Canvas, "paint commands")
_print_figure = FigureCanvasBase.print_figure
"""Matplotlib's own, before saving is replaced."""


def page(figure: Figure, *, tight: bool = False) -> dict[str, Any]:
    """Draw `figure` into a recorder and return its page.

    A very large figure is drawn at fewer dots per inch. tight: with what it has beyond its own canvas, as Matplotlib
    saves it with `bbox_inches="tight"`; empty margins stay.
    """
    pixels, dpi = figure.bbox.width * figure.bbox.height, figure.dpi
    if not max(figure.bbox.size) < _LONGEST_SIDE:
        raise ValueError(f"a figure of {figure.bbox.width:g} x {figure.bbox.height:g} pixels is too large")
    try:
        if pixels > CANVAS:
            figure.dpi = dpi * math.sqrt(CANVAS / pixels)
        made, recorder = _drawn(figure)
        return _enlarged(figure, recorder, made) if tight else made
    finally:
        figure.dpi = dpi


def _enlarged(figure: Figure, recorder: Recorder, made: dict[str, Any]) -> dict[str, Any]:
    """The page `made`, or that of a larger canvas where something lies outside."""
    own = Bbox.from_extents(0, 0, *figure.bbox_inches.size)
    around = Bbox.union([own, figure.get_tightbbox(recorder)])
    beyond = np.abs(np.subtract(around.extents, own.extents)).max() * figure.dpi
    if beyond < 1 or not np.isfinite(beyond):
        return made
    shrink = min(1.0, math.sqrt(CANVAS / (around.width * around.height)) / figure.dpi)
    pages: list[dict[str, Any]] = []
    sink: Any = pages  # Matplotlib hands on what it is to write to
    _print_figure(figure.canvas, sink, format="recorded", dpi=figure.dpi * shrink, bbox_inches=around)
    return pages[0]


def _drawn(figure: Figure) -> tuple[dict[str, Any], Recorder]:
    """(page, its recorder) of the figure as it is."""
    width, height = figure.bbox.size
    recorder = Recorder(width, height, figure.dpi)
    owners: list[list[Any]] = [["figure", -1, -1]]
    axes = _all_axes(figure)
    wrapped: list[Artist] = []

    def own(artist: Artist, role: str, place: int, series: int) -> None:
        owners.append([role, place, series])
        artist.draw = _announced(artist.draw, recorder, len(owners) - 1)  # type: ignore[method-assign]
        wrapped.append(artist)

    for legend in figure.legends:
        own(legend, "legend", -1, -1)
    for place, one in enumerate(axes):
        _own_children(one, place, own)
    try:
        figure.draw(recorder)
    finally:
        for artist in wrapped:
            del artist.draw
    made = {
        "size": [max(1, int(width)), max(1, int(height))],
        "dpi": float(figure.dpi),
        "axes": [_frame(one, figure) for one in axes],
        "owners": owners,
        "anchors": labels.anchors(owners, wrapped),
        "clips": recorder.clips,
        "ops": recorder.ops,
    }
    return made, recorder


def _all_axes(figure: Figure) -> list[Axes]:
    """Axes of the figure and its subfigures, insets after the axes that hold them. (A search over all artists would
    make every tick first.)"""
    found: list[Axes] = []
    waiting: list[Any] = list(figure.axes)
    while waiting:
        one = waiting.pop(0)
        if one not in found:
            found.append(one)
            waiting = [*one.child_axes, *waiting]
    return found


def _own_children(axes: Axes, place: int, own: Callable[[Artist, str, int, int], None]) -> None:
    """Name what each child of `axes` is, and to which series it belongs."""
    bars: dict[int, tuple[int, str]] = {}
    held: Any = axes
    titles = (held.title, held._left_title, held._right_title)
    for number, container in enumerate(axes.containers):
        if isinstance(container, BarContainer):
            role = "barh" if getattr(container, "orientation", None) == "horizontal" else "bar"
            bars |= {id(patch): (number, role) for patch in container.patches}
    for number, child in enumerate(axes.get_children(), start=len(axes.containers) + 1):
        if isinstance(child, Legend):
            own(child, "legend", place, -1)
        elif isinstance(child, Axis):
            side = getattr(child, "axis_name", "")
            own(child, f"{side}axis", place, -1)
            own(child.label, f"{side}label", place, -1)
        elif isinstance(child, Spine) or child is axes.patch:
            own(child, "frame", place, -1)
        elif id(child) in bars:
            own(child, bars[id(child)][1], place, bars[id(child)][0])
        elif isinstance(child, Wedge):
            own(child, "wedge", place, len(axes.containers))
        elif isinstance(child, Text):
            own(child, "title" if child in titles else "text", place, -1)
        elif isinstance(child, Line2D | Patch | Collection | AxesImage):
            own(child, _role(child), place, number)


def _role(child: Artist) -> str:
    return next((role for kind, role in _ROLES if isinstance(child, kind)), "patch")


def _announced(draw: Callable[..., Any], recorder: Recorder, owner: int) -> Callable[..., Any]:
    """`draw`, telling the recorder whose paint follows."""

    def announced(self: Artist, renderer: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.stack.append(owner)
        try:
            return draw(renderer, *args, **kwargs)
        finally:
            recorder.stack.pop()

    return types.MethodType(announced, draw.__self__)  # type: ignore[attr-defined]


def _frame(axes: Axes, figure: Figure) -> dict[str, Any]:
    slot = figure.transSubfigure.transform_bbox(axes.get_position(original=True))
    rectilinear = axes.name == "rectilinear"
    return {
        "frame": as_json.numbers(axes.bbox.extents),
        "slot": as_json.numbers(slot.extents),
        "x": [axes.get_xscale() if rectilinear else "none", *map(float, axes.get_xlim())],
        "y": [axes.get_yscale() if rectilinear else "none", *map(float, axes.get_ylim())],
        "names": {side: labels.names(axis) for side, axis in (("x", axes.xaxis), ("y", axes.yaxis)) if rectilinear},
    }
