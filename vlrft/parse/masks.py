"""Masks in an answer: run lengths, polygons, or rows of zeros and ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlrft.parse.values import PROSE, read_values

_MASK_KEYS = ("segmentation", "mask", "polygons", "polygon")
_LONGEST_RUN = 7
"""Most characters of one run length; five bits each, so larger ones would not fit any image."""


class ParsedMask(NamedTuple):
    """One mask as the text has it, unchecked: run lengths with a size, or lists of numbers."""

    size: tuple[float, ...] | None
    """Height, width, of run lengths."""
    counts: str | list[float]
    """Run lengths, in COCO's compressed text or one by one."""
    rows: list[list[float]]
    """Polygons x, y, x, y ..., or the rows of an array: only the image's size can tell."""


def parse_masks(answer: str) -> list[ParsedMask]:
    """Every mask in `answer`, in the order written; an empty list where there is none.

    Reads `{"size": [h, w], "counts": text or list}`, a polygon [x, y, x, y, ...] or [[x, y], ...], a list of polygons,
    a nested list of numbers, an object that holds one of these under `segmentation`, `mask`, `polygons` or `polygon`,
    and lists of objects; in the syntax of `read_values`. Never raises.
    """
    masks: list[ParsedMask] = []
    for value in read_values(answer):
        if value is not PROSE:
            masks += _masks_in(value)
    return masks


def _masks_in(value: Any) -> list[ParsedMask]:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [mask for item in value if isinstance(item, dict) for mask in _masks_in(item)]
    if isinstance(value, list):
        rows = _rows(value)
        return [ParsedMask(None, "", rows)] if rows else []
    if not isinstance(value, dict):
        return []
    if "size" in value and "counts" in value:
        size, counts = value["size"], value["counts"]
        # Of a key that is given twice, nobody can say which one counts.
        known = len(size) == len(counts) == 1 and _is_numbers(size[0])
        known = known and (isinstance(counts[0], str) or _is_numbers(counts[0]))
        return [ParsedMask(tuple(size[0]), counts[0], [])] if known else []
    inner = [item for key in _MASK_KEYS for item in value.get(key, ()) if isinstance(item, list | dict)]
    # One level only: a mask within a mask is no answer.
    return [mask for item in inner if not _holds_mask(item) for mask in _masks_in(item)]


def _holds_mask(value: Any) -> bool:
    return isinstance(value, dict) and "counts" not in value


def _rows(value: list[Any]) -> list[list[float]]:
    """`value` as lists of numbers: one, several, or several of which each is a list of points."""
    if _is_numbers(value):
        return [value] if value else []
    rows = []
    for item in value:
        if _is_numbers(item):
            rows.append(item)
        elif isinstance(item, list) and all(_is_numbers(point) and len(point) == 2 for point in item):
            rows.append([c for point in item for c in point])
        else:
            return []
    return rows


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(item.__class__ is float for item in value)


def run_lengths(counts: str | Sequence[float], total: int) -> NDArray[np.int64] | None:
    """The run lengths of a mask of `total` pixels; None unless they are whole, not negative and add up to `total`.

    A text is COCO's compressed form: groups of five bits from character 48 on, each run after the third as the
    difference to the one before the last. Safe for every text; pycocotools' own reader is not.
    """
    if isinstance(counts, str):
        runs = _decompressed(counts)
    else:
        given = np.array(counts, dtype=np.float64)
        runs = given.astype(np.int64) if ((given >= 0) & (given <= total)).all() else None
        runs = runs if runs is not None and (runs == given).all() else None
    if runs is None or not len(runs) or runs.min() < 0 or runs.max() > total or int(runs.sum()) != total:
        return None
    return runs


def _decompressed(text: str) -> NDArray[np.int64] | None:
    if not text.isascii():
        return None
    codes = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_RUN:
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
