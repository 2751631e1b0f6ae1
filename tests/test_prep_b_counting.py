"""CLEVR-Math and SuperCLEVR: how many there are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_files import encoded, excerpt, pictures, read, sample_of, write_json

from vlrft.data.problems import SampleError


def test_the_superclevr_rows_that_r1_v_publishes(tmp_path: Path) -> None:
    rows, left_out = read("superclevr", excerpt("r1v_superclevr_counting.jsonl"), images=tmp_path)
    assert len(rows) == 25
    assert left_out == []
    assert rows[0] == {
        "id": "r1v_superclevr_counting-1",
        "prompt": "How many different items are there in the image?",
        "images": [str(tmp_path / "images/superCLEVR_new_025000.png")],
        "answer": 4,
        "task": "counting",
        "meta": {},
    }
    assert [row["answer"] for row in rows[:7]] == [4, 9, 10, 4, 3, 3, 3]
    for row in rows:
        pictures(tmp_path, str(Path(row["images"][0]).relative_to(tmp_path)))
        assert sample_of(row, tmp_path).target == row["answer"]


def test_clevr_math_in_the_tables_of_hubs(tmp_path: Path) -> None:
    picture = encoded(tmp_path)
    table = [
        {"template": kind, "id": i, "question": "Take away all cubes.", "image": {"bytes": picture, "path": "a.png"},
         "label": 4 + i} for i, kind in enumerate(["subtraction", "addition"])
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "train-0.parquet")
    rows, left_out = read("clevr-math", tmp_path, split="train", template="subtraction")
    assert rows == [
        {
            "id": "0", "prompt": "Take away all cubes.", "images": [{"bytes": picture}], "answer": 4,
            "task": "counting", "meta": {"template": "subtraction"},
        }
    ]  # fmt: skip
    assert left_out == ["train-0.parquet:2: the template is 'addition', not 'subtraction'"]
    assert sample_of(rows[0], tmp_path).target == 4


def test_clevr_math_of_its_authors_and_of_reason_rft(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "CLEVR_val_000000.png")
    ask = {"question": "Add 2 balls.", "image_filename": "CLEVR_val_000000.png"}
    write_json(tmp_path / "val.json", {
        "info": {"split": "val"}, "questions": [{**ask, "answer": 3, "template_filename": "addition.json"}],
    })  # fmt: skip
    rows, _ = read("clevr-math", tmp_path, split="val", images=tmp_path / "images")
    assert [(row["id"], row["answer"], row["meta"]) for row in rows] == [("val-1", 3, {"template": "addition.json"})]
    assert sample_of(rows[0], tmp_path).target == 3
    rft = {"image": "CLEVR_val_000000.png", "problem": "How many?"}
    file = write_json(tmp_path / "clevr_math.json", [
        {**rft, "id": "q1", "solution": "<answer> 3 </answer>"}, {**rft, "id": "q2", "answer": "7"},
        {**rft, "solution": "<answer>many</answer>"}, {**rft, "answer": 2.5}, {**rft, "answer": -1}, {**rft},
        {"image": None, "problem": "How many?", "answer": 1}, {"image": "a.png", "answer": 1}, {**rft, "answer": True},
        {**rft, "answer": float("inf")}, {**rft, "answer": float("nan")},
    ])  # fmt: skip
    rows, left_out = read("clevr-math", file, images=tmp_path / "images", policy="skip")
    assert [(row["id"], row["answer"]) for row in rows] == [("q1", 3), ("q2", 7)]
    assert [sample_of(row, tmp_path).target for row in rows] == [3, 7]
    no_count = "is not a whole number from 0 on; correct the row"
    assert left_out == [
        f"3: the answer '<answer>many</answer>' {no_count}",
        f"4: the answer 2.5 {no_count}",
        f"5: the answer -1 {no_count}",
        f"6: the answer None {no_count}",
        "7: no picture in 'image_path' or 'image' or 'image_filename' or 'images': None; correct the row",
        "8: no text in 'question' or 'problem' (columns: image, answer); correct the row",
        f"9: the answer True {no_count}",
        f"10: the answer inf {no_count}",
        f"11: the answer nan {no_count}",
    ]
    with pytest.raises(SampleError, match=r"clevr_math\.json:3: the answer '<answer>many"):
        read("clevr-math", file, images=tmp_path / "images")
