"""The known ways to cheat a verifiable reward, each against every reward that it could touch.

Every row has an honest answer beside it: the cheat must earn little, and the honest answer what it is worth.
"""

from __future__ import annotations

from typing import Any

import pytest
from reward_cases import CASES, CLICKED, DETECTED, FORM, NOT_PURE, OBJECTS, SIZE, TOOL_CALL, Case, say

from vlrft.rewards import names, score

NOT_OF_THE_ANSWER = ("tool.efficiency", "tool.result", "video.temporal_contrast", "video.semantic")
"""Task rewards that judge what was done or thought, not the answer's text."""
OWN_BLOCKS = ("tool.call", "tool.visual", "agent.step_kind")
"""Task rewards that read blocks of other names."""

TASK = [n for n in CASES if not n.startswith(FORM) and n not in NOT_PURE]
ANSWERED = [n for n in TASK if n not in NOT_OF_THE_ANSWER]
ANSWER_ONLY = [n for n in ANSWERED if n not in OWN_BLOCKS]
BOX = ("box.iou", "box.giou", "box.iou_step", "box.acc@0.5")
FOUND = ("det.match_iou", "det.f1", "det.precision", "det.recall", "det.calibration", "det.map", "det.map_length")
NUMBER = ("count.exact", "count.soft", "num.exact", "num.tolerance", "num.relative", "num.mra")
POINT = ("gui.point_in_box", "gui.point_soft", "gui.point_dist")
SPAN = ("tg.iou", "tg.tiou", "tg.multi_iou", "tg.recall@0.5")
TEXT = ("text.wer", "text.rouge", "text.bleu1", "text.edit", "med.open", "semantic.rescaled")
RANKED = ("ranked.rr", "ranked.recall", "ranked.ndcg", "ranked.map", "ranked.composite")
PLACES = (*BOX, "seg.box_point", "seg.mask_iou", *FOUND, "track.mean_iou", *POINT, "gui.action")

DUMP = "[" + ", ".join(f"[{x}, {y}, {x + 5}, {y + 5}]" for x in range(0, 95, 5) for y in range(0, 95, 5)) + "]"
EXTRA = ", ".join(f'{{"bbox_2d": [{i}, 60, {i + 9}, 70], "label": "cat", "confidence": 0.9}}' for i in range(8))
MANY_LABELS = [f"label {i}" for i in range(30)]
EVERY_LABEL = ", ".join(MANY_LABELS)
EVERY_DIAGNOSIS = "\n".join(f"{i}. {item}" for i, item in enumerate([*MANY_LABELS * 3, "COPD", "asthma"], 1))


def earned(name: str, completion: str, case: Case) -> float:
    value = score(name, completion, case.target, case.meta, **case.options).value
    assert value is not None
    return value


def inside(completion: str) -> str:
    """What stands in the answer of an honest completion."""
    return completion.partition("<answer>")[2].partition("</answer>")[0]


def test_every_reward_has_an_honest_answer() -> None:
    assert {n.partition("@")[0] for n in CASES} == {n for n in names() if not n.startswith("compat.")} - {
        "chart.visual"
    }


@pytest.mark.parametrize("name", [n for n in CASES if n not in NOT_PURE])
def test_control_the_honest_answer_earns_its_value(name: str) -> None:
    assert earned(name, CASES[name].honest, CASES[name]) == pytest.approx(CASES[name].value, abs=1e-9)


