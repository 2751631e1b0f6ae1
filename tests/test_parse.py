"""Tags and box syntax: what counts as an answer, what counts as a box, and that no text can do harm."""

from __future__ import annotations

import json
import math
import time
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrft import config
from vlrft.parse import OUTPUT_MODES, match_blocks, parse, parse_boxes
from vlrft.parse.boxes import NO_BOX, ParsedBox

# Text that is likely to hit the grammar, not only random letters.
pieces = st.one_of(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "<|box_start|>", "```json", "```", "bbox_2d"]),
    st.sampled_from(list("[](){},:'.-<>\"\\\n ıé")),
    st.sampled_from(["1", "2.5", "1e9", "nan", "inf", "None"]),
)
texts = st.one_of(st.text(), st.lists(pieces, max_size=60).map("".join))


def test_modes_are_those_of_the_config() -> None:
    assert get_args(config.OutputMode) == OUTPUT_MODES


@pytest.mark.parametrize(
    ("text", "answer", "flags"),
    [
        ("<think>a</think><answer> [1] </answer>", "[1]", ()),
        ("<think>a\nb</think>\n<answer>\n[1,\n2]\n</answer>\n", "[1,\n2]", ()),
        ("<answer>5</answer>", "5", ()),
        ("opened by the prompt</think><answer>5</answer>", "5", ()),
        ("<think>say <answer>1</answer></think><answer>2</answer>", "2", ()),
        ("<think>say <answer>1</answer></think>", None, ("no_answer",)),
        ("<think>never closed <answer>1</answer>", None, ("no_answer",)),
        ("<answer>1</answer><think>late</think>", None, ("no_answer",)),
        ("<think>a</think><answer>1</answer></think>", None, ("no_answer",)),
        ("<answer>1</answer><answer>2</answer>", "2", ("several_answers",)),
        ("<answer>1</answer><answer>2", "1", ()),
        ("<answer>a<answer>b</answer>", "b", ()),
        ("in <answer> tags: <answer>b</answer> done</answer>", "b", ()),
        ("<answer>a <think> b</answer>", "a <think> b", ()),
        ("<answer></answer>", None, ("no_answer",)),
        ("<answer> \n </answer>", None, ("no_answer",)),
        ("5", None, ("no_answer",)),
        ("", None, ("no_answer",)),
        ("<answer>5", None, ("no_answer",)),
        ("\uff1canswer\uff1e5\uff1c/answer\uff1e", None, ("no_answer",)),
        ("<\u0430nswer>5</\u0430nswer>", None, ("no_answer",)),
        ("<Answer>5</Answer>", None, ("no_answer",)),
        ("< answer >5</answer>", None, ("no_answer",)),
    ],
)
def test_think_mode(text: str, answer: str | None, flags: tuple[str, ...]) -> None:
    parsed = parse(text)
    assert (parsed.answer, parsed.flags) == (answer, flags)
    assert parsed.text == text


@pytest.mark.parametrize(
    ("text", "think"),
    [
        ("<think> a </think><answer>1</answer>", "a"),
        ("a</think><answer>1</answer>", "a"),
        ("<think>a</think><think>b</think>", "a</think><think>b"),
        ("<think>a", None),
        ("<think></think>", None),
    ],
)
def test_think_text(text: str, think: str | None) -> None:
    assert parse(text).think == think


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer><think>because</think>", "1"),
        ("<answer>1</answer><think>or <answer>2</answer></think>", "1"),
        ("<answer>1</answer><answer>2</answer>", "1"),
        ("<think><answer>1</answer></think><answer>2</answer>", "2"),
        ("1", None),
    ],
)
def test_answer_then_think_takes_the_first(text: str, answer: str | None) -> None:
    assert parse(text, "answer_then_think").answer == answer


def test_direct_is_the_whole_completion() -> None:
    assert parse(" <answer>1</answer>\n", "direct").answer == "<answer>1</answer>"
    assert parse(" \n", "direct").flags == ("no_answer",)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("[1, 2]", "[1, 2]"), ("<think>[9]</think><answer>5</answer>", "5"), ("<think>[9]</think>", None), (" ", None)],
)
def test_adaptive(text: str, answer: str | None) -> None:
    assert parse(text, "adaptive").answer == answer


