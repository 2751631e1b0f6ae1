"""VQA-RAD, SLAKE, PathVQA and OmniMedVQA: closed and open questions for medical_qa."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_files import encoded, pictures, read, sample_of, write_json

from vlrft.data.problems import DataError, SampleError


def _hub(path: Path, picture: bytes, *rows: tuple[str, str]) -> Path:
    """The table of image, question and answer in which hubs keep such sets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = [{"image": {"bytes": picture, "path": None}, "question": q, "answer": a} for q, a in rows]
    pq.write_table(pa.Table.from_pylist(held), path)
    return path


def _rad(number: int, answer: Any, kind: str, **changes: Any) -> dict[str, Any]:
    return {
        "qid": number,
        "image_name": "synpic54610.jpg",
        "image_organ": "HEAD",
        "question": "Are regions of the brain infarcted?",
        "answer": answer,
        "answer_type": kind,
        "question_type": "PRES",
        "phrase_type": "freeform",
        "qid_linked_id": "03f451ca",
        **changes,
    }


def test_vqa_rad_as_published(tmp_path: Path) -> None:
    write_json(tmp_path / "VQA_RAD Dataset Public.json", [
        _rad(1, "Yes", "CLOSED"), _rad(2, "Left", "CLOSED "), _rad(3, "ring enhancing lesion", "OPEN"),
        _rad(4, 3, "OPEN", phrase_type="test_freeform"), _rad(5, "x", "MAYBE"), _rad(6, " ", "OPEN"),
    ])  # fmt: skip
    (picture,) = pictures(tmp_path / "VQA_RAD Image Folder", "synpic54610.jpg")
    rows, left_out = read("vqa-rad", tmp_path, split="train", policy="skip")
    meta = {"organ": "HEAD", "content_type": "PRES", "phrase_type": "freeform", "image_name": "synpic54610.jpg"}
    assert rows[0] == {
        "id": "1",
        "prompt": "Are regions of the brain infarcted?",
        "images": [str(picture)],
        "answer": {"type": "yesno", "answer": "yes"},
        "task": "medical_qa",
        "meta": {**meta, "question_type": "closed"},
    }
    assert (rows[1]["answer"], rows[1]["meta"]) == (
        {"type": "label", "answer": "Left"}, {**meta, "question_type": "closed"},
    )  # fmt: skip
    assert (rows[2]["answer"], rows[2]["meta"]["question_type"]) == ("ring enhancing lesion", "open")
    name = "VQA_RAD Dataset Public.json"
    assert left_out == [
        f"{name}:4: is of the split test",
        f"{name}:5: answer_type is 'MAYBE'; known: CLOSED, OPEN",
        f"{name}:6: no answer in 'answer'; correct the row",
    ]
    assert [sample_of(row, tmp_path).target for row in rows] == [row["answer"] for row in rows]
    tested, _ = read("vqa-rad", tmp_path / name, split="test", policy="skip")
    assert [(row["id"], row["answer"]) for row in tested] == [("4", "3")]
    with pytest.raises(DataError, match="has the splits train and test, not 'val'"):
        read("vqa-rad", tmp_path, split="val")


def test_vqa_rad_of_hubs_tells_closed_by_yes_and_no(tmp_path: Path) -> None:
    picture = encoded(tmp_path)
    _hub(tmp_path / "data" / "test-00000.parquet", picture, ("Is it?", "Yes"), ("Where?", "left lung"))
    rows, left_out = read("vqa-rad", tmp_path, split="test")
    assert left_out == []
    assert rows == [
        {
            "id": "test-00000-1", "prompt": "Is it?", "images": [{"bytes": picture}], "task": "medical_qa",
            "answer": {"type": "yesno", "answer": "yes"}, "meta": {"question_type": "closed"},
        },
        {
            "id": "test-00000-2", "prompt": "Where?", "images": [{"bytes": picture}], "task": "medical_qa",
            "answer": "left lung", "meta": {"question_type": "open"},
        },
    ]  # fmt: skip
    assert [sample_of(row, tmp_path).target for row in rows] == [row["answer"] for row in rows]


def _slake(number: int, answer: str, kind: str, **changes: Any) -> dict[str, Any]:
    return {
        "img_id": 1, "img_name": "xmlab1/source.jpg", "question": "What modality is used?", "answer": answer,
        "q_lang": "en", "location": "Abdomen", "modality": "MRI", "answer_type": kind, "base_type": "vqa",
        "content_type": "Modality", "triple": ["vhead", "_", "_"], "qid": number, **changes,
    }  # fmt: skip


