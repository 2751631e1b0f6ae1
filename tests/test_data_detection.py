"""COCO and Pascal VOC detection files as single-box questions, small ones and the real BCCD."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image

from vlrft.config import DataConfig, SourceConfig
from vlrft.data.problems import DataError, SampleError
from vlrft.data.sources import Loaded, load_samples
from vlrft.types import TextPart

SHARED = Path(os.environ.get("VLRFT_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
BCCD = SHARED / "bccd"
needs_bccd = pytest.mark.skipif(not BCCD.is_dir(), reason=f"no BCCD images in {SHARED} (set VLRFT_SHARED_DATA)")

Objects = list[tuple[str, tuple[float, float, float, float]]]
SCENES: dict[str, Objects] = {
    "one": [("cat", (2, 3, 20, 25)), ("dog", (0, 0, 10, 10))],
    "two": [("cat", (2, 3, 12, 13)), ("cat", (5, 5, 35, 28))],
    "none": [("dog", (1, 1, 9, 9))],
    "flat": [("cat", (4, 4, 4, 4)), ("cat", (1, 2, 30, 29))],
}


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    for name, objects in SCENES.items():
        _write_voc(tmp_path, name, objects)
    (tmp_path / "ImageSets/Main/train.txt").write_text("\n".join(SCENES) + "\n")
    return tmp_path


def _write_voc(root: Path, name: str, objects: Objects) -> None:
    Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}.jpg")
    sides = ("xmin", "ymin", "xmax", "ymax")
    nodes = "".join(
        f"<object><name>{label}</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=True))
        + "</bndbox></object>"
        for label, box in objects
    )
    size = "<size><width>40</width><height>30</height></size>"
    text = f"<annotation><filename>stale.jpg</filename>{size}{nodes}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(text)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, objects) in enumerate(SCENES.items(), start=1):
        Image.new("RGB", (40, 30)).save(tmp_path / "val2017" / f"{name}.jpg")
        images.append({"id": number, "file_name": f"{name}.jpg", "width": 40, "height": 30})
        for label, (x1, y1, x2, y2) in objects:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": {"cat": 17, "dog": 18}[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": 0,
                }
            )
    annotations.append({"id": 99, "image_id": 1, "category_id": 17, "bbox": [0, 0, 40, 30], "iscrowd": 1})
    _save_coco(tmp_path, images, annotations)
    return tmp_path


def _save_coco(root: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))


def _load(root: Path, *, on_bad: Literal["error", "skip"] = "error", **source: Any) -> Loaded:
    return load_samples(DataConfig(root=str(root), on_bad_sample=on_bad), SourceConfig(**source), role="train")


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_both_layouts_give_the_same_boxes(layout: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    split = {"voc": "train", "coco": "val2017"}[layout]
    loaded = _load(root, split=split, classes=["cat"], options={"names": {"cat": "the cat"}, "answer_style": "plain"})
    one, flat = loaded.samples
    assert (one.target, flat.target) == ([2.0, 3.0, 20.0, 25.0], [1.0, 2.0, 30.0, 29.0])
    assert one.id == {"voc": "one-cat", "coco": "1-cat"}[layout]
    assert one.parts[1] == TextPart(text="the cat")
    assert one.meta == {"label": "cat", "answer_style": "plain", "image_size": [40, 30]}
    reasons = [skipped.reason for skipped in loaded.skipped]
    assert len(reasons) == 3
    assert "holds 2 instances of 'cat'" in reasons[0]
    assert "holds 0 instances of 'cat'" in reasons[1]
    assert "zero-area 'cat' box" in reasons[2]


def test_without_classes_each_image_is_asked_for_what_it_holds(voc: Path) -> None:
    loaded = _load(voc, split="train", path=".", format="voc")
    assert [s.id for s in loaded.samples] == ["one-cat", "one-dog", "none-dog", "flat-cat"]


def test_largest_instance(voc: Path) -> None:
    loaded = _load(voc, split="train", classes=["cat"], instances="largest")
    assert {s.id: s.target for s in loaded.samples}["two-cat"] == [5.0, 5.0, 35.0, 28.0]


def test_strict_instances_stop(voc: Path) -> None:
    with pytest.raises(DataError, match=r"two\.xml: image two holds 2 instances of 'cat', not one; .*skip or largest"):
        _load(voc, split="train", classes=["cat"], instances="error", on_bad="skip")


def test_coco_file_by_path_with_images_folder(coco: Path) -> None:
    loaded = _load(coco, path="annotations/instances_val2017.json", images="val2017", classes=["dog"])
    assert [s.id for s in loaded.samples] == ["1-dog", "3-dog"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"split": "trian", "classes": ["cat"]}, r"no split list .*trian\.txt; set split to one of: train"),
        ({"split": None}, "needs the name of a split; set split to one of: train"),
        ({"split": "train", "classes": ["cta"]}, "no annotation has the class 'cta'; did you mean 'cat'.*cat, dog"),
        ({"split": "train", "options": {"names": {"bird": "x"}}}, "no annotation has the class 'bird'"),
    ],
)
def test_voc_source_errors(voc: Path, source: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        _load(voc, **source)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, r"train\.txt:2: no annotation .*two\.xml"),
        ("<annotation>", r"two\.xml: is not well-formed XML"),
        ("<annotation><object><name/></object></annotation>", "has no <name>"),
        ("<annotation><object><name>cat</name></object></annotation>", "<bndbox/xmin> of <object> is None"),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>3</xmax><ymax>20</ymax>"
            "</bndbox></object></annotation>",
            "negative width or height",
        ),
    ],
)
def test_voc_bad_annotation(voc: Path, text: str | None, says: str) -> None:
    path = voc / "Annotations/two.xml"
    path.write_text(text) if text is not None else path.unlink()
    with pytest.raises(SampleError, match=says):
        _load(voc, split="train", classes=["cat"])
    loaded = _load(voc, split="train", classes=["cat"], on_bad="skip")
    assert [s.id for s in loaded.samples] == ["one-cat", "flat-cat"]
    assert any("two" in s.where or "two" in s.reason for s in loaded.skipped)


def test_voc_box_outside_and_image_missing(voc: Path) -> None:
    _write_voc(voc, "two", [("cat", (2, 3, 50, 13))])
    (voc / "JPEGImages/one.jpg").unlink()
    loaded = _load(voc, split="train", classes=["cat"], on_bad="skip")
    assert [s.id for s in loaded.samples] == ["flat-cat"]
    assert "no such file" in loaded.skipped[0].reason
    assert "outside the 40x30 image" in loaded.skipped[1].reason


def test_coco_bad_annotations(coco: Path) -> None:
    images = [{"id": 1, "file_name": "one.jpg"}]
    good = {"id": 1, "image_id": 1, "category_id": 17, "bbox": [1, 1, 5, 5]}
    bad = [
        ({**good, "id": 2, "image_id": 5}, "names image 5"),
        ({**good, "id": 3, "category_id": 5}, "category 5 is not in"),
        ({**good, "id": 4, "bbox": [1, 1, 5]}, r"bbox \[1, 1, 5\] is not"),
    ]
    for annotation, says in bad:
        _save_coco(coco, images, [good, annotation])
        with pytest.raises(SampleError, match=f"annotation {annotation['id']}: {says}"):
            _load(coco, split="val2017", format="coco")
    _save_coco(coco, images, [good, *(annotation for annotation, _ in bad)])
    loaded = _load(coco, split="val2017", on_bad="skip")
    assert ([s.id for s in loaded.samples], len(loaded.skipped)) == (["1-cat"], 3)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"split": None}, "splits here: val2017"),
        ({"split": "train2017"}, r"no annotation file .*instances_train2017\.json"),
        ({"split": "val2017", "images": "annotations"}, "no such file"),
        ({"path": "annotations/instances_val2017.json"}, r"one\.jpg is in none of .*set the source's `images`"),
    ],
)
def test_coco_source_errors(coco: Path, source: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        _load(coco, **source)


@needs_bccd
@pytest.mark.parametrize(("split", "ids", "single", "zero_area"), [("train", 205, 194, 1), ("val", 87, 85, 1)])
def test_bccd(split: str, ids: int, single: int, zero_area: int) -> None:
    listed = (BCCD / f"ImageSets/Main/{split}.txt").read_text().split()
    assert len(listed) == ids
    loaded = _load(BCCD, split=split, classes=["WBC"])
    assert len(loaded.samples) == single
    assert len(loaded.skipped) == ids - single
    for sample in loaded.samples:
        x1, y1, x2, y2 = sample.target
        assert 0 <= x1 < x2 <= 640
        assert 0 <= y1 < y2 <= 480
    everything = _load(BCCD, split=split)
    assert sum("zero-area 'RBC' box" in skipped.reason for skipped in everything.skipped) == zero_area


@needs_bccd
def test_bccd_strict_names_the_zero_area_image() -> None:
    with pytest.raises(DataError, match=r"BloodImage_\d+ (zero-area|holds)"):
        _load(BCCD, split="train", classes=["RBC"], instances="error")