@pytest.mark.parametrize(
    ("text", "answer", "flags"),
    [
        ("<think>7</think><answer>5", "5", ("lenient",)),
        ("<think>7</think> 5", "5", ("lenient",)),
        ("just 5", "just 5", ("lenient",)),
        ("<answer>5</answer>", "5", ()),
        ("<think>only 7</think>", None, ("no_answer",)),
        ("<think>only 7", None, ("no_answer",)),
        ("<think>only <answer>7", None, ("no_answer",)),
    ],
)
def test_lenient(text: str, answer: str | None, flags: tuple[str, ...]) -> None:
    parsed = parse(text, lenient=True)
    assert (parsed.answer, parsed.flags) == (answer, flags)


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="unknown output mode 'thinking'; use one of think, direct"):
        parse("", "thinking")


@settings(deadline=None)
@given(text=texts, mode=st.sampled_from(OUTPUT_MODES), lenient=st.booleans())
def test_parse_is_total(text: str, mode: str, lenient: bool) -> None:
    parsed = parse(text, mode, lenient=lenient)
    assert (parsed.answer is None) == ("no_answer" in parsed.flags)
    assert parsed.answer is None or (parsed.answer in text and parsed.answer.strip() == parsed.answer != "")


plain = st.text(st.characters(exclude_characters="<"), min_size=1).filter(lambda s: s.strip() == s != "")


@settings(deadline=None)
@given(think=plain, answer=plain, noise=plain)
def test_formatted_completions_come_apart_again(think: str, answer: str, noise: str) -> None:
    parsed = parse(f"<think>{think}<answer>{noise}</answer></think>\n<answer>{answer}</answer>")
    assert parsed.answer == answer
    assert match_blocks(f"<think>{think}</think>\n<answer>{answer}</answer>", ("think", "answer")) == [think, answer]


ONE = [(1.0, 2.0, 3.0, 4.0)]
TWO = [(1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)]


