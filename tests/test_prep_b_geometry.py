"""GeoQA, Geo170K and Geometry3K: geometry as maths and as multiple choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_files import encoded, excerpt, pictures, read, sample_of, write_json

from vlrft.data.problems import DataError, SampleError
from vlrft.types import MediaPart, TextPart


def test_the_geoqa_rows_that_r1_v_publishes(tmp_path: Path) -> None:
    rows, left_out = read("geo-qa", excerpt("r1v_geoqa.jsonl"), images=tmp_path)
    assert len(rows) == 25
    assert left_out == []
    assert rows[7] == {
        "id": "r1v_geoqa-8",
        "prompt": "As shown in the figure, triangle ABC congruent  triangle DEF, points A and D, B and E are the "
        "corresponding vertices, and the measured BC = 5.0, BF = 7.0, then the length of EC is ()",
        "images": [str(tmp_path / "Geo170K/images/test/7.png")],
        "answer": "3cm",
        "task": "math",
        "meta": {},
    }
    assert rows[0]["answer"] == "140\u00b0"
    for row in rows:
        pictures(tmp_path, str(Path(row["images"][0]).relative_to(tmp_path)))
        assert sample_of(row, tmp_path).target == row["answer"]


def test_the_training_table_of_r1_v(tmp_path: Path) -> None:
    picture = encoded(tmp_path)
    shown = {"image": {"bytes": picture, "path": None}}
    table = [
        {**shown, "problem": "Find angle A.", "solution": "<answer> 145\u00b0 </answer>"},
        {**shown, "problem": "Find angle B.", "solution": "<answer></answer>"},
    ]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "train.parquet")
    rows, left_out = read("geo-qa", tmp_path, policy="skip")
    assert rows == [
        {
            "id": "train-1", "prompt": "Find angle A.", "images": [{"bytes": picture}], "answer": "145\u00b0",
            "task": "math", "meta": {},
        }
    ]  # fmt: skip
    assert left_out == ["train.parquet:2: '<answer></answer>' holds no answer between its tags; correct the row"]
    assert sample_of(rows[0], tmp_path).target == "145\u00b0"


def _talk(question: str, solution: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": solution}]
    return {"image": "geo3k/1.png", "conversations": turns}


def test_dialogues_of_geo170k(tmp_path: Path) -> None:
    asked = "<image>\nFind x.\nChoices:\nA. 35\u00b0\nB. 55\u00b0\nC. 65\u00b0"
    write_json(tmp_path / "qa_tuning.json", [
        _talk(asked, "Since AB is parallel to CD, x is 55.\nAnswer:B"), _talk(asked, "x is 90.\nAnswer:D"),
        _talk("<image>\nDescribe it.", "A triangle."), _talk("<image>\nFind x.", "It is B.\nAnswer:B"),
        {"image": "geo3k/1.png", "conversations": []},
    ])  # fmt: skip
    pictures(tmp_path, "geo3k/1.png")
    rows, left_out = read("geo170k", tmp_path, policy="skip", images=tmp_path)
    text = asked.removeprefix("<image>\n")
    assert rows == [
        {
            "id": "qa_tuning-1",
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
            "images": [str(tmp_path / "geo3k/1.png")],
            "answer": "B",
            "task": "choice",
            "meta": {
                "options": ["35\u00b0", "55\u00b0", "65\u00b0"],
                "think": "Since AB is parallel to CD, x is 55.",
            },
        }
    ]
    assert left_out == [
        "qa_tuning.json:2: the answer D is none of its 3 choices",
        "qa_tuning.json:3: the solution does not end in 'Answer:' and a letter",
        "qa_tuning.json:4: the question lists no choices A, B, ...",
        "qa_tuning.json:5: conversations are [], not one question and one answer; correct the row",
    ]
    sample = sample_of(rows[0], tmp_path)
    assert (sample.target, sample.parts) == ("B", (MediaPart(index=0), TextPart(text=text)))


def _problem(folder: Path, number: int, **changes: Any) -> None:
    content = {
        "problem_text": "In \\odot X, A B = 30. Find m \\widehat A B.", "compact_text": "In \\odot X, AB = 30.",
        "annotat_text": "In $\\odot X, A B=30$.", "choices": ["30", "40", "60", "80"], "answer": "D", "id": number,
        "problem_type_graph": ["Circle"], "problem_type_goal": ["Angle"], "unit": "", "data_type": "train",
        "precise_value": [30.0, 40.0, 60.0, 80.0], **changes,
    }  # fmt: skip
    write_json(folder / str(number) / "data.json", content)
    pictures(folder, f"{number}/img_diagram.png")


def test_geometry3k_folders(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    _problem(folder, 2)
    _problem(folder, 10, unit="cm")
    _problem(folder, 11, choices=["30", "80 ", "60", "80"])
    _problem(folder, 12, answer="E")
    _problem(folder, 13, choices=["30"])
    _problem(folder, 14)
    (folder / "14" / "img_diagram.png").unlink()
    rows, left_out = read("geometry3k", tmp_path, split="train", policy="skip")
    assert rows[0] == {
        "id": "2",
        "prompt": "In \\odot X, A B = 30. Find m \\widehat A B.",
        "images": [str(folder / "2/img_diagram.png")],
        "answer": "D",
        "task": "choice",
        "meta": {"graph": ["Circle"], "goal": ["Angle"], "split": "train", "options": ["30", "40", "60", "80"]},
    }
    assert [(row["id"], row["meta"].get("unit")) for row in rows] == [("2", None), ("10", "cm")]
    assert left_out == [
        "train/11/data.json: 2 choices have the text of the answer",
        "train/12/data.json: the answer 'E' is no letter of 4 choices; correct the file",
        "train/13/data.json: choices are ['30'], not a list of texts; correct the file",
        "train/14/data.json: no img_diagram.png beside it; unpack the release again",
    ]
    kept, _ = read("geometry3k", folder, policy="skip", keep_published=True, text="compact_text")
    assert kept[0]["prompt"] == "In \\odot X, AB = 30."
    assert kept[2]["meta"]["flags"] == ["2 choices have the text of the answer"]
    assert [sample_of(row, tmp_path).target for row in kept] == ["D"] * 3
    with pytest.raises(DataError, match="holds the splits train; set split to one of them"):
        read("geometry3k", tmp_path)
    with pytest.raises(DataError, match="text is 'latex'; Geometry3K has problem_text"):
        read("geometry3k", folder, text="latex")
    with pytest.raises(SampleError, match=r"12/data\.json: the answer 'E'"):
        read("geometry3k", folder)


def test_geometry3k_in_the_table_of_easyr1(tmp_path: Path) -> None:
    picture = encoded(tmp_path)
    table = [{"images": [{"bytes": picture, "path": None}], "problem": "<image>Find x.", "answer": "\\frac{9}{2}"}]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "train-0.parquet")
    rows, left_out = read("geometry3k", tmp_path, split="train")
    assert left_out == []
    assert rows == [
        {
            "id": "train-0-1",
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Find x."}]}],
            "images": [{"bytes": picture}],
            "answer": "\\frac{9}{2}",
            "task": "math",
            "meta": {},
        }
    ]
    assert sample_of(rows[0], tmp_path).target == "\\frac{9}{2}"
