"""Recorded pages painted by Agg: the image of a chart is made from the very commands from which it is judged.

Runs in a sandboxed child of its own, in which no program ever ran.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, Bbox, IdentityTransform, TransformedPath
from PIL import Image

_HERE = IdentityTransform()
_SMALLEST = 72.0
"""Points times dots per inch of letters of one pixel: smaller ones cannot be set, and nobody could see them."""
_FURTHEST = 1e6
"""Pixels beyond which FreeType does not reckon, and no text reaches the canvas."""
_AGG: Any = RendererAgg  # its own annotations are partly missing, partly too narrow


def paint(page: Mapping[str, Any]) -> bytes:
    """One page as PNG bytes."""
    width, height = page["size"]
    renderer = _AGG(width, height, page["dpi"])
    clips = [_path(clip) for clip in page["clips"]]
    for op in page["ops"]:
        if op["op"] == "text" and op["font"]["size"] * page["dpi"] < _SMALLEST:
            continue
        gc = renderer.new_gc()
        _style(gc, op, clips)
        _PAINTERS[op["op"]](renderer, gc, op)
        gc.restore()
    out = io.BytesIO()
    Image.fromarray(np.asarray(renderer.buffer_rgba())).convert("RGB").save(out, "PNG", compress_level=1)
    return out.getvalue()


def _style(gc: GraphicsContextBase, op: Mapping[str, Any], clips: list[Path]) -> None:
    edge = op.get("edge")
    gc.set_linewidth(op.get("width", 1.0) if edge is not None else 0.0)
    if edge is not None:
        gc.set_alpha(edge[3])
        gc.set_foreground(tuple(edge), isRGBA=True)
    dash = op.get("dash")
    if dash is not None:
        gc.set_dashes(dash[0], dash[1])
    gc.set_capstyle(op.get("cap", "butt"))
    gc.set_joinstyle(op.get("join", "round"))
    gc.set_antialiased(op.get("smooth", True))
    gc.set_snap(op.get("snap"))
    if op.get("hatch"):
        gc.set_hatch(op["hatch"])
        gc.set_hatch_color(tuple(op["hatch_colour"]))
    if op.get("box") is not None:
        gc.set_clip_rectangle(Bbox.from_extents(*op["box"]))
    if op.get("clip") is not None:
        gc.set_clip_path(TransformedPath(clips[op["clip"]], _HERE))


def _table(values: Any, columns: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(values, dtype=float).reshape(-1, columns)


def _path(recorded: Any) -> Path:
    points, codes = recorded
    vertices = _table(points, 2)
    # What was recorded as a gap becomes one again.
    vertices = np.where(np.abs(vertices) >= 1e9, np.nan, vertices)
    return Path(vertices, None if codes is None else np.array(codes, dtype=float).astype(np.uint8))


def _fill(gc: GraphicsContextBase, op: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The fill colour; its own alpha counts, so the context must not force one."""
    fill = op.get("fill")
    if fill is None:
        return None
    if op.get("edge") is None or op["edge"][3] == fill[3]:
        gc.set_alpha(fill[3])
    return tuple(fill)


def _paint_path(renderer: Any, gc: GraphicsContextBase, op: Mapping[str, Any]) -> None:
    renderer.draw_path(gc, _path(op["path"]), _HERE, _fill(gc, op))


def _paint_markers(renderer: Any, gc: GraphicsContextBase, op: Mapping[str, Any]) -> None:
    renderer.draw_markers(gc, _path(op["path"]), _HERE, Path(_table(op["at"], 2)), _HERE, _fill(gc, op))


def _paint_many(renderer: Any, gc: GraphicsContextBase, op: Mapping[str, Any]) -> None:
    matrices = [Affine2D.from_values(*m).get_matrix() for m in _table(op["matrices"], 6)]
    dashes = [(0.0, None) if d is None else tuple(d) for d in op["dashes"]]
    fills, edges = (_table(op[key], 4) for key in ("fills", "edges"))
    offsets, widths = _table(op["at"], 2), _table(op["widths"], 1).ravel()
    smooth, paths = [op.get("smooth", True)], [_path(p) for p in op["paths"]]
    # Before Matplotlib 3.11 a collection's hatches have no colours of their own.
    hatches = {"hatchcolors": _table(op["hatch_colours"], 4)} if op.get("hatch_colours") else {}
    renderer.draw_path_collection(
        gc, _HERE, paths, np.array(matrices), offsets, _HERE, fills, edges, widths, dashes, smooth, [None],
        "screen", **hatches,
    )  # fmt: skip


def _paint_mesh(renderer: Any, gc: GraphicsContextBase, op: Mapping[str, Any]) -> None:
    rows, columns = op["shape"]
    corners, fills, none = (
        _table(op["at"], 2).reshape(rows + 1, columns + 1, 2),
        _table(op["fills"], 4),
        np.zeros((0, 4)),
    )
    corners = np.where(np.abs(corners) >= 1e9, np.nan, corners)
    renderer.draw_quad_mesh(gc, _HERE, columns, rows, corners, np.zeros((1, 2)), _HERE, fills, False, none)


def _paint_image(renderer: Any, gc: GraphicsContextBase, op: Mapping[str, Any]) -> None:
    gc.set_alpha(1.0 if op.get("edge") is None else op["edge"][3])
    pixels = np.frombuffer(zlib.decompress(base64.b64decode(op["pixels"])), dtype=np.uint8)
    ((x, y),) = _table(op["at"], 2)
    renderer.draw_image(gc, x, y, pixels.reshape(*op["shape"], 4).copy())


def _paint_text(renderer: Any, gc: GraphicsContextBase, op: Mapping[str, Any]) -> None:
    ((x, y),) = _table(op["at"], 2)
    if max(abs(x), abs(y)) > _FURTHEST:
        return
    font, angle = FontProperties(**op["font"]), op.get("angle", 0.0)
    try:
        renderer.draw_text(gc, x, y, op["text"], font, angle, ismath=op.get("math", False))
    except (ValueError, RuntimeError):  # a formula that cannot be set: its source, so that what is judged is painted
        renderer.draw_text(gc, x, y, op["text"], font, angle, ismath=False)


_PAINTERS = {
    "path": _paint_path,
    "markers": _paint_markers,
    "many": _paint_many,
    "mesh": _paint_mesh,
    "image": _paint_image,
    "text": _paint_text,
}
