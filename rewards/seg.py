"""One expected region: a mask, or a box with points in it that a segmenter turns into a mask.

Target: seg.mask_iou: run lengths `{"size": [h, w], "counts": text or list}`, polygons `[[x, y, x, y, ...], ...]` in
`meta["target_space"]` (normalised ones need `image_size`; `[]` is the empty mask), or rows of 0 and 1. seg.box_point:
`{"box": [x1, y1, x2, y2], "points": [[x, y], ...]}`, which needs `image_size`.

Meta: as for box.*. Run lengths and arrays are in pixels of the stored image, whatever the spaces.

Answer: seg.mask_iou: the forms of the target; an object that holds one under `segmentation`, `mask`, `polygons` or
`polygon`; a single polygon, also as [[x, y], ...]; one of `empty_answers`. Nested lists of nothing but 0 and 1 are an
array where they have the size of the image or the space is not `norm_1`. A mask of another size than the target's,
run lengths that do not fill the image, and a polygon of fewer than three points are `unparsable`. Polygons are cut off
at the image's edges, point by point. seg.box_point: an object with `bbox_2d`, `bbox` or `box`, and `points_1`,
`points_2`, `points`, `point` or `point_2d`.

Guards: of several masks or objects the first counts and its value is divided by their number. Sizes and run lengths are
checked before anything is drawn, and no outline may be absurdly long, so that no answer can make the judge run out of
memory or crash it. As many points as the target's are asked for, so that listing points never pays.

Source: mask IoU by pycocotools (its rule of which pixels a polygon covers); seg.box_point from Seg-Zero, whose
thresholds of 10 and 100 pixels on images of 840 x 840 (from memory of its authors' code, unverified) are fractions of
the diagonal here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from vlrft.coords import Box, CoordError, check_size, convert
from vlrft.parse import Parsed
from vlrft.parse.boxes import parse_box_points, says_nothing
from vlrft.parse.masks import ParsedMask, parse_masks, run_lengths
from vlrft.rewards.base import TargetError, is_number, ordered
from vlrft.rewards.box import (
    OVERHANG,
    box_in_pixels,
    check_answer_space,
    intersection_over_union,
    target_space,
    true_box,
)
from vlrft.rewards.matching import EMPTY_ANSWERS
from vlrft.rewards.remembered import once_per_target
from vlrft.types import Score

TAU_BOX = 10 / math.hypot(840, 840)
"""Mean distance of a box's coordinates, as a share of the image's diagonal: 10 pixels at 840 x 840."""
TAU_POINT = 100 / math.hypot(840, 840)
"""Mean distance of the points, likewise: 100 pixels at 840 x 840."""

_MOST_PIXELS = 2**31 - 1
_LARGEST_SIDE = 16_384
"""Of an image whose size only the polygons tell."""
_MOST_POLYGONS = 1000
_LONGEST_OUTLINE = 200
"""Of one mask, as a multiple of the image's width and height together: drawing costs memory by its length."""


def mask_iou(
    parsed: Parsed, target: Any, meta: Mapping[str, Any], *, empty_answers: Sequence[str] = EMPTY_ANSWERS
) -> Score:
    """Intersection over union of two masks.

    Formula: pixels in both / pixels in either, of the first mask / n masks given; both empty 1, one of them empty 0
    Range: [0, 1]

    empty_answers: texts that say that there is no object.

    Example: score("seg.mask_iou", "<answer>[[1,1],[1,0]]</answer>", {"size": [2, 2], "counts": [0, 4]}) -> 0.75
    """
    meta = _with_size(parsed, target, meta)
    truth = _true_mask(target, meta)
    flags = set(parsed.flags)
    if parsed.answer is None:
        return Score(value=0.0, flags=ordered(flags))
    if says_nothing(parsed.answer, empty_answers):
        return Score(value=float(_area(truth) == 0), flags=ordered(flags))
    found = parse_masks(parsed.answer)
    mask = _drawn(found[0], truth["size"], meta, flags) if found else None
    flags |= {"several_answers"} if len(found) > 1 else set()
    if mask is None:
        return Score(value=0.0, flags=ordered(flags | (set() if "non_finite" in flags else {"unparsable"})))
    return Score(value=_iou(mask, truth) / len(found), flags=ordered(flags))


