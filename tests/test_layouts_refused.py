"""Rows that break their layout, fit none or fit several: refused, with the place, the reason and the next step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlrft.config import DataConfig, SourceConfig
from vlrft.data.detect import detect_format, detect_layout
from vlrft.data.layouts import from_native, to_native
from vlrft.data.layouts.columns import unwrap
from vlrft.data.problems import DataError, SampleError
from vlrft.data.sources import load_samples

Row = dict[str, Any]

BAD: list[tuple[str, str, Row, str]] = [
    (
        "more markers",
        "easyr1",
        {"problem": "<image><image>x", "answer": "1", "images": ["a"]},
        "2 <image> markers.*1 image",
    ),
    ("no marker", "easyr1", {"problem": "x", "answer": "1", "images": ["a"]}, "0 <image> markers.*1 image"),
    (
        "marker without media",
        "verl",
        {"prompt": [{"role": "user", "content": "<video>x"}]},
        "1 <video> markers.*0 video",
    ),
    (
        "some markers",
        "sharegpt",
        {"conversations": [{"from": "human", "value": "<image>x"}], "image": ["a", "b"]},
        "1 <image> markers.*2 images",
    ),
    ("openrlhf without marker", "openrlhf", {"prompt": "x", "label": "1", "images": ["a"]}, "0 <image> markers"),
    ("trl literal", "trl", {"prompt": "<image>x", "images": ["a"]}, "marks nothing in the layout trl.*format: easyr1"),
    ("r1v literal", "r1v", {"problem": "<image>x", "image": "a", "solution": "1"}, "marks nothing in the layout r1v"),
    (
        "dialogue",
        "sharegpt",
        {"conversations": [{"from": who, "value": "x"} for who in ("human", "gpt", "human", "gpt")]},
        "turns user, assistant, user, assistant; .*cut the dialogue",
    ),
    ("role", "ms-swift", {"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'; known: system, human"),
    ("no messages", "verl", {"prompt": "x", "reward_model": {}}, "write a list with one user message"),
    ("half a message", "ms-swift", {"messages": [{"role": "user"}]}, "lacks role or content"),
    ("no text", "trl", {"prompt": " ", "images": ["a"]}, "holds no question"),
    ("odd image", "trl", {"prompt": "x", "image": 3}, "image int 3 is neither a path nor"),
    (
        "odd part",
        "trl",
        {"prompt": [{"role": "user", "content": [{"type": "audio"}]}]},
        "not a text, image or video part",
    ),
    ("problem no text", "easyr1", {"problem": 3, "answer": "1"}, "`problem` is 3"),
    ("space column", "trl", {"prompt": "x", "bbox_type": "norm1"}, "`bbox_type` is not read"),
    (
        "box slot in the question",
        "ms-swift",
        {
            "messages": [{"role": "user", "content": "What is at <bbox>?"}],
            "objects": {"ref": [], "bbox": [[1, 2, 3, 4]]},
        },
        "<bbox> slot, whose numbers depend on the model",
    ),
    (
        "names missing",
        "ms-swift",
        {
            "messages": [{"role": "user", "content": "Find <ref-object>."}],
            "objects": {"ref": [], "bbox": [[1, 2, 3, 4]]},
        },
        "more <ref-object> slots",
    ),
    (
        "box type",
        "ms-swift",
        {
            "messages": [{"role": "user", "content": "Find it."}],
            "objects": {"bbox": [[1, 2, 3, 4]], "bbox_type": "norm"},
        },
        "bbox_type is 'norm'; ms-swift knows real, norm1",
    ),
    (
        "names of boxes",
        "ms-swift",
        {"messages": [{"role": "user", "content": "Find."}], "objects": {"ref": [], "bbox": [[1, 2, 3, 4]] * 2}},
        "0 names for 2 boxes",
    ),
    (
        "box slots of the answer",
        "ms-swift",
        {
            "messages": [{"role": "user", "content": "Find."}, {"role": "assistant", "content": "<bbox>"}],
            "objects": {"ref": ["a"], "bbox": [[1, 2, 3, 4]] * 2},
        },
        "1 <bbox> slots, but `objects.bbox` has 2",
    ),
    ("rest no JSON", "r1v", {"problem": "x", "solution": "1", "_vlrft": "{"}, "`_vlrft` is not valid JSON"),
    ("rest no object", "r1v", {"problem": "x", "solution": "1", "_vlrft": [1]}, "`_vlrft` is .* not an object"),
]


@pytest.mark.parametrize(("layout", "row", "says"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
def test_a_row_that_breaks_its_layout_is_refused(layout: str, row: Row, says: str) -> None:
    with pytest.raises(SampleError, match=f"^rows.jsonl:1: .*{says}"):
        to_native(layout, row, where="rows.jsonl:1")


def test_a_row_of_another_layout_is_not_taken_for_native() -> None:
    with pytest.raises(SampleError, match="has the column '_vlrft'"):
        from_native("trl", {"prompt": "x", "_vlrft": {}}, where="x")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [{"problem": "x", "solution": "long", "answer": "1"}],
            r"fit several layouts: r1v \(by problem and solution\); easyr1",
        ),
        (
            [{"text": "x", "image": "a"}],
            "in no known layout; their columns: text, image. Set format to one of: native, trl",
        ),
        ([{"prompt": "x", "label": "1"}, {"problem": "x", "answer": "1"}], "fit several layouts: openrlhf .*easyr1"),
    ],
)
def test_unknown_and_ambiguous_rows_are_refused_with_columns_and_candidates(rows: list[Row], says: str) -> None:
    with pytest.raises(DataError, match=says):
        detect_layout(rows)


def test_json_that_is_no_rows_points_to_the_forms(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"3MSZA": {"length": 3}, "AMT7R": {"length": 4}}))
    with pytest.raises(DataError, match=r"an object with the keys 3MSZA, AMT7R\..*'vlrft data ls'"):
        detect_format(tmp_path / "a.json")


def test_an_answer_block_with_nothing_in_it_is_no_answer() -> None:
    assert unwrap("<answer> </answer>") == ("", None)
    assert unwrap("<think>so</think> <answer>\n</answer>") == ("", "so")
    assert unwrap("<answer>4</answer><answer></answer>") == ("", None), "which of them is meant is not known"
    assert unwrap("<think>so</think> 4") == ("<think>so</think> 4", None), "the task says that it holds tags"


BLANK: list[tuple[str, Row]] = [
    ("r1v", {"problem": "x", "solution": "<answer> </answer>", "image": "a"}),
    ("easyr1", {"problem": "x", "answer": "<think>so</think><answer></answer>"}),
    ("trl", {"prompt": "x", "image": "a", "solution": " "}),
    ("verl", {"prompt": [{"role": "user", "content": "x"}], "reward_model": {"ground_truth": "<answer></answer>"}}),
    ("sharegpt", {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": ""}]}),
    ("ms-swift", {"messages": [{"role": "user", "content": "x"}], "solution": "<answer> </answer>"}),
    ("openrlhf", {"prompt": "x", "label": "<answer>\n</answer>"}),
]


@pytest.mark.parametrize(("layout", "row"), BLANK)
def test_a_row_with_an_empty_answer_is_named(layout: str, row: Row) -> None:
    with pytest.raises(SampleError, match=r"^rows\.jsonl:7: states an empty answer; write the answer or drop the row"):
        to_native(layout, row, where="rows.jsonl:7")


def test_an_empty_answer_is_a_bad_row_of_a_source(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    rows = [{"problem": "x", "solution": f"<answer>{text}</answer>", "image": "a.png"} for text in ("y", " ")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(root=str(tmp_path), task="open_qa", on_bad_sample="skip")
    loaded = load_samples(data, SourceConfig(path="rows.jsonl"), role="train")
    assert [sample.target for sample in loaded.samples] == ["y"]
    assert [(Path(item.where).name, item.reason.partition(";")[0]) for item in loaded.skipped] == [
        ("rows.jsonl:2", "states an empty answer")
    ]
