"""What the rows of a source show as a whole: wrong spaces, wrong durations, repetitions, overlap of the splits."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from vlrft.data.boxes import UPPER
from vlrft.data.media import MediaError
from vlrft.data.problems import Kind, Skipped
from vlrft.data.tasks.targets import PUBLISHED
from vlrft.data.video import clip_seconds, probe
from vlrft.types import MediaRef, Sample, TextPart
from vlrft.validate.answers import boxes_of
from vlrft.validate.report import Finding, finding_of, grouped

KINDS = 8
"""Kinds of bad rows that are told one by one."""
MANY = 20
"""Boxes from which on their ranges say something about the space."""

_SPACE = re.compile(
    r"lies? outside .* space|no more than one unit of space|coordinate of \d+ boxes exceeds 1|less than one unit of"
)
"""What `data/boxes.py` and `data/tasks/targets.py` say of coordinates that do not fit their space."""
_FITS = re.compile(r"would fit ([\w ]+)|'(norm_1)'")
_RESTATE = "state the right space: native rows in boxes.space, other layouts in {where}.options.space"
_FILE_START = 2**20
"""Bytes that tell most files of one size apart."""

Identity = tuple[tuple[object, ...], str]
"""(media, question) of a sample."""


def bad_rows(
    skipped: Sequence[Skipped], usable: int, where: str, policy: Literal["error", "skip"]
) -> Iterator[Finding]:
    """Rows that cannot be used, by kind of reason; those that a published file has so, and what the recipe filters."""
    stopping = grouped((item.where, item.reason) for item in skipped if item.stops)
    for message, places in stopping:
        yield finding_of("problem", where, message, places, "no run starts with it; correct these rows")
    bad = [item for item in skipped if item.kind == "bad" and not item.stops]
    level: Literal["problem", "warning"] = "problem" if policy == "error" or len(bad) > usable else "warning"
    yield from _wrong_space(bad, usable, where)
    kinds = grouped((item.where, item.reason) for item in bad)
    to_do = (
        "correct these rows; data.on_bad_sample=skip leaves them out and lists them"
        if policy == "error"
        else "they are left out and listed in skipped.jsonl, as data.on_bad_sample=skip says"
    )
    for message, places in kinds[:KINDS]:
        yield finding_of(level, where, message, places, to_do)
    if len(kinds) > KINDS:
        places = [place for _, others in kinds[KINDS:] for place in others]
        yield finding_of(level, where, f"bad rows of {len(kinds) - KINDS} further kinds", places, to_do)
    told: tuple[tuple[Kind, str], ...] = (("published", "left out as published"), ("rule", "left out by the recipe"))
    for kind, what in told:
        for message, places in grouped((item.where, item.reason) for item in skipped if item.kind == kind):
            yield finding_of("note", where, f"{what}: {message}", places, "")


def unusable(error: Exception, where: str) -> Finding:
    """A source with which no run starts."""
    if _SPACE.search(str(error)):
        to_do = _RESTATE.format(where=where)
    else:
        to_do = "correct the source; 'vlrft data head FILE' shows what a file holds and how it is read"
    return Finding(level="problem", where=where, what=str(error), next=to_do)


def _wrong_space(bad: Sequence[Skipped], usable: int, where: str) -> Iterator[Finding]:
    """Most coordinates do not fit: it is the stated space that is wrong, not the rows."""
    outside = [item for item in bad if _SPACE.search(item.reason)]
    if not outside or 2 * len(outside) <= len(bad) + usable:
        return
    fits = Counter(
        name
        for item in outside
        for found in _FITS.finditer(item.reason)
        for name in (found[1] or found[2]).split(" or ")
    )
    likely = [name for name, count in fits.most_common() if 2 * count > len(outside)]
    hint = f"; most would fit {' or '.join(likely)}" if likely else ""
    yield finding_of(
        "problem", where,
        f"the coordinates of most rows ({len(outside)} of {len(bad) + usable}) do not fit the space they state{hint}",
        [item.where for item in outside],
        _RESTATE.format(where=where),
    )  # fmt: skip


def suspicious_spaces(samples: Sequence[Sample], where: str) -> Iterator[Finding]:
    """Boxes that are possible in their space, and would be unlikely to look so."""
    known = [
        (sample, box, size)
        for sample in samples
        if (size := _size(sample)) is not None
        for box in boxes_of(sample.target)
    ]
    pixels = [(s, box, size) for s, box, size in known if s.target_space == "abs_original"]
    large = [item for item in pixels if min(item[2]) >= 1.5 * UPPER["norm_1000"]]
    if len(large) >= MANY and all(max(box) <= UPPER["norm_1000"] for _, box, _ in large):
        yield finding_of(
            "warning", where,
            "the images are larger than 1500x1500 pixels, and no box in abs_original exceeds 1000: are they norm_1000?",
            [s.id for s, _, _ in large],
            "look at some of them; if so, set boxes.space to norm_1000",
        )  # fmt: skip
    scaled = [(s, box, size) for s, box, size in known if s.target_space in ("norm_1000", "norm_999")]
    within = all(box[2] <= width and box[3] <= height for _, box, (width, height) in scaled)
    if len(scaled) >= MANY and within and all(max(size) < 0.9 * UPPER["norm_999"] for _, _, size in scaled):
        yield finding_of(
            "warning", where,
            "every box in the space norm_1000 also lies within the pixels of its smaller image: are they abs_original?",
            [s.id for s, _, _ in scaled],
            "look at some of them; if so, set boxes.space to abs_original",
        )  # fmt: skip


def unchecked_input(samples: Sequence[Sample], where: str) -> Iterator[Finding]:
    """Coordinates in the pixels that the vision tower sees, whose bounds only the processor knows."""
    found = [sample.id for sample in samples if sample.media and sample.target_space == "abs_input"]
    if found:
        yield finding_of(
            "note", where, "places in abs_input are not compared with the size of the model's input", found,
            "--render does, with the model's own processor",
        )  # fmt: skip


def input_size(sample: Sample, stored: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of an input that the sample's places fit, in the shape of its picture, which is `stored` large.

    For samples in `abs_input` where no processor tells: pictures below its least size are enlarged. Places outside the
    stored size get twice the room that they need, or the whole picture would look like the right answer.
    """
    if sample.target_space != "abs_input":
        return stored
    places = [*boxes_of(sample.target), *_points(sample.target), *_points(sample.meta.get("points"))]
    scale = max((max(place[-2] / stored[0], place[-1] / stored[1]) for place in places), default=1.0)
    return stored if scale <= 1.0 else (math.ceil(2 * stored[0] * scale), math.ceil(2 * stored[1] * scale))


