"""RefCOCO, RefCOCO+ and RefCOCOg: referring expressions -> grounding rows. Written from documentation.

REFER, as published: a folder with `refs(unc).p`, `refs(google).p` or `refs(umd).p` and `instances.json`. The pickle is
a list of `{ref_id, ann_id, image_id, category_id, file_name, split, sentences: [{sent_id, sent, raw, tokens}]}`;
`instances.json` is COCO JSON: `bbox` `[x, y, width, height]` in pixels of the stored COCO image. `file_name` of a ref
carries the annotation's number, so the picture's name is taken from `instances.json`. The pickle is read without
running anything that it holds. Splits: train, val, testA, testB (unc); train, val, test (umd); train, val (google).

The tables of hubs are told by their columns:
- `question_id, question, answer, bbox, segmentation, iscrowd, image` (lmms-eval): `answer` lists the phrases, `bbox` is
  `[x, y, width, height]` in pixels;
- `raw_anns, raw_image_info, sentences` (jxu124): the annotation and the image as COCO has them, in JSON texts;
- `sent, bbox, height, width, image` (Qwen-VL, InternVL) and `expression, bbox, img_path` (Shikra): two corners in
  pixels of the stored image;
- `problem, solution, image` (VLM-R1): two corners in pixels of the stored image.

Every phrase is one row. Left out: regions of crowds, boxes without area, phrases that name several objects of their
image, and repetitions of a phrase for its object. With `keep_published` they are kept and flagged, except boxes without
area, against which nothing can be judged.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrft.data.prep.coco import load_coco
from vlrft.data.prep.plain_pickle import load_plain
from vlrft.data.prep.published import UNJUDGED, admitted, corners, four_numbers, needed, settled_box
from vlrft.data.problems import DataError, Quarantine, SampleError, of_row
from vlrft.data.tables import RowStream

_REF_FIELDS = ("ref_id", "ann_id", "image_id", "split", "sentences")
_COCO_PICTURE = re.compile(r"COCO_(?:train|val)2014_\d{12}")
"""The part of a file name without the annotation's number, which REFER and its tables append."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phrase:
    """One phrase for one object."""

    where: str
    id: str
    text: str
    image: Any
    """Path, or encoded picture."""
    picture: str
    """What tells pictures apart."""
    box: tuple[float, float, float, float]
    """Two corners in pixels."""
    size: tuple[int, int] | None
    meta: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


def rows(
    path: Path, *, split: str | None, images: Path | None, quarantine: Quarantine, split_by: str | None = None,
    keep_published: bool = False,
) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """(where, grounding row) of a REFER folder or pickle, or of a table.

    `split_by` (unc, umd, google) picks one of several pickles. `images` is the folder of COCO's pictures.
    """
    pickled = path.suffix == ".p" or (path.is_dir() and any(path.glob("refs(*).p")))
    if pickled:
        phrases = list(_refer(path, split, images, split_by, quarantine))
    elif split_by is not None:
        raise DataError(f"{path}: split_by is for the pickles of REFER, refs(...).p; take it out")
    else:
        phrases = list(_table(path, split, images, quarantine))
    named: dict[tuple[str, str], set[tuple[float, ...]]] = {}
    for phrase in phrases:
        named.setdefault((phrase.picture, _key(phrase.text)), set()).add(phrase.box)
    met: Counter[tuple[Any, ...]] = Counter()
    for phrase in phrases:
        made = _row(phrase, named, met, keep_published, quarantine)
        if made is not None:
            yield phrase.where, made


