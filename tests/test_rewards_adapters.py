"""Rewards with the signatures of TRL, verl, EasyR1 and ms-swift, both ways."""

from __future__ import annotations

from typing import Any

import pytest
from reward_cases import CASES, NOT_PURE

from vlrft.parse import parse
from vlrft.rewards import Judge, RewardError, TargetError, as_trl, names, score
from vlrft.rewards.adapters import from_easyr1, from_swift, from_verl, to_easyr1, to_swift, to_verl
from vlrft.rewards.describe import describe
from vlrft.types import Sample, Score, TextPart

HALF = "<think>left</think><answer>[0, 0, 10, 5]</answer>"
TRUE = [0, 0, 10, 10]
MIXED = {"box.iou": 0.8, "format.think_answer": 0.2}


def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None) -> Any:
    """A reward as verl's users write them."""
    right = ground_truth in solution_str
    return {"score": float(right), "length": len(solution_str), "source": data_source, "split": extra_info.get("split")}


class Orm:
    """A reward as ms-swift's users write them."""

    def __init__(self, worth: float = 1.0) -> None:
        self.worth = worth

    def __call__(self, completions: list[str], solution: list[str], **kwargs: Any) -> list[float]:
        return [self.worth * (s in c) for c, s in zip(completions, solution, strict=True)]


@pytest.mark.parametrize("name", [n for n in CASES if n not in NOT_PURE])
def test_every_canonical_reward_has_trls_signature(name: str) -> None:
    case = CASES[name]
    columns = {key: [value] for key, value in {**case.meta, "target": case.target}.items()}
    function = as_trl(name, **case.options)
    assert function.__name__ == name
    assert function(completions=[case.honest], prompts=["Q"], **columns) == [pytest.approx(case.value, abs=1e-9)]


@pytest.mark.parametrize("name", [n for n in names() if n.startswith("compat.")])
def test_every_reward_of_compat_has_trls_signature(name: str) -> None:
    example = describe(name).example
    assert example is not None
    columns = {key: [value] for key, value in {**example.meta, "target": example.target}.items()}
    values = as_trl(example.name, **example.options)(completions=[example.completion], **columns)
    assert values == [pytest.approx(example.value, abs=1e-6)]


def test_as_trl_scores_rows() -> None:
    function = as_trl("box.iou")
    assert function.__name__ == "box.iou"
    assert "Intersection over union" in (function.__doc__ or "")
    found = function(
        prompts=["p", "p", "p"],
        completions=[HALF, "no", [{"role": "assistant", "content": "<answer>[0, 0, 500, 1000]</answer>"}]],
        completion_ids=[[1], [2], [3]],
        target=[[0, 0, 10, 10]] * 2 + [[0, 0, 50, 25]],
        image_size=[[100, 50]] * 3,
        coord_space=[None, None, "norm_1000"],
        trainer_state=object(),
    )
    assert found == [0.5, 0.0, 0.5]


def test_as_trl_reads_message_parts_and_the_last_turn() -> None:
    turns = [
        {"role": "assistant", "content": "<tool_call>{}</tool_call>"},
        {"role": "tool", "content": "<answer>[0, 0, 10, 10]</answer>"},
        {"role": "assistant", "content": [{"type": "text", "text": HALF}]},
    ]
    assert as_trl("box.iou")(completions=[turns, []], target=[[0, 0, 10, 10]] * 2) == [0.5, 0.0]


def test_as_trl_options_and_fixed_meta() -> None:
    function = as_trl(
        "box.acc@0.5", meta={"coord_space": "norm_1000", "image_size": [100, 50], "output_mode": "direct"}
    )
    assert function(["[0, 0, 100, 100]", "[0, 0, 10, 10]"], target=[[0, 0, 10, 5]] * 2) == [1.0, 0.0]
    assert as_trl("format.think_answer", mode="answer_only")(["<answer>[0, 0, 10, 5]</answer>"]) == [1.0]
    assert as_trl("format.think_answer", meta={"output_mode": "direct"})(["<answer>[0, 0, 10, 5]</answer>"]) == [None]