def test_slake_as_published(tmp_path: Path) -> None:
    write_json(tmp_path / "validate.json", [
        _slake(0, "MRI", "OPEN"), _slake(1, "Yes", "CLOSED", base_type="kvqa"),
        _slake(2, "\u662f", "CLOSED", q_lang="zh"), _slake(3, "", "OPEN"),
    ])  # fmt: skip
    (picture,) = pictures(tmp_path / "imgs", "xmlab1/source.jpg")
    rows, left_out = read("slake", tmp_path, split="validation", policy="skip")
    meta = {"language": "en", "location": "Abdomen", "modality": "MRI", "content_type": "Modality", "base_type": "vqa"}
    assert rows[0] == {
        "id": "0",
        "prompt": "What modality is used?",
        "images": [str(picture)],
        "answer": "MRI",
        "task": "medical_qa",
        "meta": {**meta, "img_id": 1, "question_type": "open"},
    }
    assert [row["answer"] for row in rows[1:]] == [
        {"type": "yesno", "answer": "yes"}, {"type": "label", "answer": "\u662f"},
    ]  # fmt: skip
    assert rows[1]["meta"]["base_type"] == "kvqa"
    assert rows[2]["meta"]["language"] == "zh"
    assert left_out == ["validate.json:4: no answer in 'answer'; correct the row"]
    assert [sample_of(row, tmp_path).target for row in rows] == [row["answer"] for row in rows]
    rows, left_out = read("slake", tmp_path / "validate.json", policy="skip", language="en")
    assert [row["id"] for row in rows] == ["0", "1"]
    assert left_out[0] == "3: q_lang is 'zh', not 'en'"
    with pytest.raises(DataError, match="language is 'fr'; SLAKE has en and zh"):
        read("slake", tmp_path, split="validation", language="fr")


