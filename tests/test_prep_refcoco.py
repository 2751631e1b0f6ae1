"""RefCOCO in REFER's pickles and in the tables of hubs."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from published_files import Row, all_judged, judged, picture, read_located, write_json

from vlrft.data.prep.plain_pickle import load_plain
from vlrft.data.problems import DataError, SampleError

PICTURE = "COCO_train2014_000000000009.jpg"


def _ref(ref_id: int, ann_id: int, *phrases: str, split: str = "val") -> Row:
    sentences = [
        {"sent_id": 10 * ref_id + i, "sent": text, "raw": text.upper(), "tokens": text.split()}
        for i, text in enumerate(phrases)
    ]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": 9,
        "category_id": 1,
        "split": split,
        "sentences": sentences,
        "sent_ids": [s["sent_id"] for s in sentences],
        "file_name": f"COCO_train2014_000000000009_{ann_id}.jpg",
    }


def _refer(root: Path, *refs: Row, protocol: int = 2, by: str = "unc") -> Path:
    (root / f"refs({by}).p").write_bytes(pickle.dumps(list(refs), protocol=protocol))
    write_json(root / "instances.json", {
        "images": [{"id": 9, "file_name": PICTURE, "width": 40, "height": 30}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 1, "bbox": [1, 2, 10, 20], "segmentation": [[1, 2, 11, 2, 11, 22]]},
            {"id": 2, "image_id": 9, "category_id": 1, "bbox": [20, 2, 10.5, 20], "iscrowd": 0},
            {"id": 3, "image_id": 9, "category_id": 1, "bbox": [20, 2, 0, 20]},
            {"id": 4, "image_id": 9, "category_id": 1, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "person"}],
    })  # fmt: skip
    picture(root / "images" / PICTURE)
    return root


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refer_rows(tmp_path: Path, protocol: int) -> None:
    _refer(tmp_path, _ref(1, 1, "left man", "guy in red"), _ref(2, 2, "right man", split="testA"), protocol=protocol)
    rows, left_out = read_located("refcoco", tmp_path, split="val")
    assert left_out == []
    assert rows[0] == {
        "id": "1-10",
        "task": "grounding",
        "prompt": "left man",
        "images": [str(tmp_path / "images" / PICTURE)],
        "boxes": {"box": [1.0, 2.0, 11.0, 22.0], "space": "abs_original"},
        "meta": {"ref_id": 1, "ann_id": 1, "category": "person", "split": "val", "mask": [[1, 2, 11, 2, 11, 22]]},
        "width": 40,
        "height": 30,
    }
    assert [row["prompt"] for row in rows] == ["left man", "guy in red"]
    assert all_judged(rows)[1].target == [1.0, 2.0, 11.0, 22.0]
    both, _ = read_located("refcoco", tmp_path / "refs(unc).p")
    assert [row["prompt"] for row in both] == ["left man", "guy in red", "right man"]
    with pytest.raises(DataError, match="has no split 'test'; splits: testA, val"):
        read_located("refcoco", tmp_path, split="test")


def test_refer_phrases_that_break_the_rules(tmp_path: Path) -> None:
    _refer(
        tmp_path, _ref(1, 1, "the man", "man left", "Man  left"), _ref(2, 2, "the Man", "man right"),
        _ref(3, 3, "flat man"), _ref(4, 4, "all people"), _ref(5, 2, " "),
    )  # fmt: skip
    rows, left_out = read_located("refcoco", tmp_path)
    assert [row["prompt"] for row in rows] == ["man left", "man right"]
    assert left_out == [
        "the phrase 'the man' names 2 objects of this image",
        "repeats the phrase 'Man  left' for its object",
        "the phrase 'the Man' names 2 objects of this image",
        "box [20.0, 2.0, 20.0, 22.0] has no area; so that no answer can be judged",
        "the region is a crowd",
        "has an empty phrase, which asks for nothing",
    ]
    rows, left_out = read_located("refcoco", tmp_path, keep_published=True)
    assert len(left_out) == 2
    flagged = [(row["prompt"], row["meta"]["flags"][0][:9]) for row in rows if "flags" in row["meta"]]
    assert flagged == [
        ("the man", "the phras"), ("Man  left", "repeats t"), ("the Man", "the phras"), ("all people", "the regio"),
    ]  # fmt: skip
    all_judged(rows)


def test_refer_files_of_several_splits(tmp_path: Path) -> None:
    _refer(tmp_path, _ref(1, 1, "left man"))
    _refer(tmp_path, _ref(2, 2, "right man"), by="umd")
    assert read_located("refcoco", tmp_path, split_by="umd")[0][0]["prompt"] == "right man"
    with pytest.raises(DataError, match="splits of umd, unc; set split_by"):
        read_located("refcoco", tmp_path)
    (tmp_path / "instances.json").unlink()
    with pytest.raises(DataError, match=r"no instances\.json beside"):
        read_located("refcoco", tmp_path, split_by="umd")


def test_refer_refs_to_nothing(tmp_path: Path) -> None:
    _refer(tmp_path, _ref(1, 77, "left man"), {"ref_id": 2}, _ref(3, 2, "right man"))
    with pytest.raises(SampleError, match="ref 1: names annotation 77"):
        read_located("refcoco", tmp_path)
    rows, left_out = read_located("refcoco", tmp_path, policy="skip")
    assert [row["prompt"] for row in rows] == ["right man"]
    assert left_out[1].startswith("lacks ann_id, image_id, split, sentences (it has ref_id)")


def test_pickles_of_python_2(tmp_path: Path) -> None:
    file = tmp_path / "refs(google).p"
    file.write_bytes(b"(lp0\n(dp1\nS'split'\np2\nS'val'\np3\nsS'sent'\np4\nVcaf\\u00e9\np5\nsS'ann_id'\np6\nI7\nsa.")
    assert load_plain(file) == [{"split": "val", "sent": "caf\u00e9", "ann_id": 7}]


class _Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, ("trap",)


def test_pickles_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "refs(unc).p"
    file.write_bytes(pickle.dumps([_Trap()]))
    with pytest.raises(DataError, match=r"asks for \w+\.mkdir: nothing of it was run"):
        load_plain(file)
    assert not (tmp_path / "trap").exists()
    file.write_bytes(b"no pickle")
    with pytest.raises(DataError, match="not a readable pickle"):
        load_plain(file)


XYWH, XYXY = [1, 2, 10, 20], [1, 2, 11, 22]
TABLES: dict[str, Row] = {
    "lmms-eval": {"question_id": "7", "question": "Describe the region.", "answer": ["left man", "guy in red"],
                  "bbox": XYWH, "segmentation": [1, 2, 11, 2, 11, 22], "iscrowd": 0, "image": "a.png"},
    "jxu124": {"sentences": [{"sent": "left man", "sent_id": 1}, {"sent": "guy in red", "sent_id": 2}], "bbox": XYXY,
               "raw_anns": json.dumps({"bbox": XYWH, "iscrowd": 0}), "image_path": "a.png",
               "raw_image_info": json.dumps({"file_name": "a.png", "width": 40, "height": 30})},
    "qwen-vl": {"image": "a.png", "sent": "left man", "bbox": XYXY, "width": 40, "height": 30},
    "shikra": {"img_path": "a.png", "expression": "left man", "bbox": XYXY, "width": 40, "height": 30},
    "vlm-r1": {"image": "a.png", "problem": "left man", "solution": XYXY, "normal_caption": "the man on the left"},
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "pics" / "a.png")
    file = tmp_path / "val.jsonl"
    file.write_text(json.dumps(TABLES[name]) + "\n")
    rows, left_out = read_located("refcoco", file, images=tmp_path / "pics")
    several = name in ("lmms-eval", "jxu124")
    assert [row["prompt"] for row in rows] == (["left man", "guy in red"] if several else ["left man"])
    assert [row["id"] for row in rows] == (["val-1-1", "val-1-2"] if several else ["val-1"])
    assert left_out == []
    for row in rows:
        assert row["images"] == [str(tmp_path / "pics" / "a.png")]
        assert row["boxes"] == {"box": [1.0, 2.0, 11.0, 22.0], "space": "abs_original"}
    if name == "lmms-eval":
        assert rows[0]["meta"] == {"question_id": "7", "mask": [[1, 2, 11, 2, 11, 22]]}
    assert all_judged(rows)[0].target == [1.0, 2.0, 11.0, 22.0]


def test_tables_of_an_unknown_form_are_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "val.jsonl"
    file.write_text(json.dumps({"image": "a.png", "phrase": "left man", "box": XYXY}) + "\n")
    with pytest.raises(SampleError, match=r"val\.jsonl:1: is in none of the known forms of RefCOCO; columns: image"):
        read_located("refcoco", file)
    with pytest.raises(DataError, match="split_by is for the pickles"):
        read_located("refcoco", file, split_by="unc")


def test_parquet_with_pictures(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = picture(tmp_path / "a.png").read_bytes()
    row = {**TABLES["lmms-eval"], "image": {"bytes": data, "path": None}, "file_name": "a_1.jpg"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "testA-00000.parquet")
    rows, _ = read_located("refcoco", tmp_path, split="testA")
    assert [judged(row).target for row in rows] == [[1.0, 2.0, 11.0, 22.0]] * 2
