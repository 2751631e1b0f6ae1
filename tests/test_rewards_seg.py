"""seg.mask_iou and seg.box_point: golden numbers, agreement with pycocotools, answers that try to break the judge."""

from __future__ import annotations

import json
import math
import random
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse.masks import run_lengths
from vlrft.rewards import TargetError, check_target, score
from vlrft.types import Score

coco = pytest.importorskip("pycocotools.mask")

SIZE = {"image_size": [8, 4]}
"""Width 8, height 4."""
LEFT = [[0, 0, 4, 0, 4, 4, 0, 4]]
"""The left half as a polygon: 16 of 32 pixels."""
LEFT_RUNS = {"size": [4, 8], "counts": [0, 16, 16]}


def say(answer: Any) -> str:
    return f"<think>looking</think><answer>{answer if isinstance(answer, str) else json.dumps(answer)}</answer>"


def judge(answer: Any, target: Any = LEFT, **meta: Any) -> Score:
    return score("seg.mask_iou", say(answer), target, {**SIZE, **meta})


def runs_of(mask: Any) -> dict[str, Any]:
    """A 0/1 array as the compressed run lengths that JSON can hold."""
    made = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": made["counts"].decode()}


HALF = np.zeros((4, 8), dtype=int)
HALF[:, :4] = 1
TOP = np.zeros((4, 8), dtype=int)
TOP[:2] = 1
EMPTY = np.zeros((4, 8), dtype=int)


@pytest.mark.parametrize(
    "target", [LEFT, LEFT_RUNS, runs_of(HALF), HALF.tolist()], ids=["polygon", "runs", "rle", "rows"]
)
@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (LEFT, 1.0),
        (LEFT[0], 1.0),
        ([[0, 0], [4, 0], [4, 4], [0, 4]], 1.0),
        ([[[0, 0], [4, 0], [4, 4], [0, 4]]], 1.0),
        ({"segmentation": LEFT}, 1.0),
        ([{"mask": LEFT_RUNS}], 1.0),
        (LEFT_RUNS, 1.0),
        (runs_of(HALF), 1.0),
        (HALF.tolist(), 1.0),
        # two polygons are one mask, also where they overlap
        ([[0, 0, 3, 0, 3, 4, 0, 4], [2, 0, 4, 0, 4, 4, 2, 4]], 1.0),
        # 8 pixels in both, 16 + 16 - 8 in either
        (runs_of(TOP), 1 / 3),
        (TOP.tolist(), 1 / 3),
        ([[0, 0, 8, 0, 8, 2, 0, 2]], 1 / 3),
        # the whole image earns its share
        ({"size": [4, 8], "counts": [0, 32]}, 0.5),
        ([[-99, -99, 99, -99, 99, 99, -99, 99]], 0.5),
        # the right half
        ({"size": [4, 8], "counts": [16, 16]}, 0.0),
        ("[]", 0.0),
        ("None", 0.0),
        (EMPTY.tolist(), 0.0),
    ],
    ids=lambda value: str(value)[:40],
)
def test_golden_numbers(answer: Any, value: float, target: Any) -> None:
    assert judge(answer, target).value == pytest.approx(value)


@pytest.mark.parametrize("target", [[], EMPTY.tolist(), {"size": [4, 8], "counts": [32]}])
def test_negatives(target: Any) -> None:
    for answer in ("[]", "No Objects", EMPTY.tolist(), {"size": [4, 8], "counts": [32]}):
        assert judge(answer, target) == Score(value=1.0, parts={"seg.mask_iou": 1.0})
    assert judge(LEFT, target).value == 0.0
    assert judge("nothing there", target) == Score(value=0.0, parts={"seg.mask_iou": 0.0}, flags=("unparsable",))
    assert score("seg.mask_iou", "", target, SIZE).flags == ("no_answer",)


def test_polygons_are_in_the_answers_space() -> None:
    assert judge([[0, 0, 500, 0, 500, 1000, 0, 1000]], coord_space="norm_1000").value == 1.0
    assert judge([[0, 0, 0.5, 0, 0.5, 1, 0, 1]], coord_space="norm_1").value == 1.0
    # Nothing but 0 and 1: the whole image in norm_1, an array elsewhere.
    assert judge([[0, 0, 1, 0, 1, 1, 0, 1]], coord_space="norm_1").value == 0.5
    assert judge([[0, 0, 1, 0, 1, 1, 0, 1]]).flags == ("unparsable",)
    target = [[0, 0, 500, 0, 500, 1000, 0, 1000]]
    assert judge(LEFT, target, target_space="norm_1000", coord_space="abs_original").value == 1.0


def test_run_lengths_say_the_size_themselves() -> None:
    assert score("seg.mask_iou", say(LEFT), LEFT_RUNS).value == 1.0
    assert score("seg.mask_iou", say(HALF.tolist()), HALF.tolist()).value == 1.0