def everywhere() -> list[Any]:
    """(reward, completions), by hack: the cheats that know nothing of the task."""
    rows: list[tuple[int, str, str]] = []
    for name in ANSWERED:
        blank = ("", "<answer></answer>", "<think>x</think><answer> \u200b </answer>", "<think></think>")
        rows += [(1, name, text) for text in blank]
    for name in ANSWER_ONLY:
        honest = inside(CASES[name].honest)
        rows += [
            (4, name, f"<think>It is {honest}.</think>"),
            (4, name, f"<think>{honest}</think><answer>-</answer>"),
            (10, name, f"<think>maybe <answer>{honest}</answer></think>"),
            (10, name, f"<think>maybe <answer>{honest}</answer></think><answer>-</answer>"),
            (10, name, f"<think>maybe <answer>{honest}</answer>"),
            (11, name, f"<answer>{honest}</answer><answer>-</answer>"),
            (24, name, f"\uff1canswer\uff1e{honest}\uff1c/answer\uff1e"),
            (24, name, f"<\u0430nswer>{honest}</\u0430nswer>"),
            (24, name, f"<ans\u200bwer>{honest}</ans\u200bwer>"),
        ]
    for name in (*NUMBER, *PLACES, *SPAN):
        rows += [(12, name, say(text)) for text in ("nan", "inf", "-inf", "1e999", "Infinity", "NaN")]
    for name in PLACES:
        rows += [(13, name, say(text)) for text in ("[nan, nan, nan, nan]", "[NaN, 1, 2, inf]", "[[nan, nan]]")]
    for name in SPAN:
        rows += [(13, name, say(text)) for text in ("[nan, nan]", "nan to nan", "0 to inf")]
    for name in (*BOX, *FOUND, "seg.box_point", "track.mean_iou"):
        rows += [(16, name, say(text)) for text in ("[30, 40, 10, 10]", "[10, 10, 10, 10]", "[90, 90, 50, 50]")]
    together: dict[tuple[int, str], list[str]] = {}
    for hack, name, completion in rows:
        together.setdefault((hack, name), []).append(completion)
    return [pytest.param(name, texts, id=f"{hack}-{name}") for (hack, name), texts in together.items()]


@pytest.mark.parametrize(("name", "completions"), everywhere())
def test_cheats_that_earn_nothing(name: str, completions: list[str]) -> None:
    paid = [completion for completion in completions if earned(name, completion, CASES[name]) != 0.0]
    assert not paid


