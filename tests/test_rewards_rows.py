"""Rows of other trainers: columns as meta, which rows are one group, right answers, schedules, pickles."""

from __future__ import annotations

import copy
import logging
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlrft.config import RewardSpec
from vlrft.rewards import Judge, RewardError, TargetError, as_trl, score
from vlrft.rewards.adapters import from_swift, from_verl, to_easyr1, to_swift, to_verl
from vlrft.rewards.grouping import same
from vlrft.rewards.plain import plain
from vlrft.types import Sample

HALF = "<think>left</think><answer>[0, 0, 10, 5]</answer>"
FULL = "<think>left</think><answer>[0, 0, 10, 10]</answer>"
MISS = "<think>left</think><answer>[50, 50, 60, 60]</answer>"
TRUE = [0, 0, 10, 10]
THREE = "<answer>3 then 4</answer>"


def ids(*lengths: int) -> list[list[int]]:
    return [[1] * length for length in lengths]


# ------------------------------------------------------------------------------------------ columns


def test_a_column_of_mappings_called_meta_is_unpacked() -> None:
    meta = [{"coord_space": "norm_1000", "image_size": [20, 20]}, {"coord_space": None, "image_size": [20, 20]}]
    text = "<answer>[0, 0, 500, 250]</answer>"
    assert as_trl("box.iou")([text, HALF], target=[TRUE] * 2, meta=meta) == [0.5, 0.5]
    assert as_trl("box.iou")([text], target=[TRUE], meta=meta[:1], coord_space=["norm_1"]) == [0.25], "a column wins"
    assert to_verl("box.iou")("", text, TRUE, {"index": 3, "meta": meta[0]}) == 0.5
    with pytest.raises(TargetError, match=r"row 0: 'meta' must be a mapping.*got 3"):
        as_trl("box.iou")([HALF], target=[TRUE], meta=[3])


def test_columns_may_be_arrays_tuples_and_tensors() -> None:
    sizes = np.array([[20, 20], [20, 20]])
    targets = np.empty(2, dtype=object)
    targets[0], targets[1] = np.array([0, 0, 10, 10]), [np.float32(0), np.int64(0), 10, 10]
    function = as_trl("box.iou")
    assert function((HALF, FULL), target=targets, image_size=sizes, coord_space=("abs_original",) * 2) == [0.5, 1.0]
    assert function([HALF], target=torch.tensor([[0, 0, 10, 10]])) == [0.5]
    labels = [np.array(["cat", "dog"])]
    assert as_trl("cls.label")(["<answer>cat</answer>"], target=np.array(["cat"]), labels=labels) == [1.0]
    assert as_trl("length.window", correct_only=False)(["x"], completion_ids=torch.ones(1, 400)) == [1.0]


def test_arrays_become_lists_and_pictures_stay() -> None:
    nested = np.empty(2, dtype=object)
    nested[0], nested[1] = np.array([1, 2]), {"k": np.float32(3)}
    assert plain(nested) == [[1, 2], {"k": 3.0}]
    assert type(plain(np.float64(2.0))) is float
    assert type(plain(np.str_("x"))) is str
    assert plain((np.int64(1), [torch.tensor(True)])) == (1, [True])
    pixels = np.zeros((2, 2, 3))
    assert plain({"image": pixels})["image"] is pixels


def test_columns_that_do_not_fit_the_completions() -> None:
    with pytest.raises(TypeError, match="completions is a list with one entry per completion, got '<think>"):
        as_trl("box.iou")(HALF, target=[TRUE])
    with pytest.raises(ValueError, match=r"the column 'target' must have one entry per completion \(2\)"):
        as_trl("box.iou")([HALF, HALF], target=[TRUE])


def test_numeric_texts_are_numbers_for_built_in_rewards() -> None:
    assert as_trl("tg.iou")(["<answer>5 to 15</answer>"], target=[[5, 15]], duration=["60"]) == [1.0]
    assert as_trl("length.window", correct_only=False)(["x"], num_tokens=["400"]) == [1.0]