def test_of_several_masks_the_first_counts_and_is_divided() -> None:
    found = judge(f"{json.dumps(LEFT_RUNS)} or {json.dumps(runs_of(TOP))}")
    assert (found.value, found.flags) == (0.5, ("several_answers",))
    assert judge([{"mask": LEFT_RUNS}] * 4).value == 0.25


@pytest.mark.parametrize(
    ("answer", "flag"),
    [
        ({"size": [8, 4], "counts": [0, 16, 16]}, "unparsable"),
        ({"size": [4, 8], "counts": [0, 16]}, "unparsable"),
        ({"size": [4, 8], "counts": [0, 16, 17]}, "unparsable"),
        ({"size": [4, 8], "counts": [48, -16]}, "unparsable"),
        ({"size": [4, 8], "counts": [0, 15.5, 16.5]}, "unparsable"),
        ({"size": [4, 8], "counts": []}, "unparsable"),
        ({"size": [4, 8], "counts": ""}, "unparsable"),
        ({"size": [4, 8], "counts": "\u0660" * 9}, "unparsable"),
        ({"size": [4, 8], "counts": "P" * 10_000}, "unparsable"),
        ({"size": [4, 8], "counts": "oooooooooooooooooooo0"}, "unparsable"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "unparsable"),
        ('{"size": [4, 8], "counts": [NaN]}', "unparsable"),
        ('{"size": [4, 8], "counts": [1e999]}', "unparsable"),
        ('{"size": [4, 8]}', "unparsable"),
        ([[0, 0, 4, 0]], "unparsable"),
        ([[0, 0, 4, 0, 4]], "unparsable"),
        ([[0, 0, 4, 0, 4, 4], "x"], "unparsable"),
        ("[[0, 0, 4, 0, NaN, 4]]", "non_finite"),
        ("[[0, 0, 1e999, 0, 4, 4]]", "non_finite"),
        (HALF[:3].tolist(), "unparsable"),
        (np.ones((8, 4), dtype=int).tolist(), "unparsable"),
        ([[0, 1], [1, 0]], "unparsable"),
        ("[" * 100_000, "unparsable"),
        ("a" * 1_000_000, "unparsable"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_worth_nothing(answer: Any, flag: str) -> None:
    assert judge(answer) == Score(value=0.0, parts={"seg.mask_iou": 0.0}, flags=(flag,))


def test_far_corners_are_cut_off() -> None:
    found = judge([[0, 0, 1e300, 0, 1e300, 1e300, 0, 1e300]])
    assert (found.value, found.flags) == (0.5, ("out_of_range",))


@pytest.mark.parametrize(
    "answer",
    [
        [[0, 0, 4000, 3000] * 20_000],
        [[0, 0, 4000, 0, 4000, 3000]] * 5_000,
        [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0]] * 20_000,
        {"size": [3000, 4000], "counts": "0" * 1_000_000},
        {"size": [3000, 4000], "counts": [1] * 200_000},
    ],
    ids=lambda value: str(value)[:30],
)
def test_hostile_masks_cost_neither_memory_nor_time(answer: Any) -> None:
    started = time.process_time()
    found = score("seg.mask_iou", say(answer), [[0, 0, 9, 0, 9, 9]], {"image_size": [4000, 3000]})
    assert (found.value, found.flags) == (0.0, ("unparsable",))
    assert time.process_time() - started < 5


@settings(max_examples=40, deadline=None)
@given(a=st.lists(st.integers(0, 1), min_size=15, max_size=15), b=st.lists(st.integers(0, 1), min_size=15, max_size=15))
def test_iou_of_any_two_masks_in_any_form(a: list[int], b: list[int]) -> None:
    said, true = np.array(a).reshape(3, 5), np.array(b).reshape(3, 5)
    union = int((said | true).sum())
    value = int((said & true).sum()) / union if union else 1.0
    for answer in (said.tolist(), runs_of(said)):
        for target in (true.tolist(), runs_of(true)):
            assert score("seg.mask_iou", say(answer), target).value == pytest.approx(value, abs=1e-15)
    assert score("seg.mask_iou", say(true.tolist()), runs_of(said)).value == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("seed", range(20))
def test_polygons_as_pycocotools_draws_them(seed: int) -> None:
    rng = random.Random(seed)
    said, true = ([[rng.uniform(0, 60) for _ in range(2 * rng.randint(3, 9))] for _ in range(2)] for _ in range(2))
    drawn = [coco.merge(coco.frPyObjects(polygons, 64, 64)) for polygons in (said, true)]
    value = float(coco.iou([drawn[0]], [drawn[1]], [0])[0, 0])
    assert score("seg.mask_iou", say(said), true, {"image_size": [64, 64]}).value == pytest.approx(value, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(mask=st.lists(st.integers(0, 1), min_size=1, max_size=400), scale=st.sampled_from([1, 100, 5000]))
def test_compressed_run_lengths_are_read_as_pycocotools_writes_them(mask: list[int], scale: int) -> None:
    flat = np.repeat(np.array(mask, dtype=np.uint8), scale)
    text = coco.encode(np.asfortranarray(flat.reshape(-1, 1)))["counts"].decode()
    runs = run_lengths(text, len(flat))
    assert runs is not None
    assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs), flat)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40), rows=st.lists(st.lists(st.floats(), max_size=9), max_size=4))
