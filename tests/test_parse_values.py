"""The tolerant reader of values: its fast path for JSON gives what the reader itself would give."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse import PROSE, read_values
from vlrft.parse import values as reader
from vlrft.parse.boxes import parse_box_points, says_nothing
from vlrft.parse.masks import parse_masks, run_lengths


def slowly(text: str) -> list[Any]:
    """What the reader makes of `text` token by token."""
    quick = reader._json_at
    reader._json_at = lambda text, position: (None, 0)
    try:
        return read_values(text)
    finally:
        reader._json_at = quick


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False), st.text(max_size=8)
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["a", "A", "bbox", "Ä", ""]), inner, max_size=4)
    ),
    max_leaves=20,
)
fragments = st.sampled_from(
    [*"[]{}(),:'\"\\ \n", "1", "-0", "1.5e3", "1e999", "NaN", "-Infinity", "true", "None", '"a"', "'b'", '"\\u00e9"',
     "```", "json", "x", "[1, 2]", '{"k": [1, 2], "K": 3}', "<|box_start|>", "\u00a0", "\t", "\x0c", "01", "1.", "+1"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(tree=trees, indent=st.sampled_from([None, 1]), python=st.booleans(), prose=st.booleans())
def test_json_is_read_alike_on_both_paths(tree: Any, indent: int | None, python: bool, prose: bool) -> None:
    text = str(tree) if python else json.dumps(tree, indent=indent, ensure_ascii=False)
    text = f"So it's:\n```json\n{text}\n``` {text}." if prose else text
    assert repr(read_values(text)) == repr(slowly(text))


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(fragments, max_size=24))
def test_any_text_is_read_alike_on_both_paths(parts: list[str]) -> None:
    text = "".join(parts)
    assert repr(read_values(text)) == repr(slowly(text))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a": 1, "A": 2}', [{"a": [1.0, 2.0]}]),
        ("{'a': 'it', 'b': None}", [{"a": ["it"], "b": [None]}]),
        ("[1, [2, 3], -4]", [[1.0, [2.0, 3.0], -4.0]]),
        ("(1, 2)", [[1.0, 2.0]]),
        ("(1, 2]", [PROSE]),
        ("[,1,,2,]", [[1.0, 2.0]]),
        ("[1 2]x", [[1.0, 2.0], PROSE]),
        ("[1, 2", [PROSE]),
        ("[123456789012345678901234567890]", [[123456789012345678901234567890.0]]),
        ("[true, false, null]", [[True, False, None]]),
    ],
)
def test_values(text: str, values: list[Any]) -> None:
    assert read_values(text) == values


def test_numbers_are_floats_and_never_too_large() -> None:
    (found,) = read_values("[1, 1e999, -1e999, " + "9" * 5000 + "]")
    assert found == [1.0, math.inf, -math.inf, math.inf]
    assert all(type(number) is float for number in found)


def test_depth_is_limited_on_both_paths() -> None:
    assert read_values("[" * 16 + "]" * 16) != [PROSE]
    for text in ("[" * 17 + "1" + "]" * 17, '{"a":' * 17 + "1" + "}" * 17):
        assert PROSE in read_values(text)
        assert repr(read_values(text)) == repr(slowly(text))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "[1," * 100_000,
        "[1, 2" * 70_000,
        '{"a": ' * 60_000,
        "[" * 900 + "1," * 150_000,
        "'" * 400_000,
        "['" * 200_000,
        "[(" * 200_000,
        "[1 " * 100_000 + "]" * 9,
        ("[" * 17 + "]" * 17) * 9_000,
    ],
    ids=lambda text: text[:12],
)
def test_hostile_text_is_read_in_linear_time(text: str) -> None:
    started = time.process_time()
    read_values(text)
    assert time.process_time() - started < 5, "quadratic reading takes minutes"


@pytest.mark.parametrize("text", ["[]", " [ ] ", "None", "none.", '"No Objects"', "no_objects", "```json\n[]\n```"])
def test_empty_answers(text: str) -> None:
    assert says_nothing(text, ["[]", "None", "No Objects"])


@pytest.mark.parametrize(
    "text", ["", "()", "[[]]", "nothing", "There are no objects", "none of them: [1,2,3,4]", "[" * 999]
)
def test_not_empty_answers(text: str) -> None:
    assert not says_nothing(text, ["[]", "None", "No Objects"])


@pytest.mark.parametrize(
    ("text", "boxes", "points"),
    [
        ('{"bbox": [1,2,3,4], "points_1": [5,6], "points_2": [7,8]}', 1, ((5, 6), (7, 8))),
        ('[{"bbox_2d": [1,2,3,4], "point_2d": [5,6]}]', 1, ((5, 6),)),
        ("{'box': [1,2,3,4], 'points': [[5,6],[7,8]]}", 1, ((5, 6), (7, 8))),
        ('{"bbox": [1,2,3,4], "points_1": [5,6], "points_1": [7,8]}', 1, ((5, 6), (7, 8))),
        ('{"bbox": [1,2,3,4], "box": [1,2,3,4]}', 2, ()),
        ('{"point": [5,6]}', 0, ((5, 6),)),
        ("[1,2,3,4]", 1, ()),
    ],
)
def test_boxes_with_points(text: str, boxes: int, points: tuple[tuple[int, int], ...]) -> None:
    (found,) = parse_box_points(text)
    assert (len(found.boxes), found.points) == (boxes, points)


@pytest.mark.parametrize("text", ["", "{}", '{"a": [1,2]}', "[" * 100_000, '{"points": "many"}'])
def test_no_box_with_points(text: str) -> None:
    assert parse_box_points(text) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('{"size": [2, 3], "counts": "123"}', 1),
        ('{"size": [2, 3], "counts": [1, 2, 3]}', 1),
        ('{"segmentation": {"size": [2, 3], "counts": [6]}}', 1),
        ('[{"mask": [[1,2,3,4,5,6]]}, {"mask": [[1,2,3,4,5,6]]}]', 2),
        ("[1,2,3,4,5,6]", 1),
        ("[[1,2],[3,4],[5,6]]", 1),
        ("[[[1,2],[3,4],[5,6]]]", 1),
        ('{"size": [2, 3], "counts": "123", "counts": "6"}', 0),
        ('{"size": "x", "counts": "123"}', 0),
        ('{"mask": {"mask": {"mask": [1,2,3,4,5,6]}}}', 0),
        ("[['a']]", 0),
        ("no mask", 0),
        ("[]", 0),
    ],
)
def test_masks(text: str, count: int) -> None:
    assert len(parse_masks(text)) == count


@settings(max_examples=200, deadline=None)
@given(
    counts=st.one_of(st.text(max_size=20), st.binary(max_size=20).map(lambda b: "".join(chr(48 + c % 64) for c in b)))
)
def test_run_lengths_are_total(counts: str) -> None:
    runs = run_lengths(counts, 100)
    assert runs is None or (runs.sum() == 100 and runs.min() >= 0)