def test_as_trl_names_the_row_and_the_columns() -> None:
    with pytest.raises(
        TargetError, match=r"'row 0 \(columns: solution\)', reward 'box\.iou': a box target is .* got None"
    ):
        as_trl("box.iou")([HALF], solution=["x"])


def test_as_trl_refuses_what_is_trls_already(tmp_path: Any) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def columns(completions, prompts=None, **columns):\n    return [0.25 for _ in completions]\n")
    with pytest.raises(ValueError, match="TRL's signature already"):
        as_trl(f"{path}:columns")
    assert as_trl([f"{path}:columns", "box.iou"])([HALF], target=[TRUE]) == [(0.25 + 0.5) / 2]


def test_trl_tells_group_aware_rewards_the_group() -> None:
    kimi = as_trl("length.group_kimi")
    ids = [[1] * length for length in (10, 20, 30, 7, 7)]
    values = kimi(completions=["x"] * 5, prompts=["a", "a", "a", "b", "b"], completion_ids=ids)
    assert values == [1.0, 0.5, 0.0, 0.5, 0.5]
    by_sample = kimi(completions=["x"] * 4, prompts=["a"] * 4, sample_id=[1, 1, 2, 2], completion_ids=ids[:4])
    assert by_sample == [1.0, 0.0, 0.0, 1.0]


def test_trl_gives_prompt_and_number_of_tokens() -> None:
    chat = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Find it"}]}]]
    copied = as_trl("thinking.no_copy_of_prompt")
    assert copied(completions=["<think>Find it</think>"], prompts=chat) == [0.0]
    assert copied(completions=["<think>Find it</think>"], prompts=["Where?"]) == [1.0]
    assert as_trl("length.window")(completions=["x"], prompts=["Q"], completion_ids=[[0] * 400]) == [1.0]


def test_to_verl() -> None:
    assert to_verl("box.iou")("shapes", HALF, TRUE) == 0.5
    assert to_verl("box.acc", t=0.5)("shapes", HALF, TRUE, {"image_size": [20, 20]}) == 1.0
    assert to_verl(MIXED)("shapes", HALF, TRUE, {}) == pytest.approx(0.8 * 0.5 + 0.2)
    assert to_verl("box.iou", json_target=True)("shapes", HALF, "[0, 0, 10, 10]") == 0.5
    scaled = to_verl("box.iou", meta={"coord_space": "norm_1000"})
    assert scaled(data_source="", solution_str=HALF, ground_truth=TRUE, extra_info={"image_size": [1000, 1000]}) == 0.5
    direct = {"output_mode": "direct"}
    assert to_verl("format.think_answer", meta=direct)("shapes", HALF, None) == 0.0, "verl knows no None"
    with pytest.raises(TargetError, match=r"data_source 'shapes', .*'index': 7.*got None"):
        to_verl("box.iou")("shapes", HALF, None, {"index": 7})
    with pytest.raises(TargetError, match="is not JSON"):
        to_verl("box.iou", json_target=True)("shapes", HALF, "[0, 0")


def test_to_easyr1() -> None:
    inputs = [
        {"response": HALF, "response_length": 12, "ground_truth": TRUE},
        {"response": "no tags", "response_length": 2, "ground_truth": TRUE},
    ]
    scores = to_easyr1(MIXED)(inputs)
    assert [s["overall"] for s in scores] == [pytest.approx(0.6), 0.0]
    assert scores[0] == {"overall": pytest.approx(0.6), "box.iou": 0.5, "format.think_answer": 1.0}
    assert to_easyr1("length.window", low=10, high=20)(inputs, format_weight=0.1)[0]["overall"] == 1.0
    with pytest.raises(TargetError, match=r"'input 1'.*got None"):
        to_easyr1("box.iou")([inputs[0], {"response": "x"}])


