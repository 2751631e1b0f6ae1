"""Faults of the peers' rewards that the spec lists, each with the value that is right, and what is kept beside them."""

from __future__ import annotations

from typing import Any

import pytest

from vlrft.rewards import TargetError, score


def value(name: str, answer: str, target: Any, **meta: Any) -> float | None:
    return score(f"compat.{name}", f"<think>t</think><answer>{answer}</answer>", target, meta).value


@pytest.mark.parametrize(
    ("name", "considered", "given", "target"),
    [
        ("cls_rl.think", "rose", "tulip", "rose"),
        ("vlm_r1.iou", "[0, 0, 9, 9]", "[50, 50, 60, 60]", [0, 0, 9, 9]),
        ("visual_rft.cls", "rose", "tulip", "rose"),
        ("videochat_r1.cls", "rose", "tulip", "rose"),
        ("videochat_r1.qa", "B", "C", "B"),
    ],
)
def test_an_answer_inside_the_reasoning_does_not_count(name: str, considered: str, given: str, target: Any) -> None:
    block = f"<answer>{considered}</answer>"
    assert score(f"compat.{name}", f"<think>{block}</think><answer>{given}</answer>", target).value == 0.0
    assert score(f"compat.{name}", f"<think>so</think>{block}", target).value == 1.0
    assert score(f"compat.{name}", f"{block}<think>because</think>", target).value == 1.0


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("A is correct", "A", 1.0),
        ("A because of it", "A", 1.0),
        ("A and B", "A", 1.0),
        ("A dog, so (B)", "B", 1.0),
        ("A cat appears. Answer: C", "C", 1.0),
        ("A dog", "A", 0.0),
    ],
)
def test_videochat_letters_and_articles(answer: str, truth: str, right: float) -> None:
    assert value("videochat_r1.qa", answer, truth) == right


@pytest.mark.parametrize("name", ["videochat_r1.tg", "time_r1.tg"])
def test_spans_as_their_own_text(name: str) -> None:
    assert value(name, "5 to 10", "5 to 15") == 0.5
    assert value(name, "5 to 10", "<answer>5 to 15</answer>") == 0.5
    for wrong in ([15, 5], [-5, 5], "15 to 5"):
        with pytest.raises(TargetError, match="must not start after its end"):
            value(name, "5 to 10", wrong)


def test_glue_as_its_own_text() -> None:
    for target in ("<glue>[(0, 8)]</glue>", "[(0, 8)]", [[0, 8]], [(0, 8)]):
        assert score("compat.videochat_r1.glue", "<glue>[(0, 4)]</glue>", target).value == 0.5
    with pytest.raises(TargetError, match="must not start after its end"):
        score("compat.videochat_r1.glue", "<glue>[(0, 8)]</glue>", [[0, 3], [8, 2]])


@pytest.mark.parametrize("target", [[], [[1, 1, 0, 0]] * 8, "x"])
def test_tracks_that_nothing_could_match_stop(target: Any) -> None:
    with pytest.raises(TargetError):
        value("videochat_r1.tracking", "[[0, 0, 1, 1]]", target)


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("1e3", "1000", 1.0),
        (".5", "0.5", 1.0),
        ("1,000", "1000", 1.0),
        ("about 3/4", "0.75", 1.0),
        ("A dog", "A", 0.0),
        ("e", "E", 0.0),
        ("E", "E", 1.0),
        ("E.", "E", 0.0),
    ],
)
def test_codevision_answers(answer: str, truth: str, right: float) -> None:
    total = value("codevision.total", answer, {"ops": [], "answer": truth})
    assert total == pytest.approx(right + 0.2)


@pytest.mark.parametrize(
    ("op", "code"),
    [
        ("flip_vertical", "result = ImageOps.flip(image)"),
        ("flip_horizontal", "result = ImageOps.mirror(image)"),
        ("flip_vertical", "result = cv2.flip(img, 0)"),
        ("flip_horizontal", "result = cv2.flip(img, 1)"),
        ("flip_vertical", "result = np.flipud(img)"),
        ("rotate90", "result = image.rotate(90)"),
        ("rotate90", "result = np.rot90(img)"),
        ("rotate270", "result = np.rot90(img, k=3)"),
        ("rotate270", "result = cv2.rotate(img, cv2.ROTATE_90_CLOCKWISE)"),
        ("rotate180", "result = cv2.rotate(img, cv2.ROTATE_180)"),
        ("crop", "result = img[0:10, 5:20]"),
    ],
)
def test_codevision_reads_what_code_does(op: str, code: str) -> None:
    calls = [{"name": "code_image_tool", "parameters": {"code": code}}]
    assert score("compat.codevision.mandatory", "", {"ops": [op]}, {"calls": calls}).value == 1.0
    others = {"flip_vertical", "flip_horizontal", "rotate90", "rotate270", "rotate180", "crop"} - {op}
    for other in others:
        assert score("compat.codevision.mandatory", "", {"ops": [other]}, {"calls": calls}).value == 0.0


