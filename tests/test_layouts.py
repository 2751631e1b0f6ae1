"""Rows of the seven layouts as their frameworks document them: recognised, read whole, refused where they must be."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlrft.data.detect import detect_format, detect_layout
from vlrft.data.layouts import LAYOUTS, from_native, same, to_native
from vlrft.data.tables import RowStream

FORMATS = Path(os.environ.get("VLRFT_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "formats"
needs_formats = pytest.mark.skipif(
    not FORMATS.is_dir(), reason=f"no published rows in {FORMATS} (set VLRFT_SHARED_DATA)"
)

Row = dict[str, Any]


def _typed(*parts: str) -> list[Row]:
    """A native prompt: "<image>" and "<video>" stand for slots here, anything else is text."""
    kinds = {"<image>": {"type": "image"}, "<video>": {"type": "video"}}
    return [{"role": "user", "content": [kinds.get(part, {"type": "text", "text": part}) for part in parts]}]


ROWS: list[tuple[str, str, Row, Row]] = [
    (
        "trl with text content",
        "trl",
        {"prompt": [{"role": "user", "content": "How many?"}], "image": "a.png", "solution": "<answer> 4 </answer>"},
        {"prompt": "How many?", "images": ["a.png"], "answer": "4"},
    ),
    (
        "trl with typed content, a system turn and columns for the rewards",
        "trl",
        {
            "prompt": [
                {"role": "system", "content": "Think first."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Is ", "image": None},
                        {"type": "image", "text": None, "image": None},
                        {"type": "text", "text": " like <image> ", "image": None},
                        {"type": "image", "text": None, "image": None},
                    ],
                },
            ],
            "images": [{"bytes": b"1", "path": None}, {"bytes": None, "path": "b.png"}],
            "ground_truth": "no",
            "difficulty": 3,
        },
        {
            "prompt": _typed("Is ", "<image>", " like <image> ", "<image>"),
            "images": [{"bytes": b"1"}, {"path": "b.png"}],
            "answer": "no",
            "meta": {"system": "Think first.", "difficulty": 3},
        },
    ),
    (
        "r1v",
        "r1v",
        {"image": {"bytes": b"1", "path": "x.png"}, "problem": "Which?", "solution": "<answer>dog</answer>"},
        {"prompt": "Which?", "images": [{"bytes": b"1", "path": "x.png"}], "answer": "dog"},
    ),
    (
        "r1v of Video-R1",
        "r1v",
        {
            "problem_id": 7,
            "problem": "What happens?",
            "data_type": "video",
            "problem_type": "multiple choice",
            "options": ["A. it falls", "B. it flies"],
            "solution": "<think>it has wings</think><answer>B</answer>",
            "path": "./clips/x.mp4",
        },
        {
            "prompt": "What happens?",
            "videos": ["./clips/x.mp4"],
            "answer": "B",
            "meta": {
                "problem_id": 7,
                "data_type": "video",
                "problem_type": "multiple choice",
                "options": ["A. it falls", "B. it flies"],
                "think": "it has wings",
                "question_type": "choice",
            },
        },
    ),
    (
        "easyr1",
        "easyr1",
        {
            "id": 3,
            "problem": "<image>Find x in <image>.",
            "answer": "2",
            "images": ["a.png", "b.png"],
            "choices": ["1"],
        },
        {
            "id": 3,
            "prompt": _typed("<image>", "Find x in ", "<image>", "."),
            "images": ["a.png", "b.png"],
            "answer": "2",
            "meta": {"choices": ["1"]},
        },
    ),
    (
        "easyr1 with a video",
        "easyr1",
        {"problem": "<video>When?", "answer": "[1, 2]", "videos": ["a.mp4"]},
        {"prompt": "When?", "videos": ["a.mp4"], "answer": "[1, 2]"},
    ),
    (
        "verl",
        "verl",
        {
            "data_source": "geo3k",
            "prompt": [{"role": "user", "content": "<image>Find x. <video>"}],
            "images": [{"bytes": b"1", "path": None}],
            "videos": [{"video": "a.mp4", "video_start": 1.0, "video_end": 2.5, "fps": 2.0}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "<answer>48</answer>"},
            "extra_info": {"split": "train", "index": 0, "options": ["a"]},
        },
        {
            "prompt": _typed("<image>", "Find x. ", "<video>"),
            "images": [{"bytes": b"1"}],
            "videos": [{"path": "a.mp4", "start": 1.0, "end": 2.5}],
            "answer": "48",
            "meta": {"data_source": "geo3k", "ability": "math", "split": "train", "index": 0, "options": ["a"]},
        },
    ),
    (
        "sharegpt of VLM-R1, several images without markers",
        "sharegpt",
        {
            "id": 1,
            "image": ["a.png", "b.png"],
            "conversations": [{"from": "human", "value": "What changed?"}, {"from": "gpt", "value": 3.5}],
            "accu_reward_method": "number",
        },
        {
            "id": 1,
            "prompt": "What changed?",
            "images": ["a.png", "b.png"],
            "answer": 3.5,
            "meta": {"accu_reward_method": "number"},
        },
    ),
    (
        "sharegpt of LLaMA-Factory",
        "sharegpt",
        {
            "messages": [
                {"role": "user", "content": "<image>Who is it?"},
                {"role": "assistant", "content": "A cat."},
            ],
            "images": ["a.png"],
            "system": "Be brief.",
        },
        {"prompt": "Who is it?", "images": ["a.png"], "answer": "A cat.", "meta": {"system": "Be brief."}},
    ),
    (
        "sharegpt of LISA, with the picture in the text",
        "sharegpt",
        {
            "conversations": [
                {"from": "user", "value": "<img>a.jpg</img>Find it."},
                {"from": "assistant", "value": "(1,2)"},
            ]
        },
        {"prompt": "Find it.", "images": ["a.jpg"], "answer": "(1,2)"},
    ),
    (
        "ms-swift with a solution",
        "ms-swift",
        {"messages": [{"role": "user", "content": "<image>2+2?"}], "images": ["a.png"], "solution": "4"},
        {"prompt": "2+2?", "images": ["a.png"], "answer": "4"},
    ),
    (
        "ms-swift with one box",
        "ms-swift",
        {
            "messages": [
                {"role": "user", "content": "<image>Find the <ref-object>."},
                {"role": "assistant", "content": "<bbox>"},
            ],
            "images": ["a.png"],
            "objects": {"ref": ["sheep"], "bbox": [[0.1, 0.2, 0.3, 0.4]], "bbox_type": "norm1"},
        },
        {
            "prompt": "Find the sheep.",
            "images": ["a.png"],
            "answer": [0.1, 0.2, 0.3, 0.4],
            "boxes": {"space": "norm_1"},
        },
    ),
    (
        "ms-swift with several objects",
        "ms-swift",
        {
            "messages": [
                {"role": "user", "content": "<image>Describe."},
                {"role": "assistant", "content": "<ref-object><bbox> and <ref-object><bbox>"},
            ],
            "images": ["a.png"],
            "objects": {"ref": ["a dog", "a woman"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]},
        },
        {
            "prompt": "Describe.",
            "images": ["a.png"],
            "answer": [{"bbox": [1, 2, 3, 4], "label": "a dog"}, {"bbox": [5, 6, 7, 8], "label": "a woman"}],
            "boxes": {"space": "abs_original"},
        },
    ),
    (
        "openrlhf with text",
        "openrlhf",
        {"prompt": "Is <image> red?", "images": ["a.png"], "label": "yes", "datasource": "vlm"},
        {
            "prompt": _typed("Is ", "<image>", " red?"),
            "images": ["a.png"],
            "answer": "yes",
            "meta": {"datasource": "vlm"},
        },
    ),
    (
        "openrlhf with messages",
        "openrlhf",
        {
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Find x."}]}],
            "images": ["a.png"],
            "label": "3",
        },
        {"prompt": "Find x.", "images": ["a.png"], "answer": "3"},
    ),
]
CASES = [pytest.param(*case[1:], id=case[0]) for case in ROWS]


@pytest.mark.parametrize(("layout", "row", "native"), CASES)
def test_a_row_is_recognised_and_read_whole(layout: str, row: Row, native: Row) -> None:
    assert detect_layout([row])[0] == layout
    made = to_native(layout, row, where="rows.jsonl:1")
    assert same(made, native), made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_layout_holds_needs_no_extra_key(layout: str) -> None:
    native = {"id": "a", "prompt": "How many?", "images": ["a.png"], "answer": "four"}
    made = from_native(layout, native, where="x")
    assert "_vlrft" not in made
    assert detect_layout([made])[0] == layout


WRITTEN = {
    "trl": {
        "id": "a",
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}],
        "images": ["a.png"],
        "solution": "[1, 2, 3, 4]",
    },
    "r1v": {"id": "a", "problem": "Where?", "image": "a.png", "solution": "<answer>[1, 2, 3, 4]</answer>"},
    "easyr1": {"id": "a", "problem": "<image>Where?", "images": ["a.png"], "answer": "[1, 2, 3, 4]"},
    "verl": {
        "id": "a",
        "data_source": "grounding",
        "prompt": [{"role": "user", "content": "<image>Where?"}],
        "images": [{"image": "a.png"}],
        "ability": "grounding",
        "reward_model": {"style": "rule", "ground_truth": "[1, 2, 3, 4]"},
        "extra_info": {"id": "a"},
    },
    "sharegpt": {
        "id": "a",
        "image": ["a.png"],
        "conversations": [{"from": "human", "value": "<image>Where?"}, {"from": "gpt", "value": "[1, 2, 3, 4]"}],
    },
    "ms-swift": {
        "id": "a",
        "messages": [{"role": "user", "content": "<image>Where?"}],
        "images": ["a.png"],
        "solution": "[1, 2, 3, 4]",
        "objects": {"ref": [], "bbox": [[1, 2, 3, 4]], "bbox_type": "real"},
    },
    "openrlhf": {
        "id": "a",
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}],
        "images": ["a.png"],
        "label": "[1, 2, 3, 4]",
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_box_is_written_as_the_peers_read_it(layout: str) -> None:
    native = {
        "id": "a",
        "prompt": "Where?",
        "images": ["a.png"],
        "task": "grounding",
        "boxes": {"box": [1, 2, 3, 4], "space": "abs_original"},
    }
    made = from_native(layout, native, where="x")
    rest = made.pop("_vlrft")
    assert made == WRITTEN[layout]
    assert rest["fields"]["boxes"] == native["boxes"]
    assert same(to_native(layout, {**made, "_vlrft": rest}, where="x"), native)
    # As a CSV or parquet file without types holds it.
    assert same(to_native(layout, {**made, "_vlrft": json.dumps(rest)}, where="x"), native)


@pytest.mark.parametrize("layout", ["easyr1", "verl", "sharegpt", "ms-swift"])
def test_literal_marker_text_is_no_slot_for_a_reader_of_markers(layout: str) -> None:
    native = {
        "id": "a",
        "prompt": _typed("<image>", "the text <image> and <video>"),
        "images": ["a.png"],
        "answer": "x",
    }
    made = from_native(layout, native, where="x")
    shown = json.dumps({key: value for key, value in made.items() if key != "_vlrft"})
    assert shown.count("<image>") == 1
    assert "<video>" not in shown
    assert "the text < image> and < video>" in shown
    assert same(to_native(layout, made, where="x"), native)


def test_of_several_media_columns_the_first_that_holds_something_is_read() -> None:
    row = {"problem": "x", "solution": "1", "images": [], "image": "a.png", "image_path": "old/a.png"}
    made = to_native("r1v", row, where="x")
    assert made["images"] == ["a.png"]
    assert made["meta"] == {"image_path": "old/a.png"}
    assert to_native("r1v", {"problem": "x", "solution": "1", "images": []}, where="x")["images"] == []


def test_pil_images_become_files_with_the_same_pixels() -> None:
    for mode in ("RGB", "L", "RGBA", "P", "CMYK", "1"):
        image = Image.effect_noise((9, 5), 80).convert(mode)
        made = to_native("r1v", {"problem": "x", "solution": "1", "image": image}, where="x")
        again = Image.open(io.BytesIO(made["images"][0]["bytes"]))
        assert again.convert("RGB").tobytes() == image.convert("RGB").tobytes()


def test_markers_may_be_missing_only_where_the_peer_puts_media_first() -> None:
    messages = [{"role": "user", "content": "What?"}]
    row = to_native("ms-swift", {"messages": messages, "images": ["a"], "videos": ["b"], "solution": "x"}, where="x")
    assert row["prompt"] == "What?"
    assert (row["images"], row["videos"]) == (["a"], ["b"])


def test_native_rows_are_told_by_their_answer() -> None:
    assert detect_layout([{"prompt": "x", "images": ["a"], "answer": "1"}]) == ("native", "columns prompt, answer")
    assert detect_layout([{"prompt": "x", "image": "a", "answer": "1"}])[0] == "trl"


PUBLISHED = [
    ("vlm_r1_gui_multi_image.jsonl", "sharegpt", 10, "Operation No Response"),
    ("r1v_geoqa.jsonl", "r1v", 25, "140°"),
    ("r1v_superclevr_counting.jsonl", "r1v", 25, 4),
]


@needs_formats
@pytest.mark.parametrize(("file", "layout", "count", "first"), PUBLISHED)
def test_published_rows(file: str, layout: str, count: int, first: Any) -> None:
    path = FORMATS / file
    assert detect_format(path)[0] == layout
    rows = [to_native(layout, dict(raw.columns), where=raw.where) for raw in RowStream(path)]  # type: ignore[arg-type]
    assert len(rows) == count
    assert rows[0]["answer"] == first
    assert all(isinstance(row["prompt"], str) and row["images"] for row in rows)
    again = [to_native("verl", from_native("verl", row, where="x"), where="x") for row in rows]
    assert all(same(a, b) for a, b in zip(rows, again, strict=True))
