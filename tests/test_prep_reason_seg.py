"""LISA's ReasonSeg."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_files import Row, all_judged, judged, picture, read_located, write_json

from vlrft.data.problems import DataError, SampleError

SQUARE = [[4, 5], [14, 5], [14, 25.5], [4, 25]]


def _shape(points: list[list[float]], label: str = "target") -> Row:
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": points, "flags": {}}


def _save(root: Path, *shapes: Row, texts: tuple[str, ...] = ("where to sit",), name: str = "1_2") -> Path:
    picture(root / "train" / f"{name}.jpg")
    write_json(root / "train" / f"{name}.json", {"text": list(texts), "is_sentence": True, "shapes": list(shapes)})
    return root


def test_rows(tmp_path: Path) -> None:
    shapes = (
        _shape(SQUARE),
        _shape([[20, 10], [30, 10], [25, 20]]),
        _shape(SQUARE, "ignore"),
        _shape([[1, 1]], "flag"),
    )
    rows, left_out = read_located("lisa", _save(tmp_path, *shapes, texts=("where to sit", "a seat")), split="train")
    assert left_out == []
    assert rows[0] == {
        "id": "1_2-1",
        "task": "reasoning_grounding",
        "prompt": "where to sit",
        "images": [str(tmp_path / "train" / "1_2.jpg")],
        "answer": [4.0, 5.0, 30.0, 25.5],
        "boxes": {"space": "abs_original"},
        "meta": {
            "mask": [[4, 5, 14, 5, 14, 25.5, 4, 25], [20, 10, 30, 10, 25, 20]],
            "is_sentence": True,
            "ignore": [[4, 5, 14, 5, 14, 25.5, 4, 25]],
        },
    }
    assert [row["prompt"] for row in rows] == ["where to sit", "a seat"]
    assert all_judged(rows)[0].target == [4.0, 5.0, 30.0, 25.5]
    rows, _ = read_located("lisa", tmp_path / "train", keep_published=True)
    assert [(row["id"], row["prompt"], row["meta"]["texts"]) for row in rows] == [
        ("1_2", "where to sit", ["where to sit", "a seat"])
    ]


def test_a_polygon_past_the_edge_ends_there(tmp_path: Path) -> None:
    rows, left_out = read_located("lisa", _save(tmp_path, _shape([[-3, 5], [14, 5], [14, 44]])), split="train")
    assert (judged(rows[0]).target, left_out) == ([0.0, 5.0, 14.0, 30.0], [])


def test_polygons_with_too_few_points(tmp_path: Path) -> None:
    _save(tmp_path, _shape(SQUARE), _shape([[1, 2], [3, 4]]))
    reason = "shape 1 (target) has 2 points, which is no polygon"
    assert read_located("lisa", tmp_path, split="train") == ([], [reason])
    (row,), _ = read_located("lisa", tmp_path, split="train", keep_published=True)
    assert (row["meta"]["flags"], row["answer"]) == ([reason], [4.0, 5.0, 14.0, 25.5])
    judged(row)


def test_what_has_no_target_is_listed(tmp_path: Path) -> None:
    _save(tmp_path, _shape(SQUARE, "ignore"))
    _save(tmp_path, _shape(SQUARE), texts=(), name="2")
    _save(tmp_path, _shape([[50, 5], [60, 5], [60, 9]]), name="3")
    assert read_located("lisa", tmp_path, split="train", keep_published=True) == (
        [],
        ["no polygon of a target is left", "has no text", "its target polygons have no area inside the image"],
    )


def test_windows_texts_and_broken_files(tmp_path: Path) -> None:
    _save(tmp_path, _shape(SQUARE))
    content = {"text": ["the dog\u2019s toy"], "is_sentence": False, "shapes": [_shape(SQUARE)]}
    (tmp_path / "train" / "1_2.json").write_bytes(json.dumps(content, ensure_ascii=False).encode("cp1252"))
    (row,), _ = read_located("lisa", tmp_path, split="train")
    assert row["prompt"] == "the dog\u2019s toy"
    for text, says in (("{", "is not valid JSON"), ("[]", "is a list, not an object with text, shapes")):
        (tmp_path / "train" / "1_2.json").write_text(text)
        with pytest.raises(SampleError, match=says):
            read_located("lisa", tmp_path, split="train")
    with pytest.raises(DataError, match="no folder 'val'; folders here: train"):
        read_located("lisa", tmp_path, split="val")
    with pytest.raises(DataError, match=r"no \.json file in"):
        read_located("lisa", tmp_path)


def test_a_byte_order_mark(tmp_path: Path) -> None:
    _save(tmp_path, _shape([[4, 6], [20, 6], [20, 18]]))
    plain = read_located("lisa", tmp_path, split="train")
    [file] = tmp_path.rglob("*.json")
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    assert (len(plain[0]), plain) == (1, read_located("lisa", tmp_path, split="train"))
