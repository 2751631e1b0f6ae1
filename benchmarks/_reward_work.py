"""What benchmarks/rewards.py scores: one typical completion for every pure canonical reward."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

THINKING = (
    "The picture shows a street with several people and cars. I start on the left, where a man in a red coat waits at "
    "the crossing, and go on to the right: a woman with a dog, a cyclist, two parked cars. The question asks for the "
    "things near the kerb, so I compare their positions one by one before I say where they are and how many."
)
WORDS = "a man in a red coat waits beside a parked car while the woman with the dog crosses the wide street"


@dataclass(frozen=True, slots=True)
class Work:
    """One completion's answer, and what it is judged against."""

    answer: str
    target: Any
    meta: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    raw: str | None = None
    """The whole completion, where it is not reasoning and an answer."""

    @property
    def completion(self) -> str:
        return self.raw or f"<think>{THINKING}</think>\n<answer>{self.answer}</answer>"


def workloads() -> dict[str, Work]:
    """By the name under which the reward is called."""
    return {**_places(), **_words(), **_lists(), **_form()}


def _places() -> dict[str, Work]:
    """Boxes, masks, detections (20 on both sides), tracks and points."""
    rng = random.Random(0)
    size = {"image_size": [1000, 1000]}
    truths = [[x, y, x + 80, y + 80] for x in range(0, 1000, 200) for y in range(0, 1000, 250)]
    labels = ["person", "car", "dog", "bicycle"]
    objects = [{"bbox": box, "label": labels[i % 4]} for i, box in enumerate(truths)]
    said = [
        {"bbox_2d": [c + rng.randrange(8) for c in box], "label": labels[i % 4], "confidence": round(rng.random(), 2)}
        for i, box in enumerate(truths)
    ]
    found = Work(json.dumps(said), objects, size)
    box = Work('```json\n[{"bbox_2d": [12, 30, 80, 96], "label": "mug"}]\n```', [10, 28, 84, 99], size)
    point = Work("[512, 300]", [500, 280, 560, 320], size)
    click = {"action": "click", "box": [500, 280, 560, 320]}
    step = Work("[{'action': 'click', 'point': [512, 300], 'input_text': ''}]", click, size)
    contours = [[float(c) for i in range(20) for c in (300 + 10 * i, 200 + (i % 7) * 30)]]
    return {
        **dict.fromkeys(("box.iou", "box.giou", "box.iou_step", "box.acc@0.5"), box),
        "seg.box_point": Work(
            '{"bbox": [9, 9, 80, 80], "points": [[30, 30]]}', {"box": [9, 9, 80, 80], "points": [[31, 31]]}, size
        ),
        "seg.mask_iou": Work(json.dumps(contours), contours, {"image_size": [640, 480]}),
        **{
            f"det.{name}": found
            for name in ("match_iou", "f1", "precision", "recall", "calibration", "map", "map_length")
        },
        "count.boxes": found,
        "track.mean_iou": Work(json.dumps(truths[:16]), truths[:16], size),
        "gui.point_in_box": point,
        "gui.point_soft": point,
        "gui.point_dist": Work("[512, 300]", [500, 280], size),
        "gui.action": step,
        "gui.step": step,
        "format.schema": Work(json.dumps(truths), None, {"schema": "boxes"}),
        "repetition.items": Work(json.dumps(truths), None),
    }