@pytest.mark.parametrize(
    ("answer", "boxes"),
    [
        ("[1, 2, 3, 4]", ONE),
        ("(1, 2, 3, 4)", ONE),
        ("1 2 3 4", ONE),
        ("1,2,3,4", ONE),
        (" 1, 2, 3, 4\n", ONE),
        ("[[1, 2, 3, 4], [5, 6, 7, 8]]", TWO),
        ("[1, 2, 3, 4]\n[5, 6, 7, 8]", TWO),
        ("[1, 2, 3, 4] or [5, 6, 7, 8]", TWO),
        ('{"bbox_2d": [1, 2, 3, 4]}', ONE),
        ('{"bbox": [1, 2, 3, 4]}', ONE),
        ('{"box": [1, 2, 3, 4]}', ONE),
        ("{'Position': [1, 2, 3, 4], 'Confidence': 0.5}", ONE),
        ('{"coordinate": [1, 2, 3, 4],}', ONE),
        ("{'bbox': (1, 2, 3, 4)}", ONE),
        ('[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7, 8]}]', TWO),
        ('{"box": [1, 2, 3, 4], "box": [5, 6, 7, 8]}', TWO),
        ('{"box": [1, 2, 3, 4], "bbox": [5, 6, 7, 8]}', TWO),
        ('{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]]}', TWO),
        ("{bbox: [1, 2, 3, 4]}", ONE),
        ('```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "a"}\n]\n```', ONE),
        ("It's here:\n```\n[1, 2, 3, 4]\n```\nthe dog's.", ONE),
        ("The box is [1, 2, 3, 4].", ONE),
        ("(1,2),(3,4)", ONE),
        ("(1, 2), (3, 4)", ONE),
        ("[[1, 2], [3, 4]]", ONE),
        ("(1,2),(3,4)\n(5,6),(7,8)", TWO),
        ("<|box_start|>(1,2),(3,4)<|box_end|>", ONE),
        ("<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>", ONE),
        ("<|box_start|>[1, 2, 3, 4]<|box_end|>", ONE),
        ("[-1.5, +2.0, 3e1, .5]", [(-1.5, 2.0, 30.0, 0.5)]),
        ("[010, 020, 030, 040]", [(10.0, 20.0, 30.0, 40.0)]),
        ("[1e999, 2, 3, -Infinity]", [(math.inf, 2.0, 3.0, -math.inf)]),
        ("(see [1, 2, 3, 4]", ONE),
        # not boxes
        ("", []),
        ("[]", []),
        ("None", []),
        ("[1, 2, 3]", []),
        ("[1, 2, 3, 4, 5]", []),
        ("1 2 3 4 5 6 7 8", []),
        ("in 1, 2, 3, 4 steps", []),
        ("at (1, 2) and (3, 4)", []),
        ("[1, 2, 3, 4)", []),
        ("{1, 2, 3, 4}", []),
        ("[True, 2, 3, 4]", []),
        ("[1-2, 3, 4, 5]", []),
        ("[1, 2, 3, 4x]", []),
        ("['1', '2', '3', '4']", ONE),
        ('{"x1": 1, "y1": 2, "x2": 3, "y2": 4}', ONE),
        ('{"bbox_2d": "[1, 2, 3, 4]"}', ONE),
        ('{"bounding_box": [1, 2, 3, 4]}', ONE),
        ("(1,2),(3,4),(5,6)", [*ONE, NO_BOX]),
        ("[[1,2,3,4],[5,6]]", [*ONE, NO_BOX]),
        ("['a', 'b', 'c', 'd']", []),
        ('[{"bbox_2d": [1, 2, 3, 4], "lab', []),
        ('{"history": [1, 2, 3, 4]}', []),
        ("[__import__('os').getpid(), 2, 3, 4]", []),
        ("[\u0131nf, 2, 3, 4]", []),
    ],
)
def test_box_syntaxes(answer: str, boxes: list[tuple[float, ...]]) -> None:
    assert [b.box for b in parse_boxes(answer)] == boxes


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ('{"bbox": [1, 2, 3], "label": "cat"}', [ParsedBox(NO_BOX, "cat")]),
        ('{"bbox": null, "label": "cat"}', [ParsedBox(NO_BOX, "cat")]),
        ('{"bbox": [1, 2, 3, 4], "label": "cat", "confidence": "80%"}', [ParsedBox((1, 2, 3, 4), "cat", 0.8)]),
        ('{"bbox": [1, 2, 3, 4], "label": "cat", "score": "high"}', [ParsedBox((1, 2, 3, 4), "cat")]),
        (
            '{"bbox": [1, 2, 3, 4], "label": "cat", "label": "dog"}',
            [ParsedBox((1, 2, 3, 4), "cat"), ParsedBox((1, 2, 3, 4), "dog")],
        ),
    ],
)
def test_odd_objects_still_count(text: str, boxes: list[ParsedBox]) -> None:
    assert parse_boxes(text) == boxes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('{"box": [1, 2, 3, 4], "other": [{"bbox": [5, 6, 7, 8]}, {"bbox": [1, 1, 2, 2]}]}', 3),
        ('{"objects": [{"bbox": [1, 2, 3, 4]}]}', 1),
        ('{"a": {"b": [[{"bbox": [1, 2, 3, 4]}]]}}', 1),
        ('{"bbox": [1, 2, 3, 4], "points": [[1, 2], [3, 4]], "meta": {"size": [1, 2, 3, 4]}}', 1),
    ],
)
def test_nested_objects_count(text: str, count: int) -> None:
    found = parse_boxes(text)
    assert len(found) == count
    assert found[0].box == (1, 2, 3, 4)
    assert len(parse_boxes(text, wide=False)) <= 1
    corners = '{"x1": [1], "y1": 2, "x2": 3, "y2": 4}'
    assert parse_boxes(corners, wide=False) == parse_boxes(corners) == [ParsedBox(NO_BOX)]


@pytest.mark.parametrize(
    "text",
    [
        "<ref>a dog</ref><box>(1,2),(3,4)</box> and <ref>cat</ref><box>(5,6),(7,8)</box>",
        "<ref>a dog</ref><box>[[1, 2, 3, 4]]</box>\n<ref> cat </ref><box>[[5, 6, 7, 8]]</box>",
        "<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(5,6),(7,8)<|box_end|>",
    ],
)
def test_names_in_ref_marks(text: str) -> None:
    assert parse_boxes(text) == [ParsedBox((1, 2, 3, 4), "a dog"), ParsedBox((5, 6, 7, 8), "cat")]
    assert [box.label for box in parse_boxes(f"{text}<box>[[1, 1, 2, 2]]</box>")] == ["a dog", "cat", "cat"]


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("<answer>1</answer>", 1),
        ("<answer>1</answer><answer>2</answer>", 2),
        ("<answer>[1, 2]</answer><answer> [1,2]\n</answer><answer></answer>", 1),
        ("<answer>A.</answer><answer>a</answer>", 1),
        ("<think><answer>1</answer></think><answer>2</answer>", 1),
        ("".join(f"<answer>{i}</answer>" for i in range(13)), 13),
        ("<answer> </answer><answer></answer>", 1),
        ("", 1),
    ],
)
def test_different_answers_are_counted(text: str, answers: int) -> None:
    assert parse(text).answers == answers
    assert parse(text, "adaptive").answers == answers
    assert parse(text, "direct").answers == 1