def _row(
    phrase: _Phrase, named: Mapping[tuple[str, str], set[tuple[float, ...]]], met: Counter[tuple[Any, ...]],
    keep_published: bool, quarantine: Quarantine,
) -> dict[str, Any] | None:  # fmt: skip
    where = phrase.where
    if not phrase.text.strip():
        quarantine.published(where, "has an empty phrase, which asks for nothing")
        return None
    box, odd = settled_box(phrase.box, phrase.size)
    if box is None:
        quarantine.published(where, "; ".join([*odd, UNJUDGED]))
        return None
    flags = [*phrase.flags, *odd]
    key = (phrase.picture, _key(phrase.text))
    if len(named[key]) > 1:
        flags.append(f"the phrase {phrase.text!r} names {len(named[key])} objects of this image")
    met[(*key, phrase.box)] += 1
    if met[(*key, phrase.box)] > 1:
        flags.append(f"repeats the phrase {phrase.text!r} for its object")
    row: dict[str, Any] = {
        "id": phrase.id,
        "task": "grounding",
        "prompt": phrase.text,
        "images": [phrase.image],
        "boxes": {"box": box, "space": "abs_original"},
        "meta": dict(phrase.meta),
    }
    if phrase.size is not None:
        row["width"], row["height"] = phrase.size
    return admitted(row, flags, where=where, keep_published=keep_published, quarantine=quarantine)


def _key(text: str) -> str:
    return " ".join(text.lower().split())


def _refer(
    path: Path, split: str | None, images: Path | None, split_by: str | None, quarantine: Quarantine
) -> Iterator[_Phrase]:
    file = path if path.is_file() else _refs_file(path, split_by)
    refs = load_plain(file)
    if not isinstance(refs, list):
        raise DataError(f"{file} holds a {type(refs).__name__}, not REFER's list of refs; fetch the file again")
    content = load_coco(file.parent / "instances.json") if (file.parent / "instances.json").is_file() else None
    if content is None:
        raise DataError(f"no instances.json beside {file}; it has the boxes")
    pictures = {image["id"]: image for image in content["images"]}
    annotations = {annotation.get("id"): annotation for annotation in content["annotations"]}
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    folder = images if images is not None else file.parent / "images"
    splits = sorted({str(ref.get("split")) for ref in refs if isinstance(ref, dict)})
    if split is not None and split not in splits:
        raise DataError(f"{file} has no split {split!r}; splits: {', '.join(splits)}")
    for number, ref in enumerate(refs):
        where = f"{file}: ref {ref.get('ref_id', number) if isinstance(ref, dict) else number}"
        try:
            needed(ref, _REF_FIELDS, where)
            if split is not None and ref["split"] != split:
                continue
            with of_row(where):
                yield from _of_ref(ref, annotations, pictures, names, folder, where)
        except SampleError as error:
            quarantine.bad(error)


def _of_ref(
    ref: Mapping[str, Any], annotations: Mapping[Any, Any], pictures: Mapping[Any, Any], names: Mapping[Any, str],
    folder: Path, where: str,
) -> Iterator[_Phrase]:  # fmt: skip
    annotation, picture = annotations.get(ref["ann_id"]), pictures.get(ref["image_id"])
    if annotation is None or picture is None:
        missing = f"annotation {ref['ann_id']}" if annotation is None else f"image {ref['image_id']}"
        raise SampleError(where, f"names {missing}, which instances.json does not have; take both files of one release")
    box = corners(four_numbers(annotation.get("bbox"), where), "xywh")
    segmentation = annotation.get("segmentation")
    meta = {"ref_id": ref["ref_id"], "ann_id": ref["ann_id"], "category": names.get(annotation.get("category_id")),
            "split": ref["split"], **({"mask": segmentation} if segmentation else {})}  # fmt: skip
    size = (int(picture["width"]), int(picture["height"])) if "width" in picture and "height" in picture else None
    for sentence in ref["sentences"]:
        needed(sentence, ("sent_id", "sent"), where)
        yield _Phrase(
            where=f"{where}, sentence {sentence['sent_id']}",
            id=f"{ref['ref_id']}-{sentence['sent_id']}",
            text=str(sentence["sent"]),
            image=str(folder / picture["file_name"]),
            picture=str(picture["file_name"]),
            box=box,
            size=size,
            meta=meta,
            flags=("the region is a crowd",) if annotation.get("iscrowd") else (),
        )


def _refs_file(folder: Path, split_by: str | None) -> Path:
    found = {file.name[5:-3]: file for file in sorted(folder.glob("refs(*).p"))}
    if split_by is not None and split_by in found:
        return found[split_by]
    if split_by is None and len(found) == 1:
        return next(iter(found.values()))
    raise DataError(f"{folder} has the splits of {', '.join(found)}; set split_by to one of them")


