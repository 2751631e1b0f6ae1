"""Objects of a target and of an answer in one form, and which of them belong together.

Boxes are rows of an array, in pixels of the stored image and clipped to it where its size is known; labels are class
numbers. So the rewards on top of this see neither spaces nor spelling.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vlrft.coords import CoordError, check_size, convert
from vlrft.parse import Parsed, ParsedBox, normalise, parse_boxes
from vlrft.parse.boxes import says_nothing
from vlrft.rewards.base import TargetError, is_number, ordered
from vlrft.rewards.box import check_answer_space, picture_size, target_space, true_box
from vlrft.rewards.remembered import once_per_target
from vlrft.types import Score

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EMPTY_ANSWERS = ("[]", "None", "No Objects")
"""Answers that say that there is nothing, compared without case, spaces, quotes and a final period."""
MATCHINGS = ("hungarian", "greedy")
"""Names of the ways to pair boxes; see `pairs`."""

_NO_CLASS = -1
_PLAIN = 1e9
"""Coordinates below this are converted without overflow; others are looked at one by one."""
_NUMBERS = {int, float}
_LISTS = {list, tuple}
_LONGEST_LABEL = 256
"""Longer ones are not brought to normal form, which costs time, and so match nothing."""


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of a target or of an answer, one row each."""

    boxes: Floats
    """(n, 4); zeros where an answer's box is not valid."""
    classes: NDArray[np.int64]
    """(n,): a number of `Truth.names`, or -1 for a label that is not among them."""

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, slots=True)
class Truth(Objects):
    """What the target says."""

    names: dict[str | None, int]
    """Class numbers by normalised label: the closed set where there is one, else the target's labels."""
    closed: bool
    """Whether `meta["labels"]` gives the set."""


@dataclass(frozen=True, slots=True)
class Answer(Objects):
    """What the completion says."""

    labels: tuple[str | None, ...]
    """Normalised, as written."""
    valid: Bools
    """(n,): whether the box is finite and not inverted."""
    unknown: Bools
    """(n,): whether the label is known to be none."""
    confidences: tuple[float | None, ...]
    flags: tuple[str, ...]
    readable: bool
    """False when nothing was said, or nothing that is a box or an empty answer: never the same as "no objects"."""


@once_per_target
def read_truth(target: Any, meta: Mapping[str, Any]) -> Truth:
    """The objects `[{"bbox", "label"}]` of a target. Raises TargetError.

    A label of null on all objects says that classes do not matter.
    """
    if not isinstance(target, list | tuple):
        raise TargetError(f'a detection target is a list of {{"bbox", "label"}}, [] for none, got {target!r}')
    for i, item in enumerate(target):
        if not (type(item) is dict or isinstance(item, Mapping)) or "bbox" not in item or "label" not in item:
            raise TargetError(
                f'detection target, object {i} must be {{"bbox": [x1, y1, x2, y2], "label": text}}, got {item!r}'
            )
    try:
        check_answer_space(meta)
        _in_pixels((), target_space(meta), meta)
        if picture_size(meta) is not None:
            check_size(picture_size(meta))
    except (CoordError, TypeError) as error:
        raise TargetError(f"detection target: {error}") from error
    names, closed, numbers = _classes(target, meta)
    boxes, classes = _true_boxes(target, meta), np.array(numbers, dtype=np.int64)
    for array in (boxes, classes):
        array.flags.writeable = False  # they serve every completion of the group
    return Truth(boxes, classes, names, closed)


def _classes(
    target: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]
) -> tuple[dict[str | None, int], bool, list[int]]:
    """(class numbers by label, whether the set is closed, the class of each object)."""
    given = meta.get("labels")
    names: dict[str | None, int] = {}
    if given is not None:
        if not isinstance(given, list | tuple) or not given:
            raise TargetError(f"meta labels must be a list of class names, got {given!r}; leave it out if unknown")
        for label in given:
            names.setdefault(_name(label, "meta labels"), len(names))
    seen: dict[Any, int] = {}
    classes = []
    for i, item in enumerate(target):
        label = item["label"]
        number = seen.get(label) if isinstance(label, str) else None
        if number is None:
            name = None if label is None else _name(label, f"detection target, object {i}: label")
            if given is not None and name not in names:
                raise TargetError(f"detection target, object {i}: label {label!r} is not in meta labels {given!r}")
            number = names.setdefault(name, len(names))
            if label is not None:
                seen[label] = number
        classes.append(number)
    if None in names and len(names) > 1:
        raise TargetError("detection target: some objects have a label and some have null; label all of them or none")
    return names, given is not None, classes


@functools.lru_cache(maxsize=4096)
def class_name(label: str) -> str:
    """`normalise(label)`, kept: a data set has few class names and meets them in every completion."""
    return normalise(label)


