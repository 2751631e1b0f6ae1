"""The short cut for a detector's usual answer reads what the general reader reads, or leaves it alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrft.parse import parse_boxes
from vlrft.parse.boxes import general_boxes
from vlrft.parse.plain_boxes import BOX_KEYS, CONFIDENCE_KEYS, LABEL_KEYS, plain_boxes

PLAIN = '[{"bbox_2d": [1, 2.5, 30, 40], "label": "cat", "confidence": 1}, '
PLAIN += '{"bbox_2d": [5, 6, 7, 8], "label": "dog", "confidence": 0.5}]'

numbers = st.one_of(st.integers(-9, 2000), st.floats(width=32), st.just(10**400), st.booleans(), st.none())
corners = st.one_of(st.lists(st.integers(0, 99), min_size=4, max_size=4), st.lists(numbers, max_size=5))
labels = st.one_of(st.sampled_from(["cat", "dog"]), st.text(max_size=6), st.none(), st.integers(0, 9))
names = st.sampled_from([*sorted(BOX_KEYS), *LABEL_KEYS, *CONFIDENCE_KEYS, "Label", "area"])
shapes = st.lists(names, min_size=1, max_size=4, unique=True)


@st.composite
def answers(draw: st.DrawFn) -> str:
    """A list of objects, as a rule of one shape, as text, at times with a key given twice or a tail."""
    shape = draw(shapes)
    objects: list[str] = []
    for _ in range(draw(st.integers(0, 3))):
        keys = shape if draw(st.integers(0, 4)) else draw(shapes)
        pairs = [f"{json.dumps(key)}: {json.dumps(_value(draw, key))}" for key in keys]
        pairs += [f'"label": {json.dumps(draw(labels))}'] if draw(st.integers(0, 4)) == 0 else []
        objects.append("{" + ", ".join(pairs) + "}")
    text = "[" + draw(st.sampled_from(["", "\n  "])) + ", ".join(objects) + "]"
    return draw(st.sampled_from(["{}", "```json\n{}\n```", "```\n{}```", "{} and so on", "```json\n{}"])).format(text)


def _value(draw: st.DrawFn, key: str) -> Any:
    if key in BOX_KEYS:
        return draw(corners)
    return draw(numbers if key in CONFIDENCE_KEYS else labels)


@given(answers())
def test_reads_what_the_general_reader_reads(answer: str) -> None:
    assert repr(parse_boxes(answer)) == repr(general_boxes(answer))


@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```", "```\n{}\n```"])
def test_the_usual_answer_takes_the_short_cut(form: str) -> None:
    found = plain_boxes(form.format(PLAIN))
    assert found is not None
    assert found == general_boxes(PLAIN)
    assert [box.label for box in found] == ["cat", "dog"]
    assert found[0].box == (1.0, 2.5, 30.0, 40.0)


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN.replace('"label": "cat"', '"label": "cat", "label": "dog"'),
        PLAIN.replace("[5, 6, 7, 8]", "[5, 6, 7]"),
        PLAIN.replace("[5, 6, 7, 8]", "[5, 6, 7, true]"),
        PLAIN.replace("[5, 6, 7, 8]", f"[5, 6, 7, {10**400}]"),
        PLAIN.replace('"dog"', '["dog"]'),
        PLAIN.replace('"label": "dog"', '"name": "dog"'),
        PLAIN + " and a bird",
        "so: " + PLAIN,
        PLAIN.replace('"', "'"),
        "[1, 2, 3, 4]",
        "[\n" * 100_000,
    ],
)
def test_anything_else_is_left_to_the_general_reader(answer: str) -> None:
    assert plain_boxes(answer) is None