def _table(path: Path, split: str | None, images: Path | None, quarantine: Quarantine) -> Iterator[_Phrase]:
    """The phrases of a table. `split` is that of the files' names, or of a column `split`."""
    for raw in RowStream(path, split=split if path.is_dir() else None):
        if isinstance(raw.columns, SampleError):
            quarantine.bad(raw.columns)
            continue
        if split is not None and raw.columns.get("split") not in (None, split):
            continue
        try:
            with of_row(raw.where):
                yield from _of_row(raw.columns, f"{raw.stem}-{raw.number}", images, raw.where)
        except SampleError as error:
            quarantine.bad(error)


def _of_row(columns: dict[str, Any], name: str, images: Path | None, where: str) -> Iterator[_Phrase]:
    texts, box, flags = _phrases_and_box(columns, where)
    size = (columns["width"], columns["height"]) if {"width", "height"} <= columns.keys() else None
    info = _decoded(columns["raw_image_info"], where) if "raw_image_info" in columns else None
    if info is not None:
        needed(info, ("file_name", "width", "height"), where)
        size = (int(info["width"]), int(info["height"]))
    stated = (columns.get(key) for key in ("image", "image_path", "img_path"))
    image = next((value for value in stated if value), (info or {}).get("file_name"))
    if image is None:
        raise SampleError(where, "names no picture: none of the columns image, image_path, img_path; correct the row")
    if images is not None and isinstance(image, str):
        image = str(images / image)
    picture = str(columns.get("file_name") or columns.get("image_id") or image)
    stem = _COCO_PICTURE.search(picture)
    picture = stem.group() if stem else picture
    kept = ("question_id", "ref_id", "ann_id", "dataset_name", "file_name", "normal_caption", "split")
    mask = columns.get("segmentation")
    meta = {key: columns[key] for key in kept if key in columns}
    for number, text in enumerate(texts, start=1):
        yield _Phrase(
            where=where, id=f"{name}-{number}" if len(texts) > 1 else name, text=text, image=image, picture=picture,
            box=box, size=size, meta=meta if mask is None else {**meta, "mask": _rings(mask)}, flags=flags,
        )  # fmt: skip


def _phrases_and_box(
    columns: dict[str, Any], where: str
) -> tuple[list[str], tuple[float, float, float, float], tuple[str, ...]]:
    crowd = columns.get("iscrowd")
    if "raw_anns" in columns:
        annotation = _decoded(columns["raw_anns"], where)
        needed(annotation, ("bbox",), where)
        sentences = columns.get("sentences") or []
        texts = [str(item["sent"] if isinstance(item, dict) else item) for item in sentences]
        crowd, written, box = annotation.get("iscrowd"), "xywh", annotation["bbox"]
    elif {"answer", "bbox", "question_id"} <= columns.keys():
        answer = columns["answer"]
        texts, written, box = [answer] if isinstance(answer, str) else list(answer), "xywh", columns["bbox"]
    elif "bbox" in columns and ("sent" in columns or "expression" in columns):
        texts, written, box = [str(columns.get("sent", columns.get("expression")))], "xyxy", columns["bbox"]
    elif {"problem", "solution"} <= columns.keys():
        texts, written, box = [str(columns["problem"])], "xyxy", columns["solution"]
    else:
        raise SampleError(
            where,
            f"is in none of the known forms of RefCOCO; columns: {', '.join(columns)}. Write native rows, which state "
            "how their boxes are written",
        )
    if not texts:
        raise SampleError(where, "has no phrase; correct the row")
    return texts, corners(four_numbers(box, where), written), ("the region is a crowd",) if crowd else ()


def _decoded(value: Any, where: str) -> Any:
    """A column that holds an object, or the JSON text of one."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise SampleError(where, f"{value!r:.80} is not valid JSON ({error}); fetch the file again") from error


def _rings(mask: Any) -> Any:
    """Polygons: tables write a single one without the list around it."""
    return [mask] if isinstance(mask, list) and mask and isinstance(mask[0], int | float) else mask