def test_codevision_crops_by_slices_and_angles_by_parameter() -> None:
    half = [{"name": "code_image_tool", "parameters": {"code": "img[0:10, 0:5]"}}]
    target = {"ops": ["crop"], "box": [0, 0, 10, 10]}
    assert score("compat.codevision.mandatory", "", target, {"calls": half}).value == 0.5
    turned = [{"name": "rotate", "parameters": {"degree": 90}}]
    assert score("compat.codevision.mandatory", "", {"ops": ["rotate90"]}, {"calls": turned}).value == 1.0


def test_vision_r1_cuts_to_whole_numbers_before_it_scales() -> None:
    sizes = {"image_size": [15, 15], "input_size": [10, 10]}
    assert score("compat.vision_r1.precision", "[1, 1, 3, 3]", [["cat", [1.5, 1.5, 4.5, 4.5]]], sizes).value == 1.0
    sizes = {"image_size": [100, 100], "input_size": [10, 10]}
    assert score("compat.vision_r1.precision", "[0.4, 0.4, 1.6, 1.6]", [["cat", [0, 0, 16, 16]]], sizes).value == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "[0, 0, 9, 9]",
        '{"bbox_2d": [0, 0, 9, 9]}',
        '{"cat": [[0, 0, 9, 9]]}',
        '```JSON\n[{"bbox_2d": [0, 0, 9, 9]}]\n```',
    ],
)
def test_vision_r1_sees_boxes_in_every_json(text: str) -> None:
    assert score("compat.vision_r1.dual_format", text, [["cat", [0, 0, 9, 9]]]).value == 1.0
    assert score("compat.vision_r1.dual_format", text, []).value == 0.0


@pytest.mark.parametrize(
    ("answer", "label", "right"),
    [
        ("dogs", "dog", 1.0),
        ("this is a red rose", "rose", 1.0),
        ("German_Shepherd", "german shepherd", 1.0),
        ("rose or tulip", "rose", 0.0),
        ("primrose", "rose", 0.0),
        ("", "rose", 0.0),
        ("r", "rose", 0.0),
    ],
)
def test_visual_rft_labels(answer: str, label: str, right: float) -> None:
    assert value("visual_rft.cls", answer, label) == right


def test_visual_rft_ways_to_match() -> None:
    completion = "<answer>this is a red rose</answer>"
    assert score("compat.visual_rft.cls", completion, "rose", match="contains").value == 1.0
    assert score("compat.visual_rft.cls", completion, "rose", match="exact").value == 0.0
    assert score("compat.visual_rft.cls", "<answer>shepherd</answer>", "German Shepherd").value == 1.0
    assert score("compat.visual_rft.cls", "<answer>shepherd</answer>", "German Shepherd", match="contains").value == 0.0
    with pytest.raises(ValueError, match="match must be one of"):
        score("compat.visual_rft.cls", completion, "rose", match="fuzzy")


def test_visual_rft_corners_across_lines() -> None:
    assert value("visual_rft.lisa_giou", "(0,0),\n(100,100)", [0, 0, 100, 100]) == 2.0


@pytest.mark.parametrize(
    ("answer", "right"),
    [("B", 1.0), ("(B)", 1.0), ("**B**", 1.0), ("option B.", 1.0), ("the answer is B because", 0.0), ("A or B", 0.0)],
)
def test_vlm_r1_letters(answer: str, right: float) -> None:
    assert value("vlm_r1.mcq", answer, "B") == right


def test_vlm_r1_empty_lists_flat_truths_and_truth_values() -> None:
    assert value("vlm_r1.od_ap", "[]", []) == 1.0
    assert value("vlm_r1.od_ap", "nothing here", []) == 0.0
    box = '```json\n[{"bbox_2d": [0, 0, 9, 9], "label": "cat"}]\n```'
    cat = {"bbox": [0, 0, 9, 9], "label": "cat"}
    assert value("vlm_r1.od_ap50", box, [cat]) == 1.0
    flat = value("vlm_r1.od_ap50", box, [cat, {"bbox": [5, 5, 5, 9], "label": "cat"}])
    assert flat is not None
    assert 0.0 < flat < 1.0
    assert value("vlm_r1.yes_no", "Yes", True) == 1.0


def test_cls_rl_direct_strips_nothing() -> None:
    assert score("compat.cls_rl.direct", "rose ", "rose ").value == 1.0
    assert score("compat.cls_rl.direct", "rose", "rose ").value == 0.0


def test_reason_rft_reads_json_and_names_itself() -> None:
    assert value("reason_rft.func", "move(a, left)", '[["move", "a", "left"]]') == 1.0
    with pytest.raises(TargetError, match=r"compat\.reason_rft\.func_full needs"):
        value("reason_rft.func_full", "move(a, left)", 5)


def test_lengths_need_to_know_who_is_right() -> None:
    with pytest.raises(TargetError, match="needs meta\\['correct'\\]"):
        score("compat.reason_rft.length", "ab", None, {"group_lengths": [2, 6]})
    lists = {"group_lengths": [100, 200], "group_correct": [1, 0], "max_tokens": 1000}
    own = score("compat.ui_r1.dast", "", None, {**lists, "num_tokens": 100, "correct": True}).value
    assert score("compat.ui_r1.dast", "", None, {**lists, "num_tokens": 100}).value == own
    wrong = score("compat.ui_r1.dast", "", None, {**lists, "num_tokens": 200}).value
    assert wrong is not None
    assert wrong < 0.0
