"""Pascal VOC layout: `ImageSets/Main/<split>.txt`, `Annotations/<id>.xml`, `JPEGImages/<id>.jpg`.

Coordinates are taken as written. The VOC devkit counts pixels from 1 and includes the last one; most later files in
this layout do not, so no half pixel is moved.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from vlrft.data.prep.single_box import AnnotatedImage, LabelledBox
from vlrft.data.problems import DataError, Quarantine, SampleError, of_row

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def read_voc(
    folder: Path, *, split: str | None, images: Path | None, quarantine: Quarantine
) -> Iterator[AnnotatedImage]:
    """The images of one split, in the order of its list.

    `images` is the folder of the pictures, None = `JPEGImages`. Raises DataError for a missing split list; an
    annotation that is missing or malformed goes to `quarantine`.
    """
    listing = _split_file(folder, split)
    pictures = images if images is not None else folder / "JPEGImages"
    for number, line in enumerate(listing.read_text(encoding="utf-8-sig").splitlines(), start=1):
        # Class-wise lists ("cat_train.txt") carry a -1/0/1 flag in a second column.
        fields = line.split()
        if not fields:
            continue
        annotation = folder / "Annotations" / f"{fields[0]}.xml"
        try:
            with of_row(str(annotation)):
                yield _read_annotation(annotation, fields[0], pictures, f"{listing}:{number}")
        except SampleError as error:
            quarantine.bad(error)


def _split_file(folder: Path, split: str | None) -> Path:
    lists = folder / "ImageSets" / "Main"
    available = sorted(p.stem for p in lists.glob("*.txt"))
    offer = f"set split to one of: {', '.join(available)}" if available else f"there is no list in {lists}"
    if split is None:
        raise DataError(f"{folder} is a VOC folder and needs the name of a split; {offer}")
    path = lists / f"{split}.txt"
    if not path.is_file():
        raise DataError(f"no split list {path}; {offer}")
    return path


def _read_annotation(path: Path, image_id: str, pictures: Path, listed: str) -> AnnotatedImage:
    if not path.is_file():
        raise SampleError(listed, f"no annotation {path}; add the file or take {image_id} out of the list")
    try:
        root = ET.parse(path).getroot()
    except ET.ParseError as error:
        raise SampleError(str(path), f"is not well-formed XML ({error}); fetch the file again") from error
    objects = tuple(_read_object(node, path) for node in root.iter("object"))
    width, height = (_number(root, f"size/{axis}", path, required=False) for axis in ("width", "height"))
    return AnnotatedImage(
        id=image_id,
        where=str(path),
        path=str(_picture(pictures, image_id, root.findtext("filename"))),
        # Some tools write 0x0 for "not measured".
        size=(int(width), int(height)) if width and height else None,
        objects=objects,
    )


def _read_object(node: ET.Element, path: Path) -> LabelledBox:
    label = (node.findtext("name") or "").strip()
    if not label:
        raise SampleError(str(path), "an <object> has no <name>; correct the file")
    x1, y1, x2, y2 = (_number(node, f"bndbox/{side}", path) or 0.0 for side in ("xmin", "ymin", "xmax", "ymax"))
    mark = "difficult" if (node.findtext("difficult") or "0").strip() == "1" else ""
    return LabelledBox(label=label, box=(x1, y1, x2, y2), mark=mark)


def _number(node: ET.Element, tag: str, path: Path, *, required: bool = True) -> float | None:
    text = node.findtext(tag)
    if text is None and not required:
        return None
    try:
        return float(text or "")
    except ValueError as error:
        raise SampleError(str(path), f"<{tag}> of <{node.tag}> is {text!r}, not a number; correct the file") from error


def _picture(folder: Path, image_id: str, filename: str | None) -> Path:
    """The image's file: by id first, since many files carry a stale <filename>."""
    names = [image_id + suffix for suffix in _SUFFIXES]
    if filename:
        names.append(filename.strip())
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
