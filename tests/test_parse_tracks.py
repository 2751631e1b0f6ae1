"""Boxes frame by frame in an answer."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.tracks import ParsedFrame, read_track

A, B = (1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)


@pytest.mark.parametrize(
    "answer",
    [
        "[[1, 2, 3, 4], null, [5, 6, 7, 8]]",
        "[(1,2,3,4), None, (5,6,7,8)]",
        "```json\n[[1, 2, 3, 4], [], [5, 6, 7, 8]]\n```",
        "The track: [[1, 2, 3, 4], 'absent', [5, 6, 7, 8]].",
        "[[[1, 2, 3, 4]], [null], [[5, 6, 7, 8]]]",
        "[1, 2, 3, 4]\n[null]\n[5, 6, 7, 8]",
        '[{"bbox": [1, 2, 3, 4]}, {"bbox": null}, {"bbox": [5, 6, 7, 8]}]',
    ],
)
def test_by_order(answer: str) -> None:
    found = read_track(answer)
    assert [entry.box for entry in found if entry.box != ()] in ([A, None, B], [A, B])
    assert [entry.box for entry in found][:: len(found) - 1] == [A, B]
    assert len(found) == 3


def test_null_is_not_no_box() -> None:
    boxes = [entry.box for entry in read_track('[[1, 2, 3, 4], null, [], "none", [1, 2], "there", 7]')]
    assert boxes == [A, None, None, None, (), (), ()]


@pytest.mark.parametrize(
    "answer",
    [
        '[{"frame": 4, "bbox_2d": [1, 2, 3, 4]}, {"frame": 9, "bbox_2d": null}]',
        '{"frame": "Frame 4", "box": [1, 2, 3, 4]} {"frame": "9", "box": null}',
        '{"frame 4": [1, 2, 3, 4], "frame 9": null}',
        "{'4': [1, 2, 3, 4], 'Frame_9': None}",
    ],
)
def test_by_frame(answer: str) -> None:
    assert read_track(answer) == [ParsedFrame(A, frame=4.0), ParsedFrame(None, frame=9.0)]


def test_by_time() -> None:
    assert read_track('[{"timestamp": 1.5, "bbox": [1, 2, 3, 4]}]') == [ParsedFrame(A, time=1.5)]


def test_a_repeated_key_is_another_frame() -> None:
    assert len(read_track('{"frame": 4, "bbox": [1, 2, 3, 4], "bbox": [5, 6, 7, 8]}')) == 2
    assert len(read_track('{"4": [1, 2, 3, 4], "4": [5, 6, 7, 8]}')) == 2


@pytest.mark.parametrize(
    "answer", ["", "gone", "[]", "1, 2, 3, 4", "in frames [0, 7]", "[[1, 2, 3, 4]", "{}", '{"a": null}']
)
def test_no_track(answer: str) -> None:
    assert read_track(answer) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["[", "]", "{", "}", "1", ",", '"frame"', ":", "null", '"bbox"', "[1,2,3,4]"])
        | st.text(max_size=3),
        max_size=30,
    ).map("".join)
)
def test_never_raises(answer: str) -> None:
    for entry in read_track(answer):
        assert entry.box is None or len(entry.box) in (0, 4)


@pytest.mark.parametrize("piece", ["[", "[[1,2,3,4],", "null,", '{"frame":', '{"1":[1,2,3,4]}'])
def test_a_hostile_text_costs_little(piece: str) -> None:
    begun = time.process_time()
    read_track("[" + piece * (200_000 // len(piece)) + "]")
    assert time.process_time() - begun < 2.0
