"""Charades-STA, ActivityNet Captions and NExT-GQA: spans in seconds, and those that pass the stated duration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from published_files import clips, excerpt, read, sample_of, write_json

from vlrft.data.problems import DataError, SampleError

LINES = """3MSZA 24.3 30.4##person turn a light on.
AKO6M 12.7 19.9##the person takes a bag from the bottom cabinet.
AKO6M 0.0 8.8##a person stands in the bathroom holding a glass.

XXXXX 9.0 4.0##person runs.
XXXXX 40.0 41.0##person sits.
"""
LENGTHS = "id,subject,length\n3MSZA,A,30.96\nAKO6M,B,18.58\nXXXXX,C,30\n"

PAST = " by more than the option slack allows, 0.5 s"


def _charades(folder: Path) -> Path:
    (folder / "charades_sta_test.txt").write_text(LINES)
    (folder / "Charades_v1_test.csv").write_text(LENGTHS)
    clips(folder, "3MSZA.mp4", "AKO6M.mkv", "XXXXX.mp4")
    return folder


def test_charades_lines_for_training_lose_what_passes_the_duration(tmp_path: Path) -> None:
    folder = _charades(tmp_path)
    rows, left_out = read("charades-sta", folder, split="test", durations="Charades_v1_test.csv")
    assert rows == [
        {
            "id": "3MSZA-1",
            "prompt": "person turn a light on.",
            "videos": [str(folder / "3MSZA.mp4")],
            "answer": [24.3, 30.4],
            "task": "temporal_grounding",
            "meta": {"video": "3MSZA", "duration": 30.96},
        },
        {
            "id": "AKO6M-2",
            "prompt": "a person stands in the bathroom holding a glass.",
            "videos": [str(folder / "AKO6M.mkv")],
            "answer": [0.0, 8.8],
            "task": "temporal_grounding",
            "meta": {"video": "AKO6M", "duration": 18.58},
        },
    ]
    assert left_out == [
        "charades_sta_test.txt:2: span [12.7, 19.9] ends after the stated duration of 18.58 s" + PAST,
        "charades_sta_test.txt:5: span [9, 4] ends before it starts",
        "charades_sta_test.txt:6: span [40, 41] starts after the stated duration of 30 s",
    ]
    for row in rows:
        sample = sample_of(row, folder)
        assert (sample.target, sample.meta["duration"]) == (row["answer"], row["meta"]["duration"])
    rows, left_out = read("charades-sta", folder, split="test", durations="Charades_v1_test.csv", slack=1.5)
    assert len(rows) == 3
    assert len(left_out) == 2


def test_charades_as_published_keeps_and_flags_every_span(tmp_path: Path) -> None:
    folder = _charades(tmp_path)
    rows, left_out = read(
        "charades-sta", folder, split="test", durations="Charades_v1_test.csv", keep_published=True
    )  # fmt: skip
    assert left_out == []
    assert [row["id"] for row in rows] == ["3MSZA-1", "AKO6M-1", "AKO6M-2", "XXXXX-1", "XXXXX-2"]
    assert [row["meta"].get("flags") for row in rows] == [
        None,
        ["span [12.7, 19.9] ends after the stated duration of 18.58 s"],
        None,
        ["span [9, 4] ends before it starts"],
        ["span [40, 41] starts after the stated duration of 30 s"],
    ]
    late = sample_of(rows[1], folder)
    assert late.target == [12.7, 19.9]
    assert late.meta["flags"] == rows[1]["meta"]["flags"]


def test_charades_lines_without_durations_leave_them_to_the_videos(tmp_path: Path) -> None:
    folder = _charades(tmp_path)
    file = folder / "charades_sta_test.txt"
    file.write_text("3MSZA 0.2 0.9##person turns.\n3MSZA 0.2 30.4##person turns on.\n")
    rows, left_out = read("charades-sta", file)
    assert [row["meta"] for row in rows] == [{"video": "3MSZA"}] * 2
    assert left_out == []
    assert sample_of(rows[0], folder).meta["duration"] == pytest.approx(1.0)
    with pytest.raises(SampleError, match=r"ends after the video, which lasts 1 s"):
        sample_of(rows[1], folder)
    rows, _ = read("charades-sta", file, keep_published=True)
    assert rows[1]["meta"]["flags"] == ["no duration is stated"]
    assert sample_of(rows[1], folder).target == [0.2, 30.4]


def test_charades_lines_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "charades_sta_train.txt"
    file.write_text("3MSZA 24.3##person turns.\n3MSZA 1 2##\n")
    with pytest.raises(SampleError, match=r"charades_sta_train\.txt:1: '3MSZA 24\.3##person turns\.' is not VIDEO"):
        read("charades-sta", tmp_path, split="train")
    rows, left_out = read("charades-sta", tmp_path, split="train", policy="skip")
    assert rows == []
    assert left_out[1] == "charades_sta_train.txt:2: the sentence is empty"
    with pytest.raises(DataError, match=r"none of charades_sta_val\.txt, .* is in .*; check path and split"):
        read("charades-sta", tmp_path, split="val")
    with pytest.raises(DataError, match=r"durations: no file .*none\.csv"):
        read("charades-sta", file, durations="none.csv", policy="skip")


def test_durations_as_json(tmp_path: Path) -> None:
    (tmp_path / "charades_sta_test.txt").write_text("A 1 2##x\nB 1 2##y\nC 1 2##z\n")
    write_json(tmp_path / "lengths.json", {"A": 3, "B": {"duration": 4.5}})
    rows, _ = read("charades-sta", tmp_path, split="test", durations="lengths.json")
    assert [row["meta"].get("duration") for row in rows] == [3.0, 4.5, None]
    write_json(tmp_path / "lengths.json", {"A": "long"})
    with pytest.raises(DataError, match=r"lengths\.json: the duration of A is 'long', not seconds"):
        read("charades-sta", tmp_path, split="test", durations="lengths.json")


def test_the_charades_rows_that_videochat_r1_publishes(tmp_path: Path) -> None:
    path = excerpt("charades_sta.json")
    rows, left_out = read("charades-sta", path, images=tmp_path)
    kept, none = read("charades-sta", path, images=tmp_path, keep_published=True)
    flagged = [row["id"] for row in kept if "flags" in row["meta"]]
    assert none == []
    assert len(kept) == 56
    assert flagged == ["AKO6M-2", "FPJ9D-1", "5NV2Z-2", "5NV2Z-3", "9JZO2-1", "9JZO2-9", "4J1AP-1"]
    # Half a second past the end is what the task lets pass too.
    assert [line.partition(":")[0] for line in left_out] == [
        "AKO6M sentence 2", "FPJ9D sentence 1", "5NV2Z sentence 2", "5NV2Z sentence 3", "4J1AP sentence 1",
    ]  # fmt: skip
    assert len(rows) == 51
    assert left_out[0] == "AKO6M sentence 2: span [12.7, 19.9] ends after the stated duration of 18.58 s" + PAST
    assert len(read("charades-sta", path, images=tmp_path, slack=0)[1]) == len(flagged) == 7
    assert rows[0] == {
        "id": "3MSZA-1",
        "prompt": "person turn a light on.",
        "videos": [str(tmp_path / "3MSZA.mp4")],
        "answer": [24.3, 30.4],
        "task": "temporal_grounding",
        "meta": {"video": "3MSZA", "duration": 30.96},
    }
    clips(tmp_path, "3MSZA.mp4")
    for row in kept:
        sample = sample_of({**row, "videos": rows[0]["videos"]}, tmp_path)
        assert sample.target == row["answer"]


def test_the_activitynet_rows_that_are_published(tmp_path: Path) -> None:
    rows, left_out = read("activitynet", excerpt("activitynet_captions.json"), images=tmp_path)
    assert len(rows) == 36
    assert left_out == []
    assert rows[1] == {
        "id": "v_uqiMw7tQ1Cc-2",
        "prompt": "One man is holding onto a rope attached to a machine, and the other man instructs him to bend down "
        "on his left knee while still holding onto the rope and he showing the man how to have proper form.",
        "videos": [str(tmp_path / "v_uqiMw7tQ1Cc.mp4")],
        "answer": [4.14, 33.36],
        "task": "temporal_grounding",
        "meta": {"video": "v_uqiMw7tQ1Cc", "duration": 55.15},
    }
    clips(tmp_path, "v_uqiMw7tQ1Cc.mp4")
    for row in rows:
        assert sample_of({**row, "videos": rows[0]["videos"]}, tmp_path).target == row["answer"]


def test_activitynet_entries_that_break_the_layout(tmp_path: Path) -> None:
    good = {"duration": 10, "timestamps": [[0, 4], [8, 12]], "sentences": [" a ", "b"]}
    write_json(tmp_path / "val_1.json", {
        "v_a": good, "v_b": {**good, "sentences": ["a"]}, "v_c": {**good, "duration": "10"},
        "v_d": {**good, "timestamps": [[0, 4], [8]]},
    })  # fmt: skip
    rows, left_out = read("activitynet", tmp_path, split="val_1", policy="skip")
    assert [(row["id"], row["prompt"], row["answer"]) for row in rows] == [("v_a-1", "a", [0.0, 4.0])]
    assert left_out == [
        "val_1.json: v_b: timestamps and sentences are not two lists of the same length; correct the file",
        "val_1.json: v_c: duration is '10', not seconds above 0; correct the file",
        "val_1.json: v_d sentence 2: timestamp [8] is not [start, end] in seconds; correct the file",
        "val_1.json: v_a sentence 2: span [8, 12] ends after the stated duration of 10 s" + PAST,
    ]
    write_json(tmp_path / "list.json", [good])
    with pytest.raises(DataError, match=r"list\.json is not an object of videos"):
        read("activitynet", tmp_path / "list.json")
    with pytest.raises(DataError, match=r"is a folder: set split"):
        read("next-gqa", tmp_path)


def test_the_next_gqa_rows_that_videochat_r1_publishes(tmp_path: Path) -> None:
    rows, left_out = read("next-gqa", excerpt("nextgqa.json"), images=tmp_path)
    assert len(rows) == 20
    assert left_out == []
    assert rows[0] == {
        "id": "4882821564_1",
        "prompt": "why did the boy pick up one present from the group of them and move to the sofa",
        "videos": [str(tmp_path / "1104/4882821564.mp4")],
        "answer": "C",
        "task": "grounded_video_qa",
        "meta": {
            "options": [
                "share with the girl", "approach lady sitting there", "unwrap it", "playing with toy train",
                "gesture something",
            ],
            "spans": [[13.8, 29.8]],
            "duration": 90,
            "type": "CW",
        },
    }  # fmt: skip
    assert "".join(row["answer"] for row in rows) == "CCCDCBBBCBBDBCCBABCC"
    clips(tmp_path, "1104/4882821564.mp4")
    for row in rows:
        sample = sample_of({**row, "videos": rows[0]["videos"]}, tmp_path)
        assert (sample.target, sample.meta["spans"]) == (row["answer"], row["meta"]["spans"])


def _letters(**changes: Any) -> dict[str, Any]:
    row = {
        "id": "v_1", "video": "v.mp4", "question": "why?", "options": ["(A) x", "(B) y"], "duration": 10,
        "glue": [[1.0, 2.0]], "type": "CW", "answer": "(B)",
    }  # fmt: skip
    return {**row, **changes}


def test_next_gqa_rows_that_break_their_rules(tmp_path: Path) -> None:
    file = write_json(tmp_path / "nextgqa.json", [
        _letters(), _letters(glue=[[1, 2], [9, 10.4]]), _letters(glue=[[9, 10.6]]), _letters(glue=[[3, 3]]),
        _letters(answer="(C)"), _letters(options=["x", "y"]), _letters(glue=[]), _letters(duration=None),
    ])  # fmt: skip
    rows, left_out = read("next-gqa", file, policy="skip")
    assert [row["id"] for row in rows] == ["v_1", "v_1-2"]
    assert left_out == [
        "3: span [9, 10.6] ends after the stated duration of 10 s" + PAST,
        "4: span [3, 3] has no length",
        "5: the answer 'C' is none of the letters A, B",
        "6: options ['x', 'y'] are not a list of (A) ..., (B) ...; correct the row",
        "7: the spans [] are not a list of [start, end] in seconds; correct the row",
        "8: duration is None, not seconds above 0; correct the row",
    ]
    kept, left_out = read("next-gqa", file, policy="skip", keep_published=True)
    assert len(kept) == 4
    assert len(left_out) == 4
    assert kept[2]["meta"]["flags"] == ["span [9, 10.6] ends after the stated duration of 10 s" + PAST]
    clips(tmp_path, "v.mp4")
    assert sample_of(kept[2], tmp_path).meta["spans"] == [[9.0, 10.6]]


def test_next_gqa_as_its_authors_publish_it(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(
        "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
        "4010069381,369,640,480,how do the two man play,by hand,6,CH,roll,by hand,strum,pat,\"sing, loudly\"\n"
        "4010069381,369,640,480,why is he there,4,7,CW,a,b,c,d,e\n"
        "4010069381,369,640,480,what is missing,a,8,CW,a,b,c,d,e\n"
        "4010069381,369,640,480,which number,1,6,CW,4,1,2,3,5\n"
        "4010069381,369,640,480,which number,3,6,CW,4,1,2,3,5\n"
    )  # fmt: skip
    write_json(tmp_path / "gsub_val.json", {
        "4010069381": {"duration": 34, "location": {"6": [[1.2, 5.8]], "7": [[12.1, 17.1], [20, 23.5]]}, "fps": 29.97}
    })  # fmt: skip
    write_json(tmp_path / "map_vid_vidorID.json", {"4010069381": "1164/4010069381"})
    clips(tmp_path / "videos", "1164/4010069381.mp4")
    rows, left_out = read("next-gqa", tmp_path, split="val", images=tmp_path / "videos", policy="skip")
    assert rows[0] == {
        "id": "4010069381_6",
        "prompt": "how do the two man play",
        "videos": [str(tmp_path / "videos/1164/4010069381.mp4")],
        "answer": "B",
        "task": "grounded_video_qa",
        "meta": {
            "options": ["roll", "by hand", "strum", "pat", "sing, loudly"],
            "spans": [[1.2, 5.8]],
            "duration": 34,
            "type": "CH",
        },
    }
    assert [(row["id"], row["answer"]) for row in rows] == [
        ("4010069381_6", "B"), ("4010069381_7", "E"), ("4010069381_6-4", "B"), ("4010069381_6-5", "D"),
    ]  # fmt: skip
    assert left_out == ["val.csv:3: no span is given for the question"]
    assert sample_of(rows[1], tmp_path).meta["spans"] == [[12.1, 17.1], [20.0, 23.5]]
    (tmp_path / "train.csv").write_text("video_id,question\n")
    with pytest.raises(DataError, match=r"train\.csv needs gsub_train\.json beside it for the spans"):
        read("next-gqa", tmp_path, split="train")


def test_a_number_that_may_be_two_options_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text("video_id,question,answer,qid,type,a0,a1,a2,a3,a4\nv,how many,2,1,CW,1,2,3,4,5\n")
    write_json(tmp_path / "gsub_val.json", {"v": {"duration": 9, "location": {"1": [[1, 2]]}}})
    with pytest.raises(SampleError, match=r"val\.csv:1: the answer '2' may be the number or the text of an option"):
        read("next-gqa", tmp_path, split="val")
