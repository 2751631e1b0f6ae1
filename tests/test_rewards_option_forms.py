"""Options and keys of meta: which is which, alike in every form in which they can be given."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vlrft import cli
from vlrft.rewards import REWARDS, check_target, names, score
from vlrft.rewards.call import scorer
from vlrft.rewards.signature import options_of

HALF = "<answer>[0, 0, 10, 5]</answer>"
BOX = [0, 0, 10, 10]
TWO = '<answer>[{"bbox_2d": [0, 0, 10, 6], "label": "a"}, {"bbox_2d": [50, 50, 60, 60], "label": "a"}]</answer>'
ONE = [{"bbox": [0, 0, 10, 10], "label": "a"}]
TIED = '<answer>[{"bbox_2d": [0, 0, 10, 10], "label": "a"}, {"bbox_2d": [50, 50, 60, 60], "label": "a"}]</answer>'
NOTHING = "<answer>void</answer>"
POINT = "<answer>[60, 60]</answer>"
CLICKED = "<answer>{'action': 'click', 'point': [60, 60]}</answer>"
CLICK = {"action": "click", "point": [50, 50]}
SIZE = {"image_size": [100, 100]}
NUMBERS = "<answer>first 7, then 42</answer>"
TRIGRAMS = "vlrft.rewards.semantic:trigrams"
ORDERED = "<answer>f(2, 'b') f(1, 'a')</answer>"
TOOLS = '<tool_call>{"name": "crop", "arguments": {"box": [0, 0, 50, 50]}}</tool_call>'

OPTIONS: list[tuple[str, str, Any, dict[str, Any], dict[str, Any]]] = [
    ("box.giou", "<answer>[80, 80, 90, 90]</answer>", BOX, {}, {"floor": 0.5}),
    ("box.iou_step", HALF, BOX, {}, {"lo": 0.6}),
    ("box.iou_step", HALF, BOX, {}, {"lo": 0.1, "hi": 0.4}),
    ("box.acc", HALF, BOX, {}, {"t": 0.4}),
    ("seg.box_point", '<answer>{"bbox": [0, 0, 16, 10], "points": [[9, 1]]}</answer>',
     {"box": [0, 0, 10, 10], "points": [[5, 5]]}, SIZE, {"tau_box": 0.5, "tau_point": 0.5}),
    ("seg.mask_iou", NOTHING, [], SIZE, {"empty_answers": ["void"]}),
    ("det.match_iou", TWO, ONE, {}, {"iou_threshold": 0.7}),
    ("det.match_iou", NOTHING, [], {}, {"empty_answers": ["void"]}),
    ("det.f1", TWO, ONE, {}, {"t": 0.7}),
    ("det.precision", TWO, ONE, {}, {"t": 0.7}),
    ("det.recall", TWO, ONE, {}, {"t": 0.7}),
    ("det.calibration", TWO.replace('"a"}', '"a", "confidence": 0.9}'), ONE, {}, {"iou_threshold": 0.7}),
    ("det.map", TIED, ONE, {}, {"ties": "coco"}),
    ("det.map_length", TIED, ONE, {}, {"ties": "coco"}),
    ("count.boxes", NOTHING, [], {}, {"empty_answers": ["void"]}),
    ("count.exact", NUMBERS, 42, {}, {"take": "last"}),
    ("count.soft", NUMBERS, 42, {}, {"take": "last"}),
    ("cls.label", "<answer>it is a cat</answer>", "cat", {"labels": ["cat", "dog"]}, {"allow_sentence": True}),
    ("mcq.multi", "<answer>A</answer>", ["A", "C"], {"num_options": 4}, {"exact": True}),
    ("num.exact", NUMBERS, 42, {}, {"take": "last"}),
    ("num.exact", "<answer>41 cm</answer>", 42, {}, {"unit": "cm", "abs_tol": 1}),
    ("num.exact", "<answer>41</answer>", 42, {}, {"rel_tol": 0.1}),
    ("num.tolerance", "<answer>0.5</answer>", 0, {}, {"abs_tol": 1}),
    ("num.tolerance", "<answer>0.11</answer>", 0.1, {}, {"eps_abs": 10.0}),
    ("num.relative", "<answer>0.11</answer>", 0.1, {}, {"eps": 10.0}),
    ("num.mra", "<answer>0.12</answer>", 0.1, {}, {"eps": 10.0}),
    ("tg.iou", "<answer>[6, 6]</answer>", [5, 5], {}, {"point_tol": 4}),
    ("tg.tiou", "<answer>[6, 6]</answer>", [5, 5], {"duration": 60}, {"point_tol": 4}),
    ("tg.multi_iou", NOTHING, [], {}, {"empty_answers": ["void"]}),
    ("tg.recall", "<answer>5 to 10</answer>", [5, 15], {}, {"t": 0.4}),
    ("video.temporal_contrast", "", [0.7, 0.7], {"control": [0.5]}, {"margin": 0.3}),
    ("video.temporal_contrast", "", [0.7, 0.7], {"control": [0.5]}, {"bonus": 0.8}),
    ("video.temporal_contrast", "", [0.7, 0.7], {"control": [0.5]}, {"correct_above": 0.8}),
    ("video.semantic", "<think>First. red car</think><answer>B</answer>", None,
     {"media": ["red bus"], "accuracy": 1}, {"embedder": "words", "weight": 1.0}),
    ("gui.point_soft", POINT, [40, 40, 50, 50], SIZE, {"s": 5.0}),
    ("gui.point_dist", POINT, [50, 50], SIZE, {"threshold": 0.05}),
    ("gui.action", CLICKED, CLICK, SIZE, {"threshold": 0.05}),
    ("gui.step", CLICKED, CLICK, SIZE, {"threshold": 0.05, "type_weight": 0.5}),
    ("text.rouge", "<answer>mug the red</answer>", "the red mug", {}, {"kinds": ["rouge1"]}),
    ("med.open", "<answer>left lobe</answer>", "left lung lobe", {}, {"weights": [1, 0, 0, 0]}),
    ("semantic.rescaled", "<answer>left lobe</answer>", "left lung", {}, {"embedder": TRIGRAMS, "warm_up": 1}),
    ("ranked.rr", "<answer>a\nb</answer>", ["b"], {}, {"k": 1}),
    ("ranked.recall", "<answer>a\nb</answer>", ["b"], {}, {"k": 1}),
    ("ranked.ndcg", "<answer>a\nb</answer>", ["b"], {}, {"k": 1}),
    ("ranked.map", "<answer>a\nb</answer>", ["b"], {}, {"k": 1}),
    ("ranked.composite", "<answer>a\nb</answer>", ["b"], {}, {"k": 1}),
    ("struct.calls", ORDERED, [["f", "1", "a"], ["f", "2", "b"]], {}, {"ordered": True}),
    ("struct.exact", ORDERED, [["f", "1", "a"], ["f", "2", "b"]], {}, {"ordered": False}),
    ("struct.json", "<answer>[2, 1]</answer>", [1, 2], {}, {"ordered": True}),
    ("tool.visual", TOOLS * 3 + "<answer>7</answer>", {"ops": ["crop"], "box": [0, 0, 50, 50], "answer": "7"}, {},
     {"budget": 1}),
    ("agent.step_kind", "<search>a</search><answer>7</answer>", "search", {}, {"kinds": ["search", "code"]}),
    ("format.think_answer", "<answer>7</answer>", None, {}, {"mode": "answer_only"}),
    ("format.think_answer", "<think>a</think><answer>7</answer>", None, {}, {"min_think_chars": 5}),
    ("format.schema", "<answer>[[0, 0, 9, 9], 3]</answer>", None, {}, {"schema": "boxes"}),
    ("length.cosine", HALF, None, {"num_tokens": 512}, {"max_len": 512}),
    ("length.window", HALF, None, {"num_tokens": 400}, {"low": 1, "high": 9}),
    ("length.overlong", HALF, None, {"num_tokens": 900, "max_tokens": 1000}, {"buffer": 400}),
    ("length.group_kimi", HALF, None, {"num_tokens": 9, "group_lengths": [9, 20], "correct": False},
     {"correct_only": False}),
    ("length.budget", HALF, None, {"num_tokens": 9, "group_lengths": [9, 9], "group_correct": [1, 0]}, {"max_len": 99}),
    ("repetition.ngram", "<answer>a b a b a b a b</answer>", None, {}, {"n": 2}),
    ("thinking.min_max", "<think>one two three</think><answer>7</answer>", None, {}, {"max_words": 1}),
    ("thinking.min_max", "<think>one two three</think><answer>7</answer>", None, {}, {"min_words": 9}),
    ("thinking.no_copy_of_prompt", "<think>I see how many mugs stand on it today</think>", None,
     {"prompt": "Say how many mugs there are, please."}, {"n": 2}),
    ("compat.visual_rft.cls", "<answer>it is a red rose</answer>", "rose", {}, {"match": "exact"}),
    ("language.consistency", "<think>\u0434\u0430 yes</think><answer>7</answer>", None, {"language": "en"},
     {"allow": ["cyrillic"]}),
]  # fmt: skip
"""Name, completion, target, meta, and options that change the value."""

WITHOUT_A_CASE = {
    "math.verify": "its options set processes",
    "chart.render": "it needs a sandbox",
    "chart.visual": "it needs a sandbox",
    "compat.video_r1.group": "its options name rewards of a run",
}


def of_file(tmp_path: Path, capsys: Any, monkeypatch: Any, name: str, row: Mapping[str, Any]) -> float | None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return printed(capsys, monkeypatch, name, "--jsonl", str(path))


def printed(capsys: Any, monkeypatch: Any, *arguments: str) -> float | None:
    monkeypatch.setattr(sys, "argv", ["vlrft", "reward", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr()
    assert not caught.value.code, said.err
    value: float | None = json.loads(said.out)["value"]
    return value


@pytest.mark.parametrize("case", OPTIONS, ids=[f"{case[0]}-{'-'.join(case[4])}" for case in OPTIONS])
def test_options_act_alike_in_every_form(
    case: tuple[str, str, Any, dict[str, Any], dict[str, Any]], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    name, completion, target, meta, options = case
    both = {**meta, **options}
    found = score(name, completion, target, meta, **options).value
    assert found is not None
    assert score(name, completion, target, both).value == found
    assert score(name, completion, target, **both).value == found
    assert scorer(name)(completion, target, both).value == found
    assert scorer(name, options)(completion, target, meta).value == found
    line = ("--completion", completion, "--target", json.dumps(target))
    assert printed(capsys, monkeypatch, name, *line, "--meta", json.dumps(both)) == found
    assert (
        printed(capsys, monkeypatch, name, *line, "--meta", json.dumps(meta), "--options", json.dumps(options)) == found
    )
    assert (
        of_file(tmp_path, capsys, monkeypatch, name, {"completion": completion, "target": target, "meta": both})
        == found
    )
    required = {key for key, option in options_of(find_plain(name)).items() if option.required} | {"embedder"}
    if not required & options.keys():
        assert score(name, completion, target, meta).value != found, "the options of the case change nothing"


def find_plain(name: str) -> Callable[..., Any]:
    from vlrft.registry import resolve

    function: Callable[..., Any] = resolve(name, REWARDS, kind="reward")
    return function


def test_every_reward_with_options_has_a_case() -> None:
    with_options = {name for name in names() if options_of(find_plain(name))}
    assert with_options == {case[0] for case in OPTIONS} | set(WITHOUT_A_CASE)


# ------------------------------------------------------------------------------- options or keys of meta


def test_a_documented_key_of_meta_is_no_misspelt_option() -> None:
    name = "compat.video_r1.group"
    found = score(name, "", [1, 0], control=[0.5], formats=[1, 0], index=0).value
    assert found == score(name, "", [1, 0], {"control": [0.5], "formats": [1, 0], "index": 0}).value
    assert score("gui.action", CLICKED, CLICK, thresholds=[1], **SIZE).value == 1.0
    assert score("video.semantic", "x", None, media=["a"], accuracy=1, embedder="words", weights=[1]).value == 0.0


@pytest.mark.parametrize(
    ("name", "target", "wrong", "meant"),
    [
        ("tg.iou", [5, 15], {"point_tolerance": 2}, "point_tol"),
        ("gui.point_soft", BOX, {"sigma": 2.0}, "s"),
        ("det.f1", ONE, {"threshold": 0.7}, "t"),
        ("box.acc", BOX, {"threshold": 0.7}, "t"),
        ("ranked.rr", ["a"], {"top_k": 3}, "k"),
        ("repetition.ngram", None, {"ngram_size": 3}, "n"),
        ("length.window", None, {"min": 3}, "low"),
        ("cls.label", "cat", {"allow_sentences": True}, "allow_sentence"),
    ],
)
def test_a_keyword_that_is_nearly_an_option_is_an_error(
    name: str, target: Any, wrong: dict[str, Any], meant: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*did you mean '{meant}'"):
        score(name, "x", target, num_tokens=3, **wrong)
    with pytest.raises(ValueError, match=rf"{name}.*did you mean '{meant}'"):
        scorer(name, wrong)
    if name != "box.acc":
        assert score(name, "x", target, {"num_tokens": 3, **wrong}) is not None, "rows may have any column"


def test_misspelt_keys_of_meta_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    call = scorer("box.iou")
    row = {"image_sise": [20, 20], "license": "cc", "image": "a.png", "question": "Where?", "iou": 1}
    with caplog.at_level(logging.WARNING):
        assert call(HALF, BOX, row).value == 0.5
        assert call(HALF, BOX, row).value == 0.5
    assert [record.getMessage() for record in caplog.records] == [
        "reward 'box.iou': it does not read 'image_sise' of meta; did you mean 'image_size'?"
    ]


def test_a_column_that_cannot_be_the_option_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        call = scorer("box.giou")
        for _ in range(2):
            assert call(HALF, BOX, {"floor": "wood", "t": 3}).value == score("box.giou", HALF, BOX).value
    assert caplog.text.count("no value of its option") == 1
    assert score("box.giou", HALF, BOX, {"floor": None}).value == score("box.giou", HALF, BOX).value


def test_each_row_has_its_own_options() -> None:
    call = scorer("box.acc")
    assert [call(HALF, BOX, {"t": t}).value for t in (0.4, 0.6, 0.4)] == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match=r"missing a required argument: 't'.*box\.acc@0\.5"):
        call(HALF, BOX)
    assert scorer("box.acc", {"t": 0.6})(HALF, BOX, {"t": 0.4}).value == 0.0, "an option that is given wins"
    assert scorer("box.acc@0.6")(HALF, BOX, {"t": 0.4}).value == 0.0
    check_target("box.acc", BOX, {"t": 0.5})


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("box.giou", {"floor": "x"}, r"option 'floor' must be a number, got 'x'"),
        ("cls.label", {"allow_sentence": "x"}, r"option 'allow_sentence' must be true or false, got 'x'"),
        ("num.exact", {"take": "first"}, r"option 'take' must be one of 'only', 'last', got 'first'"),
        ("ranked.rr", {"k": 2.5}, r"option 'k' must be a whole number or null, got 2\.5"),
        ("text.rouge", {"kinds": [1]}, r"option 'kinds' must be a list of texts, got \[1\]"),
        ("med.open", {"weights": "many"}, r"option 'weights' must be a list of numbers, got 'many'"),
        ("box.giou", {"floor": 5}, r"floor=5.*must lie in \[0, 1\]"),
        ("box.acc@5", {}, r"t=5\.0.*must lie in \(0, 1\]"),
        ("length.window", {"low": 9, "high": 3}, r"low=9, high=3.*must hold"),
        ("format.think_answer", {"mode": "free"}, r"mode='free'.*unknown mode"),
    ],
)
def test_options_of_a_wrong_type_or_out_of_range_are_refused_at_once(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*{said}") as caught:
        scorer(name, options)
    assert "\n" not in str(caught.value)


def test_types_of_your_own_rewards_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def scaled(parsed, target, meta, *, scale: float = 1.0, how: 'Nowhere' = None):\n    return scale\n"
        "def typed(parsed, target, meta, *, scale: float = 1.0):\n    return scale\n"
    )
    assert score(f"{path}:typed", "x", scale=0.5).value == 0.5
    assert score(f"{path}:typed", "x", scale="0.5").value == 0.5
    assert score(f"{path}:scaled", "x", scale=0.25, how=3).value == 0.25, "annotations for type checkers only"
    with pytest.raises(ValueError, match="option 'scale' must be a number, got 'x'"):
        score(f"{path}:typed", "x", scale="x")
