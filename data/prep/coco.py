"""COCO detection JSON: `images`, `annotations` with `bbox: [x, y, width, height]`, `categories`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlrft.data.prep.single_box import AnnotatedImage, LabelledBox
from vlrft.data.problems import DataError, Quarantine, SampleError, of_row


def read_coco(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine
) -> Iterator[AnnotatedImage]:
    """The images in the file's order, each with its instances as x1, y1, x2, y2; crowd regions are left out.

    `path` is the JSON file, or a folder with `annotations/instances_<split>.json`. `images` is the folder of the
    pictures; None looks in the usual places. Raises DataError when the file is not in this layout; an annotation that
    is incomplete goes to `quarantine`. This is what grounding reads; rows of detection are in detection_forms.py.
    """
    file = annotation_file(path, split)
    content = load_coco(file)
    folder = images if images is not None else picture_folder(file, path, split, content["images"])
    return annotated_images(content, file, folder=folder, quarantine=quarantine, crowd=False)


def annotated_images(
    content: Mapping[str, Any], file: Path, *, folder: Path, quarantine: Quarantine, crowd: bool
) -> Iterator[AnnotatedImage]:
    """The images of a loaded file, in its order, with their instances; crowd: regions of crowds too, marked so.

    An annotation that is incomplete goes to `quarantine`.
    """
    labels = {category["id"]: str(category["name"]) for category in content["categories"]}
    by_image: dict[Any, list[LabelledBox]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation.get("iscrowd") and not crowd:
            continue
        try:
            with of_row(f"{file}: annotation {annotation.get('id')}"):
                by_image[annotation.get("image_id")].append(_labelled_box(annotation, labels, file))
        except KeyError:
            quarantine.bad(
                SampleError(
                    f"{file}: annotation {annotation.get('id')}",
                    f"names image {annotation.get('image_id')}, which `images` does not list; correct the file",
                )
            )
        except SampleError as error:
            quarantine.bad(error)
    for image in content["images"]:
        stated = "width" in image and "height" in image
        where = f"{file}: image {image['id']}"
        try:
            with of_row(where):
                made = AnnotatedImage(
                    id=str(image["id"]),
                    where=where,
                    path=str(folder / image["file_name"]),
                    size=(int(float(image["width"])), int(float(image["height"]))) if stated else None,
                    objects=tuple(by_image[image["id"]]),
                )
        except SampleError as error:
            quarantine.bad(error)
            continue
        yield made


def is_coco(content: Any) -> bool:
    """Whether parsed JSON has the three lists of a COCO detection file."""
    return isinstance(content, Mapping) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )


def annotation_files(folder: Path) -> list[Path]:
    """`annotations/instances_*.json` of the published folder layout."""
    return sorted((folder / "annotations").glob("instances_*.json"))


def annotation_file(path: Path, split: str | None) -> Path:
    """`path` itself, or the file of `split` in the published folder layout. Raises DataError."""
    if path.is_file():
        return path
    available = [p.stem.removeprefix("instances_") for p in annotation_files(path)]
    offer = f"splits here: {', '.join(available)}" if available else f"no annotations/instances_*.json in {path}"
    if split is None:
        raise DataError(f"{path} needs the name of a split, or give the JSON file as path; {offer}")
    file = path / "annotations" / f"instances_{split}.json"
    if not file.is_file():
        raise DataError(f"no annotation file {file}; {offer}")
    return file


def load_coco(file: Path) -> dict[str, Any]:
    """The parsed file. Raises DataError when it is not in this layout."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON ({error}); fetch the file again") from error
    check_coco(content, file)
    return content  # type: ignore[no-any-return]


def check_coco(content: Any, file: Path) -> None:
    """Raise DataError unless parsed JSON has the three lists, and their entries what is needed of them."""
    if not is_coco(content):
        raise DataError(f"{file} is not a COCO detection file: it needs the lists images, annotations and categories")
    needed: dict[str, tuple[str, ...]] = {"images": ("id", "file_name"), "categories": ("id", "name")}
    for key, fields in {**needed, "annotations": ()}.items():
        for entry in content[key]:
            if not isinstance(entry, Mapping):
                raise DataError(f"{file}: an entry of `{key}` is {entry!r:.100} and no object; correct the file")
            missing = [name for name in fields if name not in entry]
            if missing:
                raise DataError(f"{file}: an entry of `{key}` lacks {', '.join(missing)}: {entry!r}; correct the file")
            if fields and not isinstance(entry["id"], int | str):
                raise DataError(f"{file}: an id in `{key}` is {entry['id']!r:.100}; write a number or a text")
            if key == "images" and not isinstance(entry["file_name"], str):
                raise DataError(f"{file}: a file_name in `{key}` is {entry['file_name']!r:.100}; write a path")


def _labelled_box(annotation: Mapping[str, Any], labels: Mapping[Any, str], file: Path) -> LabelledBox:
    where = f"{file}: annotation {annotation.get('id')}"
    label = labels.get(annotation.get("category_id"))
    if label is None:
        raise SampleError(where, f"category {annotation.get('category_id')!r} is not in `categories`; correct the file")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        raise SampleError(where, f"bbox {box!r:.200} is not [x, y, width, height]; correct the file")
    x, y, width, height = (float(v) for v in box)
    mark = "crowd" if annotation.get("iscrowd") else ""
    return LabelledBox(label=label, box=(x, y, x + width, y + height), mark=mark)


def picture_folder(file: Path, path: Path, split: str | None, images: list[dict[str, Any]]) -> Path:
    """Where the first listed picture lies: the folder named like the split, `images`, or beside the annotations."""
    base = path if path.is_dir() else file.parent
    candidates = [base / split] if split else []
    candidates += [base / "images", base, base.parent / "images", base.parent]
    if not images:
        return base
    for folder in candidates:
        with of_row(f"{file}: image {images[0]['id']}"):
            if (folder / images[0]["file_name"]).is_file():
                return folder
    raise DataError(
        f"{file}: picture {images[0]['file_name']} is in none of {', '.join(map(str, candidates))}; "
        "set the source's `images` to their folder"
    )