def test_options_in_meta_act_as_they_do_in_score() -> None:
    for meta in ({"take": "last"}, {}):
        value = score("num.exact", THREE, 4, meta).value
        assert as_trl("num.exact", meta=meta)([THREE], target=[4]) == [value]
        assert as_trl("num.exact")([THREE], target=[4], meta=[meta]) == [value]
        assert to_verl("num.exact")("", THREE, 4, meta) == value
        assert to_easyr1("num.exact")([{"response": THREE, "ground_truth": 4, **meta}])[0]["overall"] == value
        assert to_swift("num.exact", meta=meta)()([THREE], solution=[4]) == [value]
    assert as_trl("num.exact")([THREE] * 2, target=[4, 4], take=["last", None]) == [1.0, 0.0], "row by row"


def test_a_column_that_is_nearly_one_that_is_read_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    text, columns = ["<answer>3 cm</answer>"], {"target": [3], "step_name": ["a"]}
    with caplog.at_level(logging.WARNING, logger="vlrft.rewards"):
        for make in (lambda: as_trl("num.exact"), lambda: as_trl(["num.exact", "format.think_answer"])):
            function = make()
            assert function(completions=text, units=["cm"], **columns) == function(text, units=["cm"], **columns)
    assert caplog.text.count("reward 'num.exact': it does not read 'units' of meta; did you mean 'unit'?") == 2
    assert len(caplog.records) == 2
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="vlrft.rewards"):
        to_swift("num.exact")()(text, solution=[3], units=["cm"])
        to_verl("num.exact")("", text[0], 3, {"units": "cm"})
        to_easyr1("num.exact")([{"response": text[0], "ground_truth": 3, "units": "cm"}])
        assert len(caplog.records) == 3
        when = {"func": "num.exact", "when": {"units": "cm"}}
        as_trl([when])(text, units=["cm"], unit=["cm"], **columns)
        as_trl("num.exact")(text, unit=["cm"], image_id=[1], question_id=[2], answer=["3 cm"], problem=["?"], **columns)
    assert len(caplog.records) == 3, "what is read, or is no slip, is not told of"


def test_the_bad_row_of_a_batch_is_named() -> None:
    rows: dict[str, Any] = {"completions": [HALF] * 3, "target": [TRUE, "[0, 0, 10, 10]", [1]]}
    with pytest.raises(TargetError, match=r"row 1 \(columns: target\).*pass json_target=True"):
        as_trl("box.iou")(**rows)
    with pytest.raises(TargetError, match="sample 'row 1 "):
        as_trl(["box.iou", "box.giou"])(**rows)


def test_lenient_extraction() -> None:
    assert as_trl("box.iou", lenient_extraction=True)(["at [0, 0, 10, 5]"], target=[TRUE]) == [0.5]
    assert as_trl("box.iou")(["at [0, 0, 10, 5]"], target=[TRUE]) == [0.0]
    assert as_trl("box.iou", meta={"lenient_extraction": True})(["at [0, 0, 10, 5]"], target=[TRUE]) == [0.5]


# ------------------------------------------------------------------------------------------ targets


@pytest.mark.parametrize("as_json", [False, True])
def test_every_adapter_takes_the_same_options(as_json: bool) -> None:
    wanted = "[0, 0, 10, 10]" if as_json else TRUE
    options: dict[str, Any] = {
        "meta": {"coord_space": "norm_1000", "image_size": [1000, 1000]}, "target": "box", "json_target": as_json,
        "name": "overlap", "correct": "box.iou >= 0.5", "lenient_extraction": True, "max_errors": 0, "combine": "mean",
    }  # fmt: skip
    trl = as_trl("box.acc", t=0.5, **options)
    assert (trl.__name__, trl([HALF], box=[wanted])) == ("overlap", [1.0])
    verl = to_verl("box.acc", t=0.5, **options)
    assert (verl.__name__, verl("", HALF, None, {"box": wanted})) == ("overlap", 1.0)
    easyr1 = to_easyr1("box.acc", t=0.5, num_generations=1, **options)
    assert easyr1([{"response": HALF, "box": wanted}])[0]["overall"] == 1.0
    swift = to_swift("box.acc", t=0.5, num_generations=1, **options)
    assert (swift.__name__, swift()([HALF], box=[wanted])) == ("overlap", [1.0])


