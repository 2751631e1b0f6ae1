"""Detection rows of COCO, ODinW and Pascal VOC.

COCO and ODinW: JSON with `images` (`id`, `file_name`, `width`, `height`), `annotations` (`image_id`, `category_id`,
`bbox` `[x, y, width, height]` in pixels of the stored image, `iscrowd`) and `categories` (`id`, `name`). Written from
the documentation of the COCO format; ODinW lays a file `annotations_without_background.json` or
`_annotations.coco.json` beside the pictures of each split.

VOC: see voc.py; seen on BCCD.

Left out: segmentations, keypoints, captions; regions of crowds and boxes without area (see detection_rows.py). The
category of a Roboflow export that only names the whole set is not a class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrft.data.prep.coco import annotated_images, annotation_file, load_coco, picture_folder
from vlrft.data.prep.detection_rows import Asked, DetectionRule, chosen_classes, detection_rows
from vlrft.data.prep.single_box import AnnotatedImage
from vlrft.data.prep.voc import read_voc
from vlrft.data.problems import DataError, Quarantine, of_row

Rows = Iterator[tuple[str, dict[str, Any]]]
_ODINW_FILES = ("annotations_without_background.json", "_annotations.coco.json")


def coco_rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, classes: Sequence[str] | None = None,
    per: str = "image", negatives: int = 1, seed: int = 0, names: Mapping[str, str] | None = None,
    keep_published: bool = False,
) -> Rows:  # fmt: skip
    """(where, row) of the JSON file, or of `annotations/instances_<split>.json` in the folder.

    `classes`: those to ask for, None = all of the file. The other options are those of DetectionRule.
    """
    file = annotation_file(path, split)
    content = load_coco(file)
    folder = images if images is not None else picture_folder(file, path, split, content["images"])
    rule = DetectionRule(per=per, negatives=negatives, seed=seed, names=names or {}, keep_published=keep_published)
    return _coco(content, file, folder, rule, classes, quarantine)


def odinw_rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, classes: Sequence[str] | None = None,
    per: str = "image", negatives: int = 1, seed: int = 0, names: Mapping[str, str] | None = None,
    keep_published: bool = False,
) -> Rows:  # fmt: skip
    """(where, row) of one of ODinW's sets: the JSON file, or the set's folder and `split` (train, valid, test).

    Pictures lie beside the file. Options as for coco.
    """
    file = path if path.is_file() else _odinw_file(path, split)
    content = load_coco(file)
    rule = DetectionRule(per=per, negatives=negatives, seed=seed, names=names or {}, keep_published=keep_published)
    return _coco(content, file, images if images is not None else file.parent, rule, classes, quarantine)


def voc_rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, classes: Sequence[str] | None = None,
    first_pixel: int = 0, per: str = "image", negatives: int = 1, seed: int = 0,
    names: Mapping[str, str] | None = None, keep_published: bool = False,
) -> Rows:  # fmt: skip
    """(where, row) of one split of a VOC folder. Objects that the file calls difficult are listed in `meta.difficult`.

    `first_pixel`: 1 for files that count pixels from 1 and include the last, as PASCAL's own do, so that half open
    boxes come out; 0 takes the numbers as they are. The file does not say which. `meta.difficult` holds places in the
    answer. Other options as for coco.
    """
    if first_pixel not in (0, 1):
        raise DataError(f"first_pixel is {first_pixel!r}; write 1 for files that count pixels from 1, else 0")
    rule = DetectionRule(per=per, negatives=negatives, seed=seed, names=names or {}, keep_published=keep_published)
    held = read_voc(path, split=split, images=images, quarantine=quarantine)
    annotated = [_moved(image, first_pixel) for image in held]
    known = sorted({obj.label for image in annotated for obj in image.objects})
    asked = chosen_classes(classes, known, rule.names)
    return detection_rows((Asked(image=image, classes=asked) for image in annotated), rule, quarantine)


def _coco(
    content: dict[str, Any], file: Path, folder: Path, rule: DetectionRule, classes: Sequence[str] | None,
    quarantine: Quarantine,
) -> Rows:  # fmt: skip
    with of_row(str(file)):
        asked = chosen_classes(classes, _class_names(content), rule.names)
    annotated = annotated_images(content, file, folder=folder, quarantine=quarantine, crowd=True)
    return detection_rows((Asked(image=image, classes=asked) for image in annotated), rule, quarantine)


def _class_names(content: Mapping[str, Any]) -> list[str]:
    used = {annotation.get("category_id") for annotation in content["annotations"]}
    above = {category.get("supercategory") for category in content["categories"]}

    def is_class(category: Mapping[str, Any]) -> bool:
        top = category.get("supercategory") in (None, "none") and category["name"] in above
        return category["id"] in used or not top

    return list(dict.fromkeys(str(category["name"]) for category in content["categories"] if is_class(category)))


def _odinw_file(folder: Path, split: str | None) -> Path:
    files = [file for name in _ODINW_FILES for file in sorted(folder.glob(f"*/{name}"))]
    offer = ", ".join(dict.fromkeys(file.parent.name for file in files)) or f"none with {' or '.join(_ODINW_FILES)}"
    if split is None:
        raise DataError(f"{folder} needs the name of a split, or give the JSON file as path; splits here: {offer}")
    file = next((file for file in files if file.parent.name == split), None)
    if file is None:
        raise DataError(f"{folder} has no split {split!r}; splits here: {offer}")
    return file


def _moved(image: AnnotatedImage, first_pixel: int) -> AnnotatedImage:
    moved = tuple(
        dataclasses.replace(obj, box=(obj.box[0] - first_pixel, obj.box[1] - first_pixel, obj.box[2], obj.box[3]))
        for obj in image.objects
    )
    return dataclasses.replace(image, objects=moved)