def _with_size(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """`meta` with an image just large enough for the polygons of target and answer, where nobody says its size.

    Pixels outside all polygons are in neither mask, so that the value is that of any larger image. Normalised polygons
    stay an error: how fine they are to be drawn is not known.
    """
    if (
        meta.get("image_size") is not None
        or not isinstance(target, list | tuple)
        or target_space(meta) != "abs_original"
    ):
        return meta
    if meta.get("coord_space") not in (None, "abs_original") or not all(_is_outline(row) for row in target):
        return meta
    if _is_binary(target):
        return meta  # an array says its size itself
    found = parse_masks(parsed.answer) if parsed.answer is not None else []
    rows = [*target, *(row for mask in found[:1] if mask.size is None for row in mask.rows if _is_outline(row))]
    furthest = (max((abs(c) for row in rows for c in row[axis::2]), default=1.0) for axis in (0, 1))
    return {**meta, "image_size": [min(max(1, math.ceil(side)), _LARGEST_SIDE) for side in furthest]}


def _is_outline(row: Any) -> bool:
    return isinstance(row, list | tuple) and len(row) >= 6 and all(is_number(c) and math.isfinite(c) for c in row)


def _coco() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("seg.mask_iou needs pycocotools: pip install 'vlrft[rewards]' (README, Install)") from error
    return mask


def _area(mask: dict[str, Any]) -> int:
    return int(_coco().area(mask))


def _iou(a: dict[str, Any], b: dict[str, Any]) -> float:
    coco = _coco()
    area_a, area_b = coco.area([a, b])
    if not area_a or not area_b:
        return float(area_a == area_b)
    return float(coco.iou([a], [b], [0])[0, 0])


@once_per_target
def _true_mask(target: Any, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The target as pycocotools' run lengths. Raises TargetError."""
    space, image_size = target_space(meta), meta.get("image_size")
    try:
        check_answer_space(meta)
        size = None if image_size is None else check_size(image_size)
        convert((), space, "abs_original", image_size=image_size, input_size=meta.get("input_size"))
    except (CoordError, TypeError) as error:
        raise TargetError(f"mask target: {error}") from error
    grid = None if size is None else (int(size[1]), int(size[0]))
    if isinstance(target, Mapping):
        return _true_runs(target, grid)
    if not isinstance(target, list | tuple) or not all(isinstance(row, list | tuple) for row in target):
        raise TargetError(
            f'a mask target is {{"size", "counts"}}, polygons [[x, y, ...]] or rows of 0 and 1, got {target!r}'
        )
    rows = [list(row) for row in target]
    if not all(is_number(c) for row in rows for c in row):
        raise TargetError("mask target: a polygon or row holds something that is not a number")
    if grid is None and _is_binary(rows) and space != "norm_1" and len({len(row) for row in rows}) == 1:
        grid = len(rows), len(rows[0])
    if grid is None:
        raise TargetError("mask target: polygons need image_size: give (width, height) in pixels")
    flags: set[str] = set()
    mask = _lists_drawn(rows, grid, space, meta, flags) if rows else _runs([grid[0] * grid[1]], grid)
    if mask is None:
        raise TargetError(
            f"mask target: neither polygons of 3 finite points or more nor {grid[0]} rows of {grid[1]} zeros and ones"
        )
    return mask


def _true_runs(target: Mapping[str, Any], grid: tuple[int, int] | None) -> dict[str, Any]:
    size: Any = target.get("size")
    counts: Any = target.get("counts")
    counts = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    if not _is_size(size) or not isinstance(counts, str | list | tuple):
        raise TargetError(f'mask target: run lengths are {{"size": [h, w], "counts": text or list}}, got {target!r}')
    own = (size[0], size[1])
    if grid is not None and grid != own:
        raise TargetError(
            f"mask target: size [h, w] = {list(own)} is not that of the image, image_size [w, h] = {[grid[1], grid[0]]}"
        )
    plain = isinstance(counts, str) or all(isinstance(c, int | float) for c in counts)
    if not plain or run_lengths(counts, own[0] * own[1]) is None:
        raise TargetError(f"mask target: counts are no run lengths of {own[0]} x {own[1]} pixels")
    return _runs(counts, own)


def _is_size(size: Any) -> bool:
    if not isinstance(size, list | tuple) or len(size) != 2:
        return False
    return all(type(side) is int and side > 0 for side in size) and size[0] * size[1] <= _MOST_PIXELS


def _runs(counts: str | Sequence[float], size: tuple[int, int]) -> dict[str, Any]:
    """Checked run lengths as pycocotools has them."""
    if isinstance(counts, str):
        return {"size": list(size), "counts": counts.encode()}
    made: dict[str, Any] = _coco().frPyObjects({"size": list(size), "counts": [int(c) for c in counts]}, *size)
    return made


def _drawn(found: ParsedMask, size: Sequence[int], meta: Mapping[str, Any], flags: set[str]) -> dict[str, Any] | None:
    """An answer's mask on the target's grid (height, width); None where it is no such mask."""
    grid = (size[0], size[1])
    if found.size is None:
        return _lists_drawn(found.rows, grid, str(meta.get("coord_space") or target_space(meta)), meta, flags)
    if list(found.size) != list(grid) or run_lengths(found.counts, grid[0] * grid[1]) is None:
        return None
    return _runs(found.counts, grid)


def _is_binary(rows: Sequence[Sequence[float]]) -> bool:
    return bool(rows) and all(c in (0, 1) for row in rows for c in row)


def _lists_drawn(
    rows: Sequence[Sequence[float]], grid: tuple[int, int], space: str, meta: Mapping[str, Any], flags: set[str]
) -> dict[str, Any] | None:
    if len(rows) == grid[0] and all(len(row) == grid[1] for row in rows) and _is_binary(rows):
        made: dict[str, Any] = _coco().encode(np.array(rows, dtype=np.uint8, order="F"))
        return made
    if all(len(row) == 2 for row in rows):
        rows = [[c for row in rows for c in row]]
    if len(rows) > _MOST_POLYGONS or any(len(row) < 6 or len(row) % 2 for row in rows):
        return None
    if _is_binary(rows) and space != "norm_1":
        return None
    sizes = {"image_size": meta.get("image_size"), "input_size": meta.get("input_size")}
    edges = np.array([grid[1], grid[0]], dtype=np.float64)
    polygons, outline = [], 0.0
    for row in rows:
        try:
            points = np.array(convert(row, space, "abs_original", **sizes), dtype=np.float64).reshape(-1, 2)
        except OverflowError:
            return None
        if not np.isfinite(points).all():
            flags.add("non_finite")
            return None
        inside = np.minimum(np.maximum(points, 0.0), edges)
        flags |= set() if (inside == points).all() else {"out_of_range"}
        outline += float(np.abs(inside - inside[np.arange(-1, len(inside) - 1)]).max(axis=1).sum())
        polygons.append(inside.ravel().tolist())
    if outline > _LONGEST_OUTLINE * float(edges.sum()):
        return None
    coco = _coco()
    merged: dict[str, Any] = coco.merge(coco.frPyObjects(polygons, *grid))
    return merged


def box_point(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    tau_box: float = TAU_BOX,
    tau_point: float = TAU_POINT,
) -> Score:
    """A box and points inside it, as prompts for a segmenter.

    Formula: (1[IoU > 0.5] + 1[L1 < tau_box * d] + 1[points inside the predicted box, distance < tau_point * d]) / 3 / n
    Range: [0, 1]

    L1 is the mean absolute difference of the four coordinates, distance the mean over the best assignment of the
    points, d the image's diagonal, n the number of objects given. The point term is 0 unless there are as many points
    as in the target.

    tau_box, tau_point: thresholds as shares of the diagonal; the defaults are 10 and 100 pixels at 840 x 840.

    Example: score("seg.box_point", "<answer/>", {"box":[0,0,8,8],"points":[[4,4]]}, {"image_size":[9,9]}) -> 0.0
    """
    if not (tau_box > 0 and tau_point > 0):
        raise ValueError(f"seg.box_point: tau_box and tau_point must be positive, got {tau_box!r} and {tau_point!r}")
    truth, true_points, diagonal = _true_box_points(target, meta)
    flags = set(parsed.flags)
    found = parse_box_points(parsed.answer) if parsed.answer is not None else []
    count = sum(max(1, len(item.boxes)) for item in found)
    flags |= {"several_answers"} if count > 1 else set()
    if not found or not found[0].boxes:
        flags |= {"unparsable"} if parsed.answer is not None else set()
        return Score(value=0.0, flags=ordered(flags))
    box, wrong = box_in_pixels(found[0].boxes[0].box, meta)
    if box is None:
        return Score(value=0.0, flags=ordered(flags | wrong))
    space = str(meta.get("coord_space") or target_space(meta))
    points = [_point_in_pixels(point, space, meta) for point in found[0].points]
    flags |= wrong if all(math.isfinite(c) for point in points for c in point) else wrong | {"non_finite"}
    apart = math.fsum(abs(a - b) for a, b in zip(box, truth, strict=True)) / 4
    terms = (
        intersection_over_union(box, truth) > 0.5,
        apart < tau_box * diagonal,
        all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in points)
        and _distance(points, true_points) < tau_point * diagonal,
    )
    return Score(value=sum(terms) / 3 / count, flags=ordered(flags))


def _true_box_points(target: Any, meta: Mapping[str, Any]) -> tuple[Box, list[tuple[float, float]], float]:
    """(box, points, diagonal) in pixels of the stored image. Raises TargetError."""
    if not isinstance(target, Mapping) or not isinstance(target.get("points"), list | tuple) or not target["points"]:
        raise TargetError(
            f'a seg.box_point target is {{"box": [x1, y1, x2, y2], "points": [[x, y], ...]}}, got {target!r}'
        )
    box = true_box(target.get("box"), meta)
    if meta.get("image_size") is None:
        raise TargetError("seg.box_point needs image_size: give (width, height) in pixels; thresholds are parts of it")
    width, height = check_size(meta["image_size"])
    points = []
    for point in target["points"]:
        sound = isinstance(point, list | tuple) and len(point) == 2
        if not sound or not all(map(is_number, point)):
            raise TargetError(f"seg.box_point target: a point is [x, y], got {point!r}")
        x, y = _point_in_pixels(point, target_space(meta), meta)
        slack = max(1.0, OVERHANG * width), max(1.0, OVERHANG * height)
        if not (-slack[0] <= x <= width + slack[0] and -slack[1] <= y <= height + slack[1]):
            raise TargetError(f"seg.box_point target: point {point!r} lies outside the {width:g}x{height:g} image")
        points.append((x, y))
    return box, points, math.hypot(width, height)


def _point_in_pixels(point: Sequence[float], space: str, meta: Mapping[str, Any]) -> tuple[float, float]:
    sizes = {"image_size": meta.get("image_size"), "input_size": meta.get("input_size")}
    x, y = convert(point, space, "abs_original", **sizes)
    return x, y


def _distance(points: Sequence[tuple[float, float]], truth: Sequence[tuple[float, float]]) -> float:
    """Mean distance over the best assignment; infinite where the numbers of points differ."""
    if len(points) != len(truth):
        return math.inf
    costs = np.array([[math.dist(a, b) for b in truth] for a in points])
    rows, columns = linear_sum_assignment(costs)
    return float(costs[rows, columns].mean())
