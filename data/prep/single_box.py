"""Detection annotations -> rows that ask for exactly one box, under the recipe's rule for images with several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlrft.data.problems import DataError, Quarantine, SampleError
from vlrft.registry import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBox:
    """One annotated instance, as the file states it."""

    label: str
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the stored image (`abs_original`)."""
    mark: str = ""
    """`crowd` (a region that holds several instances without a box each) or `difficult`, where the file says so."""

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height; negative where the file has the corners the wrong way round."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    @property
    def area(self) -> float:
        return self.extent[0] * self.extent[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedImage:
    """One image with all its instances: what every detection format comes to."""

    id: str
    where: str
    """Annotation file (and entry) for messages."""
    path: str
    size: tuple[int, int] | None
    """(width, height) as the annotation states it; None = not stated."""
    objects: tuple[LabelledBox, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleBoxRule:
    """How detection annotations become single-box questions."""

    classes: Sequence[str] | None
    """Classes to ask for; None = in each image those that it holds."""
    instances: Literal["error", "skip", "largest"]
    names: Mapping[str, str]
    """Class name -> the phrase that the question uses; the class name itself where absent."""
    answer_style: str


def single_box_rows(
    images: Sequence[AnnotatedImage], rule: SingleBoxRule, quarantine: Quarantine
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, native row) for each image and asked class that holds one instance, or as `rule.instances` says.

    Zero-area boxes are noted in `quarantine` as published so, images without exactly one instance as filtered; with
    `instances="error"` the first of them raises DataError. Raises DataError for a class or name that no image has.
    """
    known = sorted({obj.label for image in images for obj in image.objects})
    for asked in (*(rule.classes or ()), *rule.names):
        if asked not in known:
            raise DataError(
                f"no annotation has the class {asked!r}{nearest(asked, known)}; classes: {', '.join(known) or 'none'}"
            )
    for image in images:
        labels = rule.classes if rule.classes is not None else list(dict.fromkeys(o.label for o in image.objects))
        for label in labels:
            chosen = _choose(image, label, rule, quarantine)
            if chosen is not None:
                yield image.where, _row(image, chosen, rule)


def _choose(image: AnnotatedImage, label: str, rule: SingleBoxRule, quarantine: Quarantine) -> LabelledBox | None:
    candidates = []
    empty = 0
    for obj in image.objects:
        if obj.label != label:
            continue
        if 0 in obj.extent:
            reason = _checked(image, f"zero-area {label!r} box {list(obj.box)}", rule)
            quarantine.published(image.where, reason, whole=False)
            empty += 1
        elif min(obj.extent) < 0:
            quarantine.bad(
                SampleError(
                    image.where, f"{label!r} box {list(obj.box)} has negative width or height; correct the file"
                )
            )
        else:
            candidates.append(obj)
    if len(candidates) == 1:
        return candidates[0]
    if candidates and rule.instances == "largest":
        return max(candidates, key=lambda obj: obj.area)
    reason = _checked(image, f"holds {len(candidates)} instances of {label!r}, not one", rule)
    # Without its boxes of no area the image holds none: that is how it is published, and no choice of the recipe's.
    leave_out = quarantine.published if empty and not candidates else quarantine.filtered
    leave_out(image.where, reason)
    return None


def _checked(image: AnnotatedImage, reason: str, rule: SingleBoxRule) -> str:
    """`reason` with the image's name. Raises DataError where `instances` is `error`."""
    if rule.instances == "error":
        raise DataError(
            f"{image.where}: image {image.id} {reason}; to filter such images set instances to skip or largest"
        )
    return f"image {image.id}: {reason}"


def _row(image: AnnotatedImage, chosen: LabelledBox, rule: SingleBoxRule) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": f"{image.id}-{chosen.label}",
        "prompt": rule.names.get(chosen.label, chosen.label),
        "images": [image.path],
        "boxes": {"box": list(chosen.box), "space": "abs_original"},
        "meta": {"label": chosen.label, "answer_style": rule.answer_style},
    }
    if image.size is not None:
        row["width"], row["height"] = image.size
    return row