def test_labels_and_confidences() -> None:
    first, second = parse_boxes(
        '[{"bbox_2d": [1, 2, 3, 4], "label": "caf\\u00e9 [3]"}, {"score": 0.25, "box": [5, 6, 7, 8]}]'
    )
    assert (first.label, first.confidence) == ("café [3]", None)
    assert (second.label, second.confidence) == (None, 0.25)
    (third,) = parse_boxes(r"{'Position': [1, 2, 3, 4], 'label': 'the dog\'s', 'Confidence': 1}")
    assert (third.label, third.confidence) == ("the dog's", 1.0)


def test_nan_is_kept_for_the_reward_to_flag() -> None:
    (found,) = parse_boxes("[NaN, nan, 3, -inf]")
    assert math.isnan(found.box[0])
    assert math.isnan(found.box[1])
    assert found.box[3] == -math.inf


numbers = st.floats(allow_nan=False, allow_infinity=False)
four = st.tuples(numbers, numbers, numbers, numbers)
WRITERS = {
    "json": lambda b: json.dumps(list(b)),
    "object": lambda b: json.dumps({"bbox_2d": list(b), "label": "a, [b]"}),
    "python": lambda b: str([{"Position": list(b), "Confidence": 1.0}]),
    "fenced": lambda b: f"```json\n{json.dumps([{'bbox': list(b)}], indent=1)}\n```",
    "corners": lambda b: f"({b[0]!r},{b[1]!r}),({b[2]!r},{b[3]!r})",
    "marked": lambda b: f"<|box_start|>({b[0]!r},{b[1]!r}),({b[2]!r},{b[3]!r})<|box_end|>",
    "bare": lambda b: " ".join(map(repr, b)),
}


@pytest.mark.parametrize("writer", WRITERS)
@settings(deadline=None)
@given(box=four)
def test_written_boxes_are_read_back_exactly(writer: str, box: tuple[float, float, float, float]) -> None:
    assert [b.box for b in parse_boxes(WRITERS[writer](box))] == [box]


@settings(deadline=None)
@given(boxes=st.lists(four, max_size=8), prose=st.booleans())
def test_every_listed_box_is_counted(boxes: list[tuple[float, float, float, float]], prose: bool) -> None:
    text = json.dumps([{"bbox_2d": list(b), "label": "x"} for b in boxes])
    assert [b.box for b in parse_boxes(f"Found {len(boxes)}: {text}." if prose else text)] == boxes


@settings(deadline=None)
@given(text=texts)
def test_parse_boxes_is_total(text: str) -> None:
    assert all(len(b.box) == 4 for b in parse_boxes(text))


LONG = 200_000
HOSTILE = {
    "open": "[" * LONG,
    "deep": "[" * (LONG // 2) + "]" * (LONG // 2),
    "objects": '{"a":' * (LONG // 5),
    "escapes": '["' + '\\"' * (LONG // 2),
    "quotes": "['\\" * (LONG // 3),
    "digits": "[" + "1" * LONG,
    "signs": "1-" * (LONG // 2),
    "exponents": "[1e" * (LONG // 3),
    "marks": "<|" * (LONG // 2),
    "letters": "a" * LONG,
    "calls": "[]" * (LONG // 2),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_no_box_and_no_hang(name: str) -> None:
    started = time.process_time()
    assert parse_boxes(HOSTILE[name]) == []
    assert time.process_time() - started < 5, "quadratic reading of 200 kB takes minutes"


@pytest.mark.parametrize("tag", ["<think>", "</think>", "<answer>", "<answer>x</answer>", "<tool_response>", "<"])
def test_long_runs_of_tags(tag: str) -> None:
    text = tag * (LONG // len(tag))
    started = time.process_time()
    for mode in OUTPUT_MODES:
        assert parse(text, mode, lenient=True).text is text
    assert match_blocks(text, ("think", "answer")) is None
    assert time.process_time() - started < 5


def test_a_hundred_thousand_boxes_are_all_counted() -> None:
    assert len(parse_boxes("[1,2,3,4]," * 100_000)) == 100_000  # one megabyte
