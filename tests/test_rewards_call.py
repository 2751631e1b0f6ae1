"""What `score`, `scorer` and `check_target` take: texts, messages, arrays, numbers as text, functions of one's own."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reward_cases import CASES

from vlrft import cli
from vlrft.rewards import RewardError, TargetError, check_target, score
from vlrft.rewards.call import Scorer, find, scorer
from vlrft.rewards.keys import documented

HALF = "<answer>[0, 0, 10, 5]</answer>"
BOX = [0, 0, 10, 10]
TWO = '<answer>[{"bbox_2d": [0, 0, 10, 6], "label": "a"}, {"bbox_2d": [50, 50, 60, 60], "label": "a"}]</answer>'
ONE = [{"bbox": [0, 0, 10, 10], "label": "a"}]


def printed(capsys: Any, monkeypatch: Any, *arguments: str) -> float | None:
    """The value that `vlrft reward` prints."""
    monkeypatch.setattr(sys, "argv", ["vlrft", "reward", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr()
    assert not caught.value.code, said.err
    value: float | None = json.loads(said.out)["value"]
    return value


# ------------------------------------------------------------------------------- what may be handed over


def test_lenient_extraction_by_keyword_meta_and_command_line(capsys: Any, monkeypatch: Any) -> None:
    bare = "The box is [0, 0, 10, 5]"
    assert score("box.iou", bare, BOX).flags == ("no_answer",)
    found = score("box.iou", bare, BOX, lenient_extraction=True)
    assert (found.value, found.flags) == (0.5, ("lenient",))
    assert score("box.iou", bare, BOX, {"lenient_extraction": True}).value == 0.5
    assert scorer("box.iou")(bare, BOX, {"lenient_extraction": True}).value == 0.5
    line = ("box.iou", "--completion", bare, "--target", "[0, 0, 10, 10]", "--meta", '{"lenient_extraction": true}')
    assert printed(capsys, monkeypatch, *line) == 0.5
    assert score("box.iou", bare, BOX, {"lenient_extraction": "false"}).value == 0.0, "as a CSV file has it"
    with pytest.raises(ValueError, match="lenient_extraction is true or false, got 'perhaps'"):
        score("box.iou", bare, BOX, lenient_extraction="perhaps")


def test_a_target_need_not_be_given() -> None:
    assert score("format.think_answer", "<think>a</think><answer>7</answer>").value == 1.0
    assert score("repetition.ngram", "<answer>7</answer>").value == 1.0
    with pytest.raises(TargetError, match="got None"):
        score("box.iou", HALF)


def test_completions_may_be_chat_messages() -> None:
    said = {"role": "assistant", "content": HALF}
    parts = {"role": "assistant", "content": [{"type": "text", "text": HALF}]}
    for completion in (said, [said], [parts], [{"role": "user", "content": "Where?"}, said], (said,)):
        assert score("box.iou", completion, BOX).value == 0.5
    for nothing in ([], [{"role": "assistant", "content": None}]):
        assert score("box.iou", nothing, BOX).flags == ("no_answer",)
    for wrong in (None, 3, b"x", [HALF], [{"role": "assistant"}]):
        with pytest.raises(TypeError, match="a completion is a text, or a list of messages"):
            score("box.iou", wrong, BOX)


def test_meta_and_sizes_of_a_wrong_type_are_named() -> None:
    for call in (lambda: score("box.iou", HALF, BOX, ["x"]), lambda: scorer("box.iou")(HALF, BOX, 3)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="meta is a mapping such as"):
            call()
    for wrong in (640, "640x480", [640], [1, 2, 3]):
        with pytest.raises(TargetError, match=r"image_size must be \(width, height\) in pixels, both positive, got"):
            score("box.iou", HALF, BOX, image_size=wrong)
    assert score("cls.label", "<answer>cat</answer>", "cat", {"image_size": 640}).value == 1.0, "it reads no size"
    with pytest.raises(TypeError, match=r"a reward is a name such as 'box\.iou' or a function, got 3"):
        score(3, "x")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith(("chart.", "math."))])
def test_arrays_are_read_as_lists(name: str) -> None:
    case = CASES[name]
    target, meta, options = as_arrays(case.target), as_arrays(case.meta), as_arrays(case.options)
    assert score(name, case.honest, target, meta, **options).value == pytest.approx(case.value, abs=1e-9)
    assert scorer(name, options)(case.honest, target, meta).value == pytest.approx(case.value, abs=1e-9)
    check_target(name, target, {**meta, **options})


def as_arrays(value: Any) -> Any:
    """Numbers as scalars and lists of numbers as arrays of numpy, as a parquet file gives them."""
    if isinstance(value, dict):
        return {key: as_arrays(item) for key, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, int | float) for item in value):
        return np.array(value)
    if isinstance(value, list):
        return [as_arrays(item) for item in value]
    return np.int64(value) if type(value) is int else np.float64(value) if type(value) is float else value


def test_an_array_among_plain_numbers_is_found() -> None:
    assert score("box.iou", HALF, [0, 0, np.int64(10), np.float32(10)]).value == 0.5
    call = scorer("box.iou")
    assert [call(HALF, target).value for target in (BOX, np.array(BOX), BOX, [np.int64(n) for n in BOX])] == [0.5] * 4


@pytest.mark.parametrize(
    ("name", "completion", "target", "meta"),
    [
        ("mcq.letter", "<answer>B</answer>", "B", {"num_options": 4}),
        ("tg.tiou", "<answer>5 to 12</answer>", [5, 15], {"duration": 60}),
        ("num.exact", "<answer>41</answer>", 42, {"rel_tol": 0.1}),
        ("num.exact", "<answer>41</answer>", 42, {"abs_tol": 1}),
        ("length.cosine", HALF, None, {"num_tokens": 300, "max_tokens": 1000}),
        ("length.group_kimi", HALF, None, {"num_tokens": 9, "group_lengths": [3, 20]}),
        ("length.window", HALF, None, {"num_tokens": 400, "correct": False}),
        ("det.match_iou", TWO, ONE, {"iou_threshold": 0.7}),
        ("ranked.rr", "<answer>a\nb</answer>", ["b"], {"k": 1}),
        ("box.iou", "<answer>[0, 0, 500, 500]</answer>", BOX, {"image_size": [20, 20], "coord_space": "norm_1000"}),
        ("box.acc", HALF, BOX, {"t": 0.6}),
        ("video.temporal_contrast", "", [1, 0], {"control": [0, 0], "index": 1}),
        ("compat.easyr1.overlong", "x", None, {"num_tokens": 90, "max_length": 100, "buffer": 20}),
    ],
)
def test_numbers_may_be_text_as_a_table_has_them(name: str, completion: str, target: Any, meta: dict[str, Any]) -> None:
    def as_text(value: Any) -> Any:
        return value if isinstance(value, str) else [str(v) for v in value] if isinstance(value, list) else str(value)

    written = {key: as_text(value) for key, value in meta.items()}
    assert score(name, completion, target, written).value == score(name, completion, target, meta).value
    assert scorer(name)(completion, target, written).value == score(name, completion, target, meta).value
    check_target(name, target, written)


def test_what_is_no_number_stays_an_error() -> None:
    for wrong in ("1,5", "nan", "0x10", "ten", "1_000"):
        with pytest.raises(TargetError, match="num_tokens"):
            score("length.window", HALF, None, num_tokens=wrong)


# ------------------------------------------------------------------------------- rewards of one's own

OWN = """
import asyncio