def test_to_swift() -> None:
    orm = to_swift("box.iou")()
    assert orm([HALF, "x"], solution=[TRUE, TRUE], image_size=[[20, 20], None], trainer_state=object()) == [0.5, 0.0]
    chat = [[{"role": "assistant", "content": HALF}]]
    assert to_swift(MIXED, target="boxes")(args=None)(chat, boxes=[TRUE]) == [pytest.approx(0.6)]
    assert to_swift("format.think_answer", meta={"output_mode": "direct"})()([HALF], solution=[None]) == [None]
    with pytest.raises(TargetError, match=r"row 0 \(columns: labels\).*got None.*'solution' says nothing; name"):
        orm([HALF], labels=[TRUE])


@pytest.mark.parametrize("make", [to_verl, to_easyr1, to_swift])
def test_wrong_names_weights_and_options_are_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match=r"did you mean 'box\.iou'"):
        make("box.iuo")
    with pytest.raises(ValueError, match=r"rewards\[0\]: reward 'box\.iou' has weight -1\.0; a weight is finite"):
        make({"box.iou": -1.0})
    with pytest.raises(ValueError, match="rewards is empty; name at least one reward"):
        make({})
    with pytest.raises(ValueError, match="for a single reward"):
        make(MIXED, floor=0.5)
    with pytest.raises(ValueError, match="unexpected keyword argument"):
        make("box.iou", floor=0.5)


def test_from_verl() -> None:
    reward = from_verl(compute_score, data_source="mine")
    result = reward(parse("<answer>B</answer>"), "B", {"split": "train"})
    assert result == Score(value=1.0, parts={"length": 18.0}, flags=())
    plain = from_verl(lambda data_source, solution_str, ground_truth, extra_info: extra_info["worth"])
    assert plain(parse("x"), None, {"worth": 0.25}).value == 0.25
    with pytest.raises(RewardError, match="finite"):
        plain(parse("x"), None, {"worth": float("nan")})
    with pytest.raises(RewardError, match="expected a dict with 'score'"):
        from_verl(lambda **_: {"reward": 1.0})(parse("x"), None, {})


def test_from_easyr1() -> None:
    def batch(reward_inputs: list[dict[str, Any]], format_weight: float = 0.1) -> list[dict[str, float]]:
        return [{"overall": format_weight, "format": float(i["response_length"])} for i in reward_inputs]

    reward = from_easyr1(batch, format_weight=0.5)
    assert reward(parse("four"), "B", {}) == Score(value=0.5, parts={"format": 4.0}, flags=())
    assert reward(parse("four"), "B", {"num_tokens": 2}).parts == {"format": 2.0}
    single = from_easyr1(lambda given: {"overall": float(given["ground_truth"] == "B")}, batch=False)
    assert single(parse("x"), "B", {}).value == 1.0


def test_from_swift() -> None:
    reward = from_swift(Orm, worth=0.5)
    assert reward(["a B", "c"], prompts=None, target=["B", "B"], image=[1, 2]) == [0.5, 0.0]


def test_there_and_back_is_the_same() -> None:
    back = from_verl(to_verl("box.iou"))
    assert back(parse(HALF), TRUE, {}).value == score("box.iou", HALF, TRUE).value
    assert from_easyr1(to_easyr1("box.iou"))(parse(HALF), TRUE, {}).value == 0.5
    assert from_swift(to_swift("box.iou"))([HALF], target=[TRUE]) == [0.5]


def test_a_recipe_can_name_a_reward_of_another_trainer(tmp_path: Any) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from vlrft.rewards.adapters import from_easyr1\n"
        "def compute_score(inputs):\n"
        "    return [{'overall': 0.5, 'accuracy': 1.0} for _ in inputs]\n"
        "mine = from_easyr1(compute_score)\n"
    )
    from vlrft.config import RewardSpec

    judge = Judge([RewardSpec(func=f"{path}:mine", name="mine")])
    result = judge.score("x", Sample(id="1", task="qa", parts=(TextPart(text="Q"),)))
    assert (result.value, result.parts) == (0.5, {"mine": 0.5, "mine/accuracy": 1.0})
