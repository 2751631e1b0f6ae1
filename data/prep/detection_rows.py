"""Detection annotations -> rows that ask for every object of some classes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlrft.data.prep.published import admitted, settled_box
from vlrft.data.prep.single_box import AnnotatedImage
from vlrft.data.problems import DataError, Quarantine
from vlrft.registry import nearest

PER = ("image", "class")


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionRule:
    """How annotations become questions."""

    per: str = "image"
    """`image`: one row for all classes; `class`: one for each class that the image holds."""
    negatives: int = 1
    """Most questions per image for what it does not hold. With `per="class"` the absent classes are drawn by `seed`."""
    seed: int = 0
    names: Mapping[str, str] = field(default_factory=dict)
    """Class name -> the phrase that the question uses; the class name itself where absent."""
    keep_published: bool = False

    def __post_init__(self) -> None:
        if self.per not in PER:
            raise DataError(f"per is {self.per!r}; use one of {', '.join(PER)}")
        if self.negatives < 0:
            raise DataError(f"negatives is {self.negatives}; write how many questions per image, 0 for none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One image with the classes of which every instance in it is annotated, so that its absence is known too."""

    image: AnnotatedImage
    classes: Sequence[str]
    meta: Mapping[str, Any] = field(default_factory=dict)
    flags: Sequence[str] = ()


def chosen_classes(asked: Sequence[str] | None, known: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The classes to ask for. Raises DataError for one, or a key of `names`, that the file does not have."""
    for name in (*(asked or ()), *names):
        if name not in known:
            shown = ", ".join(known[:40]) + (", ..." if len(known) > 40 else "")
            raise DataError(f"the file has no class {name!r}{nearest(name, list(known))}; classes: {shown or 'none'}")
    return list(asked) if asked is not None else list(known)


def detection_rows(
    images: Iterable[Asked], rule: DetectionRule, quarantine: Quarantine
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, native row) with the target `[{"bbox", "label"}]` in pixels of the stored image, `[]` for a negative.

    `meta.labels` are the classes that were asked for. Boxes without area are left out and listed. For training a row
    is left out where a region of the asked classes is a crowd, a box is outside the image or has its sides swapped, or
    a class has only boxes without area; with `rule.keep_published` it is kept and flagged, with `meta.crowd` (regions,
    `[{"bbox", "label"}]`) for an evaluation that ignores them.
    """
    for asked in images:
        image = asked.image
        held = {obj.label for obj in image.objects}
        present = [name for name in asked.classes if name in held]
        absent = [name for name in asked.classes if name not in held]
        if rule.per == "class":
            drawn = random.Random(f"{rule.seed}-{image.id}").sample(absent, min(rule.negatives, len(absent)))
            chosen = set(present) | set(drawn)
            questions = [[name] for name in asked.classes if name in chosen]
        else:
            questions = [list(asked.classes)] if asked.classes and (present or rule.negatives) else []
        if not questions:
            reason = "holds none of the asked classes, and negatives is 0" if asked.classes else "has no class to ask"
            quarantine.filtered(image.where, f"image {image.id} {reason}")
        for labels in questions:
            row = _row(asked, labels, rule, quarantine)
            if row is not None:
                yield image.where, row


def _row(asked: Asked, labels: list[str], rule: DetectionRule, quarantine: Quarantine) -> dict[str, Any] | None:
    image = asked.image
    found = _sorted_out(asked, labels, rule, quarantine)
    row: dict[str, Any] = {
        "id": f"{image.id}-{labels[0]}" if rule.per == "class" else image.id,
        "task": "detection",
        "prompt": f"Detect every {', '.join(rule.names.get(name, name.replace('_', ' ')) for name in labels)}.",
        "images": [image.path],
        "answer": found.objects,
        "boxes": {"space": "abs_original"},
        "meta": {"labels": labels, **asked.meta, **found.meta},
    }
    if image.size is not None:
        row["width"], row["height"] = image.size
    return admitted(
        row, [*asked.flags, *found.flags], where=image.where, keep_published=rule.keep_published, quarantine=quarantine
    )


@dataclass(slots=True, kw_only=True)
class _Found:
    objects: list[dict[str, Any]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)


def _sorted_out(asked: Asked, labels: list[str], rule: DetectionRule, quarantine: Quarantine) -> _Found:
    """The instances of `labels` that can be asked for, and what is odd about the others."""
    found = _Found()
    lost = set()
    difficult = []
    for obj in asked.image.objects:
        if obj.label not in labels:
            continue
        if obj.mark == "crowd":
            found.flags.append(f"a region of {obj.label!r} is a crowd")
            found.meta.setdefault("crowd", []).append({"bbox": list(obj.box), "label": obj.label})
            continue
        box, odd = settled_box(obj.box, asked.image.size)
        if box is None:
            lost.add(obj.label)
            if rule.keep_published:
                found.flags += [f"{obj.label!r}: {reason}; it is not in the answer" for reason in odd]
            else:
                reason = f"image {asked.image.id}: {obj.label!r} {odd[-1]}; box left out"
                quarantine.published(asked.image.where, reason, whole=False)
            continue
        found.flags += odd
        if obj.mark == "difficult":
            difficult.append(len(found.objects))
        found.objects.append({"bbox": box, "label": obj.label})
    missing = sorted(lost - {item["label"] for item in found.objects})
    if missing and not rule.keep_published:
        found.flags.append(f"image {asked.image.id} has no other {', '.join(missing)} than boxes without area")
    if difficult:
        found.meta["difficult"] = difficult
    return found
