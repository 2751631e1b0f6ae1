"""COCO, ODinW, LVIS and VOC as rows of detection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from published_files import SHARED, Row, all_judged, judged, picture, read_located, write_json

from vlrft.config import DataConfig, SourceConfig
from vlrft.data.problems import DataError, SampleError
from vlrft.data.sources import load_samples


def _coco(boxes: list[Row], **image: Any) -> Row:
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30, **image} for i in (1, 2)],
        "annotations": [{"id": n, "image_id": 1, "iscrowd": 0, **box} for n, box in enumerate(boxes)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "fire_hydrant"}, {"id": 7, "name": "dog"}],
    }


CAT = {"category_id": 1, "bbox": [4, 5, 10, 20]}
DOG = {"category_id": 7, "bbox": [20.5, 0, 19.5, 30]}
CROWD = {"category_id": 7, "bbox": [0, 0, 40, 30], "iscrowd": 1}
FLAT = {"category_id": 1, "bbox": [4, 5, 0, 20]}
OUTSIDE = {"category_id": 1, "bbox": [30, 5, 20, 20]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("1.png", "2.png"):
        picture(tmp_path / "val2017" / name)
    return tmp_path


def _save(root: Path, *boxes: Row) -> Path:
    write_json(root / "annotations" / "instances_val2017.json", _coco(list(boxes)))
    return root


def test_coco_asks_for_all_classes_of_an_image(root: Path) -> None:
    rows, left_out = read_located("coco", _save(root, CAT, DOG, CAT), split="val2017")
    assert rows[0] == {
        "id": "1",
        "task": "detection",
        "prompt": "Detect every cat, fire hydrant, dog.",
        "images": [str(root / "val2017" / "1.png")],
        "answer": [
            {"bbox": [4.0, 5.0, 14.0, 25.0], "label": "cat"},
            {"bbox": [20.5, 0.0, 40.0, 30.0], "label": "dog"},
            {"bbox": [4.0, 5.0, 14.0, 25.0], "label": "cat"},
        ],
        "boxes": {"space": "abs_original"},
        "meta": {"labels": ["cat", "fire_hydrant", "dog"]},
        "width": 40,
        "height": 30,
    }
    assert [(row["id"], row["answer"]) for row in rows[1:]] == [("2", [])]
    assert left_out == []
    assert all_judged(rows)[0].target == rows[0]["answer"]


def test_coco_by_class_with_drawn_negatives(root: Path) -> None:
    options: Row = {"per": "class", "names": {"cat": "kitten"}}
    rows, _ = read_located("coco", _save(root, CAT, DOG), split="val2017", **options)
    asked = [(row["id"], row["prompt"], len(row["answer"]), row["meta"]["labels"]) for row in rows[:3]]
    assert asked == [
        ("1-cat", "Detect every kitten.", 1, ["cat"]),
        ("1-fire_hydrant", "Detect every fire hydrant.", 0, ["fire_hydrant"]),
        ("1-dog", "Detect every dog.", 1, ["dog"]),
    ]
    assert [row["answer"] for row in rows[3:]] == [[]]
    assert rows == read_located("coco", root, split="val2017", **options)[0]
    drawn = {read_located("coco", root, split="val2017", seed=seed, **options)[0][3]["id"] for seed in range(20)}
    assert drawn == {"2-cat", "2-fire_hydrant", "2-dog"}
    all_judged(rows)


def test_coco_without_negatives_lists_what_holds_nothing(root: Path) -> None:
    rows, left_out = read_located("coco", _save(root, CAT, DOG), split="val2017", classes=["dog"], negatives=0)
    assert [(row["id"], row["meta"]["labels"]) for row in rows] == [("1", ["dog"])]
    assert left_out == ["image 2 holds none of the asked classes, and negatives is 0"]


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (CROWD, "a region of 'dog' is a crowd"),
        (OUTSIDE, "box [30.0, 5.0, 50.0, 25.0] reaches outside the 40x30 picture"),
        ({"category_id": 1, "bbox": [14, 5, -10, 20]}, "box [14.0, 5.0, 4.0, 25.0] has its sides swapped"),
    ],
)
def test_odd_coco_images_are_left_out_of_training_and_flagged_in_a_benchmark(root: Path, odd: Row, reason: str) -> None:
    _save(root, DOG, odd)
    rows, left_out = read_located("coco", root, split="val2017")
    assert ([row["id"] for row in rows], left_out) == (["2"], [reason])
    rows, left_out = read_located("coco", root, split="val2017", keep_published=True)
    assert ([row["id"] for row in rows], left_out) == (["1", "2"], [])
    assert rows[0]["meta"]["flags"] == [reason]
    assert "flags" not in rows[1]["meta"]
    target = all_judged(rows)[0].target
    assert len(target) == (1 if odd is CROWD else 2)
    crowd = [{"bbox": [0.0, 0.0, 40.0, 30.0], "label": "dog"}] if odd is CROWD else None
    assert rows[0]["meta"].get("crowd") == crowd


def test_coco_crowds_of_other_classes_do_not_matter(root: Path) -> None:
    rows, left_out = read_located("coco", _save(root, CAT, CROWD), split="val2017", classes=["cat"])
    assert (len(rows), left_out) == (2, [])


def test_coco_boxes_without_area(root: Path) -> None:
    rows, left_out = read_located("coco", _save(root, CAT, FLAT), split="val2017")
    assert [len(row["answer"]) for row in rows] == [1, 0]
    assert left_out == ["image 1: 'cat' box [4.0, 5.0, 4.0, 25.0] has no area; box left out"]
    rows, left_out = read_located("coco", _save(root, DOG, FLAT), split="val2017")
    assert [row["id"] for row in rows] == ["2"], "cats are there, but nobody knows where"
    assert left_out[1] == "image 1 has no other cat than boxes without area"
    rows, left_out = read_located("coco", root, split="val2017", keep_published=True)
    assert (len(rows), left_out) == (2, [])
    assert rows[0]["meta"]["flags"] == ["'cat': box [4.0, 5.0, 4.0, 25.0] has no area; it is not in the answer"]
    all_judged(rows)


def test_coco_errors(root: Path) -> None:
    _save(root, {"category_id": 9, "bbox": [1, 2, 3, 4]})
    with pytest.raises(SampleError, match="annotation 0: category 9 is not in `categories`"):
        read_located("coco", root, split="val2017")
    for options, says in (
        ({"classes": ["cats"]}, "no class 'cats'; did you mean 'cat'"),
        ({"names": {"god": "x"}}, "no class 'god'"),
        ({"per": "picture"}, "per is 'picture'; use one of image, class"),
        ({"negatives": -1}, "negatives is -1"),
    ):
        with pytest.raises(DataError, match=says):
            read_located("coco", root, split="val2017", **options)
    with pytest.raises(DataError, match=r"name of a split.*splits here: val2017"):
        read_located("coco", root)


def test_odinw_sets_lie_in_folders_of_their_splits(tmp_path: Path) -> None:
    content = _coco([CAT])
    content["categories"] = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
    ]
    write_json(tmp_path / "valid" / "_annotations.coco.json", content)
    for name in ("1.png", "2.png"):
        picture(tmp_path / "valid" / name)
    rows, left_out = read_located("odinw", tmp_path, split="valid")
    assert left_out == []
    assert [(row["prompt"], row["meta"]["labels"]) for row in rows] == [("Detect every cat.", ["cat"])] * 2
    assert judged(rows[0]).target == [{"bbox": [4.0, 5.0, 14.0, 25.0], "label": "cat"}]
    assert read_located("odinw", tmp_path / "valid" / "_annotations.coco.json")[0] == rows
    with pytest.raises(DataError, match="has no split 'test'; splits here: valid"):
        read_located("odinw", tmp_path, split="test")


@pytest.fixture
def lvis(tmp_path: Path) -> Path:
    picture(tmp_path / "val2017" / "000000000139.jpg")
    picture(tmp_path / "train2017" / "000000000285.jpg")
    images = [
        {"id": 139, "coco_url": "http://x/val2017/000000000139.jpg", "width": 40, "height": 30,
         "neg_category_ids": [3, 4], "not_exhaustive_category_ids": [2]},
        {"id": 285, "coco_url": "http://x/train2017/000000000285.jpg", "width": 40, "height": 30,
         "neg_category_ids": [], "not_exhaustive_category_ids": []},
    ]  # fmt: skip
    annotations = [
        {"id": 1, "image_id": 139, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 2, "image_id": 139, "category_id": 2, "bbox": [10, 2, 5, 6]},
    ]
    categories = [
        {"id": i, "name": name, "frequency": f}
        for i, name, f in ((1, "alarm_clock", "r"), (2, "book", "f"), (3, "cat", "f"), (4, "ax", "r"), (5, "bus", "c"))
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(tmp_path / "annotations" / "lvis_v1_val.json", content)
    return tmp_path


def test_lvis_asks_only_for_what_is_verified(lvis: Path) -> None:
    rows, left_out = read_located("lvis", lvis, split="val")
    (row,) = rows
    assert row["prompt"] == "Detect every alarm clock, cat, ax."
    assert row["images"] == [str(lvis / "val2017" / "000000000139.jpg")]
    assert row["answer"] == [{"bbox": [1.0, 2.0, 4.0, 6.0], "label": "alarm_clock"}]
    assert row["meta"] == {
        "labels": ["alarm_clock", "cat", "ax"], "absent": ["cat", "ax"], "not_exhaustive": ["book"],
    }  # fmt: skip
    assert left_out == ["image 285 has no class to ask"]
    all_judged(rows)


def test_lvis_benchmark_asks_for_unfinished_classes_and_says_so(lvis: Path) -> None:
    (row,), _ = read_located("lvis", lvis, split="val", keep_published=True)
    assert row["meta"]["labels"] == ["alarm_clock", "book", "cat", "ax"]
    assert row["meta"]["flags"] == ["not every 'book' is annotated"]
    assert [item["label"] for item in row["answer"]] == ["alarm_clock", "book"]
    judged(row)


def test_lvis_rare_classes_one_by_one(lvis: Path) -> None:
    rows, _ = read_located("lvis", lvis, split="val", frequency="r", per="class")
    assert [(row["id"], len(row["answer"])) for row in rows] == [("139-alarm_clock", 1), ("139-ax", 0)]
    with pytest.raises(DataError, match="frequencies 'q'; use letters of r, c and f"):
        read_located("lvis", lvis, split="val", frequency="q")
    with pytest.raises(DataError, match=r"files here: lvis_v1_val\.json"):
        read_located("lvis", lvis, split="train")


def test_lvis_needs_its_own_fields(root: Path) -> None:
    with pytest.raises(DataError, match=r"no list `neg_category_ids`.*form is coco"):
        read_located("lvis", _save(root, CAT) / "annotations" / "instances_val2017.json", images=root / "val2017")


VOC = """<annotation><size><width>40</width><height>30</height></size>{}</annotation>"""
VOC_OBJECT = """<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>
<ymax>{}</ymax></bndbox></object>"""


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    objects = VOC_OBJECT.format("cat", 0, 1, 1, 20, 30) + VOC_OBJECT.format("dog", 1, 21, 6, 40, 30)
    (tmp_path / "Annotations" / "000001.xml").write_text(VOC.format(objects))
    (tmp_path / "Annotations" / "000002.xml").write_text(VOC.format(""))
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("000001\n000002\n")
    for name in ("000001", "000002"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
    return tmp_path


def test_voc_rows(voc: Path) -> None:
    rows, left_out = read_located("voc", voc, split="val")
    assert left_out == []
    assert rows[0] == {
        "id": "000001",
        "task": "detection",
        "prompt": "Detect every cat, dog.",
        "images": [str(voc / "JPEGImages" / "000001.jpg")],
        "answer": [
            {"bbox": [1.0, 1.0, 20.0, 30.0], "label": "cat"},
            {"bbox": [21.0, 6.0, 40.0, 30.0], "label": "dog"},
        ],
        "boxes": {"space": "abs_original"},
        "meta": {"labels": ["cat", "dog"], "difficult": [1]},
        "width": 40,
        "height": 30,
    }
    assert rows[1]["answer"] == []
    all_judged(rows)


def test_voc_pixels_counted_from_one(voc: Path) -> None:
    rows, _ = read_located("voc", voc, split="val", first_pixel=1)
    assert [item["bbox"] for item in rows[0]["answer"]] == [[0.0, 0.0, 20.0, 30.0], [20.0, 5.0, 40.0, 30.0]]
    with pytest.raises(DataError, match="first_pixel is 2"):
        read_located("voc", voc, split="val", first_pixel=2)


def test_byte_order_marks(root: Path, voc: Path) -> None:
    listing = voc / "ImageSets" / "Main" / "val.txt"
    listing.write_text("\ufeff000001\r\n000002\r\n", encoding="utf-8", newline="")
    rows, left_out = read_located("voc", voc, split="val")
    assert ([row["id"] for row in rows], left_out) == (["000001", "000002"], [])
    plain = read_located("coco", _save(root, CAT), split="val2017")
    file = root / "annotations" / "instances_val2017.json"
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    assert read_located("coco", root, split="val2017") == plain


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason=f"no BCCD in {SHARED} (set VLRFT_SHARED_DATA)")
def test_voc_on_bccd() -> None:
    rows, left_out = read_located("voc", SHARED / "bccd", split="train")
    assert len(rows) == 205
    (reason,) = left_out
    assert reason.startswith("image BloodImage_00343: ")
    assert reason.endswith("has no area; box left out")
    assert rows[0]["prompt"] == "Detect every Platelets, RBC, WBC."
    assert sum(len(one.target) for one in all_judged(rows)) == sum(len(row["answer"]) for row in rows)
    rows, left_out = read_located("voc", SHARED / "bccd", split="train", keep_published=True)
    assert (len(rows), left_out) == (205, [])
    assert [row["id"] for row in rows if "flags" in row["meta"]] == ["BloodImage_00343"]


def test_a_recipe_reads_detection_files_by_their_form(root: Path) -> None:
    _save(root, CAT, DOG)
    data = DataConfig(root=str(root), task="detection")
    source = SourceConfig(path=".", split="val2017", classes=["dog"], options={"negatives": 0})
    loaded = load_samples(data, source, role="train")
    assert [one.target for one in loaded.samples] == [[{"bbox": [20.5, 0.0, 40.0, 30.0], "label": "dog"}]]
    assert [item.reason for item in loaded.skipped] == ["image 2 holds none of the asked classes, and negatives is 0"]
