"""Paint commands of Matplotlib figures: what a figure draws, written down in place of being drawn.

Runs inside the sandbox, in the same interpreter as the program, and is therefore not trusted: what it writes is only
ever read as paint (reading.py) and painted again (painter.py).

One page per figure: `{"size": [w, h], "dpi", "axes": [...], "owners": [[role, axes, series]], "clips":
[...], "ops": [...]}`. Coordinates are pixels, y upwards (of images and texts as Agg takes them). Points of an axes are
turned back into data by its frame: `{"frame", "slot", "x": [scale, low, high], "y": [...]}`.
"""

from __future__ import annotations

import base64
import types
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
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
        super().__init__(width, height, dpi)  # type: ignore[no-untyped-call]

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
        self._add("path", gc, path=_path(path, transform), fill=_rgba(rgbFace, gc))

    def draw_markers(
        self,
        gc: Any,
        marker_path: Any,
        marker_trans: Any,
        path: Any,
        trans: Any,
        rgbFace: Any = None,
    ) -> None:
        places = _points(trans.transform(path.vertices))
        self._add("markers", gc, path=_path(marker_path, marker_trans), at=places, fill=_rgba(rgbFace, gc))

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
        moved = offset_trans.transform(np.asarray(offsets)) if len(offsets) else np.zeros((0, 2))
        master = np.asarray(master_transform.get_matrix())
        matrices = [master @ np.asarray(m) for m in all_transforms]
        self._add(
            "many",
            gc,
            paths=[_path(p, None) for p in paths],
            matrices=[_numbers(m[:2].T.ravel()) for m in matrices] or [_numbers(master[:2].T.ravel())],
            at=_points(moved),
            fills=[_rgba(c, None) for c in np.atleast_2d(facecolors)] if len(facecolors) else [],
            edges=[_rgba(c, None) for c in np.atleast_2d(edgecolors)] if len(edgecolors) else [],
            widths=_numbers(np.atleast_1d(linewidths)),
            dashes=[_dash(offset, pattern) for offset, pattern in linestyles],
            hatch_colours=[] if hatchcolors is None else [_rgba(c, None) for c in np.reshape(hatchcolors, (-1, 4))],
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
        fills = [_rgba(c, None) for c in np.asarray(facecolors).reshape(-1, 4)]
        self._add("mesh", gc, shape=[int(meshHeight), int(meshWidth)], at=_points(corners), fills=fills)

    def draw_gouraud_triangles(self, gc: Any, triangles_array: Any, colors_array: Any, transform: Any) -> None:
        """Each triangle in the mean of its corners' colours."""
        for corners, colours in zip(triangles_array, colors_array, strict=False):
            path = [_points(transform.transform(corners)), None]
            self._add("path", gc, path=path, fill=_rgba(np.asarray(colours).mean(axis=0), None), edge=None)

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
        rectangle = gc.get_clip_rectangle()
        op = {
            "op": kind,
            "owner": self.stack[-1],
            "edge": _rgba(gc.get_rgb(), None) if gc.get_linewidth() > 0 or kind in ("text", "image") else None,
            "width": float(gc.get_linewidth()),
            "dash": _dash(*gc.get_dashes()),
            "cap": str(gc.get_capstyle()),
            "join": str(gc.get_joinstyle()),
            "hatch": gc.get_hatch(),
            "hatch_colour": _rgba(gc.get_hatch_color(), None) if gc.get_hatch() else None,
            "snap": gc.get_snap(),
            "smooth": bool(gc.get_antialiased()),
            "box": None if rectangle is None else _numbers(rectangle.extents),
            "clip": self._clip(*gc.get_clip_path()),
        }
        self.ops.append({key: value for key, value in {**op, **fields}.items() if value is not None})

    def _clip(self, path: Any, transform: Any) -> int | None:
        if path is None:
            return None
        made = _path(path, transform)
        key = repr(made).encode()
        if key not in self._clip_of:
            self._clip_of[key] = len(self.clips)
            self.clips.append(made)
        return self._clip_of[key]


GAP = 1e9
"""Coordinate of a point that is not there; far outside every canvas."""


def page(figure: Figure) -> dict[str, Any]:
    """Draw `figure` into a recorder and return its page."""
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
    return {
        "size": [int(width), int(height)],
        "dpi": float(figure.dpi),
        "axes": [_frame(one, figure) for one in axes],
        "owners": owners,
        "clips": recorder.clips,
        "ops": recorder.ops,
    }


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
    for number, container in enumerate(axes.containers):
        if isinstance(container, BarContainer):
            role = "barh" if getattr(container, "orientation", None) == "horizontal" else "bar"
            bars |= {id(patch): (number, role) for patch in container.patches}
    for number, child in enumerate(axes.get_children(), start=len(axes.containers) + 1):
        if isinstance(child, Legend):
            own(child, "legend", place, -1)
        elif isinstance(child, Spine | Axis) or child is axes.patch:
            own(child, "frame", place, -1)
        elif id(child) in bars:
            own(child, bars[id(child)][1], place, bars[id(child)][0])
        elif isinstance(child, Wedge):
            own(child, "wedge", place, len(axes.containers))
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
        "frame": _numbers(axes.bbox.extents),
        "slot": _numbers(slot.extents),
        "x": [axes.get_xscale() if rectilinear else "none", *map(float, axes.get_xlim())],
        "y": [axes.get_yscale() if rectilinear else "none", *map(float, axes.get_ylim())],
    }


def _path(path: Any, transform: Any) -> list[Any]:
    """[points, codes or None]; curves stay curves."""
    if transform is not None:
        path = transform.transform_path(path)
    codes = None if path.codes is None else [int(c) for c in path.codes]
    return [_points(path.vertices, keep=True), codes]


def _points(values: Any, *, keep: bool = False) -> list[list[float]]:
    """Rows of two numbers to a thousandth of a pixel. Gaps (not finite) go, or stay as a number that says so."""
    rows: Any = np.asarray(np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)).reshape(-1, 2)
    finite = np.isfinite(rows).all(axis=1)
    kept = np.where(finite[:, None], rows, GAP) if keep else rows[finite]
    made: list[list[float]] = np.clip(kept, -GAP, GAP).round(4).tolist()
    return made


def _numbers(values: Any) -> list[float]:
    return [float(v) for v in np.nan_to_num(np.asarray(values, dtype=float), nan=0.0, posinf=GAP, neginf=-GAP)]


def _dash(offset: Any, pattern: Any) -> list[Any] | None:
    return None if pattern is None else [float(offset or 0.0), _numbers(pattern)]


def _rgba(colour: Any, gc: Any) -> list[float] | None:
    """Four parts in 0 to 1; the graphics context's alpha wins where it is forced."""
    if colour is None:
        return None
    parts = [float(c) for c in np.clip(np.asarray(colour, dtype=float).ravel()[:4], 0.0, 1.0)]
    parts += [1.0] * (4 - len(parts))
    if gc is not None and (gc.get_forced_alpha() or len(np.ravel(colour)) < 4):
        parts[3] = float(gc.get_alpha())
    return [round(c, 4) for c in parts]
