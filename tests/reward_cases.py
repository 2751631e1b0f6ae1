"""One honest answer per canonical reward, with its target, meta and options; several files of tests go by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Case:
    """What an honest model would answer, and what it is judged against."""

    honest: str
    target: Any
    meta: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    value: float = 1.0
    """What the honest answer earns."""


def say(answer: str, think: str = "I look at the picture from left to right and compare.") -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


SIZE = {"image_size": [100, 100]}
OBJECTS = [{"bbox": [0, 0, 20, 20], "label": "cat"}, {"bbox": [50, 50, 90, 90], "label": "dog"}]
DETECTED = (
    '[{"bbox_2d": [0, 0, 20, 20], "label": "cat", "confidence": 0.9}, '
    '{"bbox_2d": [50, 50, 90, 90], "label": "dog", "confidence": 0.9}]'
)
LABELS = {"labels": ["cat", "dog", "bird", "golden retriever"]}
OPTIONS = {"options": ["A dog", "A cat", "A bird", "A fish"]}
CLICK = {"action": "click", "box": [40, 40, 60, 60]}
CLICKED = "{'action': 'click', 'point': [50, 50]}"
GOLDS = [["COPD", "chronic obstructive pulmonary disease"], "asthma"]
TOOL_CALL = '<tool_call>{"name": "crop", "arguments": {"box": [0, 0, 50, 50]}}</tool_call>'
LENGTH = {"num_tokens": 50, "max_tokens": 1000}
STAND_IN = {"embedder": "vlrft.rewards.semantic:trigrams"}

CASES: dict[str, Case] = {
    "box.iou": Case(say("[10, 10, 30, 40]"), [10, 10, 30, 40], SIZE),
    "box.giou": Case(say("[10, 10, 30, 40]"), [10, 10, 30, 40], SIZE),
    "box.iou_step": Case(say("[10, 10, 30, 40]"), [10, 10, 30, 40], SIZE),
    "box.acc@0.5": Case(say("[10, 10, 30, 40]"), [10, 10, 30, 40], SIZE),
    "seg.box_point": Case(
        say('{"bbox": [10, 10, 50, 50], "points": [[30, 30]]}'), {"box": [10, 10, 50, 50], "points": [[30, 30]]}, SIZE
    ),
    "seg.mask_iou": Case(say("[[10, 10, 50, 10, 50, 50, 10, 50]]"), [[10, 10, 50, 10, 50, 50, 10, 50]], SIZE),
    "det.match_iou": Case(say(DETECTED), OBJECTS, SIZE),
    "det.f1": Case(say(DETECTED), OBJECTS, SIZE),
    "det.precision": Case(say(DETECTED), OBJECTS, SIZE),
    "det.recall": Case(say(DETECTED), OBJECTS, SIZE),
    "det.calibration": Case(say(DETECTED), OBJECTS, SIZE, value=0.99),
    "det.map": Case(say(DETECTED), OBJECTS, SIZE),
    "det.map_length": Case(say(DETECTED), OBJECTS, SIZE),
    "count.boxes": Case(say(DETECTED), OBJECTS, SIZE),
    "count.exact": Case(say("7"), 7),
    "count.soft": Case(say("7"), 7),
    "cls.label": Case(say("golden retriever"), "golden retriever", LABELS),
    "cls.multilabel": Case(say("cat, bird"), ["cat", "bird"], LABELS),
    "cls.hierarchy": Case(say("animal > dog > beagle"), ["animal", "dog", "beagle"]),
    "mcq.letter": Case(say("B"), "B", OPTIONS),
    "mcq.multi": Case(say("A, C"), ["A", "C"], OPTIONS),
    "yesno": Case(say("yes"), "yes"),
    "num.exact": Case(say("42"), 42),
    "num.tolerance": Case(say("42"), 42),
    "num.relative": Case(say("42"), 42),
    "num.mra": Case(say("42"), 42),
    "math.verify": Case(say("\\frac{1}{2}"), "0.5"),
    "tg.iou": Case(say("5 to 15"), [5, 15], {"duration": 60}),
    "tg.tiou": Case(say("5 to 15"), [5, 15], {"duration": 60}),
    "tg.multi_iou": Case(say("[[5, 15], [20, 30]]"), [[5, 15], [20, 30]], {"duration": 60}),
    "tg.recall@0.5": Case(say("5 to 15"), [5, 15], {"duration": 60}),
    "track.mean_iou": Case(say("[[0, 0, 20, 20], [5, 5, 25, 25]]"), [[0, 0, 20, 20], [5, 5, 25, 25]], SIZE),
    "video.temporal_contrast": Case(say("B"), [1, 1], {"control": [0, 0], "index": 0}, {"bonus": 1.0}),
    "video.semantic": Case(
        "<think>First. a red car turns left</think><answer>B</answer>",
        None,
        {"media": ["a red car turns left"], "accuracy": 1},
        {"embedder": "words"},
    ),
    "gui.point_in_box": Case(say("[50, 50]"), [40, 40, 60, 60], SIZE),
    "gui.point_soft": Case(say("[50, 50]"), [40, 40, 60, 60], SIZE),
    "gui.point_dist": Case(say("[50, 50]"), [50, 50], SIZE),
    "gui.action": Case(say(CLICKED), CLICK, SIZE),
    "gui.step": Case(say(CLICKED), CLICK, SIZE),
    "text.wer": Case(say("the red mug on the table"), "the red mug on the table"),
    "text.rouge": Case(say("the red mug on the table"), "the red mug on the table"),
    "text.bleu1": Case(say("the red mug on the table"), "the red mug on the table"),
    "text.edit": Case(say("the red mug on the table"), "the red mug on the table"),
    "med.closed": Case(say("yes"), {"type": "yesno", "answer": "yes"}),
    "med.open": Case(say("left lower lobe pneumonia"), "left lower lobe pneumonia"),
    "semantic.rescaled": Case(say("left lower lobe"), "left lower lobe", {}, STAND_IN),
    "ranked.rr": Case(say("1. COPD\n2. asthma"), GOLDS),
    "ranked.recall": Case(say("1. COPD\n2. asthma"), GOLDS),
    "ranked.ndcg": Case(say("1. COPD\n2. asthma"), GOLDS),
    "ranked.map": Case(say("1. COPD\n2. asthma"), GOLDS),
    "ranked.composite": Case(say("1. COPD\n2. asthma"), GOLDS),
    "struct.calls": Case(say("move(1, 'left')"), [["move", "1", "left"]]),
    "struct.exact": Case(say("move(1, 'left')"), "move(1, 'left')"),
    "struct.json": Case(say('{"a": 1, "b": ["x", "y"]}'), {"a": 1, "b": ["x", "y"]}),
    "tool.call": Case(
        f"<think>closer</think>{TOOL_CALL}", [{"name": "crop", "parameters": {"box": [0, 0, 50, 50]}}], SIZE
    ),
    "tool.visual": Case(
        f"<think>closer</think>{TOOL_CALL}<answer>7</answer>", {"ops": ["crop"], "box": [0, 0, 50, 50], "answer": "7"}
    ),
    "tool.efficiency": Case(f"<think>closer</think>{TOOL_CALL}", {"needed": 1}),
    "tool.result": Case(say("done"), {"a": 3}, {"result": {"a": 3}}),
    "agent.step_kind": Case("<think>look it up</think><search>red kite</search>", "search"),
    "agent.issue_set": Case(say("blur"), ["blur"]),
    "chart.render": Case(
        say('```python\nimport matplotlib.pyplot as plt\nplt.bar([1, 2], [3, 4])\nplt.title("Sales")\n```'),
        'import matplotlib.pyplot as plt\nplt.bar([1, 2], [3, 4])\nplt.title("Sales")',
    ),
    "format.think_answer": Case(say("7"), None),
    "format.schema": Case(say("[[0, 0, 9, 9]]"), None, {"schema": "boxes"}),
    "length.cosine": Case(say("7"), None, {"num_tokens": 0, "max_tokens": 1000}),
    "length.window": Case(say("7"), None, {"num_tokens": 400}),
    "length.overlong": Case(say("7"), None, LENGTH),
    "length.group_kimi": Case(say("7"), None, {"num_tokens": 50, "group_lengths": [50, 80]}),
    "length.budget": Case(say("7"), None, {"num_tokens": 9, "group_lengths": [9], "group_correct": [1]}, value=0.5),
    "repetition.ngram": Case(say("7"), None),
    "repetition.items": Case(say("[[0, 0, 9, 9], [1, 1, 5, 5]]"), None),
    "thinking.min_max": Case(say("7"), None),
    "thinking.no_copy_of_prompt": Case(say("7"), None, {"prompt": "How many mugs stand on the shelf?"}),
    "language.consistency": Case(say("seven"), None, {"language": "en"}),
}
"""By the name under which the reward is called; every canonical reward has one but `chart.visual`, which has that of
`chart.render`."""

NOT_PURE = ("chart.render", "math.verify")
"""Rewards with processes of their own: seconds to start, milliseconds to call."""

FORM = ("format.", "length.", "repetition.", "thinking.", "language.")
"""Families whose target is null."""
