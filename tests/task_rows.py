"""One or more good rows of every task, with wrong answers to them, for the tests of the tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vlrft.data.tasks import build_task
from vlrft.types import Sample

IMAGE_SIZE, INPUT_SIZE = (640, 480), (448, 336)
DURATION = 4.0
PROGRAM = (
    "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.bar(['a', 'b'], [1, 2], color='#ff0000')\n"
    "ax.set_title('Sales')\n"
)
OTHER_PROGRAM = "import matplotlib.pyplot as plt\nplt.plot([9, 3, 8], [2, 2, 7], color='#00ff00')\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row, and answers to it that are wrong in every space and output mode."""

    task: str
    name: str
    row: dict[str, Any]
    media: str
    """`image`, `images`, `video` or nothing."""
    wrong: tuple[str, ...]
    low: float = 0.2
    """What a wrong answer may be worth at most, in the mean of the task's own rewards."""
    modes: tuple[str, ...] = ("think", "direct", "answer_then_think", "adaptive")
    rewards: tuple[dict[str, Any], ...] = ()
    """Specs other than the task's own, for another answer style."""
    meta: dict[str, Any] = field(default_factory=dict)


BOX = [64.0, 48.0, 320.0, 240.0]
OBJECTS = [{"bbox": BOX, "label": "cat"}, {"bbox": [400.0, 100.0, 500.0, 300.0], "label": "hot dog"}]
ELSEWHERE = "[1, 1, 3, 3]"
TRACK = [BOX, [80.0, 50.0, 330.0, 250.0], None, [100.0, 60.0, 350.0, 260.0]]
OPTIONS = ["a red kite", "Vitamin A", "the sea", "none of these"]
GLUE = (
    {"func": "mcq.letter", "weight": 0.45},
    {"func": "compat.videochat_r1.glue", "weight": 0.45, "target": "spans"},
    {"func": "format.think_answer", "weight": 0.1, "kwargs": {"mode": ["think", "answer", "glue"]}},
)
BOX_POINTS = (
    {"func": "seg.box_point", "weight": 0.9, "target": "box_points"},
    {"func": "format.think_answer", "weight": 0.1},
)


def _case(task: str, name: str, answer: Any, *wrong: str, media: str = "image", **more: Any) -> Case:
    meta, boxes = more.pop("meta", {}), more.pop("boxes", None)
    row = {"id": name, "prompt": "What is asked", "answer": answer, "meta": meta}
    return Case(task=task, name=name, row=row | ({"boxes": boxes} if boxes else {}), media=media, wrong=wrong, **more)