def _points(value: Any) -> list[Sequence[float]]:
    """The points `[x, y]` that a target, or `meta.points`, consists of."""
    listed = [value["point"]] if isinstance(value, Mapping) and value.get("point") else value
    found = listed if isinstance(listed, list | tuple) else []
    return [point for point in found if isinstance(point, list | tuple) and len(point) == 2]


def durations(samples: Sequence[Sample], where: str) -> Iterator[Finding]:
    """Stated durations that the files do not have, and published spans that are kept although they do not fit."""
    differing = []
    for sample in samples:
        stated = sample.meta.get("duration")
        video = next((ref for ref in sample.media if ref.kind == "video"), None)
        if video is None or not isinstance(stated, int | float):
            continue
        try:
            lasts = clip_seconds(video, probe(video).duration)
        except MediaError as error:
            yield Finding(level="problem", where=where, what=str(error), examples=(sample.id,))
            continue
        if abs(stated - lasts) > max(1.0, 0.02 * lasts):
            differing.append((sample.id, f"meta.duration is {stated:g} s, and the clip lasts {lasts:.2f} s"))
    for message, places in grouped(differing):
        yield finding_of(
            "warning", where, message, places,
            "times are judged by meta.duration; correct it, or the clip's start and end",
        )  # fmt: skip
    flagged = [sample.id for sample in samples if sample.meta.get(PUBLISHED)]
    if flagged:
        yield finding_of("note", where, f"kept as published, flagged in meta.{PUBLISHED}", flagged, "")


