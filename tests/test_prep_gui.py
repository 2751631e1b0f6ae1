"""ScreenSpot, -v2, -Pro, GUI-R1, AndroidControl and the GUI rows of VLM-R1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published_files import Row, all_judged, excerpt, judged, picture, read_located, write_json

from vlrft.data.problems import DataError, SampleError

SPOT: Row = {"img_filename": "pc_1.png", "bbox": [4, 5, 10, 20], "instruction": "close this window",
             "data_type": "icon", "data_source": "windows"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "folder"), [("screenspot_desktop", "screenspot_imgs"), ("screenspot_desktop_v2", "screenspotv2_image")]
)
def test_screenspot(tmp_path: Path, name: str, folder: str) -> None:
    picture(tmp_path / folder / "pc_1.png")
    write_json(tmp_path / f"{name}.json", [SPOT, {**SPOT, "data_type": "text"}])
    write_json(tmp_path / "screenspot_web.json", [SPOT])
    form = "screenspot-v2" if name.endswith("v2") else "screenspot"
    rows, left_out = read_located(form, tmp_path, split="desktop")
    assert left_out == []
    assert rows[0] == {
        "id": f"{name}-1",
        "task": "gui_grounding",
        "prompt": "close this window",
        "images": [str(tmp_path / folder / "pc_1.png")],
        "answer": [4.0, 5.0, 14.0, 25.0],
        "boxes": {"space": "abs_original"},
        "meta": {"source": name, "data_type": "icon", "data_source": "windows"},
    }
    assert all_judged(rows)[1].target == [4.0, 5.0, 14.0, 25.0]
    assert len(read_located(form, tmp_path)[0]) == 3
    with pytest.raises(DataError, match=f"no .json or .parquet file of mobile; files here: {name}.json"):
        read_located(form, tmp_path, split="mobile")


PRO: Row = {"id": "mac_0", "img_filename": "mac/a.png", "bbox": [4, 5, 14, 25], "instruction": "run",
            "img_size": [40, 30], "instruction_cn": "x", "ui_type": "icon", "group": "Dev", "application": "vscode",
            "platform": "macos"}  # fmt: skip


def test_screenspot_pro_writes_two_corners(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "mac" / "a.png")
    write_json(tmp_path / "annotations" / "vscode_macos.json", [PRO])
    (row,), _ = read_located("screenspot-pro", tmp_path)
    assert row["answer"] == [4.0, 5.0, 14.0, 25.0]
    assert (row["id"], row["images"]) == ("mac_0", [str(tmp_path / "images" / "mac" / "a.png")])
    assert row["meta"] == {
        "source": "vscode_macos", "ui_type": "icon", "group": "Dev", "application": "vscode", "platform": "macos",
        "instruction_cn": "x",
    }  # fmt: skip
    assert (row["width"], row["height"]) == (40, 30)
    judged(row)


def test_screenspot_boxes_that_break_the_rules(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "mac" / "a.png")
    boxes = ([14, 5, 4, 25], [4, 5, 50, 25], [4, 5, 4, 25])
    write_json(tmp_path / "annotations" / "a.json", [{**PRO, "id": str(i), "bbox": box} for i, box in enumerate(boxes)])
    reasons = [
        "box [14.0, 5.0, 4.0, 25.0] has its sides swapped",
        "box [4.0, 5.0, 50.0, 25.0] reaches outside the 40x30 picture",
        "box [4.0, 5.0, 4.0, 25.0] has no area; so that no answer can be judged",
    ]
    with_rules: Any = {"path": tmp_path, "form": "screenspot-pro"}
    assert read_located(**with_rules) == ([], reasons)
    rows, left_out = read_located(**with_rules, keep_published=True)
    assert left_out == reasons[2:]
    assert [row["meta"]["flags"] for row in rows] == [[reason] for reason in reasons[:2]]
    assert [one.target for one in all_judged(rows)] == [[4.0, 5.0, 14.0, 25.0], [4.0, 5.0, 40.0, 25.0]]


def test_screenspot_tables_have_to_say_how_boxes_are_written(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = picture(tmp_path / "a.png").read_bytes()
    row = {"file_name": "a.png", "bbox": [0.1, 0.2, 0.5, 0.6], "instruction": "close", "image": {"bytes": data}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "test.parquet")
    with pytest.raises(SampleError, match=r"test\.parquet:1: has no img_filename.*set the options bbox"):
        read_located("screenspot", tmp_path / "test.parquet")
    (row,), _ = read_located("screenspot", tmp_path / "test.parquet", bbox="xyxy", space="norm_1")
    assert (judged(row).target, judged(row).target_space) == ([0.1, 0.2, 0.5, 0.6], "norm_1")
    for options, says in (({"bbox": "yx"}, "bbox is 'yx'"), ({"space": "norm_10"}, "space is 'norm_10'; did you mean")):
        with pytest.raises(DataError, match=says):
            read_located("screenspot", tmp_path / "test.parquet", **options)


def _gui_r1(**columns: Any) -> Row:
    return {"image": "a.png", "instruction": "open the menu", "history": "None", "task_type": "high",
            "gt_action": "click", "gt_bbox": [0.1, 0.2, 0.5, 0.6], "gt_input_text": "no input text",
            "verify_bbox": [1, 2], "success_rate": 0.5, "scale": 1.0, **columns}  # fmt: skip


def _lines(root: Path, *rows: Row) -> Path:
    picture(root / "a.png")
    file = root / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_gui_r1(tmp_path: Path) -> None:
    nowhere = [-100, -100]
    file = _lines(
        tmp_path,
        _gui_r1(history="clicked OK"),
        _gui_r1(gt_bbox=[0.25, 0.5]),
        _gui_r1(gt_action="scroll", gt_input_text="DOWN", gt_bbox=nowhere),
        _gui_r1(gt_action="type", gt_input_text=" 3 apples", gt_bbox=nowhere),
        _gui_r1(gt_action="close/delete", gt_bbox=nowhere, task_type="low"),
        _gui_r1(gt_action="enter", gt_bbox=nowhere),
        _gui_r1(gt_action="hotkey", gt_input_text="ctrl+c", gt_bbox=nowhere),
    )
    rows, left_out = read_located("gui-r1", file)
    assert left_out == []
    assert {**rows[0], "meta": {**rows[0]["meta"], "actions": ...}} == {
        "id": "train-1",
        "task": "gui_action",
        "prompt": "open the menu",
        "images": [str(tmp_path / "a.png")],
        "answer": {"action": "click", "box": [0.1, 0.2, 0.5, 0.6]},
        "boxes": {"space": "norm_1"},
        "meta": {"task_type": "high", "history": "clicked OK", "actions": ...},
    }
    assert [row["answer"] for row in rows[1:]] == [
        {"action": "click", "point": [0.25, 0.5]},
        {"action": "scroll", "direction": "down"},
        {"action": "type", "text": "3 apples"},
        {"action": "close"},
        {"action": "press_enter"},
        {"action": "key", "key": "ctrl+c"},
    ]
    assert "history" not in rows[1]["meta"]
    assert all_judged(rows)[0].target_space == "norm_1"


def test_gui_r1_odd_boxes(tmp_path: Path) -> None:
    boxes = ([0.5, 0.2, 0.1, 0.6], [0.9, 0.2, 1.1, 0.6], [0.1, 0.2, 0.1, 0.6], [0.5, 1.2])
    file = _lines(tmp_path, *(_gui_r1(gt_bbox=box) for box in boxes))
    rows, left_out = read_located("gui-r1", file)
    assert rows == []
    assert left_out == [
        "box [0.5, 0.2, 0.1, 0.6] has its sides swapped",
        "box [0.9, 0.2, 1.1, 0.6] reaches outside the 1x1 picture",
        "box [0.1, 0.2, 0.1, 0.6] has no area; so that no answer can be judged",
        "point [0.5, 1.2] is outside the screenshot",
    ]
    rows, left_out = read_located("gui-r1", file, keep_published=True)
    assert len(left_out) == 1
    assert [row["answer"].get("box") for row in rows] == [[0.1, 0.2, 0.5, 0.6], [0.9, 0.2, 1.0, 0.6], None]
    assert all(len(row["meta"]["flags"]) == 1 for row in rows)
    all_judged(rows)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"gt_action": "dance"}, "action 'dance', which is none of click"),
        ({"gt_bbox": [10, 20, 30, 40]}, "not in fractions of the screenshot"),
        ({"gt_bbox": None}, "gt_bbox None is neither a point nor a box"),
        ({"gt_action": "type"}, "action type without its text"),
        ({"gt_action": "scroll", "gt_input_text": "away"}, "scrolls to 'away'"),
        ({"instruction": None}, "lacks instruction"),
    ],
)
def test_gui_r1_errors(tmp_path: Path, columns: Row, says: str) -> None:
    with pytest.raises(SampleError, match=rf"train\.jsonl:1: .*{says}"):
        read_located("gui-r1", _lines(tmp_path, _gui_r1(**columns)))


def test_the_rewards_know_every_action() -> None:
    from vlrft.data.prep.gui_names import ANDROID, GUI_R1
    from vlrft.rewards.gui_action import ACTIONS

    assert {*ANDROID, *GUI_R1} <= ACTIONS.keys()


def test_androidcontrol_as_published(tmp_path: Path) -> None:
    file = excerpt("ui_r1_androidcontrol.json")
    published = json.loads(file.read_text())
    for name in {row["image"] for row in published}:
        picture(tmp_path / name, (1080, 2400))
    rows, left_out = read_located("androidcontrol", file, images=tmp_path)
    assert (len(rows), left_out) == (40, [])
    assert {**rows[1], "meta": rows[1]["meta"]["published"]} == {
        "id": "ui_r1_androidcontrol-2",
        "task": "gui_action",
        "prompt": "Click on the more options icon at the top right corner of the screen.",
        "images": [str(tmp_path / "episode_140-screenshot_2.png")],
        "answer": {"action": "click", "point": [1027, 209]},
        "boxes": {"space": "abs_original"},
        "meta": "click",
    }
    assert rows[0]["answer"] == {"action": "open_app", "text": "PocketBook"}
    assert rows[6]["answer"] == {"action": "type", "text": "natalie.larson1998@gmail.com"}
    by_name = {row["meta"]["published"]: row["answer"] for row in rows}
    assert by_name["navigate_back"] == {"action": "press_back"}
    assert by_name["scroll"] == {"action": "scroll", "direction": "down"}
    assert len(all_judged(rows)) == 40


def test_ui_r1_training_rows_do_not_say_how_boxes_are_written(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    tap = {"img_filename": "a.png", "instruction": "close", "bbox": [20, 5, 10, 20]}
    back = {"img_filename": "a.png", "instruction": "go back", "action": "navigate_back"}
    file = write_json(tmp_path / "train.json", [back, tap])
    rows, left_out = read_located("androidcontrol", file, policy="skip")
    assert [row["answer"] for row in rows] == [{"action": "press_back"}]
    assert left_out == ["does not say how its bbox is written; set the option bbox to xywh or xyxy"]
    rows, _ = read_located("androidcontrol", tmp_path, split="train", bbox="xywh")
    assert rows[1]["answer"] == {"action": "click", "box": [20.0, 5.0, 30.0, 25.0]}
    all_judged(rows)
    with pytest.raises(SampleError, match=r"train\.json:2: box .* has its sides swapped; is xyxy the way"):
        read_located("androidcontrol", file, bbox="xyxy")


def test_vlm_r1_gui_as_published(tmp_path: Path) -> None:
    file = excerpt("vlm_r1_gui_multi_image.jsonl")
    published = [json.loads(line) for line in file.read_text().splitlines()]
    for name in {name for row in published for name in row["image"]}:
        picture(tmp_path / name, (1080, 2400))
    rows, left_out = read_located("vlm-r1-gui", file, images=tmp_path)
    assert (len(rows), left_out) == (10, [])
    assert [row["answer"] for row in rows] == [row["conversations"][1]["value"] for row in published]
    row = rows[0]
    assert (row["id"], row["task"]) == ("1", "classification")
    assert row["images"] == [str(tmp_path / name) for name in published[0]["image"]]
    assert row["prompt"] == published[0]["conversations"][0]["value"]
    assert row["meta"]["labels"] == [
        "Operation No Response", "Virtual Keyboard Related Issue", "Navigation Logic Error", "Unexpected Task Result",
        "No Defect",
    ]  # fmt: skip
    assert [len(one.media) for one in all_judged(rows)] == [2] * 10


def test_vlm_r1_gui_answers_that_the_prompt_does_not_list(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Defects:\n- Blur: hard to see\nWhich?"}, {"from": "gpt", "value": "Smudge"}]
    picture(tmp_path / "a.png")
    row = {"id": 1, "image": ["a.png"], "conversations": turns}
    file = _lines(tmp_path, row)
    reason = "the answer 'Smudge' is none of the defects that the prompt lists"
    assert read_located("vlm-r1-gui", file) == ([], [reason])
    (kept,), _ = read_located("vlm-r1-gui", file, keep_published=True)
    assert kept["meta"] == {"flags": [reason]}
    judged(kept)
    turns[0]["value"] = "What is it?"
    with pytest.raises(SampleError, match="no list of defects"):
        read_located("vlm-r1-gui", _lines(tmp_path, row))
