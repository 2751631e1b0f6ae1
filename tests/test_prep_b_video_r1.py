"""Video-R1 and VideoRFT: five types of questions about videos and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from published_files import clips, pictures, read, sample_of, write_json

from vlrft.data.problems import DataError, SampleError


def _row(number: int, kind: str, answer: str, **changes: Any) -> dict[str, Any]:
    return {
        "problem_id": number,
        "problem": "What appears on the screen?",
        "data_type": "video",
        "problem_type": kind,
        "options": [],
        "solution": f"<answer>{answer}</answer>",
        "path": "./LLaVA/clip.mp4",
        "data_source": "LLaVA-Video-178K/30_60_s",
        **changes,
    }


OPTIONS = ["A. A subscription", "B. A command", "C. A warning"]


def test_each_type_becomes_a_question_of_video_qa(tmp_path: Path) -> None:
    image = {"data_type": "image", "path": "./OCR/a.png", "data_source": "TextVQA"}
    write_json(tmp_path / "Video-R1-260k.json", [
        _row(2, "multiple choice", "B", options=OPTIONS), _row(3, "numerical", " 12.5 "), _row(4, "regression", "40"),
        _row(5, "OCR", "Sale 50%", **image),
        _row(6, "free-form", "a man rides", problem="<image>What is shown?", **image),
    ])  # fmt: skip
    clips(tmp_path, "LLaVA/clip.mp4")
    pictures(tmp_path, "OCR/a.png")
    rows, left_out = read("video-r1", tmp_path)
    assert left_out == []
    assert rows[0] == {
        "id": "2",
        "prompt": "What appears on the screen?",
        "videos": [str(tmp_path / "LLaVA/clip.mp4")],
        "answer": "B",
        "task": "video_qa",
        "meta": {"data_source": "LLaVA-Video-178K/30_60_s", "question_type": "choice", "options": OPTIONS},
    }
    assert rows[3] == {
        "id": "5",
        "prompt": "What appears on the screen?",
        "images": [str(tmp_path / "OCR/a.png")],
        "answer": "Sale 50%",
        "task": "video_qa",
        "meta": {"data_source": "TextVQA", "question_type": "ocr"},
    }
    assert rows[4]["prompt"] == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is shown?"}]}
    ]
    samples = [sample_of(row, tmp_path) for row in rows]
    assert [sample.target for sample in samples] == ["B", "12.5", "40", "Sale 50%", "a man rides"]
    assert [len(sample.media) for sample in samples] == [1] * 5


def test_reasoning_and_options_in_the_question(tmp_path: Path) -> None:
    write_json(tmp_path / "cot.json", [
        _row(2, "multiple choice", "A", process="<think>\nLet me see.\n</think>", problem="What?\nA. x\nB. y"),
        {**_row(3, "free-form", "x"), "solution": "<think>Hm.</think>\n<answer>It is red.</answer>"},
    ])  # fmt: skip
    clips(tmp_path, "LLaVA/clip.mp4")
    rows, left_out = read("videorft", tmp_path / "cot.json")
    assert left_out == []
    assert rows[0]["meta"] == {
        "data_source": "LLaVA-Video-178K/30_60_s", "question_type": "choice", "think": "Let me see.",
    }  # fmt: skip
    assert (rows[1]["answer"], rows[1]["meta"]["think"]) == ("It is red.", "Hm.")
    assert [sample_of(row, tmp_path).target for row in rows] == ["A", "It is red."]


def test_answers_that_nothing_could_match_are_listed(tmp_path: Path) -> None:
    write_json(tmp_path / "train.json", [
        _row(1, "numerical", "3:4"), _row(2, "multiple choice", "D", options=OPTIONS), _row(3, "free-form", " "),
        _row(3, "regression", "7", data_source="ScanNet"), _row(5, "ranking", "x"),
        _row(6, "OCR", "x", data_type="audio"),
        _row(7, "OCR", "x", problem="<video> <video>"), _row(7, "OCR", "x"), _row(7, "OCR", "y"),
    ])  # fmt: skip
    rows, left_out = read("video-r1", tmp_path, split="train", policy="skip", data_source="LLaVA")
    assert [(row["id"], row["answer"]) for row in rows] == [("7", "x"), ("7-9", "y")]
    assert left_out == [
        "train.json:1: the answer '3:4' is not a number",
        "train.json:2: the answer 'D' is no option's letter",
        "train.json:3: '<answer> </answer>' holds no answer between its tags; correct the row",
        "train.json:4: data_source is 'ScanNet', not 'LLaVA'",
        "train.json:5: problem_type is 'ranking'; known: multiple choice, multiple-choice, numerical, ocr, free-form, "
        "regression",
        "train.json:6: data_type is 'audio'; known: image, video",
        "train.json:7: the question marks 2 videos, but has one; correct the row",
    ]
    with pytest.raises(SampleError, match=r"train\.json:3: '<answer> </answer>' holds no answer"):
        read("video-r1", tmp_path / "train.json")


def test_a_split_is_never_replaced_by_another_file(tmp_path: Path) -> None:
    write_json(tmp_path / "Video-R1-260k.json", [_row(1, "OCR", "x")])
    assert len(read("video-r1", tmp_path)[0]) == 1
    with pytest.raises(DataError, match=r"whose name starts with 'test' in .*; the published file may be"):
        read("video-r1", tmp_path, split="test")