def specific() -> list[Any]:
    """(hack, reward, completion, most, case): the cheats that know the task; case None is the reward's own."""
    corner = Case(say("[5, 5]"), [0, 0, 10, 10], SIZE)
    many = Case(say("label 3"), "label 3", {"labels": MANY_LABELS})
    several = Case(say("label 3, label 4"), ["label 3", "label 4"], {"labels": MANY_LABELS})
    no_options = Case(say("A"), "A", {"options": ["A dog", "A cat", "A bird", "A fish"]})
    bare = Case(say("A"), "A", {"options": ["cat", "dog"]})
    text = inside(CASES["text.wer"].honest)
    rows: list[tuple[int, str, str, float, Case | None]] = [
        (2, "cls.label", say(EVERY_LABEL), 0.0, many),
        (2, "cls.multilabel", say(EVERY_LABEL), 0.15, several),
        (2, "cls.hierarchy", say("animal > dog > beagle, animal > cat > siamese"), 0.5, None),
        (2, "mcq.multi", say("A, B, C, D"), 0.0, None),
        (2, "agent.issue_set", say(EVERY_LABEL + ", blur"), 0.1, None),
        (2, "yesno", say("yes and no"), 0.0, None),
        (2, "med.closed", say("yes, no"), 0.0, None),
        *[
            (3, "cls.label", say(part), 0.0, None)
            for part in ("golden", "retriever", "e", "golden retrievers and cats")
        ],
        *[(3, "cls.multilabel", say(part), 0.0, None) for part in ("c", "ca, bir")],
        *[(3, "cls.hierarchy", say(part), 0.0, None) for part in ("ani", "bea")],
        *[(3, "ranked.rr", say(part), 0.0, None) for part in ("COP", "chronic", "a")],
        (3, "struct.exact", say("move"), 0.0, None),
        (3, "agent.issue_set", say("bl"), 0.0, None),
        *[(5, name, say(DUMP), 0.05, None) for name in (*BOX, "seg.box_point", "det.match_iou", "det.f1")],
        *[(5, name, say(DUMP), 0.05, None) for name in ("det.precision", "det.map", "det.map_length", "count.boxes")],
        *[(5, name, say(DUMP), 0.05, None) for name in ("det.calibration", "gui.point_in_box", "gui.point_soft")],
        *[(6, name, say(f"{DETECTED[:-1]}, {EXTRA}]"), 0.56, None) for name in FOUND if name not in ("det.recall",)],
        (6, "count.boxes", say(f"{DETECTED[:-1]}, {EXTRA}]"), 0.2, None),
        *[(7, name, say(DETECTED.replace("cat", "zebra").replace("dog", "yak")), 0.0, None) for name in FOUND],
        *[(9, n, say('[{"bbox_2d": [1, 90, 9, 99], "label": "cat", "confidence": 0.0}]'), 0.0, None) for n in FOUND],
        *[(11, name, say("42 or 43, maybe 7"), 0.0, None) for name in NUMBER],
        *[(11, name, say("[0, 0, 5, 5] [10, 10, 30, 40]"), 0.5, None) for name in BOX],
        *[(11, name, say("[0, 0] [50, 50]"), 0.5, None) for name in POINT],
        (11, "gui.action", say(f"[{CLICKED}, {CLICKED.replace('click', 'scroll')}]"), 0.5, None),
        (11, "gui.step", say(f"[{CLICKED}, {CLICKED.replace('click', 'scroll')}]"), 0.5, None),
        *[(11, name, say("0 to 3, 5 to 15"), 0.5, None) for name in ("tg.iou", "tg.tiou", "tg.recall@0.5")],
        (14, "mcq.letter", say("A bird"), 0.0, no_options),
        (14, "mcq.letter", say("A dog"), 0.0, bare),
        *[(15, "mcq.letter", say(letters), 0.0, None) for letters in ("A B C D", "ABCD", "A or B", "(A)(B)", "B, C")],
        *[(17, name, say("[0, 0, 100, 100]"), 0.07, None) for name in ("box.iou", "box.iou_step", "box.acc@0.5")],
        (17, "box.giou", say("[0, 0, 100, 100]"), 0.54, None),
        *[(17, name, say("[0, 0, 100, 100]"), 0.2, None) for name in FOUND],
        *[(17, name, say("[0, 0, 100, 100]"), 0.01, corner) for name in ("gui.point_in_box", "gui.point_soft")],
        *[(18, name, say(f"{text} " * 20), 0.3, Case("", text, {}, CASES[name].options)) for name in TEXT],
        *[(18, name, say(EVERY_LABEL + " " + text), 0.5, Case("", text, {}, CASES[name].options)) for name in TEXT],
        *[(19, name, say(EVERY_DIAGNOSIS), 0.25, None) for name in RANKED],
        (19, "ranked.rr", say("COPD or asthma or pneumonia"), 0.0, None),
        (20, "tool.call", f"<think>x</think>{TOOL_CALL}", 0.0, Case(say("7"), [])),
        (20, "tool.efficiency", f"<think>x</think>{TOOL_CALL}", 0.0, Case(say("7"), {"needed": 0})),
        (
            20,
            "tool.visual",
            f"<think>x</think>{TOOL_CALL}<answer>7</answer>",
            0.7,
            Case("", {"ops": [], "answer": "7"}),
        ),
        (21, "length.cosine", say("7"), 0.5, Case("", None, {"num_tokens": 2048, "max_tokens": 1024})),
        (21, "length.cosine", say("7"), 0.5, Case("", None, {"num_tokens": 4096, "max_tokens": 1024})),
        (21, "length.overlong", say("7"), 0.0, Case("", None, {"num_tokens": 2048, "max_tokens": 1024})),
        *[(23, name, say("[10, 60, 95, 99]"), 0.0, None) for name in ("box.iou", "box.iou_step", "box.acc@0.5")],
        *[(23, name, say("[0, 60, 30, 80]"), 0.0, None) for name in FOUND],
        *[
            (11, "format.think_answer", text, 0.0, None)
            for text in (say("7") + "<answer>8</answer>", say("7") + say("7"))
        ],
        *[(1, "format.think_answer", text, 0.0, None) for text in ("", say(" "), say("7", think=" "), say("\u200b"))],
        (10, "format.think_answer", "<think>a <answer>7</answer></think>", 0.0, None),
        (24, "format.think_answer", say("7").replace("<answer>", "\uff1canswer\uff1e"), 0.0, None),
        (1, "thinking.min_max", say("7", think="... !!!"), 0.0, None),
    ]
    return [pytest.param(*row, id=f"{row[0]}-{row[1]}-{i}") for i, row in enumerate(rows)]