CASES = [
    _case("grounding", "json", BOX, ELSEWHERE, "no"),
    _case("grounding", "plain", BOX, ELSEWHERE, meta={"answer_style": "plain"}),
    _case("grounding", "norm_1", [0.1, 0.1, 0.5, 0.5], ELSEWHERE, boxes={"space": "norm_1"}),
    _case("detection", "closed", OBJECTS, "[]", ELSEWHERE, meta={"labels": ["cat", "hot dog", "bird"]}),
    _case("detection", "open", OBJECTS, "[]", '[{"bbox_2d": [1, 1, 3, 3], "label": "cat"}]'),
    _case("detection", "negative", [], ELSEWHERE, "nothing much", meta={"labels": ["cat"]}),
    _case("detection", "classless", [{"bbox": BOX, "label": None}], "[]", ELSEWHERE),
    _case("reasoning_grounding", "box", BOX, ELSEWHERE, meta={"mask": [[64, 48, 320, 48, 320, 240]]}),
    _case(
        "reasoning_grounding", "points", BOX, ELSEWHERE, rewards=BOX_POINTS,
        meta={"answer_style": "box_points", "points": [[100, 100], [200, 200]]},
    ),
    _case("classification", "label", "golden retriever", "cat", meta={"labels": ["cat", "Golden_Retriever"]}),
    _case("classification", "synonyms", ["puppy", "dog"], "cat", "puppy or cat", meta={"labels": ["dog", "cat"]}),
    _case("classification", "video", "running", "walking", media="video"),
    _case("gui_grounding", "box", BOX, "[639, 479]", "[0.999, 0.999]"),
    _case("gui_grounding", "icon", [100.2, 100.2, 100.8, 100.8], "[1, 1]"),
    _case("gui_action", "click", {"action": "click", "box": BOX}, '{"action": "press_back"}'),
    _case("gui_action", "point", {"action": "long_press", "point": [64, 48]}, '{"action": "wait"}'),
    _case("gui_action", "type", {"action": "type", "text": 'say "hi", ä'}, '{"action": "click"}'),
    _case("gui_action", "scroll", {"action": "scroll", "direction": "down", "box": None}, '{"action": "wait"}'),
    _case("gui_action", "key", {"action": "key", "key": "enter"}, '{"action": "wait"}'),
    _case("gui_action", "back", {"action": "press_back"}, '{"action": "wait"}', meta={"history": ["click"]}),
    _case("temporal_grounding", "seconds", [1.25, 3.5], "0 to 0.3", "[3.8, 3.9]", media="video"),
    _case("temporal_grounding", "relative", [1.25, 3.5], "0 to 0.01", media="video", meta={"unit": "relative"}),
    _case("temporal_grounding", "json", [1, 3], "0 to 0.3", media="video", meta={"answer_style": "json"}),
    _case("temporal_grounding", "clock", [1, 3.555], "0 to 0.3", media="video", meta={"answer_style": "clock"}),
    _case("temporal_grounding", "moment", [2.0, 2.0], "0.5", media="video"),
    _case("temporal_grounding", "short", [2.0, 2.004], "1 to 1.5", media="video"),
    _case(
        "temporal_grounding", "published", [1.0, 9.0], "0 to 0.3", media="video", meta={"flags": ["ends after video"]}
    ),
    _case(
        "grounded_video_qa", "brackets", "B", "(A) [[3.5, 3.6]]", "C", media="video",
        meta={"options": OPTIONS, "spans": [[0.5, 1.0], [2.0, 3.25]]},
    ),
    _case(
        "grounded_video_qa", "glue", "b", "A", media="video", modes=("think",), rewards=GLUE,
        meta={"options": OPTIONS, "spans": [[0.5, 1.0], [2.0, 3.25]], "answer_style": "glue"},
    ),
    _case("tracking", "null", TRACK, f"[{ELSEWHERE}, {ELSEWHERE}]", "[]", media="video", meta={"given_frames": 1}),
    _case(
        "tracking", "unit", [[0.1, 0.1, 0.5, 0.5], [0.2, 0.2, 0.6, 0.6]], ELSEWHERE, media="video",
        boxes={"space": "norm_1"}, meta={"timestamps": [0.0, 2.0]},
    ),
    _case(
        "video_qa", "choice", "C", "A", "A or C", media="video", meta={"question_type": "choice", "options": OPTIONS}
    ),
    _case("video_qa", "numeric", 12.5, "13", "nan", media="video", meta={"question_type": "numeric"}),
    _case("video_qa", "unit", "12 cm", "13", media="video", meta={"question_type": "numeric", "unit": "cm"}),
    _case("video_qa", "ocr", "Sale 50% off", "no such thing", media="video", meta={"question_type": "ocr"}),
    _case("video_qa", "free", ["a man rides", "he rides"], "sea", media="video", meta={"question_type": "free_form"}),
    _case("video_qa", "regression", "40", "400", "nan", meta={"question_type": "regression"}),
    _case(
        "medical_qa", "mcq", {"type": "mcq", "answer": "(D)"}, "A",
        meta={"question_type": "closed", "options": OPTIONS},
    ),
    _case("medical_qa", "yesno", {"type": "yesno", "answer": "Yes"}, "no", meta={"question_type": "closed"}),
    _case("medical_qa", "label", '{"type": "label", "answer": "CT"}', "MRI", meta={"question_type": "closed"}),
    _case("medical_qa", "open", ["left lung", "the left lung"], "spleen", "no", meta={"question_type": "open"}),
    _case(
        "medical_qa", "ranked", ["flu", ["COPD", "bronchitis"], {"item": "asthma", "gain": 3}], "1. gout",
        meta={"question_type": "ranked"},
    ),
    _case("chart_to_code", "bars", PROGRAM, "print('Sales')", f"```python\n{OTHER_PROGRAM}```", low=0.5),
    _case("counting", "number", 7, "8", "7 or 8"),
    _case("counting", "text", "1,200", "12"),
    _case("math", "latex", "\\frac{1}{2}", "2", media=""),
    _case("math", "degrees", "140\u00b0", "41"),
    _case("math", "number", 2.5, "3", meta={"unit": "cm"}),
    _case(
        "spatial_transformation", "calls", [["move", 1, "left"], ["paint", "2", "it's red, (dark)"]], "burn(7, 'x')",
        "[]", media="images",
    ),
    _case("spatial_transformation", "odd", [["set", "a, b", 3]], "burn(7, 'x')", media="images"),
    _case("spatial_transformation", "none", [], "move(1, 'left')", media="images"),
    _case("choice", "letter", "D", "A", "A, B, C, D", media="images", meta={"options": OPTIONS}),
    _case("choice", "number", "b", "C", media="", meta={"num_options": 3}),
    _case("open_qa", "text", "a red kite above the sea", "spleen", media="images"),
]  # fmt: skip


def media_of(folder: Path, kind: str) -> dict[str, Any]:
    """The media columns of a row, with their files in `folder`."""
    if not kind:
        return {}
    count = {"image": 1, "images": 2, "video": 8}[kind]
    paths = []
    for i in range(count):
        paths.append(str(folder / f"{kind}-{i}.png"))
        if not Path(paths[-1]).exists():
            Image.new("RGB", IMAGE_SIZE, (i * 20, 80, 80)).save(paths[-1])
    return {"images": paths} if kind != "video" else {"videos": [{"frames": paths, "fps": count / DURATION}]}


def sample_of(case: Case, folder: Path) -> Sample:
    row = {**case.row, **media_of(folder, case.media)}
    return build_task(case.task).to_sample(row, where="rows.jsonl:1")