def _name(label: Any, where: str) -> str:
    name = class_name(label) if isinstance(label, str) else ""
    if not name:
        raise TargetError(f"{where} must be a text that is not blank, got {label!r}")
    return name


def _true_boxes(target: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> Floats:
    """The boxes, as `true_box` reads each: at once where all are plainly right, else one by one for the message."""
    boxes = [item["bbox"] for item in target]
    if _LISTS.issuperset(map(type, boxes)) and {4}.issuperset(map(len, boxes)):
        flat = [c for box in boxes for c in box]
        if _NUMBERS.issuperset(map(type, flat)) and max(map(abs, flat), default=0) < _PLAIN:
            pixels = _in_pixels(flat, target_space(meta), meta)
            if _are_plain(pixels, picture_size(meta)):
                return np.array(pixels, dtype=np.float64).reshape(-1, 4)
    return np.array([_one_true_box(i, box, meta) for i, box in enumerate(boxes)], dtype=np.float64).reshape(-1, 4)


def _are_plain(flat: Sequence[float], image_size: Sequence[float] | None) -> bool:
    """Whether all boxes have an area and lie within the image. False also where a coordinate is not finite."""
    low, (right, bottom) = (-_PLAIN, (_PLAIN, _PLAIN)) if image_size is None else (0.0, image_size)
    coordinates = iter(flat)
    for x1, y1, x2, y2 in zip(coordinates, coordinates, coordinates, coordinates, strict=True):
        if not (low <= x1 < x2 <= right and low <= y1 < y2 <= bottom):
            return False
    return True


def _one_true_box(i: int, box: Any, meta: Mapping[str, Any]) -> tuple[float, float, float, float]:
    try:
        return true_box(box, meta)
    except TargetError as error:
        raise TargetError(f"detection target, object {i}: {error}") from error


def _in_pixels(flat: Sequence[float], space: str, meta: Mapping[str, Any]) -> Sequence[float]:
    if space == "abs_original":
        return flat
    return convert(flat, space, "abs_original", image_size=picture_size(meta), input_size=meta.get("input_size"))


def have_area(boxes: Floats) -> Bools:
    """Which rows of `boxes` have x1 < x2 and y1 < y2."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def read_answer(parsed: Parsed, meta: Mapping[str, Any], truth: Truth, empty_answers: Sequence[str]) -> Answer:
    """The objects that a completion names; bad boxes and unknown labels stay in, so that they count as wrong.

    Where there is one class only, a box without a label is read as that class. A wrong label never matches.
    """
    text, flags = parsed.answer, set(parsed.flags)
    found = parse_boxes(text) if text is not None else []
    readable = bool(found) or (text is not None and says_nothing(text, empty_answers))
    if text is not None and not readable:
        flags.add("unparsable")
    boxes, valid = _answered_boxes(found, meta, flags)
    written = [box.label for box in found]
    read = {label: _written_name(label) for label in set(written)}  # far fewer labels than boxes
    labels = tuple([read[label] for label in written])
    classes = _classes_of(labels, truth)
    unknown = np.zeros(len(found), dtype=np.bool_)
    if _NO_CLASS in classes:
        unknown[:] = [_is_unknown(label, truth) for label in labels]
        flags |= {"unknown_label"} if unknown.any() else set()
    return Answer(
        boxes=boxes,
        classes=np.array(classes, dtype=np.int64),
        labels=labels,
        valid=valid,
        unknown=unknown,
        confidences=tuple([box.confidence for box in found]),
        flags=ordered(flags),
        readable=readable,
    )


def _answered_boxes(found: Sequence[ParsedBox], meta: Mapping[str, Any], flags: set[str]) -> tuple[Floats, Bools]:
    """(boxes, which of them are valid); adds to `flags` what is wrong."""
    if not found:
        return np.zeros((0, 4)), np.zeros(0, dtype=np.bool_)
    flat, size = [c for box in found for c in box.box], picture_size(meta)
    converted = _in_pixels(flat, str(meta.get("coord_space") or target_space(meta)), meta)
    boxes = np.array(converted, dtype=np.float64).reshape(-1, 4)
    if _are_plain(converted, size):
        return boxes, np.ones(len(boxes), dtype=np.bool_)
    finite = np.isfinite(boxes).all(axis=1)
    valid = finite & have_area(np.array(flat, dtype=np.float64).reshape(-1, 4)) & have_area(boxes)
    flags |= set() if finite.all() else {"non_finite"}
    flags |= set() if valid[finite].all() else {"invalid_box"}
    boxes = np.where(valid[:, None], boxes, 0.0)
    if size is not None:
        clipped = np.minimum(np.maximum(boxes, 0.0), np.array([*size, *size], dtype=np.float64))
        flags |= set() if np.array_equal(clipped, boxes) else {"out_of_range"}
        boxes = clipped
    return boxes, valid


def _written_name(label: str | None) -> str | None:
    return label if label is None or len(label) > _LONGEST_LABEL else class_name(label)


def _is_unknown(label: str | None, truth: Truth) -> bool:
    """Whether the set of labels is known and this is none of them; several classes need a label on every box."""
    if label is None:
        return None not in truth.names and len(truth.names) > 1
    return truth.closed and label not in truth.names


def _classes_of(labels: Sequence[str | None], truth: Truth) -> list[int]:
    if None in truth.names:
        return [truth.names[None]] * len(labels)
    unlabelled = 0 if len(truth.names) == 1 else _NO_CLASS
    return [unlabelled if label is None else truth.names.get(label, _NO_CLASS) for label in labels]


def iou_matrix(a: Floats, b: Floats) -> Floats:
    """IoU of every row of `a` (n, 4) with every row of `b` (m, 4): (n, m), in [0, 1]."""
    # Coordinate first, so that one operation serves both axes; in place, since at 20 boxes the calls are what costs.
    a, b = a.T[:, :, None].copy(), b.T[:, None].copy()
    with np.errstate(all="ignore"):
        sides = np.minimum(a[2:], b[2:])
        sides -= np.maximum(a[:2], b[:2])
        np.maximum(sides, 0.0, out=sides)
        shared: Floats = sides[0] * sides[1]
        sides_a, sides_b = a[2:] - a[:2], b[2:] - b[:2]
        union = sides_a[0] * sides_a[1] + sides_b[0] * sides_b[1]
        union -= shared
        shared /= union
    np.minimum(shared, 1.0, out=shared)
    # fmax turns the NaN of areas that no float can hold into 0.
    return np.fmax(shared, 0.0, out=shared)


def threshold(name: str, given: float | None, meta: Mapping[str, Any]) -> float:
    """The IoU from which a pair is valid: the option, else `meta["iou_threshold"]`, else 0.5.

    Raises ValueError for a bad option, TargetError for a bad key of meta.
    """
    value = meta.get("iou_threshold") if given is None else given
    if value is None:
        return 0.5
    if not is_number(value) or not 0.0 < value <= 1.0:
        message = f"{name}: the IoU threshold must lie in (0, 1], got {value!r}"
        raise TargetError(f"{message} in meta iou_threshold") if given is None else ValueError(message)
    return float(value)


def pairs(answer: Answer, truth: Truth, at_least: float, matching: str = "hungarian") -> list[tuple[int, int, float]]:
    """(row of the answer, row of the truth, IoU) of matched objects, each object at most once.

    Only pairs of one class with an IoU of `at_least` can match; all others weigh nothing before the assignment, so
    they cannot push a valid pair out. hungarian: the largest sum of IoU; among equal sums, the most pairs. greedy: the
    largest IoU first.
    """
    overlap = iou_matrix(answer.boxes, truth.boxes)
    usable = (overlap >= at_least) & (answer.classes[:, None] == truth.classes)
    if matching == "greedy":
        return _greedy(overlap, usable)
    rows, columns = usable.nonzero()
    if len(set(rows.tolist())) == len(rows) == len(set(columns.tolist())):  # nothing to choose from
        return list(zip(rows.tolist(), columns.tolist(), overlap[usable].tolist(), strict=True))
    # The bonus decides between equal sums only; it makes the number of pairs independent of the order of the boxes.
    rows, columns = linear_sum_assignment(np.where(usable, overlap + 1e-9, 0.0), maximize=True)
    kept = usable[rows, columns]
    rows, columns = rows[kept], columns[kept]
    return list(zip(rows.tolist(), columns.tolist(), overlap[rows, columns].tolist(), strict=True))


def _greedy(overlap: Floats, usable: Bools) -> list[tuple[int, int, float]]:
    rows, columns = np.nonzero(usable)
    values = overlap[rows, columns]
    taken: list[tuple[int, int, float]] = []
    used_rows, used_columns = set(), set()
    for k in np.argsort(-values, kind="stable").tolist():
        row, column = int(rows[k]), int(columns[k])
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            taken.append((row, column, float(values[k])))
    return taken


def settled(answer: Answer, truth: Truth) -> Score | None:
    """The score where there is nothing to match: unreadable 0, both empty 1, one of them empty 0; else None."""
    if not answer.readable or not (len(answer) and len(truth)):
        return Score(value=float(answer.readable and len(answer) == len(truth)), flags=answer.flags)
    return None


def mean(values: Sequence[float]) -> float:
    """Their exactly rounded mean, so that the order of the boxes cannot show in the last digit."""
    return math.fsum(values) / len(values)