def columns(completions, prompts=None, target=None, **kwargs):
    return [float(t == c.strip("<answer>/")) for c, t in zip(completions, target)]

async def awaited(completions, solution, worth=1.0, **kwargs):
    await asyncio.sleep(0)
    return [worth * (s in c) for c, s in zip(completions, solution)]

async def single(parsed, target, meta, *, worth=1.0):
    await asyncio.sleep(0)
    return worth * (parsed.answer == target)

def group(group):
    return [float(len(group.parsed))]

def of_nobody(group):
    return []

class Stateful:
    def __init__(self, step=1.0):
        self.step, self.count = step, 0.0
    def __call__(self, parsed, target, meta):
        self.count += self.step
        return self.count
    def state_dict(self):
        return {"count": self.count}
    def load_state_dict(self, state):
        self.count = state["count"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own_rewards.py"
    path.write_text(OWN)
    return path


def test_trls_signature_and_async_functions(own: Path, capsys: Any, monkeypatch: Any) -> None:
    answer = "<answer>B</answer>"
    assert score(f"{own}:columns", answer, "B").value == 1.0
    assert score(f"{own}:awaited", answer, solution="B").value == 1.0
    assert scorer(f"{own}:awaited", {"worth": 0.5})(answer, None, {"solution": "B"}).value == 0.5
    assert score(f"{own}:single", answer, "B", worth=0.5).value == 0.5
    assert score(f"{own}:group", answer).value == 1.0
    with pytest.raises(RewardError, match="must return a list with one Score per completion"):
        score(f"{own}:of_nobody", answer)
    with pytest.raises(RewardError, match="needs the column solution"):
        score(f"{own}:awaited", answer, "B")
    for name in ("columns", "single"):
        line = (f"{own}:{name}", "--completion", answer, "--target", '"B"')
        assert printed(capsys, monkeypatch, *line) == 1.0
    meta = ("--meta", '{"solution": "B"}', "--options", '{"worth": 0.25}')
    assert printed(capsys, monkeypatch, f"{own}:awaited", "--completion", answer, *meta) == 0.25


def test_a_function_may_be_given_for_its_name(own: Path) -> None:
    single = find(f"{own}:single", asynchronous=True)
    assert score(single, "<answer>B</answer>", "B").parts == {"single": 1.0}
    assert scorer(lambda parsed, target, meta: len(parsed.text))("four").value == 4.0


def test_an_async_function_can_be_scored_within_a_running_loop(own: Path) -> None:
    import asyncio

    async def inside() -> float | None:
        return score(f"{own}:single", "<answer>B</answer>", "B").value

    assert asyncio.run(inside()) == 1.0


# ------------------------------------------------------------------------------- scorers


@pytest.mark.parametrize("name", ["box.acc@0.4", "det.f1", "length.cosine", "box.acc"])
def test_scorers_pickle(name: str) -> None:
    case = CASES.get(name) or CASES["box.acc@0.5"]
    call = pickle.loads(pickle.dumps(scorer(name)))
    meta = {**case.meta, "t": 0.4} if name == "box.acc" else case.meta
    assert isinstance(call, Scorer)
    assert call(case.honest, case.target, meta).value == pytest.approx(case.value)


def test_scorers_pickle_with_what_they_have_learnt(own: Path) -> None:
    call = scorer(f"{own}:Stateful", {"step": 2.0})
    assert [call("x").value, call("x").value] == [2.0, 4.0]
    again = pickle.loads(pickle.dumps(call))
    assert [again("x").value, call("x").value] == [6.0, 6.0]


def test_rows_with_options_of_their_own_have_a_state_of_their_own(own: Path) -> None:
    call = scorer(f"{own}:Stateful")
    assert [call("x", None, {"step": s}).value for s in (1.0, 5.0, 1.0)] == [1.0, 5.0, 2.0]
    assert score(f"{own}:Stateful", "x").value == score(f"{own}:Stateful", "x").value == 1.0, "made anew"


def test_many_different_options_are_not_all_kept() -> None:
    call = scorer("box.acc")
    for i in range(1, 1000):
        call(HALF, BOX, {"t": i / 1000})
    assert len(call._bound) < 500


def test_documented_keys_follow_the_pages_that_a_page_points_to() -> None:
    assert {"image_size", "labels", "iou_threshold"} <= documented("det.f1@0.5")
    assert {"unit", "abs_tol"} <= documented("count.exact")
    assert "norm_1000" not in documented("box.iou")
    assert documented("mine.py:f") == {"output_mode", "lenient_extraction"}