def test_every_answer_has_a_value(text: str, rows: Any) -> None:
    for answer in (text, json.dumps(rows), json.dumps({"size": [4, 8], "counts": text})):
        assert 0.0 <= judge(answer).value <= 1.0  # type: ignore[operator]
        found = score("seg.box_point", say(answer), BOX_POINT, SQUARE)
        assert 0.0 <= found.value <= 1.0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("answer", "value"), [([[0, 0, 10, 0, 10, 5, 0, 5]], 0.5), ([[0, 0, 20, 0, 20, 10, 0, 10]], 0.5), ([], 0.0)]
)
def test_polygons_need_no_size(answer: Any, value: float) -> None:
    square = [[0, 0, 10, 0, 10, 10, 0, 10]]
    for meta in ({}, {"image_size": [40, 30]}):
        assert score("seg.mask_iou", f"<answer>{answer}</answer>", square, meta).value == value
    assert score("seg.mask_iou", "<answer>[]</answer>", []).value == 1.0
    assert score("seg.mask_iou", f"<answer>{square}</answer>", []).value == 0.0


@pytest.mark.parametrize(
    ("target", "meta", "message"),
    [
        (None, SIZE, "a mask target is"),
        ("x", SIZE, "a mask target is"),
        ([1, 2, 3, 4, 5, 6], SIZE, "a mask target is"),
        ([["a"]], SIZE, "not a number"),
        (LEFT, {"target_space": "norm_1"}, "needs image_size"),
        ([[0, 0, 4, 0]], SIZE, "neither polygons of 3 finite points or more nor 4 rows of 8"),
        ([[0, 0, 4, 0, math.nan, 4]], SIZE, "neither polygons"),
        ([[0, 0, 10**400, 0, 4, 4]], SIZE, "neither polygons"),
        ({"size": [4, 8]}, {}, "run lengths are"),
        ({"size": [4], "counts": "x"}, {}, "run lengths are"),
        ({"size": [4, 0], "counts": "x"}, {}, "run lengths are"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, {}, "run lengths are"),
        ({"size": [4, 8], "counts": [31]}, {}, "counts are no run lengths of 4 x 8 pixels"),
        ({"size": [4, 8], "counts": ["a"]}, {}, "counts are no run lengths"),
        ({"size": [4, 8], "counts": "~"}, {}, "counts are no run lengths"),
        ({"size": [8, 4], "counts": [32]}, SIZE, "is not that of the image"),
        (LEFT, {**SIZE, "coord_space": "pixel"}, "unknown coordinate space"),
        (LEFT, {**SIZE, "coord_space": "abs_input"}, "needs input_size"),
        (LEFT, {"image_size": 8}, "mask target"),
    ],
)
def test_bad_mask_targets(target: Any, meta: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        check_target("seg.mask_iou", target, meta)
    with pytest.raises(TargetError, match=message):
        score("seg.mask_iou", say(LEFT), target, meta)


# -------------------------------------------------------------------------------------- box and points

SQUARE = {"image_size": [840, 840]}
BOX_POINT = {"box": [100, 100, 300, 300], "points": [[150, 150], [250, 250]]}


def point(answer: Any, target: Any = BOX_POINT, **options: Any) -> Score:
    return score("seg.box_point", say(answer), target, SQUARE, **options)


@pytest.mark.parametrize(
    ("answer", "terms"),
    [
        ({"bbox": [100, 100, 300, 300], "points_1": [150, 150], "points_2": [250, 250]}, 3),
        ({"bbox_2d": [100, 100, 300, 300], "points": [[250, 250], [150, 150]]}, 3),
        # 9 pixels off everywhere, then exactly 10
        ({"bbox": [109, 109, 309, 309], "points_1": [150, 150], "points_2": [250, 250]}, 3),
        ({"bbox": [110, 110, 310, 310], "points_1": [150, 150], "points_2": [250, 250]}, 2),
        # IoU of exactly one half
        ({"bbox": [100, 100, 300, 200], "points_1": [150, 150], "points_2": [250, 150]}, 1),
        # 99 and 100 pixels off
        ({"bbox": [100, 100, 300, 300], "points_1": [150, 249], "points_2": [250, 151]}, 3),
        ({"bbox": [100, 100, 300, 300], "points_1": [150, 250], "points_2": [250, 150]}, 2),
        # a point outside the predicted box; too few; too many
        ({"bbox": [100, 100, 300, 300], "points_1": [150, 150], "points_2": [301, 250]}, 2),
        ({"bbox": [100, 100, 300, 300], "points_1": [150, 150]}, 2),
        ({"bbox": [100, 100, 300, 300], "points": [[150, 150], [250, 250], [200, 200]]}, 2),
        ({"bbox": [100, 100, 300, 300]}, 2),
        ({"bbox": [500, 500, 600, 600], "points": [[150, 150], [250, 250]]}, 0),
        # the whole image
        ({"bbox": [0, 0, 840, 840], "points": [[150, 150], [250, 250]]}, 1),
    ],
    ids=str,
)
def test_box_point(answer: Any, terms: int) -> None:
    assert point(answer).value == pytest.approx(terms / 3)


def test_one_point_for_one_object() -> None:
    target = {"box": [100, 100, 300, 300], "points": [[200, 200]]}
    assert point([{"bbox_2d": [100, 100, 300, 300], "point_2d": [200, 210]}], target).value == 1.0


def test_thresholds_are_shares_of_the_diagonal() -> None:
    answer = {"bbox": [110, 110, 310, 310], "points_1": [150, 150], "points_2": [250, 250]}
    assert point(answer, tau_box=0.02).value == 1.0
    assert point(answer, tau_box=0.02, tau_point=1e-9).value == 1.0
    small = {"box": [10, 10, 30, 30], "points": [[15, 15], [25, 25]]}
    tenth = {"bbox": [10.9, 10.9, 30.9, 30.9], "points_1": [15, 15], "points_2": [25, 25]}
    assert score("seg.box_point", say(tenth), small, {"image_size": [84, 84]}).value == 1.0
    with pytest.raises(ValueError, match="must be positive"):
        point(answer, tau_box=0.0)


def test_spaces_of_points() -> None:
    answer = {"bbox": [100, 100, 300, 300], "point": [200, 200]}
    target = {"box": [0.1, 0.1, 0.3, 0.3], "points": [[0.2, 0.2]]}
    meta = {**SQUARE, "coord_space": "norm_1000", "target_space": "norm_1"}
    assert score("seg.box_point", say(answer), target, meta).value == 1.0


@pytest.mark.parametrize(
    ("answer", "value", "flags"),
    [
        ("", 0.0, ("no_answer",)),
        ("no idea", 0.0, ("unparsable",)),
        ("[100, 100, 300, 300]", 2 / 3, ()),
        ({"points": [[150, 150], [250, 250]]}, 0.0, ("unparsable",)),
        ({"bbox": [300, 300, 100, 100], "points": [[150, 150], [250, 250]]}, 0.0, ("invalid_box",)),
        ('{"bbox": [NaN, 100, 300, 300], "points": [[150, 150], [250, 250]]}', 0.0, ("non_finite",)),
        ('{"bbox": [100, 100, 300, 300], "points": [[NaN, 150], [250, 250]]}', 2 / 3, ("non_finite",)),
        ([{"bbox": [100, 100, 300, 300]}] * 2, 1 / 3, ("several_answers",)),
        ({"bbox": [100, 100, 300, 300], "box": [1, 1, 9, 9]}, 1 / 3, ("several_answers",)),
        ("[" * 100_000, 0.0, ("unparsable",)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_box_point_hacks(answer: Any, value: float, flags: tuple[str, ...]) -> None:
    found = point(answer)
    assert (found.value, found.flags) == (pytest.approx(value), flags)


@pytest.mark.parametrize(
    ("target", "meta", "message"),
    [
        (None, SQUARE, "a seg.box_point target is"),
        ({"box": [1, 2, 3, 4]}, SQUARE, "a seg.box_point target is"),
        ({"box": [1, 2, 3, 4], "points": []}, SQUARE, "a seg.box_point target is"),
        ({"points": [[1, 2]]}, SQUARE, "a box target is"),
        ({"box": [1, 2, 3, 4], "points": [[1]]}, SQUARE, r"a point is \[x, y\]"),
        ({"box": [1, 2, 3, 4], "points": [["1", 2]]}, SQUARE, "a point is"),
        ({"box": [1, 2, 3, 4], "points": [[900, 2]]}, SQUARE, "lies outside the 840x840 image"),
        ({"box": [1, 2, 3, 4], "points": [[math.nan, 2]]}, SQUARE, "lies outside"),
        ({"box": [1, 2, 3, 4], "points": [[1, 2]]}, {}, "needs image_size"),
    ],
)
def test_bad_box_point_targets(target: Any, meta: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        check_target("seg.box_point", target, meta)
    with pytest.raises(TargetError, match=message):
        score("seg.box_point", say("[]"), target, meta)