def _pickle(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def test_path_vqa_as_published(tmp_path: Path) -> None:
    other = {"answer_type": "other", "img_id": "train_0422"}
    _pickle(tmp_path / "qas" / "train_vqa.pkl", [
        {
            "answer_type": "other", "img_id": "train_0422", "label": {"in the canals of hering": 1},
            "question_id": 100422000, "question_type": "where", "sent": "Where are liver stem cells located?",
        },
        {
            "answer_type": "yes/no", "img_id": "train_0422", "label": {"yes": 1}, "question_id": 100422001,
            "question_type": "is", "sent": "Is it benign?",
        },
        {**other, "label": {"b": 0.3, "a": 1}, "question_id": 3, "sent": "Which?"},
        {**other, "label": {}, "question_id": 4, "sent": "Which?"},
        {**other, "label": {"a": 1}, "question_id": 5},
    ])  # fmt: skip
    (picture,) = pictures(tmp_path / "images" / "train", "train_0422.jpg")
    rows, left_out = read("path-vqa", tmp_path, split="train", policy="skip")
    assert rows[0] == {
        "id": "100422000",
        "prompt": "Where are liver stem cells located?",
        "images": [str(picture)],
        "answer": "in the canals of hering",
        "task": "medical_qa",
        "meta": {"answer_type": "other", "content_type": "where", "question_type": "open"},
    }
    assert [row["answer"] for row in rows[1:]] == [{"type": "yesno", "answer": "yes"}, ["a", "b"]]
    assert left_out == [
        "qas/train_vqa.pkl:4: its label {} is not an object of scores by answer; correct the row",
        "qas/train_vqa.pkl:5: no text in 'question' or 'sent' or 'Question' (columns: answer_type, img_id, label, "
        "question_id); correct the row",
    ]
    assert [sample_of(row, tmp_path).target for row in rows] == [row["answer"] for row in rows]
    assert read("path-vqa", tmp_path / "qas" / "train_vqa.pkl", policy="skip")[0] == rows
    with pytest.raises(DataError, match="split is None; set it to one of train, val, test"):
        read("path-vqa", tmp_path)
    with pytest.raises(DataError, match="no pickle of the split 'val'"):
        read("path-vqa", tmp_path, split="val")


def test_path_vqa_in_its_first_form_and_that_of_hubs(tmp_path: Path) -> None:
    _pickle(tmp_path / "qas" / "val" / "val_qa.pkl", [{"Image": "val_0001", "Question": "Is it?", "Answer": "No"}])
    pictures(tmp_path / "images" / "val", "val_0001.jpg")
    rows, _ = read("path-vqa", tmp_path, split="val")
    assert rows == [
        {
            "id": "val_qa-1", "prompt": "Is it?", "images": [str(tmp_path / "images/val/val_0001.jpg")],
            "answer": {"type": "yesno", "answer": "no"}, "task": "medical_qa", "meta": {"question_type": "closed"},
        }
    ]  # fmt: skip
    assert sample_of(rows[0], tmp_path).target == {"type": "yesno", "answer": "no"}
    picture = encoded(tmp_path)
    rows, _ = read("path-vqa", _hub(tmp_path / "hub" / "test.parquet", picture, ("What?", "a cyst")))
    assert (rows[0]["answer"], rows[0]["images"], rows[0]["meta"]) == (
        "a cyst", [{"bytes": picture}], {"question_type": "open"},
    )  # fmt: skip


class _Harm:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harm-was-done"),))


def test_nothing_in_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in ([_Harm()], OrderedDict(a=1)):
        file = _pickle(tmp_path / "test_vqa.pkl", content)
        with pytest.raises(DataError, match=r"test_vqa\.pkl is not a pickle of plain lists and dicts, it asks for"):
            read("path-vqa", file)
    assert not (tmp_path / "harm-was-done").exists()
    file.write_bytes(b"no pickle")
    with pytest.raises(DataError, match="is not a readable pickle"):
        read("path-vqa", file)
    with pytest.raises(DataError, match="holds a dict, not a list of questions"):
        read("path-vqa", _pickle(file, {"a": 1}))


def _omni(number: int, answer: str, *options: str, **changes: Any) -> dict[str, Any]:
    listed = {f"option_{letter}": text for letter, text in zip("ABCD", options, strict=False)}
    return {
        "dataset": "ACRIMA", "question_id": f"ACRIMA_{number:04}", "question_type": "Modality Recognition",
        "question": "What kind of image is this?", "gt_answer": answer, "image_path": "Images/ACRIMA/a.png",
        "modality_type": "Fundus Photography", **listed, **changes,
    }  # fmt: skip


def test_omni_med_vqa_as_published(tmp_path: Path) -> None:
    base = tmp_path / "QA_information" / "Open-access"
    write_json(base / "ACRIMA.json", [
        _omni(0, "Fundus photo", "CT", "MR", "Fundus photo", "X-ray"), _omni(1, "No", "Yes", "No"),
        _omni(2, "No", "No", "Yes", "No "), _omni(3, "PET", "CT", "MR"),
    ])  # fmt: skip
    chest = _omni(9, "CT", "CT", "MR")
    del chest["modality_type"]
    write_json(base / "Chest CT Scan.json", [{**chest, "modality": "CT(Computed Tomography)"}])
    pictures(tmp_path, "Images/ACRIMA/a.png")
    rows, left_out = read("omni-med-vqa", tmp_path, policy="skip")
    assert rows[0] == {
        "id": "ACRIMA_0000",
        "prompt": "What kind of image is this?",
        "images": [str(tmp_path / "Images/ACRIMA/a.png")],
        "answer": {"type": "mcq", "answer": "C"},
        "task": "medical_qa",
        "meta": {
            "dataset": "ACRIMA",
            "content_type": "Modality Recognition",
            "modality": "Fundus Photography",
            "options": ["CT", "MR", "Fundus photo", "X-ray"],
            "question_type": "closed",
        },
    }
    assert [(row["id"], row["answer"]["answer"]) for row in rows] == [
        ("ACRIMA_0000", "C"), ("ACRIMA_0001", "B"), ("ACRIMA_0009", "A"),
    ]  # fmt: skip
    assert rows[2]["meta"]["modality"] == "CT(Computed Tomography)"
    assert left_out == [
        "QA_information/Open-access/ACRIMA.json:3: 2 options have the text of the answer",
        "QA_information/Open-access/ACRIMA.json:4: the answer 'PET' is none of the options ['CT', 'MR']",
    ]
    assert [sample_of(row, tmp_path).target for row in rows] == [row["answer"] for row in rows]
    kept, left_out = read("omni-med-vqa", base, split="ACRIMA", policy="skip", keep_published=True)
    assert len(left_out) == 1
    assert (kept[2]["answer"]["answer"], kept[2]["meta"]["flags"]) == ("A", ["2 options have the text of the answer"])
    assert sample_of(kept[2], tmp_path).target == {"type": "mcq", "answer": "A"}
    rows, left_out = read("omni-med-vqa", base, policy="skip", modality="ct(computed tomography)")
    assert [row["id"] for row in rows] == ["ACRIMA_0009"]
    assert left_out[0] == "ACRIMA.json:1: the modality is 'Fundus Photography', not 'ct(computed tomography)'"
    with pytest.raises(SampleError, match="the answer 'PET' is none of the options"):
        read("omni-med-vqa", base / "ACRIMA.json")
    with pytest.raises(DataError, match=r"no JSON file named MURA\.json in .*Open-access"):
        read("omni-med-vqa", tmp_path, split="MURA")
