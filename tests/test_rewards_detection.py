"""det.match_iou, det.f1, det.precision, det.recall, det.calibration: golden numbers, properties, hacks."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft.parse import parse
from vlrft.rewards import TargetError, check_target, score
from vlrft.rewards.box import intersection_over_union
from vlrft.rewards.matching import iou_matrix, pairs, read_answer, read_truth
from vlrft.types import Score

PURE = ("det.match_iou", "det.f1@0.5", "det.precision", "det.recall")
ALL = (*PURE, "det.calibration")
A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [60, 20, 80, 40]
TARGET = [{"bbox": A, "label": "cat"}, {"bbox": B, "label": "dog"}]
IMAGE = {"image_size": [100, 50]}


def say(*objects: Any) -> str:
    """An answer: texts as they are, (box, label[, confidence]) as objects."""
    if objects and isinstance(objects[0], str):
        return f"<think>looking</think><answer>{objects[0]}</answer>"
    keys = ("bbox_2d", "label", "confidence")
    return f"<think>looking</think><answer>{json.dumps([dict(zip(keys, o, strict=False)) for o in objects])}</answer>"


def judge(name: str, *objects: Any, target: Any = None, **meta: Any) -> Score:
    return score(name, say(*objects), TARGET if target is None else target, meta)


@pytest.mark.parametrize(
    ("objects", "iou", "f1", "precision", "recall"),
    [
        ([(A, "cat"), (B, "dog")], 1, 1, 1, 1),
        ([(B, "dog"), (A, "cat")], 1, 1, 1, 1),
        ([(A, "cat")], 1 / 2, 2 / 3, 1, 1 / 2),
        ([([0, 0, 10, 8], "cat"), ([20, 0, 30, 6], "dog")], 1.4 / 2, 1, 1, 1),
        ([([0, 0, 10, 8], "cat"), ([20, 0, 30, 4], "dog")], 0.8 / 2, 1 / 2, 1 / 2, 1 / 2),
        ([(A, "cat"), (B, "dog"), (FAR, "dog")], 2 / 3, 4 / 5, 2 / 3, 1),
        ([(A, "dog"), (B, "cat")], 0, 0, 0, 0),
        ([(A, " CAT "), (B, "Dog.")], 1, 1, 1, 1),
        # an exact duplicate is one more box
        ([(A, "cat"), (A, "cat"), (B, "dog")], 2 / 3, 4 / 5, 2 / 3, 1),
    ],
)
def test_golden_numbers(objects: Any, iou: float, f1: float, precision: float, recall: float) -> None:
    for name, value in zip(PURE, (iou, f1, precision, recall), strict=True):
        assert judge(name, *objects).value == pytest.approx(value, abs=1e-15), name


def test_invalid_pairs_weigh_nothing_before_the_assignment() -> None:
    # Raw IoU would pair p0 with g1 (3/17) and p1 with g0 (0.45): more in sum than 7/13, and not one valid pair.
    target = [{"bbox": [0, 0, 100, 10], "label": "a"}, {"bbox": [0, 10, 100, 20], "label": "a"}]
    first = [0, 3, 100, 13]
    found = judge("det.match_iou", (first, "a"), ([0, 0, 45, 10], "a"), target=target)
    assert found.value == pytest.approx(7 / 13 / 2)


def test_the_threshold_counts_from_equality_on() -> None:
    for t, value in ((0.5, 1.0), (0.500001, 0.0)):
        found = score("det.f1", say(([0, 0, 10, 5], "a")), [{"bbox": A, "label": "a"}], t=t)
        assert found.value == value
    near = say(([0, 0, 10, 4], "a"))
    target = [{"bbox": A, "label": "a"}]
    assert score("det.match_iou", near, target, {"iou_threshold": 0.4}).value == pytest.approx(0.4)
    assert score("det.match_iou", near, target, {"iou_threshold": 0.4}, iou_threshold=0.5).value == 0.0
    assert score("det.recall", near, target, {"iou_threshold": 0.4}).value == 1.0
    assert score("det.recall@0.5", near, target, {"iou_threshold": 0.4}).value == 0.0


def test_hungarian_and_greedy() -> None:
    # The first box overlaps both truths: greedy takes its best pair (0.9) and leaves the second box with nothing.
    target = [{"bbox": [0, 0, 100, 100], "label": "a"}, {"bbox": [0, 0, 100, 80], "label": "a"}]
    boxes = [([0, 0, 100, 90], "a"), ([0, 10, 100, 100], "a")]
    # p0: 0.9, 8/9; p1: 0.9, 70/100
    best = judge("det.match_iou", *boxes, target=target).value
    greedy = score("det.match_iou", say(*boxes), target, matching="greedy").value
    assert best == pytest.approx((8 / 9 + 0.9) / 2)
    assert greedy == pytest.approx((0.9 + 0.7) / 2)
    with pytest.raises(ValueError, match="unknown matching 'auction'; use one of hungarian, greedy"):
        check_target("det.match_iou", target, matching="auction")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("text", ["[]", "None", "No Objects", "no objects.", "```json\n[]\n```", "'none'"])
def test_negatives(name: str, text: str) -> None:
    assert score(name, say(text), []).value == 1.0
    assert score(name, say(text), TARGET) == Score(value=0.0, parts={name: 0.0})
    assert judge(name, (A, "cat"), target=[]).value == 0.0


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "text", ["gibberish", "[[]]", "0", "{}", "null", "nothing", "[[1, 2, 3]]", "()", "x" * 10**6, "[" * 10**5]
)
def test_what_cannot_be_read_is_never_no_objects(name: str, text: str) -> None:
    for target in ([], TARGET):
        assert score(name, say(text), target) == Score(value=0.0, parts={name: 0.0}, flags=("unparsable",))
    assert score(name, "", []).flags == ("no_answer",)
    assert score(name, "", []).value == 0.0


def test_empty_answers_are_an_option() -> None:
    assert score("det.f1", say("nichts"), [], empty_answers=["Nichts"]).value == 1.0
    assert score("det.f1", say("None"), [], empty_answers=["Nichts"]).value == 0.0


def test_a_label_may_be_left_out_where_there_is_one_class() -> None:
    one = [{"bbox": A, "label": "cat"}]
    assert judge("det.f1", str(A), target=one).value == 1.0
    assert judge("det.f1", str(A), target=one, labels=["cat"]).value == 1.0
    assert judge("det.f1", (A, "dog"), target=one).value == 0.0
    # The set has two classes: which one is meant?
    assert judge("det.f1", str(A), target=one, labels=["cat", "dog"]) == Score(
        value=0.0, parts={"det.f1": 0.0}, flags=("unknown_label",)
    )
    assert judge("det.f1", str([A, B])).flags == ("unknown_label",)


def test_null_labels_say_that_classes_do_not_matter() -> None:
    target = [{"bbox": A, "label": None}, {"bbox": B, "label": None}]
    assert judge("det.f1", (A, "cat"), (B, "whatever"), target=target).value == 1.0
    assert judge("det.f1", str([A, B]), target=target).value == 1.0


@pytest.mark.parametrize("name", PURE[:3])
def test_unknown_labels_are_false_positives(name: str) -> None:
    clean = judge(name, (A, "cat"), (B, "dog"), labels=["cat", "dog"])
    found = judge(name, (A, "cat"), (B, "dog"), (FAR, "unicorn"), labels=["cat", "dog"])
    assert clean.flags == ()
    assert found.flags == ("unknown_label",)
    assert found.value < clean.value  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("[[0, 0, 10, NaN]]", "non_finite"),
        ("[[0, 0, 1e999, 10]]", "non_finite"),
        ("[[10, 10, 0, 0]]", "invalid_box"),
        ("[[0, 0, 10, 0]]", "invalid_box"),
        ("[[-5, 0, 10, 10]]", "out_of_range"),
    ],
)
def test_bad_boxes_are_flagged_and_counted(text: str, flag: str) -> None:
    found = score("det.precision", say(text), [{"bbox": A, "label": "a"}], IMAGE)
    assert found.flags == (flag,)
    assert found.value == (1.0 if flag == "out_of_range" else 0.0)
    both = f"[{A}, {text[1:-1]}]"
    assert score("det.precision", say(both), [{"bbox": A, "label": "a"}], IMAGE).value == 0.5


@pytest.mark.parametrize("name", ["det.match_iou", "det.f1", "det.precision", "det.calibration"])
def test_a_dump_of_boxes_does_not_pay(name: str) -> None:
    dump = [
        ([x, y, x + 10, y + 10], label) for x in range(0, 90, 5) for y in range(0, 40, 5) for label in ("cat", "dog")
    ]
    assert judge(name, *dump, **IMAGE).value < 0.05  # type: ignore[operator]
    honest = judge(name, (A, "cat"), **IMAGE).value
    more = judge(name, (A, "cat"), *[(FAR, "cat")] * 6, **IMAGE).value
    assert more < honest  # type: ignore[operator]


@pytest.mark.parametrize("name", ALL)
def test_the_whole_image_and_one_shared_coordinate_earn_nothing(name: str) -> None:
    assert judge(name, ([0, 0, 100, 50], "cat"), ([0, 0, 100, 50], "dog"), **IMAGE).value == 0.0
    assert judge(name, ([0, 30, 40, 45], "cat"), **IMAGE).value == 0.0


@pytest.mark.parametrize(
    ("objects", "value"),
    [
        ([(A, "cat", 1.0), (B, "dog", 1.0)], 1.0),
        ([(A, "cat", 0.8), (B, "dog", 0.6)], 1 - (0.04 + 0.16) / 2),
        ([(A, "cat", 0.8), (FAR, "dog", 0.4)], (1 - (0.04 + 0.16) / 2) / 2),
        ([(A, "cat"), (B, "dog")], 1.0),
        ([(A, "cat", 1.0), (B, "dog", 1.0), (FAR, "dog")], 1 - 1 / 3),
        ([(A, "cat", 95.0), (B, "dog", -3.0)], 0.5),
        # a wrong box without confidence is no way to be paid
        ([(FAR, "cat", 0.0)], 0.0),
    ],
)
def test_calibration(objects: Any, value: float) -> None:
    assert judge("det.calibration", *objects).value == pytest.approx(value)


def test_boxes_of_no_confidence_thin_out_errors_but_never_beyond_recall() -> None:
    unsure, doubts = (A, "cat", 0.5), [(FAR, "cat", 0.0)] * 50
    alone, thinned = (judge("det.calibration", unsure, *extra).value for extra in ([], doubts))
    assert alone is not None
    assert thinned is not None
    assert alone < thinned < judge("det.recall", unsure, *doubts).value == 0.5  # type: ignore[operator]


def test_a_target_changed_in_place_is_read_anew() -> None:
    target = [{"bbox": list(A), "label": "cat"}]
    text = say(f'[{{"bbox": {list(A)}, "label": "cat"}}]')
    assert score("det.f1", text, target).value == 1.0
    target[0]["bbox"] = list(FAR)
    assert score("det.f1", text, target).value == 0.0
    target[0]["bbox"] = [True, 0, 9, 9]
    with pytest.raises(TargetError, match="object 0"):
        score("det.f1", text, target)


@pytest.mark.parametrize("confidence", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_confidence_that_is_not_finite_is_wrong(confidence: str) -> None:
    text = f'{{"bbox": {A}, "label": "cat", "confidence": {confidence}}}'
    found = score("det.calibration", say(text), [{"bbox": A, "label": "cat"}])
    assert (found.value, found.flags) == (0.0, ("non_finite",))


def test_spaces() -> None:
    meta = {"image_size": [200, 100], "coord_space": "norm_1000", "target_space": "norm_1"}
    target = [{"bbox": [0.1, 0.2, 0.5, 0.6], "label": "a"}]
    assert score("det.match_iou", say(([100, 200, 500, 600], "a")), target, meta).value == pytest.approx(1.0)


def test_the_reasoning_does_not_count() -> None:
    text = f"<think><answer>{json.dumps(TARGET)}</answer></think><answer>[]</answer>"
    assert score("det.f1", text, TARGET).value == 0.0
    text = f"<think>{json.dumps(TARGET)}</think>"
    assert score("det.f1", text, TARGET).flags == ("no_answer",)


@pytest.mark.parametrize(
    ("target", "meta", "message"),
    [
        (None, {}, "a detection target is a list"),
        ({"bbox": A, "label": "a"}, {}, "a detection target is a list"),
        ([A], {}, "object 0 must be"),
        ([{"bbox": A}], {}, "object 0 must be"),
        ([{"label": "a"}], {}, "object 0 must be"),
        ([{"bbox": A, "label": "a"}, {"bbox": [1, 2, 3], "label": "a"}], {}, r"object 1: a box target is"),
        ([{"bbox": [1, 2, 3, True], "label": "a"}], {}, "object 0: a box target is"),
        ([{"bbox": [0, 0, math.nan, 1], "label": "a"}], {}, "not finite"),
        ([{"bbox": [0, 0, 10**400, 1], "label": "a"}], {}, "object 0: box target"),
        ([{"bbox": [5, 5, 5, 9], "label": "a"}], {}, "inverted or has no area"),
        ([{"bbox": [0, 0, 300, 9], "label": "a"}], IMAGE, "reaches outside the 100x50 image"),
        ([{"bbox": A, "label": ""}], {}, "label must be a text"),
        ([{"bbox": A, "label": 7}], {}, "label must be a text"),
        ([{"bbox": A, "label": "a"}, {"bbox": A, "label": None}], {}, "label all of them or none"),
        ([{"bbox": A, "label": "a"}], {"labels": ["b"]}, "label 'a' is not in meta labels"),
        ([{"bbox": A, "label": "a"}], {"labels": "a"}, "meta labels must be a list"),
        ([{"bbox": A, "label": "a"}], {"labels": [1]}, "meta labels must be a text"),
        ([], {"labels": []}, "meta labels must be a list"),
        ([], {"coord_space": "pixel"}, "unknown coordinate space 'pixel'"),
        ([], {"target_space": "norm_1000", "coord_space": "abs_original"}, "needs image_size"),
        ([], {"coord_space": "norm_1000"}, "needs image_size"),
        ([], {"image_size": [0, 1]}, "image_size must be"),
        ([], {"image_size": 7}, "detection target"),
        ([], {"iou_threshold": 0}, "meta iou_threshold"),
        ([], {"iou_threshold": "half"}, "meta iou_threshold"),
        ([], {"iou_threshold": math.nan}, "meta iou_threshold"),
    ],
)
def test_bad_targets_stop_before_any_completion(target: Any, meta: dict[str, Any], message: str) -> None:
    for name in ("det.match_iou", "det.f1", "det.precision", "det.recall", "det.calibration"):
        with pytest.raises(TargetError, match=message):
            check_target(name, target, meta)
        with pytest.raises(TargetError, match=message):
            score(name, say((A, "a")), target, meta)


def test_a_bad_option_is_not_a_bad_target() -> None:
    with pytest.raises(ValueError, match=r"det\.f1: the IoU threshold") as error:
        score("det.f1@1.5", say("[]"), [])
    assert not isinstance(error.value, TargetError)


def test_a_rounded_edge_is_cut_off() -> None:
    target = [{"bbox": [90, 40, 100.5, 50.5], "label": "a"}]
    assert judge("det.match_iou", ([90, 40, 100, 50], "a"), target=target, **IMAGE).value == 1.0


# ------------------------------------------------------------------------------------- properties

coordinate = st.integers(0, 8).map(float)


@st.composite
def scenes(draw: st.DrawFn) -> list[tuple[list[float], str]]:
    found = []
    for _ in range(draw(st.integers(1, 6))):
        x, y = draw(coordinate), draw(coordinate)
        box = [x, y, x + 1 + draw(coordinate), y + 1 + draw(coordinate)]
        found.append((box, draw(st.sampled_from(["cat", "dog"]))))
    return found


def truth(objects: list[tuple[list[float], str]]) -> list[dict[str, Any]]:
    return [{"bbox": box, "label": label} for box, label in objects]


@settings(max_examples=80, deadline=None)
@given(said=scenes(), true=scenes(), t=st.sampled_from([0.3, 0.5, 0.75]), random=st.randoms(use_true_random=False))
def test_order_does_not_matter_and_misses_are_extras(said: Any, true: Any, t: float, random: Any) -> None:
    meta = {"iou_threshold": t, "labels": ["cat", "dog"]}
    mixed = random.sample(said, len(said))
    for name in ("det.match_iou", "det.f1", "det.precision", "det.recall"):
        value = score(name, say(*said), truth(true), meta).value
        assert value == pytest.approx(score(name, say(*mixed), truth(true), meta).value, abs=1e-12)
        assert 0.0 <= value <= 1.0
    for name in ("det.match_iou", "det.f1"):
        forth = score(name, say(*said), truth(true), meta).value
        assert forth == pytest.approx(score(name, say(*true), truth(said), meta).value, abs=1e-12)
        assert score(name, say(*true), truth(true), meta).value == 1.0
        extra = score(name, say(*said, ([50.0, 50.0, 51.0, 51.0], "cat")), truth(true), meta).value
        assert extra <= forth
    assert score("det.precision", say(*said), truth(true), meta).value == pytest.approx(
        score("det.recall", say(*true), truth(said), meta).value
    )


@settings(max_examples=60, deadline=None)
@given(said=scenes(), true=scenes())
def test_the_matrix_is_the_single_iou_and_greedy_is_never_better(said: Any, true: Any) -> None:
    known = read_truth(truth(true), {})
    answer = read_answer(parse(say(*said)), {}, known, ())
    matrix = iou_matrix(answer.boxes, known.boxes)
    for row, (a, _) in enumerate(said):
        for column, (b, _) in enumerate(true):
            assert matrix[row, column] == intersection_over_union(tuple(a), tuple(b))
    best, greedy = (sum(p[2] for p in pairs(answer, known, 0.2, how)) for how in ("hungarian", "greedy"))
    assert greedy <= best + 1e-6


wild = st.floats()


@settings(max_examples=80, deadline=None)
@given(
    boxes=st.lists(st.tuples(st.tuples(wild, wild, wild, wild), st.text(max_size=3), wild), max_size=4),
    sized=st.booleans(),
)
def test_every_answer_has_a_value(boxes: Any, sized: bool) -> None:
    for name in ALL:
        found = score(name, say(*[(list(box), label, c) for box, label, c in boxes]), TARGET, IMAGE if sized else {})
        assert 0.0 <= found.value <= 1.0  # type: ignore[operator]


def test_huge_boxes_do_not_overflow() -> None:
    huge = "[[-1e308, -1e308, 1e308, 1e308]]"
    assert score("det.match_iou", say(huge), [{"bbox": A, "label": "a"}]).value == 0.0
    big = [{"bbox": [0, 0, 1e200, 1e200], "label": "a"}]
    assert score("det.match_iou", say("[[0, 0, 1e200, 1e200]]"), big).value == 0.0


def test_a_megabyte_of_boxes() -> None:
    started = time.process_time()
    found = score(
        "det.match_iou", say("[" + ",".join(["[0,0,10,10]"] * 80_000) + "]"), [{"bbox": A, "label": "a"}] * 20
    )
    assert found.value == pytest.approx(20 / 80_000)
    assert time.process_time() - started < 6


def test_what_is_announced_as_a_box_and_is_none_counts() -> None:
    cat = {"bbox": [0, 0, 10, 10], "label": "cat"}
    for extra in ('{"bbox_2d": [0, 0, 10], "label": "cat"}', '{"bbox_2d": null, "label": "cat"}'):
        answer = f'<answer>[{{"bbox_2d": [0, 0, 10, 10], "label": "cat"}}, {extra}]</answer>'
        for name, value in (("det.match_iou", 0.5), ("det.precision", 0.5), ("det.f1@0.5", 2 / 3)):
            found = score(name, answer, [cat])
            assert found.value == pytest.approx(value)
            assert "invalid_box" in found.flags