def repetitions(samples: Sequence[Sample], where: str) -> Iterator[Finding]:
    """The same question about the same media, and texts that look like slots of media."""
    asked: dict[Identity, Sample] = {}
    repeated: list[str] = []
    contrary: list[str] = []
    for sample in samples:
        first = asked.setdefault(identity(sample, {}), sample)
        if first is not sample:
            (repeated if first.target == sample.target else contrary).append(f"{first.id} and {sample.id}")
    if contrary:
        yield finding_of(
            "warning", where, "the same question about the same media has two answers", contrary,
            "drop one of each pair, or merge the answers",
        )  # fmt: skip
    if repeated:
        yield finding_of("note", where, "the same question about the same media, with the same answer", repeated, "")
    literal = [s.id for s in samples if any(slot in _question(s) for slot in ("<image>", "<video>"))]
    if literal:
        yield finding_of(
            "note", where, "the question holds the text <image> or <video>, which is shown as text", literal,
            "media are placed by typed parts of a message",
        )  # fmt: skip


def overlap(train: Sequence[Sample], held_out: Sequence[Sample]) -> Iterator[Finding]:
    """Held-out rows that are trained on: the same media, by path or by content, and the same question."""
    contents = _shared_contents(train, held_out)
    trained = {identity(sample, contents): sample.id for sample in train}
    both = [f"{s.id} (in train: {trained[key]})" for s in held_out if (key := identity(s, contents)) in trained]
    if both:
        yield finding_of(
            "problem", "data.eval", "rows with the media and the question of a training row", both,
            "take them out of one split; what is measured on them is memory",
        )  # fmt: skip
    seen = {media for media, _ in trained}
    known = [s.id for s in held_out if s.media and identity(s, contents)[0] in seen]
    if len(known) > len(both):
        yield finding_of(
            "note", "data.eval", "rows whose images or videos are trained on (counting other questions too)", known, ""
        )


def identity(sample: Sample, contents: Mapping[str, object]) -> Identity:
    """What makes two samples the same: `contents` says which paths hold the same file."""
    media = tuple((_key(ref, contents), ref.start, ref.end) for ref in sample.media)
    return media, " ".join(_question(sample).lower().split())


def _key(ref: MediaRef, contents: Mapping[str, object]) -> object:
    if ref.data is not None:
        return hashlib.sha256(ref.data).hexdigest()
    if ref.frames:
        return os.path.realpath(ref.frames[0]), len(ref.frames)
    path = os.path.realpath(ref.path or "")
    return contents.get(path, path)


def _shared_contents(train: Sequence[Sample], held_out: Sequence[Sample]) -> dict[str, object]:
    """A key of the content for files that may be equal: those whose size and start both splits have are read whole."""
    splits = [set(_files(samples)) for samples in (train, held_out)]
    contents: dict[str, object] = {path: os.path.getsize(path) for path in splits[0] | splits[1]}
    for read in (_start, _whole):
        shared = set.intersection(*({contents[path] for path in paths if path in contents} for paths in splits))
        contents = {path: (known, read(path)) for path, known in contents.items() if known in shared}
    return contents


def _start(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(_FILE_START)).hexdigest()


def _whole(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(samples: Sequence[Sample]) -> Iterator[str]:
    for sample in samples:
        for ref in sample.media:
            if ref.path is not None and os.path.isfile(ref.path):
                yield os.path.realpath(ref.path)


def _size(sample: Sample) -> tuple[int, int] | None:
    size = sample.meta.get("image_size")
    return (size[0], size[1]) if isinstance(size, list | tuple) and len(size) == 2 else None


def _question(sample: Sample) -> str:
    return "".join(part.text for part in sample.parts if isinstance(part, TextPart))
