"""The few-shot classification sets of CoOp, and class folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from published_files import Row, all_judged, picture, read_located, write_json

from vlrft.data.prep.few_shot_files import SETS
from vlrft.data.problems import DataError, SampleError

CLASSES = ("abyssinian", "great_dane", "pug", "sphynx", "boxer")


def _pets(root: Path, *, per_class: int = 5) -> Path:
    entries = {
        part: [[f"{name}_{part}_{i}.jpg", label, name] for label, name in enumerate(CLASSES) for i in range(per_class)]
        for part in ("train", "val", "test")
    }
    for items in entries.values():
        for path, _, _ in items:
            picture(root / "images" / path, (8, 8))
    write_json(root / "split_zhou_OxfordPets.json", entries)
    return root


def test_coop_split_file(tmp_path: Path) -> None:
    rows, left_out = read_located("few-shot", _pets(tmp_path), split="test")
    assert (len(rows), left_out) == (25, [])
    labels = ["abyssinian", "great dane", "pug", "sphynx", "boxer"]
    assert rows[5] == {
        "id": "great_dane_test_0.jpg",
        "task": "classification",
        "prompt": "Which pet breed does this image show?",
        "images": [str(tmp_path / "images" / "great_dane_test_0.jpg")],
        "answer": "great dane",
        "meta": {"labels": labels, "label": 1},
    }
    assert all_judged(rows)[5].target == "great dane"
    asked, _ = read_located(
        "few-shot",
        tmp_path / "split_zhou_OxfordPets.json",
        split="test",
        question="Which dog?",
        names={"pug": "Pug dog"},
    )
    assert [(row["prompt"], row["answer"]) for row in asked[10:11]] == [("Which dog?", "Pug dog")]


def test_shots_are_drawn_by_seed(tmp_path: Path) -> None:
    _pets(tmp_path)

    def drawn(**options: Any) -> list[str]:
        return [row["id"] for row in read_located("few-shot", tmp_path, split="train", **options)[0]]

    assert len(drawn(shots=2)) == 10
    assert [row["answer"] for row in read_located("few-shot", tmp_path, split="train", shots=1)[0]] == [
        "abyssinian", "great dane", "pug", "sphynx", "boxer",
    ]  # fmt: skip
    assert drawn(shots=2) == drawn(shots=2)
    assert len({tuple(drawn(shots=2, seed=seed)) for seed in range(5)}) > 1
    assert len(drawn(shots=99)) == 25
    assert drawn(shots=2, subset="base") + drawn(shots=2, subset="new") == drawn(shots=2)


def test_base_and_new_classes(tmp_path: Path) -> None:
    _pets(tmp_path, per_class=1)
    base, _ = read_located("few-shot", tmp_path, split="test", subset="base")
    new, _ = read_located("few-shot", tmp_path, split="test", subset="new")
    assert [row["answer"] for row in base] == base[0]["meta"]["labels"] == ["abyssinian", "great dane", "pug"]
    assert [row["answer"] for row in new] == new[0]["meta"]["labels"] == ["sphynx", "boxer"]
    all_judged(base + new)


@pytest.mark.parametrize("name", SETS)
def test_every_split_file_finds_its_pictures(tmp_path: Path, name: str) -> None:
    folders, kind = SETS[name]
    picture(tmp_path / folders[-1] / "AnnualCrop" / "a.jpg")
    entries = [["AnnualCrop/a.jpg", 0, "AnnualCrop"]]
    write_json(tmp_path / f"split_zhou_{name}.json", {"train": entries, "val": [], "test": []})
    rows, _ = read_located("few-shot", tmp_path, split="train")
    assert rows[0]["prompt"] == f"Which {kind} does this image show?"
    assert rows[0]["answer"] == ("Annual Crop Land" if name == "EuroSAT" else "AnnualCrop")
    assert len(all_judged(rows)) == 1


def test_aircraft(tmp_path: Path) -> None:
    (tmp_path / "variants.txt").write_text("707-320\nF/A-18\n")
    (tmp_path / "images_variant_train.txt").write_text("0034309 F/A-18\n0034310 707-320\n")
    for name in ("0034309", "0034310"):
        picture(tmp_path / "images" / f"{name}.jpg")
    rows, _ = read_located("few-shot", tmp_path, split="train")
    assert [(row["id"], row["answer"]) for row in rows] == [("0034309", "F/A-18"), ("0034310", "707-320")]
    assert rows[0]["meta"] == {"labels": ["707-320", "F/A-18"], "label": 1}
    all_judged(rows)
    (tmp_path / "images_variant_train.txt").write_text("0034309 A380\n")
    with pytest.raises(DataError, match=r"train\.txt:1: variant 'A380' is not in variants\.txt"):
        read_located("few-shot", tmp_path, split="train")
    with pytest.raises(DataError, match="split is 'test'; set it to one of train"):
        read_located("few-shot", tmp_path, split="test")


def test_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "variants.txt").write_text("\ufeff707-320\nF/A-18\n", encoding="utf-8")
    (tmp_path / "images_variant_train.txt").write_text("\ufeff0034309 F/A-18\n0034310 707-320\n", encoding="utf-8")
    for name in ("0034309", "0034310"):
        picture(tmp_path / "images" / f"{name}.jpg")
    rows, left_out = read_located("few-shot", tmp_path, split="train")
    assert [(row["id"], row["answer"]) for row in rows] == [("0034309", "F/A-18"), ("0034310", "707-320")]
    assert left_out == []


def test_imagenet_and_classes_of_one_name(tmp_path: Path) -> None:
    wnids = {"n01": "tench", "n02": "missile", "n03": "missile"}
    (tmp_path / "classnames.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in wnids.items()))
    for wnid in wnids:
        picture(tmp_path / "images" / "val" / wnid / "a.JPEG")
    rows, left_out = read_located("few-shot", tmp_path, split="test")
    assert [(row["id"], row["answer"]) for row in rows] == [("n01/a.JPEG", "tench")]
    assert left_out == ["2 classes have the name 'missile'"] * 2
    rows, left_out = read_located("few-shot", tmp_path, split="test", keep_published=True)
    assert [row["meta"].get("flags") for row in rows] == [
        None,
        left_out := ["2 classes have the name 'missile'"],
        left_out,
    ]
    assert rows[0]["meta"]["labels"] == ["tench", "missile"]
    all_judged(rows)
    with pytest.raises(DataError, match=r"train has no pictures in folders such as n01; set images"):
        read_located("few-shot", tmp_path, split="train")


def test_class_folders(tmp_path: Path) -> None:
    for name in ("water_lily", "Faces_easy", "rose"):
        picture(tmp_path / "train" / name / "a.jpg")
    rows, left_out = read_located("few-shot", tmp_path, split="train")
    assert [(row["id"], row["answer"]) for row in rows] == [("rose/a.jpg", "rose"), ("water_lily/a.jpg", "water lily")]
    assert rows[0]["prompt"] == "Which class does this image show?"
    assert left_out == ["is no class of its own in the few-shot sets"]
    assert read_located("few-shot", tmp_path / "train")[0] == rows
    all_judged(rows)
    with pytest.raises(DataError, match="split is 'test'; set it to one of train"):
        read_located("few-shot", tmp_path, split="test")
    with pytest.raises(DataError, match="neither a split file of CoOp nor folders of classes"):
        read_located("few-shot", tmp_path / "train" / "rose")


def test_errors(tmp_path: Path) -> None:
    _pets(tmp_path, per_class=1)
    options: tuple[tuple[Row, str], ...] = (
        ({}, "split is None; set it to one of train, val, test"),
        ({"split": "test", "shots": 0}, "shots is 0"),
        ({"split": "test", "subset": "old"}, "subset is 'old'; use one of all, base, new"),
        ({"split": "test", "names": {"cat": "x"}}, "names: .* has no class 'cat'"),
    )
    for given, says in options:
        with pytest.raises(DataError, match=says):
            read_located("few-shot", tmp_path, **given)
    write_json(tmp_path / "split_zhou_OxfordPets.json", {"train": [["a.jpg", "0", "pug"]], "test": []})
    with pytest.raises(SampleError, match=r"train 1: .* is not \[path, label number, class name\]"):
        read_located("few-shot", tmp_path, split="train")
    write_json(
        tmp_path / "split_zhou_OxfordPets.json", {"train": [["a.jpg", 0, "pug"], ["b.jpg", 0, "boxer"]], "test": []}
    )
    with pytest.raises(DataError, match="label 0 is 'boxer' here and 'pug' before"):
        read_located("few-shot", tmp_path, split="train")
    write_json(tmp_path / "split_zhou_OxfordPets.json", {"train": []})
    with pytest.raises(DataError, match="is not a split file of CoOp"):
        read_located("few-shot", tmp_path, split="train")
