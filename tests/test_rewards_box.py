"""box.*: golden numbers worked out by hand, geometry as properties, and the hacks that must not pay."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.coords import SPACES, Box, convert
from vlrft.rewards import TargetError, check_target, score
from vlrft.rewards.box import generalised_iou, intersection_over_union
from vlrft.types import Score

TARGET = [0.0, 0.0, 10.0, 10.0]
IMAGE = {"image_size": [100, 50]}
NAMES = ("box.iou", "box.giou", "box.iou_step", "box.acc@0.5")


def say(answer: Any) -> str:
    return f"<think>looking</think><answer>{answer}</answer>"


def judge(answer: Any, target: Any = TARGET, name: str = "box.iou", **meta: Any) -> Score:
    return score(name, say(answer), target, meta)


@pytest.mark.parametrize(
    ("box", "iou", "giou"),
    [
        ([0, 0, 10, 10], 1.0, 1.0),
        ([0, 0, 10, 5], 0.5, 0.5),
        ([0, 0, 20, 20], 0.25, 0.25),
        ([5, 5, 15, 15], 25 / 175, 25 / 175 - (225 - 175) / 225),
        ([5, 0, 15, 10], 1 / 3, 1 / 3),
        # disjoint: hull 30 x 10 = 300, union 200
        ([20, 0, 30, 10], 0.0, -1 / 3),
        # touching edges share no area: hull = union
        ([10, 0, 20, 10], 0.0, 0.0),
        # one shared pixel and less count as they are: no "+1" anywhere
        ([9, 9, 19, 19], 1 / 199, 1 / 199 - (361 - 199) / 361),
        ([9.5, 9.5, 10.5, 10.5], 0.25 / 100.75, 0.25 / 100.75 - (110.25 - 100.75) / 110.25),
    ],
)
def test_golden_numbers(box: list[float], iou: float, giou: float) -> None:
    assert judge(box).value == pytest.approx(iou, abs=1e-15)
    assert judge(box, name="box.giou").value == pytest.approx((giou + 1) / 2, abs=1e-15)
    assert judge(box, name="box.acc@0.25").value == float(iou >= 0.25)


@pytest.mark.parametrize(
    ("height", "lo", "hi", "value"),
    [
        (4, 0.5, 0.75, 0.0),
        (5, 0.5, 0.75, 0.5),
        (6, 0.5, 0.75, 0.6),
        (7.5, 0.5, 0.75, 0.75),
        (8, 0.5, 0.75, 1.0),
        (8, 0.75, 0.9, 0.8),
        (0.5, 0.0, 1.0, 0.05),
        (10, 1.0, 1.0, 1.0),
    ],
)
def test_iou_step(height: float, lo: float, hi: float, value: float) -> None:
    found = score("box.iou_step", say([0, 0, 10, height]), TARGET, lo=lo, hi=hi)
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(("lo", "hi"), [(0.8, 0.7), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_iou_step_needs_sane_thresholds(lo: float, hi: float) -> None:
    with pytest.raises(ValueError, match="0 <= lo <= hi <= 1 must hold"):
        score("box.iou_step", say(TARGET), TARGET, lo=lo, hi=hi)


def test_a_score_names_its_part() -> None:
    assert judge(TARGET) == Score(value=1.0, parts={"box.iou": 1.0})


def test_fractions_of_the_image_are_not_broken_by_small_numbers() -> None:
    found = judge([0, 0, 0.1, 0.1], [0, 0, 0.1, 0.2], target_space="norm_1", **IMAGE)
    assert found.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("answer", "coord_space"),
    [
        ([10, 10, 60, 30], "abs_original"),
        ([20, 20, 120, 60], "abs_input"),
        ([100, 200, 600, 600], "norm_1000"),
        ([99.9, 199.8, 599.4, 599.4], "norm_999"),
        ([0.1, 0.2, 0.6, 0.6], "norm_1"),
    ],
)
def test_one_box_in_every_space(answer: list[float], coord_space: str) -> None:
    meta = {"image_size": [100, 50], "input_size": [200, 100], "coord_space": coord_space}
    found = judge(answer, [10, 10, 60, 30], **meta)
    assert found.value == pytest.approx(1.0)
    assert found.flags == ()


def test_the_right_box_in_the_wrong_space_is_wrong() -> None:
    found = judge([10, 10, 60, 30], [10, 10, 60, 30], coord_space="norm_1000", **IMAGE)
    assert found.value is not None
    assert found.value < 0.01


def test_coord_space_defaults_to_the_targets_space() -> None:
    assert judge([100, 200, 600, 600], [100, 200, 600, 600], target_space="norm_1000", **IMAGE).value == 1.0


def test_clip_to_the_image() -> None:
    found = judge([-50, -5, 10, 10], **IMAGE)
    assert (found.value, found.flags) == (1.0, ("out_of_range",))
    assert judge([-50, -5, 10, 10]).value == pytest.approx(100 / 900)


def test_a_valid_box_outside_the_image_scores_zero() -> None:
    found = judge([200, 0, 210, 10], **IMAGE)
    assert (found.value, found.flags) == (0.0, ("out_of_range",))


# ------------------------------------------------------------------------------------------- hacks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("completion", "flags"),
    [
        ("", ("no_answer",)),
        ("[0, 0, 10, 10]", ("no_answer",)),
        (say(""), ("no_answer",)),
        (say("   "), ("no_answer",)),
        (say("no idea"), ("unparsable",)),
        (say("[]"), ("unparsable",)),
        (say("[0, 0, 10]"), ("unparsable",)),
        (say("x1=0 and 10"), ("unparsable",)),
        ("<think>[0, 0, 10, 10]</think><answer>it is there</answer>", ("unparsable",)),
        ("<think><answer>[0, 0, 10, 10]</answer></think>", ("no_answer",)),
        ("<think>hm <answer>[0, 0, 10, 10]</answer>", ("no_answer",)),
        ("\uff1canswer\uff1e[0, 0, 10, 10]\uff1c/answer\uff1e", ("no_answer",)),
        (say("[NaN, 0, 10, 10]"), ("non_finite",)),
        (say("[0, 0, 10, Infinity]"), ("non_finite",)),
        (say("[0, 0, 1e999, 10]"), ("non_finite",)),
        (say("[0, 0, 10, " + "9" * 5000 + "]"), ("non_finite",)),
        (say("[10, 10, 0, 0]"), ("invalid_box",)),
        (say("[10, 0, 0, 10]"), ("invalid_box",)),
        (say("[5, 5, 5, 5]"), ("invalid_box",)),
        (say("[0, 0, 10, 0]"), ("invalid_box",)),
        (say("[5, 5, 5, 5] [0, 0, 10, 10]"), ("several_answers", "invalid_box")),
        (say("[" * 100_000), ("unparsable",)),
        (say("[" * 5_000 + "]" * 5_000), ("unparsable",)),
        (say("a" * 1_000_000), ("unparsable",)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_worth_nothing(name: str, completion: str, flags: tuple[str, ...]) -> None:
    found = score(name, completion, TARGET, IMAGE)
    assert (found.value, found.flags) == (0.0, flags)


def test_the_answer_after_the_reasoning_counts() -> None:
    text = "<think>maybe <answer>[0, 0, 10, 10]</answer></think><answer>[0, 0, 10, 5]</answer>"
    assert score("box.iou", text, TARGET).value == 0.5


def test_boxes_under_any_key_count() -> None:
    hidden = f'{{"box": {TARGET}, "other": [{{"bbox": [60, 20, 80, 40]}}, {{"bbox": [1, 1, 2, 2]}}]}}'
    assert judge(hidden, **IMAGE).value == pytest.approx(1 / 3)
    assert judge(f'{{"box": {TARGET}, "meta": {{"size": [1, 2]}}}}', **IMAGE).value == 1.0
    assert judge(f"<ref>the dog</ref><box>[{TARGET}]</box>", **IMAGE).value == 1.0


def test_the_last_of_several_answers_counts() -> None:
    text = "<think>a</think><answer>[0, 0, 10, 10]</answer><answer>[50, 40, 60, 50]</answer>"
    found = score("box.iou", text, TARGET)
    assert (found.value, found.flags) == (0.0, ("several_answers",))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_listing_boxes_divides_by_their_number(name: str, n: int) -> None:
    wrong = [60, 20, 80, 40]
    first_right = judge([TARGET, *[wrong] * (n - 1)], name=name, **IMAGE)
    assert first_right.value == pytest.approx(1 / n)
    first_wrong = judge([wrong, *[TARGET] * (n - 1)], name=name, **IMAGE)
    assert first_wrong.value is not None
    assert first_wrong.value <= 0.5 / n
    assert first_wrong.flags == (("several_answers",) if n > 1 else ())


@pytest.mark.parametrize(
    "listing",
    [
        "[0,0,10,10] and [0,0,10,10]",
        "(0,0),(10,10),(0,0),(10,10)",
        '{"bbox": [0,0,10,10], "box": [0,0,10,10]}',
        '{"bbox": [0,0,10,10], "bbox": [0,0,10,10]}',
        "```json\n[0,0,10,10]\n```\n```json\n[0,0,10,10]\n```",
        "<|box_start|>(0,0),(10,10)<|box_end|><|box_start|>(0,0),(10,10)<|box_end|>",
    ],
)
def test_no_syntax_hides_a_second_box(listing: str) -> None:
    assert judge(listing).value == 0.5


def test_the_whole_image_earns_its_share_only() -> None:
    assert judge([0, 0, 100, 50], **IMAGE).value == pytest.approx(100 / 5000)
    assert judge([-1e9, -1e9, 1e9, 1e9], **IMAGE).value == pytest.approx(100 / 5000)
    assert judge([0, 0, 100, 50], name="box.acc@0.5", **IMAGE).value == 0.0


@pytest.mark.parametrize("box", [[0, 20, 30, 40], [50, 0, 60, 10], [30, 30, 10, 40], [40, 20, 50, 10]])
def test_one_shared_coordinate_earns_nothing(box: list[float]) -> None:
    assert judge(box, **IMAGE).value == 0.0


def test_giou_floor() -> None:
    far = [90, 40, 100, 50]
    unfloored = judge(far, name="box.giou", **IMAGE).value
    assert unfloored == pytest.approx((1 - (5000 - 200) / 5000) / 2)
    assert score("box.giou", say(far), TARGET, IMAGE, floor=0.1).value == 0.1
    assert score("box.giou", say("none"), TARGET, IMAGE, floor=0.1).value == 0.0
    with pytest.raises(ValueError, match="floor must lie in"):
        score("box.giou", say(far), TARGET, floor=2.0)


# ---------------------------------------------------------------------------------------- geometry

sides = st.integers(min_value=16, max_value=4096)
unit = st.floats(min_value=0, max_value=1)


@st.composite
def norm_boxes(draw: st.DrawFn) -> Box:
    """Boxes of at least a thousandth of the image, in norm_1."""
    x1, y1 = draw(st.floats(0, 0.999)), draw(st.floats(0, 0.999))
    return x1, y1, x1 + 0.001 + draw(unit) * (0.999 - x1), y1 + 0.001 + draw(unit) * (0.999 - y1)


@settings(deadline=None)
@given(a=norm_boxes(), b=norm_boxes())
def test_symmetric_and_bounded(a: Box, b: Box) -> None:
    iou, giou = intersection_over_union(a, b), generalised_iou(a, b)
    assert iou == intersection_over_union(b, a)
    assert giou == pytest.approx(generalised_iou(b, a), abs=1e-12)
    assert 0.0 <= iou <= 1.0
    assert -1.0 <= giou <= iou
    assert intersection_over_union(a, a) == generalised_iou(a, a) == 1.0


wild = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(a=st.tuples(wild, wild, wild, wild), b=norm_boxes())
def test_finite_for_every_finite_box(a: Box, b: Box) -> None:
    for name in NAMES:
        for meta in ({}, {"image_size": [1, 1]}):
            found = score(name, say(list(a)), list(b), meta)
            assert found.value is not None
            assert 0.0 <= found.value <= 1.0


@settings(deadline=None)
@given(
    a=norm_boxes(),
    b=norm_boxes(),
    image=st.tuples(sides, sides),
    seen=st.tuples(sides, sides),
    said=st.sampled_from(SPACES),
    true=st.sampled_from(SPACES),
)
def test_iou_does_not_depend_on_the_spaces(
    a: Box, b: Box, image: tuple[int, int], seen: tuple[int, int], said: str, true: str
) -> None:
    meta = {"image_size": image, "input_size": seen, "coord_space": said, "target_space": true}
    answer = convert(a, "norm_1", said, image_size=image, input_size=seen)
    target = convert(b, "norm_1", true, image_size=image, input_size=seen)
    found = score("box.iou", say(list(answer)), list(target), meta)
    assert found.value == pytest.approx(intersection_over_union(a, b), abs=1e-9)


# ----------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("target", "meta", "message"),
    [
        (None, {}, r"a box target is \[x1, y1, x2, y2\], got None"),
        ([1, 2, 3], {}, "got"),
        ([1, 2, 3, "4"], {}, "got"),
        ([True, 2, 3, 4], {}, "got"),
        ("1 2 3 4", {}, "got"),
        ([5, 5, 5, 9], {}, "inverted or has no area"),
        ([9, 5, 5, 9], {}, "inverted or has no area"),
        ([math.nan, 5, 5, 9], {}, "not finite"),
        ([0, 0, 10**400, 9], {}, "box target"),
        ([0, 0, 10, 10], {"target_space": "pixel"}, "unknown coordinate space 'pixel'.*abs_original, abs_input"),
        ([0, 0, 10, 10], {"coord_space": "pixel"}, "unknown coordinate space 'pixel'"),
        ([0, 0, 10, 10], {"target_space": "norm_1000", "coord_space": "abs_original"}, "needs image_size"),
        ([0, 0, 10, 10], {"target_space": "abs_input", **IMAGE}, "needs input_size"),
        ([0, 0, 10, 10], {"image_size": [0, 10]}, "image_size must be"),
        ([0, 0, 10, 10], {"image_size": 10}, "box target"),
        ([0, 0, 10, 10], {"coord_space": "norm_1000"}, "needs image_size"),
        ([0, 0, 10, 10], {"coord_space": "abs_input", **IMAGE}, "needs input_size"),
        ([500, 100, 900, 800], IMAGE, "reaches outside the 100x50 image; check target_space"),
        ([-20, 0, 10, 10], IMAGE, "reaches outside"),
    ],
)
def test_bad_targets_stop_before_any_completion(target: Any, meta: dict[str, Any], message: str) -> None:
    for name in NAMES:
        with pytest.raises(TargetError, match=message):
            check_target(name, target, meta)
        with pytest.raises(TargetError, match=message):
            score(name, say([0, 0, 1, 1]), target, meta)


def test_a_rounded_edge_is_cut_off() -> None:
    target = [90, 40, 100.5, 50.5]
    check_target("box.iou", target, IMAGE)
    assert judge([90, 40, 100, 50], target, **IMAGE).value == 1.0


def test_good_targets_pass() -> None:
    for name in NAMES:
        check_target(name, TARGET, IMAGE)
        check_target(name, (0, 0, 10, 10))


@pytest.mark.parametrize(
    ("name", "answer", "target", "meta"),
    [
        ("box.iou", [0, 0, 500, 250], [0, 0, 500, 500], {"target_space": "norm_1000"}),
        ("box.iou", [0, 0, 0.5, 0.25], [0, 0, 500, 500], {"target_space": "norm_1000", "coord_space": "norm_1"}),
        ("box.iou", [0, 0, 0.5, 0.25], [0, 0, 0.5, 0.5], {"target_space": "norm_1"}),
        (
            "box.iou",
            [0, 0, 14, 7],
            [0, 0, 500, 500],
            {"target_space": "norm_1000", "coord_space": "abs_input", "input_size": [28, 28]},
        ),
        ("track.mean_iou", [[0, 0, 0.5, 0.25]], [[0, 0, 0.5, 0.5]], {"target_space": "norm_1"}),
    ],
)
def test_normalised_boxes_need_no_size(name: str, answer: Any, target: Any, meta: dict[str, Any]) -> None:
    completion = f"<answer>{answer}</answer>"
    assert score(name, completion, target, meta).value == pytest.approx(0.5)
    sized = {"image_size": [640, 480], **meta}
    assert score(name, completion, target, sized).value == pytest.approx(0.5)


def test_normalised_objects_and_points_need_no_size() -> None:
    meta = {"target_space": "norm_1", "coord_space": "norm_1000"}
    boxes = '<answer>[{"bbox_2d": [0, 0, 500, 500], "label": "cat"}]</answer>'
    assert score("det.match_iou", boxes, [{"bbox": [0, 0, 0.5, 0.5], "label": "cat"}], meta).value == 1.0
    assert score("gui.point_in_box", "<answer>[200, 300]</answer>", [0, 0, 0.5, 0.5], meta).value == 1.0