def test_a_target_that_is_a_text_of_json_is_named() -> None:
    hint = r"holds JSON: pass json_target=True"
    with pytest.raises(TargetError, match=hint):
        as_trl("box.iou")([HALF], target=["[0, 0, 10, 10]"])
    with pytest.raises(TargetError, match=hint):
        to_verl("box.iou")("", HALF, "[0, 0, 10, 10]")
    with pytest.raises(TargetError, match=r"'target' says nothing; name where the targets are"):
        as_trl("box.iou")([HALF], solution=[TRUE])


# ------------------------------------------------------------------------------------------- groups


def kimi(**columns: Any) -> list[float | None]:
    count = len(columns["completion_ids"])
    return as_trl("length.group_kimi", correct_only=False)(completions=["x"] * count, **columns)


def test_rows_that_differ_in_any_column_are_other_samples() -> None:
    lengths = ids(10, 20, 30, 40)
    assert kimi(prompts=["p"] * 4, target=[1] * 4, completion_ids=lengths)[1] == pytest.approx(2 / 3)
    assert kimi(prompts=["p"] * 4, target=[1] * 4, completion_ids=lengths, image=["a", "a", "b", "b"]) == [1, 0, 1, 0]
    red, blue = (Image.new("RGB", (2, 2), colour) for colour in ("red", "blue"))
    images = [red, red.copy(), blue, blue.copy()]
    assert kimi(prompts=["p"] * 4, completion_ids=lengths, image=images) == [1, 0, 1, 0]
    arrays = [np.zeros((2, 2, 3)), np.zeros((2, 2, 3)), np.ones((2, 2, 3)), np.ones((2, 2, 3))]
    assert kimi(prompts=["p"] * 4, completion_ids=lengths, pixels=arrays) == [1, 0, 1, 0]
    chat = [[{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Q"}]}]
            for image in images]  # fmt: skip
    assert kimi(prompts=chat, completion_ids=lengths) == [1, 0, 1, 0]


def test_what_belongs_to_one_completion_does_not_part_a_group() -> None:
    lengths = ids(10, 20)
    assert kimi(completion_ids=lengths, correct=[1, 0], request_id=["a", "b"], finish_reason=["stop", "length"]) == [
        1,
        0,
    ]


def test_a_sample_id_decides() -> None:
    lengths = ids(10, 10, 30, 30)
    assert kimi(completion_ids=lengths, sample_id=[1, 2, 1, 2], image=["a", "b", "c", "d"]) == [1, 1, 0, 0]
    assert kimi(completion_ids=lengths, sample_id=[1, 1, 1, 2]) == [1, 1, 0, 0.5], "the last is a group of one"


def test_num_generations_decides_where_samples_are_equal() -> None:
    function = as_trl("length.group_kimi", correct_only=False, num_generations=2)
    assert function(completions=["x"] * 4, completion_ids=ids(10, 20, 30, 40)) == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="3 rows are no multiple of num_generations=2"):
        function(completions=["x"] * 3, completion_ids=ids(1, 2, 3))
    with pytest.raises(ValueError, match="num_generations is the number of completions"):
        as_trl("box.iou", num_generations=0)


def test_groups_of_one_are_groups() -> None:
    assert kimi(completion_ids=ids(7)) == [0.5]
    assert as_trl("length.budget", correct="box.iou >= 0.5")([FULL], target=[TRUE], completion_ids=ids(7)) == [0.5]
    judge = Judge([RewardSpec(func="length.group_kimi", kwargs={"correct_only": False})])
    sample = Sample(id="1", task="t", parts=())
    judge.check(sample)
    assert judge.score("x", sample, {"num_tokens": 4}).value == 0.5


def test_equality_looks_inside() -> None:
    assert same({"a": [1, np.array([1, 2])]}, {"a": [1, np.array([1, 2])]})
    assert not same({"a": [1, np.array([1, 2])]}, {"a": [1, np.array([1, 3])]})
    assert not same(np.zeros(2), np.zeros(3))
    assert same([float("nan")], [float("nan")])
    assert not same({"a": 1}, {"b": 1})
    assert not same([1], [1, 2])


def test_group_rewards_in_easyr1_and_swift_and_not_in_verl() -> None:
    inputs = [
        {"response": "x", "response_length": length, "ground_truth": truth}
        for length, truth in ((10, "A"), (20, "A"), (30, "B"), (50, "B"))
    ]
    batch = to_easyr1("length.group_kimi", correct_only=False)
    assert [found["overall"] for found in batch(inputs)] == [1, 0, 1, 0]
    orm = to_swift("length.group_kimi", correct_only=False)()
    messages = [[{"role": "assistant", "content": str(i)}] for i in range(4)]
    assert orm(["x"] * 4, solution=["A", "A", "B", "B"], num_tokens=[10, 20, 30, 50], messages=messages) == [1, 0, 1, 0]
    with pytest.raises(ValueError, match=r"'length\.group_kimi' compares the completions.*one completion at a time"):
        to_verl("length.group_kimi", correct_only=False)
    with pytest.raises(ValueError, match="sequential reward type gives one completion"):
        batch(inputs[0])
    assert to_easyr1("yesno")({"response": "<answer>yes</answer>", "ground_truth": "yes"}) == {
        "overall": 1.0, "yesno": 1.0,
    }  # fmt: skip


# ------------------------------------------------------------------------------------ right answers


def test_right_answers_by_a_named_reward() -> None:
    overlong = as_trl("length.overlong", meta={"max_tokens": 10}, correct="box.iou >= 0.9")
    assert overlong([FULL, HALF], target=[TRUE] * 2, completion_ids=ids(4, 4)) == [1.0, 0.0]
    budget = as_trl("length.budget", correct="box.iou >= 0.5")
    values = budget([FULL, FULL, "no"], target=[TRUE] * 3, prompts=["p"] * 3, completion_ids=ids(5, 10, 20))
    planned = 2 / 3 * 7.5 + 1 / 3 * 20
    assert values == pytest.approx([0.5 - 0.5 * (5 - planned) / planned, 0.5 - 0.5 * (10 - planned) / planned, 0.0])
    with pytest.raises(ValueError, match=r"unknown reward 'box\.iuo'"):
        as_trl("length.overlong", correct="box.iuo >= 0.5")


def test_nobody_says_which_answers_are_right(caplog: pytest.LogCaptureFixture) -> None:
    columns = {"completions": ["x"], "completion_ids": ids(400)}
    with pytest.raises(TargetError, match=r"length\.budget' pays right answers only, and nobody says.*correct='box"):
        as_trl("length.budget")(**columns)
    window = as_trl("length.window")
    with caplog.at_level(logging.WARNING, logger="vlrft.rewards"):
        assert window(**columns) == window(**columns) == [1.0]
    assert caplog.text.count("nobody says which are right") == 1
    caplog.clear()
    assert as_trl("length.window")(**columns, correct=[0.0]) == [0.0], "a column says it"
    assert as_trl({"length.window": 1.0, "box.iou": 1.0})(**columns, target=[TRUE]) == [0.0]
    assert caplog.text == ""


# ----------------------------------------------------------------------------------------- composed


FUNCS: list[Any] = [
    {"func": "box.iou", "name": "accuracy", "weight": [[0, 1.0], [100, 0.5]]},
    {"func": "format.think_answer", "weight": 0.5, "gate": "accuracy > 0"},
    {"func": "length.group_kimi", "weight": 0.5},
]


def test_a_recipes_rewards_outside_of_a_run() -> None:
    columns = {"target": [TRUE] * 3, "prompts": ["p"] * 3, "completion_ids": ids(10, 20, 30)}
    composed = as_trl(FUNCS, correct="accuracy >= 0.5", name="grounding")
    texts = [FULL, HALF, MISS]
    expected = [(1 + 0.5 + 0.5) / 2, (0.5 + 0.5 + 0.25) / 2, 0.0]
    assert composed.__name__ == "grounding"
    assert composed(texts, **columns) == pytest.approx(expected)
    later = composed(texts, trainer_state=SimpleNamespace(global_step=100), **columns)
    assert later == pytest.approx([1.0, (0.25 + 0.5 + 0.25) / 1.5, 0.0])
    logged: dict[str, float] = {}
    composed(texts, log_metric=logged.__setitem__, **columns)
    assert logged["rewards/grounding/accuracy"] == 0.5
    assert logged["rewards/grounding/length.group_kimi"] == pytest.approx(0.5)
    block = {"funcs": FUNCS, "correct": "accuracy >= 0.5", "combine": "sum", "max_errors": 3}
    assert as_trl(block)(texts, **columns) == pytest.approx([2.0, 1.25, 0.0])
    swift = to_swift(block)()
    assert swift(texts, solution=[TRUE] * 3, completion_ids=ids(10, 20, 30)) == pytest.approx([2.0, 1.25, 0.0])
    for make in (to_verl, to_easyr1):
        with pytest.raises(ValueError, match="does not tell a reward at which step"):
            make(FUNCS[:2])


def test_composed_rewards_that_cannot_work() -> None:
    with pytest.raises(ValueError, match=r"rewards\[1\]: reward 'box\.acc' with t=5: .*must lie in"):
        as_trl(["box.iou", {"func": "box.acc", "kwargs": {"t": 5}}])
    with pytest.raises(ValueError, match=r"unknown key rewards\[0\]\.options; did you mean rewards\[0\]\.kwargs"):
        as_trl([{"func": "box.iou", "options": {}}])
    with pytest.raises(ValueError, match=r"options \['t'\] are for a single reward"):
        as_trl(FUNCS, t=0.5)
    with pytest.raises(ValueError, match="expected a list of rewards"):
        as_trl(3)  # type: ignore[arg-type]


def test_an_error_of_a_reward_stops_the_trainer_unless_some_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(completions, prompts, **columns):\n    return [1 / len(c) for c in completions]\n")
    rows: dict[str, Any] = {"completions": [""], "prompts": ["Q"], "target": [TRUE]}
    specs = ["box.iou", {"func": f"{path}:f", "name": "f"}]
    with pytest.raises(RewardError, match=r"'f' raised on sample 'row 0 .*ZeroDivisionError"):
        as_trl(specs)(**rows)
    assert as_trl(specs, max_errors=1)(**rows) == [0.0]


# ------------------------------------------------------------------------------------------- pickle


class Contains:
    def __call__(self, completions: list[str], solution: list[str], **_: Any) -> list[float]:
        return [float(s in c) for c, s in zip(completions, solution, strict=True)]


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    return float(ground_truth in solution_str)


def again(made: Any) -> Any:
    assert copy.deepcopy(made) is not made
    return pickle.loads(pickle.dumps(made))


def test_adapters_pickle() -> None:
    row: dict[str, Any] = {"target": [TRUE], "completion_ids": ids(3)}
    assert again(as_trl(FUNCS, correct="accuracy > 0"))([FULL], **row) == pytest.approx([(1 + 0.5 + 0.25) / 2])
    assert again(as_trl("box.iou")).__name__ == "box.iou"
    assert again(to_verl("box.iou"))("", HALF, TRUE) == 0.5
    assert again(to_easyr1("box.iou"))([{"response": HALF, "ground_truth": TRUE}])[0]["overall"] == 0.5
    assert again(to_swift("box.iou", name="Overlap")())([HALF], solution=[TRUE]) == [0.5]
    assert type(again(to_swift("box.iou", name="Overlap")())).__name__ == "Overlap"
    assert again(from_swift(Contains))(["B"], target=["B"]) == [1.0]
    assert score(again(from_verl(compute_score)), "B", "B").value == 1.0


def test_what_a_stateful_reward_has_learnt_pickles_too() -> None:
    function = as_trl("semantic.rescaled", embedder="vlrft.rewards.semantic:trigrams", warm_up=2)
    rows: dict[str, Any] = {"target": ["left lobe"] * 3, "prompts": ["a", "b", "c"]}
    function([f"<answer>{text}</answer>" for text in ("left lobe", "left", "right")], **rows)
    text, target = ["<answer>the left lobe</answer>"], ["left lobe"]
    assert again(function)(text, target=target) == function(text, target=target)
    assert function(text, target=target) != as_trl(
        "semantic.rescaled", embedder="vlrft.rewards.semantic:trigrams", warm_up=2
    )(text, target=target)
