"""Published rows end to end: their references earn full marks, sources and conversion read the forms by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published_files import Row, clips, excerpt, pictures, read, sample_of, write_json
from typer.testing import CliRunner

from vlrft.cli import app
from vlrft.config import DataConfig, SourceConfig
from vlrft.data.convert import Request, convert
from vlrft.data.sources import load_samples
from vlrft.data.tasks import build_task
from vlrft.rewards import Judge

META = {"coord_space": "norm_1000", "image_size": [40, 30], "input_size": [40, 30], "num_tokens": 9}
OPEN_RAD = {
    "qid": 1, "image_name": "a.png", "question": "Where?", "answer": "left lung", "answer_type": "OPEN",
    "phrase_type": "freeform",
}  # fmt: skip
OMNI = {
    "question_id": "x", "question": "What is it?", "gt_answer": "MR", "image_path": "a.png", "option_A": "CT",
    "option_B": "MR",
}  # fmt: skip
TRANCE = {"id": "a", "image": ["a.png", "a.png"], "problem": "(...)", "answer": "change_size(0, 'large')"}
VIDEO = {
    "problem_id": 1, "problem": "How long?", "data_type": "video", "problem_type": "numerical", "options": [],
    "solution": "<answer>12.50</answer>", "path": "v.mp4",
}  # fmt: skip


def _marks(row: Row, folder: Path) -> float:
    """What the reference of the row earns by the rewards of its task."""
    task = build_task(row["task"])
    sample = sample_of(row, folder)
    reference = task.reference(
        sample, space="norm_1000", image_size=(40, 30), input_size=(40, 30), output_mode="think"
    )  # fmt: skip
    judge = Judge(task.reward_specs(), "think")
    judge.check(sample, META)
    score = judge.score(reference, sample, META)
    judge.close()
    assert score.value is not None
    return score.value


@pytest.mark.parametrize(
    ("form", "file", "media"),
    [
        ("charades-sta", "charades_sta.json", "videos"),
        ("activitynet", "activitynet_captions.json", "videos"),
        ("next-gqa", "nextgqa.json", "videos"),
        ("superclevr", "r1v_superclevr_counting.jsonl", "images"),
        ("geo-qa", "r1v_geoqa.jsonl", "images"),
    ],
)
def test_references_of_published_rows_earn_full_marks(form: str, file: str, media: str, tmp_path: Path) -> None:
    keep = {"keep_published": True} if media == "videos" else {}
    rows, _ = read(form, excerpt(file), images=tmp_path, **keep)
    clips(tmp_path, "v.mp4") if media == "videos" else pictures(tmp_path, "a.png")
    here = {"videos": [str(tmp_path / "v.mp4")], "images": [str(tmp_path / "a.png")]}[media]
    low = {row["id"]: marks for row in rows if (marks := _marks({**row, media: here}, tmp_path)) < 0.97}
    assert low == {}


@pytest.mark.parametrize(
    ("form", "rows"),
    [
        ("vqa-rad", [OPEN_RAD, {**OPEN_RAD, "qid": 2, "answer": "Yes", "answer_type": "CLOSED"},
                     {**OPEN_RAD, "qid": 3, "answer": "Right", "answer_type": "CLOSED"}]),
        ("omni-med-vqa", [OMNI]),
        ("trance", [TRANCE]),
        ("video-r1", [VIDEO, {**VIDEO, "problem_type": "multiple choice", "options": ["A. x", "B. y"],
                              "solution": "<answer>B</answer>", "problem_id": 2}]),
    ],
)  # fmt: skip
def test_references_of_rows_by_documentation_earn_full_marks(form: str, rows: list[Row], tmp_path: Path) -> None:
    clips(tmp_path, "v.mp4")
    pictures(tmp_path, "a.png")
    found, left_out = read(form, write_json(tmp_path / "rows.json", rows))
    assert (len(found), left_out) == (len(rows), [])
    for row in found:
        assert _marks(row, tmp_path) > 0.97


def _charades(folder: Path) -> None:
    write_json(folder / "charades_sta.json", {
        "3MSZA": {"duration": 30.0, "timestamps": [[1, 2], [20, 32]], "sentences": ["person runs.", "person sits."]}
    })  # fmt: skip
    clips(folder / "videos", "3MSZA.mp4")


def test_a_source_names_the_form_and_its_options(tmp_path: Path) -> None:
    _charades(tmp_path)
    data = DataConfig(root=str(tmp_path), task="temporal_grounding")
    source: dict[str, Any] = {"path": "charades_sta.json", "images": "videos", "format": "charades-sta"}
    train = load_samples(data, SourceConfig(**source), role="train")
    assert [sample.id for sample in train.samples] == ["3MSZA-1"]
    assert "ends after the stated duration of 30 s" in train.skipped[0].reason
    whole = load_samples(data, SourceConfig(**source, options={"keep_published": True}), role="eval")
    assert [(sample.id, sample.target) for sample in whole.samples] == [("3MSZA-1", [1, 2]), ("3MSZA-2", [20, 32])]
    assert whole.skipped == []


def test_conversion_counts_what_it_keeps_flagged(tmp_path: Path) -> None:
    _charades(tmp_path)
    out = tmp_path / "out.jsonl"
    said = CliRunner().invoke(
        app,
        ["data", "convert", "charades-sta", str(tmp_path / "charades_sta.json"), "--out", str(out), "--images",
         str(tmp_path / "videos"), "--option", "keep_published=true"],
        catch_exceptions=False,
    )  # fmt: skip
    lines = said.output.splitlines()
    assert lines[1] == f"read 2, written 2, left out 0: {out}"
    assert lines[2] == "of those written, kept as published and flagged in meta.flags: 1"
    assert lines[3].startswith("       1 x span [20, 32] ends after the stated duration of 30 s  (first: ")
    data = DataConfig(root=str(tmp_path), task="temporal_grounding")
    loaded = load_samples(data, SourceConfig(path="out.jsonl", images="videos"), role="eval")
    assert [(sample.id, sample.target) for sample in loaded.samples] == [("3MSZA-1", [1, 2]), ("3MSZA-2", [20, 32])]


def test_spans_that_nothing_can_be_judged_against_are_left_out_as_published(tmp_path: Path) -> None:
    spans = [[1, 2], [9, 4], [40, 41], [20, 32]]
    entry = {"duration": 30.0, "timestamps": spans, "sentences": ["a", "b", "c", "d"]}
    write_json(tmp_path / "charades_sta.json", {"3MSZA": entry})
    clips(tmp_path / "videos", "3MSZA.mp4")
    data = DataConfig(root=str(tmp_path), task="temporal_grounding")
    source: dict[str, Any] = {"path": "charades_sta.json", "images": "videos", "format": "charades-sta"}
    loaded = load_samples(data, SourceConfig(**source, options={"keep_published": True}), role="eval")
    assert [sample.id for sample in loaded.samples] == ["3MSZA-1", "3MSZA-4"]
    assert (loaded.rows, [item.kind for item in loaded.skipped]) == (4, ["published"] * 2)
    assert [item.reason.partition("; ")[0] for item in loaded.skipped] == [
        "span [9, 4] ends before it starts",
        "span [40, 41] starts after the stated duration of 30 s",
    ]
    training = load_samples(data, SourceConfig(**source), role="train")
    assert (len(training.samples), training.rows) == (1, 4), "the form's own rules leave out the late one too"


def test_conversion_writes_native_rows_and_lists_the_rest(tmp_path: Path) -> None:
    _charades(tmp_path)
    out = tmp_path / "out.jsonl"
    source = str(tmp_path / "charades_sta.json")
    report = convert(Request(form="charades-sta", source=source, out=out, images=tmp_path / "videos"))
    assert (report.written, len(report.left_out)) == (1, 1)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {
            "id": "3MSZA-1", "prompt": "person runs.", "videos": ["3MSZA.mp4"], "answer": [1.0, 2.0],
            "task": "temporal_grounding", "meta": {"video": "3MSZA", "duration": 30.0},
        }
    ]  # fmt: skip
