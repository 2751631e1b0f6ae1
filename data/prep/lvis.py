"""LVIS: federated annotations in JSON. Written from the documentation of LVIS v0.5 and v1.

Fields: `images` (`id`, `width`, `height`, `coco_url` in v1 or `file_name` in v0.5, `neg_category_ids`,
`not_exhaustive_category_ids`), `annotations` (`image_id`, `category_id`, `bbox` `[x, y, width, height]` in pixels of
the stored image, `segmentation`), `categories` (`id`, `name`, `synonyms`, `frequency` r, c or f).

Of each image only some classes were looked for. It is asked for those that it holds, every instance annotated, and for
those that are verified to be absent (`neg_category_ids`). All others are unlabelled and not asked for. Classes that it
holds but that are not annotated to the last instance are left out of the questions of training; a benchmark asks for
them and lists them in `meta.not_exhaustive`, for an evaluation that must not count surplus boxes of theirs.
Left out: segmentations, images with no class to ask for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrft.data.prep.coco import annotated_images, check_coco, picture_folder
from vlrft.data.prep.detection_rows import Asked, DetectionRule, chosen_classes, detection_rows
from vlrft.data.prep.single_box import AnnotatedImage
from vlrft.data.problems import DataError, Quarantine
from vlrft.data.tables import load_json

_FREQUENCIES = "rcf"


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, classes: Sequence[str] | None = None,
    frequency: str | None = None, per: str = "image", negatives: int = 1, seed: int = 0,
    names: Mapping[str, str] | None = None, keep_published: bool = False,
) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """(where, detection row) of the JSON file `path`, or of `lvis_v1_<split>.json` in the folder.

    `images` is the folder that `train2017/...` is in. `frequency`: letters of the classes to ask for, such as "r" or
    "cf"; with `per="class"`, `negatives` counts verified absent classes. Other options as for coco.
    """
    file = _annotation_file(path, split)
    content = load_json(file)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        for image in content["images"]:
            # v1 tells the picture by its address: .../train2017/000000391895.jpg
            if isinstance(image, dict) and "file_name" not in image and isinstance(image.get("coco_url"), str):
                image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    check_coco(content, file)
    rule = DetectionRule(per=per, negatives=negatives, seed=seed, names=names or {}, keep_published=keep_published)
    letters = set(_FREQUENCIES if frequency is None else frequency)
    known = [str(c["name"]) for c in content["categories"] if frequency is None or c.get("frequency") in letters]
    if frequency is not None and not (letters and letters <= set(_FREQUENCIES) and known):
        raise DataError(f"{file}: no class has one of the frequencies {frequency!r}; use letters of r, c and f")
    wanted = chosen_classes(classes, known, rule.names)
    folder = images if images is not None else picture_folder(file, path, split, content["images"])
    annotated = annotated_images(content, file, folder=folder, quarantine=quarantine, crowd=True)
    labels = {c["id"]: str(c["name"]) for c in content["categories"] if c["name"] in wanted}
    return detection_rows(
        (_asked(image, entry, labels, keep_published)
         for image, entry in zip(annotated, content["images"], strict=True)),
        rule, quarantine,
    )  # fmt: skip


def _asked(image: AnnotatedImage, entry: Mapping[str, Any], labels: Mapping[Any, str], keep: bool) -> Asked:
    """`labels`: names of the classes to ask for, by category id."""
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        if not isinstance(entry.get(key), list):
            raise DataError(f"{image.where} has no list `{key}`, as LVIS has; without it the file's form is coco")
    known = set(labels.values())
    partial = [labels[i] for i in entry["not_exhaustive_category_ids"] if i in labels]
    held = list(dict.fromkeys(obj.label for obj in image.objects if obj.label in known))
    sure = [name for name in held if keep or name not in partial]
    absent = [labels[i] for i in entry["neg_category_ids"] if i in labels and labels[i] not in held]
    flags = [f"not every {name!r} is annotated" for name in held if keep and name in partial]
    meta: dict[str, Any] = {"absent": absent}
    if partial:
        meta["not_exhaustive"] = partial
    return Asked(image=image, classes=[*sure, *absent], meta=meta, flags=flags)


def _annotation_file(path: Path, split: str | None) -> Path:
    if path.is_file():
        return path
    found = sorted(p for folder in (path, path / "annotations") for p in folder.glob("lvis_*.json"))
    offer = ", ".join(p.name for p in found) or f"no lvis_*.json in {path}"
    matching = [p for p in found if split is not None and p.stem.endswith(f"_{split}")]
    if len(matching) != 1:
        raise DataError(f"{path}: name one split, or give the JSON file as path; files here: {offer}")
    return matching[0]
