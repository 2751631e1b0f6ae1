"""Which layout rows are in where columns of several layouts meet, and the grounding form of ms-swift."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.data.detect import detect_layout
from vlrft.data.layouts import to_native
from vlrft.data.problems import DataError, SampleError

Row = dict[str, Any]
ASKED = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
ONE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}]
MEDIA = {"images": ["a.png"]}


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        ({"prompt": ASKED, **MEDIA, "solution": "4", "task": "counting"}, "trl"),
        ({"prompt": "q", **MEDIA, "solution": "4", "task": "counting"}, "trl"),
        ({"prompt": ASKED, **MEDIA, "answer": "4"}, "trl"),
        ({"prompt": ASKED, **MEDIA, "answer": "4", "solution": "4"}, "trl"),
        ({"prompt": "<image>q", **MEDIA, "label": "4", "task": "counting"}, "openrlhf"),
        ({"prompt": ONE, **MEDIA, "answer": "4", "task": "counting"}, "native"),
        ({"prompt": "q", **MEDIA, "answer": "4", "reward_model": {}}, "native"),
        ({"prompt": "q", **MEDIA, "boxes": {"box": [1, 2, 3, 4], "space": "norm_1"}, "label": "cat"}, "native"),
        ({"prompt": "q", **MEDIA, "task": "grounding", "boxes": {"box": [1, 2, 3, 4]}}, "native"),
    ],
)
def test_a_column_of_ours_does_not_make_foreign_rows_native(row: Row, layout: str) -> None:
    assert detect_layout([row])[0] == layout


def test_a_label_beside_an_answer_is_not_guessed_between() -> None:
    with pytest.raises(DataError, match=r"fit several layouts: openrlhf .*native \(by columns prompt, answer\)"):
        detect_layout([{"prompt": "q", **MEDIA, "answer": "4", "label": "5"}])


def _swift(question: str, answer: str, **objects: Any) -> Row:
    turns = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]
    return to_native("ms-swift", {"messages": turns, "images": ["a.png"], "objects": objects}, where="rows.jsonl:2")


def test_names_fill_the_slots_of_all_turns_in_order() -> None:
    item = '{"bbox_2d": <bbox>, "label": "<ref-object>"}'
    boxes = [[90, 160, 135, 212], [360, 480, 495, 532]]
    row = _swift("Find all the <ref-object>", f"[{item}, {item}]", ref=["animal", "sheep", "goat"], bbox=boxes)
    assert row["prompt"] == "Find all the animal"
    assert row["answer"] == [{"bbox": boxes[0], "label": "sheep"}, {"bbox": boxes[1], "label": "goat"}]
    assert row["boxes"] == {"space": "abs_original"}
    both = _swift("Where are <ref-object> and <ref-object>?", "<bbox> and <bbox>", ref=["cat", "dog"], bbox=boxes)
    assert both["prompt"] == "Where are cat and dog?"
    assert [item["label"] for item in both["answer"]] == ["cat", "dog"]
    alike = _swift("Find the <ref-object>", "<bbox><bbox>", ref=["cat"], bbox=boxes, bbox_type="norm1")
    assert [item["label"] for item in alike["answer"]] == ["cat", "cat"]
    assert alike["boxes"] == {"space": "norm_1"}
    one = _swift("Find the <ref-object>", "<ref-object> <bbox>", ref=["cat", "cat"], bbox=boxes[:1], image_id=[0])
    assert one["answer"] == boxes[0]


def test_names_are_filled_in_beside_a_solution() -> None:
    row = {"messages": [{"role": "user", "content": "Is there a <ref-object>?"}], "objects": {"ref": ["cat"]}}
    made = to_native("ms-swift", {**row, "solution": "yes"}, where="rows.jsonl:2")
    assert (made["prompt"], made["answer"]) == ("Is there a cat?", "yes")


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        ({"ref": ["cat"], "bbox": [[1, 2, 3, 4]], "image_id": [1]}, r"image_id is \[1\].*first image alone"),
        ({"ref": ["cat"], "bbox": [[1, 2, 3, 4]], "image_id": 1}, "image_id is 1"),
        ({"ref": 3, "bbox": [[1, 2, 3, 4]]}, "objects.ref is 3; list the names"),
        ({"ref": ["cat"], "bbox": [[1, 2, 3]]}, "objects.bbox is"),
        ({"ref": ["cat"], "bbox": 3}, "objects.bbox is 3"),
        ({"ref": ["cat"], "bbox": [[1, 2, 3, "4"]]}, "objects.bbox is"),
        ({"ref": ["cat", "dog", "cow"], "bbox": [[1, 2, 3, 4]]}, "2 <ref-object> slots, but `objects.ref` has 3 names"),
        ({"ref": [], "bbox": [[1, 2, 3, 4]]}, "more <ref-object> slots"),
    ],
)
def test_objects_that_do_not_fit(objects: Row, says: str) -> None:
    with pytest.raises(SampleError, match=rf"^rows.jsonl:2: .*{says}"):
        _swift("Where is <ref-object>?", "<ref-object>: <bbox>", **objects)


def test_a_column_objects_of_another_kind() -> None:
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    with pytest.raises(SampleError, match="`objects` is 3; write an object"):
        to_native("ms-swift", {**row, "objects": 3}, where="rows.jsonl:2")
    assert to_native("ms-swift", {**row, "objects": {}}, where="rows.jsonl:2")["answer"] == "a"