def _words() -> dict[str, Work]:
    """Numbers, choices, spans and texts."""
    number, text = Work("The answer is 42.5", 42, {}), Work(WORDS, WORDS.replace("red", "dark blue"))
    spans = [[4.0, 9.5], [20.0, 31.0], [40.0, 44.0]]
    span = Work("From 4.2 to 10.1 seconds", [4.0, 9.5], {"duration": 60})
    return {
        "count.exact": Work("There are 7 mugs.", 7),
        "count.soft": Work("There are 7 mugs.", 8),
        "cls.label": Work(
            "golden retriever",
            ["golden retriever", "retriever"],
            {"labels": [f"breed {i}" for i in range(100)] + ["golden retriever", "retriever"]},
        ),
        "cls.multilabel": Work("person, car, dog", ["person", "car"], {"labels": ["person", "car", "dog", "bicycle"]}),
        "cls.hierarchy": Work("animal > dog > beagle", ["animal", "dog", "terrier"]),
        "mcq.letter": Work(
            "B. the man in the coat", "B", {"options": ["a dog", "the man in the coat", "a car", "none"]}
        ),
        "mcq.multi": Work("A, C", ["A", "C"], {"num_options": 5}),
        "yesno": Work("Yes, there is one.", "yes"),
        **dict.fromkeys(("num.exact", "num.tolerance", "num.relative", "num.mra"), number),
        "math.verify": Work("\\frac{85}{2}", "42.5"),
        **dict.fromkeys(("tg.iou", "tg.tiou", "tg.recall@0.5"), span),
        "tg.multi_iou": Work(json.dumps(spans), [[4, 9], [21, 30]], {"duration": 60}),
        "video.temporal_contrast": Work("B", [1, 0, 1, 1], {"control": [0, 0, 1, 0], "index": 0}),
        "video.semantic": Work("B", None, {"media": [WORDS] * 4, "accuracy": 1}, {"embedder": "words"}),
        **dict.fromkeys(("text.wer", "text.rouge", "text.bleu1", "text.edit", "med.open"), text),
        "med.closed": Work("Yes, there is one.", {"type": "yesno", "answer": "yes"}),
        "semantic.rescaled": Work(WORDS, WORDS, {}, {"embedder": "vlrft.rewards.semantic:trigrams"}),
    }


def _lists() -> dict[str, Work]:
    """Ranked lists, structures and tools."""
    diagnoses = [f"disease number {i}" for i in range(10)]
    ranked = Work("\n".join(f"{i}. {d}" for i, d in enumerate(diagnoses, 1)), [diagnoses[3], diagnoses[5]], {"k": 10})
    call = {"name": "crop", "arguments": {"box": [0, 0, 500, 500], "zoom": 2}}
    called = f"<think>{THINKING}</think>\n<tool_call>{json.dumps(call)}</tool_call>"
    tool = {"name": "crop", "parameters": call["arguments"]}
    tree = {"title": "Report", "items": [{"name": f"item {i}", "size": [i, i + 1]} for i in range(5)]}
    outcome = {"count": 3, "unit": "kg", "objects": ["mug", "cup"]}
    moves = "\n".join(f"move({i}, 'left')" for i in range(5))
    return {
        **{f"ranked.{name}": ranked for name in ("rr", "recall", "ndcg", "map", "composite")},
        "struct.calls": Work(moves, [["move", str(i), "left"] for i in range(5)]),
        "struct.exact": Work(moves, moves),
        "struct.json": Work(json.dumps(tree), tree),
        "tool.call": Work("", [tool], {"image_size": [1000, 1000]}, raw=called),
        "tool.visual": Work(
            "", {"ops": ["crop"], "box": [0, 0, 480, 480], "answer": "7"}, raw=f"{called}<answer>7</answer>"
        ),
        "tool.efficiency": Work("", {"needed": 1}, raw=called),
        "tool.result": Work("done", outcome, {"result": outcome}),
        "agent.step_kind": Work("", "search", raw=f"<think>{THINKING}</think>\n<search>red kite habitat</search>"),
        "agent.issue_set": Work("blur, noise and rotation90", ["blur", "noise"]),
    }


def _form() -> dict[str, Work]:
    """Format, length, repetition, thinking and language."""
    length = {"num_tokens": 300, "max_tokens": 1024, "group_lengths": [100, 300, 500], "group_correct": [1, 1, 0]}
    return {
        "format.think_answer": Work("7", None),
        **{
            f"length.{name}": Work("7", None, length)
            for name in ("cosine", "window", "overlong", "group_kimi", "budget")
        },
        "repetition.ngram": Work("7", None),
        "thinking.min_max": Work("7", None),
        "thinking.no_copy_of_prompt": Work("7", None, {"prompt": THINKING[:150]}),
        "language.consistency": Work("7", None, {"language": "en"}),
    }
