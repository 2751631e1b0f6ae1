"""Answers that other frameworks wrote: in the task's form, with a stated coordinate space or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.data.answers import settled, typed_answer
from vlrft.data.layouts import same
from vlrft.data.problems import SampleError


@pytest.mark.parametrize(
    ("answer", "task", "typed"),
    [
        ("[1, 2, 3, 4]", "grounding", [1, 2, 3, 4]),
        ("[1, 2]", "math", "[1, 2]"),
        ("[1, 2]", "temporal_grounding", [1, 2]),
        (
            "[{'Position': [1, 2, 3, 4], 'Confidence': 1}]",
            "detection",
            [{"bbox": [1.0, 2.0, 3.0, 4.0], "confidence": 1.0}],
        ),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "Cat"}]', "detection", [{"bbox": [1, 2, 3, 4], "label": "Cat"}]),
        ("No Objects", "detection", []),
        ("(B)", "choice", "B"),
        ("c.", "grounded_video_qa", "C"),
        ("A dog", "choice", "A dog"),
        ("on the left", "grounding", "on the left"),
        ("[" * 5000, "grounding", "[" * 5000),
        (4, "counting", 4),
    ],
)
def test_answers_take_the_form_of_the_task(answer: Any, task: str, typed: Any) -> None:
    assert same(typed_answer(answer, task), typed)


def test_a_coordinate_space_is_stated_or_asked_for() -> None:
    row = {"answer": "[1, 2, 3, 4]"}
    with pytest.raises(SampleError, match=r"does not state the coordinate space.*options: \{space: ...\}.*norm_1000"):
        settled(row, task="grounding", space=None, where="x")
    assert settled(row, task="grounding", space="norm_1000", where="x") == {
        "answer": [1, 2, 3, 4],
        "boxes": {"space": "norm_1000"},
    }
    stated = {"answer": [1, 2, 3, 4], "boxes": {"space": "norm_1"}}
    assert settled(stated, task="grounding", space="norm_1000", where="x") == stated
    assert settled(row, task="math", space=None, where="x") == row
