"""GOT-10k: one object through a sequence of pictures -> tracking. Written from the documentation of its toolkit.

Layout: `train`, `val` and `test` folders with a `list.txt` and one folder for each sequence: `00000001.jpg`, ...;
`groundtruth.txt`, a line `x,y,width,height` for each picture, in pixels; `absence.label` (1 where the object is not in
the picture) and `cover.label` (0 to 8, how much of it is visible), one number a line; `meta_info.ini` with
`object_class`, `motion_class`, `major_class`, `root_class`, `anno_fps` (10Hz) and `resolution` ((width, height)).

A sequence becomes one row: pictures at an even step from the first that shows the object, so that the last is near the
end. The first box is given in the prompt. Left out: sequences of `test`, which state their first box only; and those
with fewer pictures than asked for, a box without area, or one that reaches outside the picture, which `keep_published`
keeps and flags.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrft.data.prep.published import admitted, corners, settled_box
from vlrft.data.problems import DataError, Quarantine, SampleError, of_row

_META = ("object_class", "motion_class", "major_class", "root_class", "motion_adverb")
_RESOLUTION = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_FPS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:Hz|fps)?\s*", re.I)


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, frames: int | None = 8,
    keep_published: bool = False,
) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """(where, tracking row) of the folder of the data set, of a split or of one sequence.

    `frames`: pictures of each row, at least 2; 8 as VideoChat-R1 has it, None = all from the first that shows the
    object. `images` is where the folders of the sequences are, when the pictures lie apart from the labels.
    """
    if frames is not None and frames < 2:
        raise DataError(f"frames is {frames}; the first is given, so at least 2 are needed")
    folder = path / split if split is not None and (path / split).is_dir() else path
    for sequence in _sequences(folder):
        where = str(sequence)
        try:
            with of_row(where):
                row, flags = _row(_read(sequence), images / sequence.name if images is not None else sequence, frames)
        except SampleError as error:
            quarantine.bad(error)
            continue
        if row is None:
            quarantine.published(where, "; ".join(flags))
            continue
        made = admitted(row, flags, where=where, keep_published=keep_published, quarantine=quarantine)
        if made is not None:
            yield where, made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    folder: Path
    boxes: list[tuple[float, float, float, float]]
    """x, y, width, height in pixels."""
    absent: list[int]
    cover: list[int] | None
    info: Mapping[str, str]


def _sequences(folder: Path) -> list[Path]:
    if (folder / "groundtruth.txt").is_file():
        return [folder]
    listing = folder / "list.txt"
    if listing.is_file():
        return [folder / name for name in listing.read_text(encoding="utf-8-sig").split()]
    found = sorted(file.parent for file in folder.glob("*/groundtruth.txt"))
    if not found:
        held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise DataError(f"{folder} has neither list.txt nor folders with groundtruth.txt ({held}); name a split")
    return found


def _read(sequence: Path) -> _Sequence:
    truth = sequence / "groundtruth.txt"
    if not truth.is_file():
        raise SampleError(str(sequence), "has no groundtruth.txt; add it or take the sequence out of list.txt")
    boxes = []
    for number, line in enumerate(truth.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            values = _numbers(line.replace("\t", ",").split(","), f"{truth}:{number}", 4)
            boxes.append((values[0], values[1], values[2], values[3]))
    if not boxes:
        raise SampleError(str(truth), "is empty; fetch it again")
    return _Sequence(
        folder=sequence,
        boxes=boxes,
        absent=_labels(sequence / "absence.label", len(boxes)) or [0] * len(boxes),
        cover=_labels(sequence / "cover.label", len(boxes)),
        info=_info(sequence / "meta_info.ini"),
    )


def _labels(file: Path, count: int) -> list[int] | None:
    """One number for each picture; None without the file, or where only the first box is published."""
    if not file.is_file() or count == 1:
        return None
    values = [int(_numbers([text], str(file), 1)[0]) for text in file.read_text(encoding="utf-8-sig").split()]
    if len(values) != count:
        raise SampleError(str(file), f"has {len(values)} numbers, but groundtruth.txt {count} boxes; fetch both again")
    return values


def _numbers(cells: list[str], where: str, count: int) -> list[float]:
    try:
        values = [float(cell) for cell in cells]
    except ValueError as error:
        raise SampleError(where, f"{cells} are not numbers ({error}); correct the file") from error
    if len(values) != count:
        raise SampleError(where, f"has {len(values)} numbers, not {count}; correct the file")
    return values


def _info(file: Path) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.read_text(encoding="utf-8-sig"))
    except (OSError, configparser.Error) as error:
        raise SampleError(str(file), f"cannot be read as meta_info.ini ({error}); fetch the sequence again") from error
    return {key: value for section in parser.sections() for key, value in parser.items(section)}


def _row(sequence: _Sequence, folder: Path, frames: int | None) -> tuple[dict[str, Any] | None, list[str]]:
    where = str(sequence.folder)
    count = len(sequence.boxes)
    pictures = sorted(folder.glob("*.jpg"))
    if count == 1:
        return None, ["states its first box only, as the sequences of test do"]
    if len(pictures) != count:
        raise SampleError(where, f"has {len(pictures)} pictures, but {count} boxes in groundtruth.txt; fetch it again")
    start = next((i for i, absent in enumerate(sequence.absent) if not absent), count)
    if count - start < 2:
        return None, ["shows its object in less than two pictures from its first appearance on"]
    stride = max(1, (count - 1 - start) // (frames - 1)) if frames is not None else 1
    chosen = list(range(start, count, stride))[:frames]
    flags = [f"has {len(chosen)} pictures, not {frames}"] if frames is not None and len(chosen) < frames else []
    size = _size(sequence.info, where)
    track: list[list[float] | None] = []
    for i in chosen:
        box, odd = (None, []) if sequence.absent[i] else settled_box(corners(sequence.boxes[i], "xywh"), size)
        flags += [f"{pictures[i].name}: {reason}" for reason in odd]
        track.append(box)
    if track[0] is None or all(box is None for box in track[1:]):
        return None, [*flags, "shows its object in no picture but the given one"]
    fps = _fps(sequence.info, where)
    name = sequence.info.get("object_class", "").strip()
    if not name:
        raise SampleError(where, "has no object_class in meta_info.ini; add it")
    meta = {key: sequence.info[key] for key in _META if key in sequence.info}
    row: dict[str, Any] = {
        "id": sequence.folder.name,
        "task": "tracking",
        "prompt": f"the {name}",
        "videos": [{"frames": [str(pictures[i]) for i in chosen], "fps": fps / stride}],
        "answer": track,
        "boxes": {"space": "abs_original"},
        "meta": {**meta, "given_frames": 1, "frame_numbers": [i + 1 for i in chosen]},
    }
    if sequence.cover is not None:
        row["meta"]["cover"] = [sequence.cover[i] for i in chosen]
    if size is not None:
        row["width"], row["height"] = size
    return row, flags


def _size(info: Mapping[str, str], where: str) -> tuple[int, int] | None:
    stated = info.get("resolution")
    if stated is None:
        return None
    match = _RESOLUTION.fullmatch(stated.strip())
    if match is None:
        raise SampleError(where, f"resolution {stated!r} in meta_info.ini is not (width, height); correct it")
    return int(match.group(1)), int(match.group(2))


def _fps(info: Mapping[str, str], where: str) -> float:
    match = _FPS.fullmatch(info.get("anno_fps", ""))
    if match is None or float(match.group(1)) == 0:
        raise SampleError(
            where, f"anno_fps {info.get('anno_fps')!r} in meta_info.ini is no rate such as 10Hz; correct it"
        )
    return float(match.group(1))