@pytest.mark.parametrize(("hack", "name", "completion", "most", "case"), specific())
def test_cheats_that_know_the_task(hack: int, name: str, completion: str, most: float, case: Case | None) -> None:
    judged = case or CASES[name]
    assert earned(name, completion, judged) <= most + 1e-9
    assert most <= 0.71, "an honest answer earns clearly more"


NEGATIVES = {
    **{name: (say("[]"), []) for name in (*FOUND, "count.boxes", "tg.multi_iou")},
    "seg.mask_iou": (say("No Objects"), {"size": [10, 10], "counts": [100]}),
    "agent.issue_set": (say("none"), []),
    "tool.call": ("<think>plain to see</think><answer>7</answer>", []),
    "struct.calls": (say("[]"), []),
}


@pytest.mark.parametrize("name", NEGATIVES)
@pytest.mark.parametrize("gibberish", ["xyzzy", "{{{", "a cat, perhaps", "[[[", "[{}]"])
def test_hack_8_gibberish_earns_nothing_where_nothing_is_there(name: str, gibberish: str) -> None:
    honest, target = NEGATIVES[name]
    meta = SIZE if name in (*FOUND, "count.boxes") else {}
    assert score(name, honest, target, meta).value == 1.0
    wrong = f"<think>x</think><tool_call>{gibberish}</tool_call>" if name == "tool.call" else say(gibberish)
    assert score(name, wrong, target, meta).value == 0.0


def test_hack_6_extra_boxes_cost_more_the_more_there_are() -> None:
    def with_extras(name: str, count: int) -> float:
        extra = ", ".join(f'{{"bbox_2d": [{i}, 60, {i + 9}, 70], "label": "cat"}}' for i in range(count))
        answer = f'[{{"bbox_2d": [0, 0, 20, 20], "label": "cat"}}{", " if extra else ""}{extra}]'
        return earned(name, say(answer), Case("", OBJECTS[:1], SIZE))

    for name in ("det.match_iou", "det.f1", "det.precision", "det.map", "det.map_length", "count.boxes"):
        values = [with_extras(name, count) for count in (0, 1, 4, 16)]
        assert values[0] == pytest.approx(1.0)
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        'print({"text": ["Sales"], "type": ["bar"]})',
        'import json; open("dump.json", "w").write(json.dumps({"text": ["Sales"]}))',
        "",
    ],
)
def test_hack_22_a_program_that_writes_the_dump_itself(program: str) -> None:
    case = CASES["chart.render"]
    assert earned("chart.render", case.honest, case) == pytest.approx(1.0)
    assert earned("chart.render", say(f"```python\n{program}\n```"), case) == 0.0


@pytest.mark.slow
def test_maths_takes_nothing_from_the_thinking_or_from_lists() -> None:
    case = CASES["math.verify"]
    assert earned("math.verify", case.honest, case) == 1.0
    for cheat in ("", "<think>0.5</think>", "<think>0.5</think><answer>7</answer>", say("nan"), say("0.5, 0.6, 0.7")):
        assert earned("math.verify", cheat, case) == 0.0


@pytest.mark.parametrize("name", [n for n in ANSWER_ONLY if CASES[n].value > 0 and n != "chart.render"])
def test_answer_blocks_that_disagree_divide_the_value(name: str) -> None:
    case = CASES[name]
    honest = inside(case.honest)
    blocks = [f"<answer>other {i}</answer>" for i in range(3)]
    right = f"<answer>{honest}</answer>"
    assert earned(name, f"{blocks[0]}{right}", case) == pytest.approx(case.value / 2)
    assert earned(name, "".join([*blocks, right]), case) == pytest.approx(case.value / 4)
    again = f"<answer>\n {honest} </answer><answer> </answer>{right}"
    assert earned(name, again, case) == pytest.approx(case.value)


def test_answer_blocks_that_disagree_in_the_reasoning_cost_nothing() -> None:
    text = "<think>first <answer>6</answer></think><answer>7</answer>"
    assert score("num.exact", text, 7).value == 1.0
    assert score("num.exact", "<answer>7</answer><answer>8</answer>", 7, output_mode="answer_then_think").value == 0.5
    peers = score("compat.video_r1.numerical", "<answer>8</answer><answer>9</answer>", "<answer>8</answer>")
    assert peers.value == 1.0, "the peers' own rewards keep their values"
