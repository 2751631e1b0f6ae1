"""The table, the judge and the TRL form: names, weights, errors that name function and sample."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlrft import rewards
from vlrft.config import RewardSpec
from vlrft.parse import Parsed
from vlrft.registry import UnknownNameError, load_reference
from vlrft.rewards import FLAGS, REWARDS, Judge, RewardError, TargetError, as_trl, check_target, names, score
from vlrft.types import MediaPart, MediaRef, Sample, Score, TextPart

GOOD = "<think>a</think><answer>[0, 0, 10, 5]</answer>"
UNFORMATTED = "<answer>[0, 0, 10, 5]</answer>"
BAD = "no"
SAMPLE = Sample(
    id="row-7",
    task="grounding",
    parts=(MediaPart(index=0), TextPart(text="Where is the cell?")),
    media=(MediaRef(path="cell.png"),),
    target=[0.0, 0.0, 10.0, 10.0],
    meta={"labels": ["cell"]},
)
META = {"image_size": [100, 50], "coord_space": "abs_original"}

USER_FILE = """
import math
seen = []
def columns(completions, prompts=None, **columns):
    seen.append((completions, prompts, columns))
    return [0.25 for _ in completions]
def needs(prompts, completions, target, labels, scale=1.0):
    return [scale * len(labels) if target else None for _ in completions]
def lacks(completions, solution):
    return [1.0]
def wrong_length(completions, **columns):
    return [1.0, 2.0]
def not_a_list(completions, **columns):
    return 1.0
def not_a_number(completions, **columns):
    return ["good"]
def nothing(parsed, target, meta):
    return None
def not_finite(parsed, target, meta):
    return math.nan
def plain(parsed, target, meta, *, scale=1.0):
    return scale * float(parsed.answer is not None)
def broken(parsed, target, meta):
    raise KeyError("colour")
async def later(completions, **columns):
    return [1.0 for _ in completions]
def by_ids(completion_ids, **columns):
    return [float(len(ids)) / 10 for ids in completion_ids]
def all_columns(**columns):
    return [float(len(c)) / 100 for c in columns["completions"]]
def anything(*args, **kwargs):
    return [0.5 for _ in kwargs["prompts"]]
def array(completions, **columns):
    import numpy
    return numpy.array([0.5, 0.25], dtype=numpy.float32)[: len(completions)]
def tensor(completions, **columns):
    import torch
    return torch.full((len(completions),), 0.125)
def tensors(completions, **columns):
    import torch
    return [torch.tensor(0.125) for _ in completions]
def leaves(parsed, target, meta):
    import sys
    sys.exit(4)
def leaves_all(completions, **columns):
    import sys
    sys.exit("enough")
async def leaves_later(parsed, target, meta):
    import sys
    sys.exit(4)
def too_few(parsed):
    return 1.0
number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Callable[[str], str]:
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE)
    return lambda name: f"{path}:{name}"


def judge_of(*funcs: str | RewardSpec, **kwargs: Any) -> Judge:
    return Judge([f if isinstance(f, RewardSpec) else RewardSpec(func=f) for f in funcs], **kwargs)


# ------------------------------------------------------------------------------------------- table


def test_every_name_resolves_and_has_a_docstring() -> None:
    assert names() == sorted(REWARDS)
    for name in names():
        assert load_reference(REWARDS[name]).__doc__


def test_unknown_names_list_the_valid_ones() -> None:
    for call in (lambda n: score(n, GOOD, None), lambda n: check_target(n, None), judge_of, as_trl):
        with pytest.raises(UnknownNameError, match=r"'box\.ious'; did you mean 'box\.iou'.*'vlrft rewards ls'"):
            call("box.ious")
    with pytest.raises(UnknownNameError, match=r"unknown reward 'box\.ac'"):
        score("box.ac@0.5", GOOD, None)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("box.acc", {}, r"missing a required argument: 't'.*write the threshold as box\.acc@0\.5"),
        ("box.acc@half", {}, "must be a number"),
        ("box.acc@2", {}, r"threshold must lie in \(0, 1\]"),
        ("box.iou@0.5", {}, "unexpected keyword argument 't'"),
        ("box.giou", {"flor": 0.1}, "unexpected keyword argument 'flor'.*its options: floor"),
    ],
)
def test_options_that_cannot_work(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(name, GOOD, SAMPLE.target, META, **kwargs)


def test_threshold_by_name_or_by_option() -> None:
    assert score("box.acc@0.5", GOOD, SAMPLE.target).value == 1.0
    assert score("box.acc@0.51", GOOD, SAMPLE.target).value == 0.0
    assert score("box.acc", GOOD, SAMPLE.target, t=0.5).parts == {"box.acc": 1.0}


def test_output_mode_comes_from_meta() -> None:
    assert score("box.iou", "[0, 0, 10, 10]", SAMPLE.target, {"output_mode": "direct"}).value == 1.0
    with pytest.raises(ValueError, match="unknown output mode"):
        score("box.iou", GOOD, SAMPLE.target, {"output_mode": "free"})


def test_rewards_need_no_torch() -> None:
    code = "import sys, vlrft.rewards as r; r.score('box.iou', '', [0, 0, 1, 1]); "
    code += "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------- judge


def test_weighted_mean_and_unweighted_parts() -> None:
    judge = Judge([RewardSpec(func="box.iou", weight=0.9), RewardSpec(func="format.think_answer", weight=0.1)])
    found = judge.score(GOOD, SAMPLE, META)
    assert found.parts == {"box.iou": 0.5, "format.think_answer": 1.0}
    assert found.value == pytest.approx(0.9 * 0.5 + 0.1 * 1.0)
    assert judge.score(UNFORMATTED, SAMPLE, META).value == pytest.approx(0.45)
    assert judge.score(BAD, SAMPLE, META) == Score(
        value=0.0, parts={"box.iou": 0.0, "format.think_answer": 0.0}, flags=("no_answer",)
    )


def test_weights_need_not_add_up_to_one() -> None:
    judge = Judge([RewardSpec(func="box.iou", weight=3.0), RewardSpec(func="format.think_answer", weight=1.0)])
    assert judge.score(GOOD, SAMPLE, META).value == pytest.approx((3 * 0.5 + 1) / 4)


def test_parts_that_do_not_apply_leave_the_mean(mine: Callable[[str], str]) -> None:
    judge = Judge(
        [RewardSpec(func="box.iou", weight=0.5), RewardSpec(func="format.think_answer", weight=0.5)],
        output_mode="direct",
    )
    found = judge.score("[0, 0, 10, 5]", SAMPLE, META)
    assert found.value == 0.5
    assert found.parts == {"box.iou": 0.5, "format.think_answer": None}
    only = judge_of(mine("nothing")).score(GOOD, SAMPLE, META)
    assert (only.value, list(only.parts.values())) == (None, [None])


def test_weight_zero_is_logged_only() -> None:
    judge = Judge([RewardSpec(func="box.iou"), RewardSpec(func="box.acc@0.9", weight=0.0)])
    found = judge.score(GOOD, SAMPLE, META)
    assert (found.value, found.parts["box.acc@0.9"]) == (0.5, 0.0)


def test_flags_are_united_in_the_listed_order() -> None:
    text = "<think>a</think><answer>[0, 0, 200, 5], [NaN, 0, 1, 1]</answer>"
    flags = judge_of("box.iou", "format.think_answer").score(text, SAMPLE, META).flags
    assert flags == ("several_answers", "out_of_range")
    assert set(flags) <= set(FLAGS)


def test_lenient_judge() -> None:
    found = judge_of("box.iou", lenient=True).score("at [0, 0, 10, 5]", SAMPLE, META)
    assert (found.value, found.flags) == (0.5, ("lenient",))


def test_target_space_is_the_samples() -> None:
    sample = Sample(id="n", task="t", parts=(), target=[0, 0, 500, 500], target_space="norm_1000")
    meta = {"image_size": [100, 50], "coord_space": "abs_original"}
    assert judge_of("box.iou").score("<answer>[0, 0, 50, 25]</answer>", sample, meta).value == 1.0


def test_check_names_sample_and_reward() -> None:
    sample = Sample(id="row-9", task="t", parts=(), target=[5, 5, 1, 1])
    judge = judge_of("format.think_answer", "box.iou")
    judge.check(SAMPLE, META)
    with pytest.raises(TargetError, match=r"sample 'row-9', reward 'box\.iou'.*inverted"):
        judge.check(sample, META)


def test_check_finds_what_a_group_reward_lacks() -> None:
    contrast = RewardSpec(func="video.temporal_contrast", kwargs={"accuracy": "box.iou"})
    message = r"sample 'row-7', reward 'video\.temporal_contrast': meta\['control'\]"
    with pytest.raises(TargetError, match=message):
        judge_of("box.iou", contrast).check(SAMPLE, META)
    judge_of("box.iou", contrast).check(SAMPLE, {**META, "control": [0.0]})
    unnamed = RewardSpec(func="video.temporal_contrast")
    with pytest.raises(TargetError, match="no reward named 'accuracy' says how right"):
        judge_of("box.iou", unnamed).check(SAMPLE, {**META, "control": [0.0]})
    semantic = RewardSpec(func="video.semantic", kwargs={"accuracy": "box.iou", "embedder": "words"})
    with pytest.raises(TargetError, match=r"reward 'video\.semantic': .*meta\['media'\]"):
        judge_of("box.iou", semantic).check(SAMPLE, {**META, "media": None})
    elsewhere = RewardSpec(func="box.iou", when={"labels": ["no such"]})
    judge_of("box.giou", elsewhere, contrast).check(SAMPLE, META)


def test_check_probes_the_options_of_every_step() -> None:
    spec = RewardSpec(func="num.exact", kwargs={"abs_tol": {"schedule": [[0, 0.1], [5, 0.2]]}})
    sample = Sample(id="row-8", task="t", parts=(), target="many")
    with pytest.raises(TargetError, match=r"sample 'row-8', reward 'num\.exact'"):
        judge_of(spec).check(sample)


def test_gates_and_schedules_have_metrics() -> None:
    judge = judge_of(
        RewardSpec(func="box.iou", weight=[(0, 1.0), (10, 0.5)]),
        RewardSpec(func="format.think_answer", gate="box.iou > 0"),
        RewardSpec(func="box.giou", gate="box.iou > 0.9", when={"labels": ["no such"]}),
    )
    judge.step = 5
    parts = [judge.score(text, SAMPLE, META).parts for text in (GOOD, BAD, GOOD, GOOD)]
    assert judge.metrics(parts) == {"reward_weight/box.iou": 0.75, "gate_closed/format.think_answer": 0.25}
    assert judge_of("box.iou").metrics(parts) == {}


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], r"rewards\.funcs is empty; name at least one reward"),
        ([RewardSpec(func="box.iou", weight=0.0)], "no reward a weight above 0"),
        ([RewardSpec(func="box.iou", weight=-1.0)], "weight -1.0"),
        ([RewardSpec(func="box.iou", weight=math.nan)], "weight nan"),
        ([RewardSpec(func="box.iou"), RewardSpec(func="box.iou")], r"box\.iou twice"),
        ([RewardSpec(func="box.acc")], "missing a required argument"),
    ],
)
def test_judges_that_cannot_work(specs: list[RewardSpec], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Judge(specs)


def test_judge_with_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="unknown output mode 'free'"):
        judge_of("box.iou", output_mode="free")


# ------------------------------------------------------------------------------------ user rewards


def test_columns_of_one(mine: Callable[[str], str]) -> None:
    name = mine("columns")
    found = judge_of(name).score(GOOD, SAMPLE, META)
    assert (found.value, found.parts) == (0.25, {name: 0.25})
    module = next(m for m in sys.modules.values() if getattr(m, "__file__", None) == name.rpartition(":")[0])
    completions, prompts, columns = module.seen[-1]
    assert (completions, prompts) == ([GOOD], ["Where is the cell?"])
    assert columns["target"] == [SAMPLE.target]
    assert columns["image_size"] == [[100, 50]]
    assert columns["labels"] == [["cell"]]
    assert columns["sample_id"] == ["row-7"]


def test_only_the_asked_columns_and_bound_options(mine: Callable[[str], str]) -> None:
    spec = RewardSpec(func=mine("needs"), kwargs={"scale": 0.5})
    assert Judge([spec]).score(GOOD, SAMPLE, META).value == 0.5


def test_per_sample_rewards_of_ones_own(mine: Callable[[str], str]) -> None:
    spec = RewardSpec(func=mine("plain"), kwargs={"scale": 0.75})
    assert Judge([spec]).score(GOOD, SAMPLE, META).value == 0.75
    assert score(mine("plain"), BAD, None).value == 0.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "KeyError: 'colour'"),
        ("lacks", "needs the column solution; the sample has: coord_space, image_size, labels.*target"),
        ("wrong_length", "must return a list with one number or None per completion"),
        ("not_a_list", r"must return a list.*got 1\.0"),
        ("not_a_number", "returned 'good'"),
        ("not_finite", "must be finite"),
    ],
)
def test_errors_name_function_and_sample_and_stop_the_run(
    mine: Callable[[str], str], caplog: pytest.LogCaptureFixture, name: str, message: str
) -> None:
    judge = judge_of("box.iou", mine(name), max_errors=1)
    with caplog.at_level(logging.WARNING, logger="vlrft.rewards"):
        found = judge.score(GOOD, SAMPLE, META)
    assert (found.value, found.parts[mine(name)], judge.errors) == (0.5, None, 1)
    assert name in caplog.text
    assert "row-7" in caplog.text
    with pytest.raises(RewardError, match=f"{name}' raised on sample 'row-7'.*{message}.*max_errors is 1"):
        judge.score(GOOD, SAMPLE, META)


@pytest.mark.parametrize(
    ("name", "value"),
    [("by_ids", 0.3), ("all_columns", len(GOOD) / 100), ("anything", 0.5), ("array", 0.5), ("tensor", 0.125),
     ("tensors", 0.125)],
)  # fmt: skip
def test_every_shape_of_trls_signature(mine: Callable[[str], str], name: str, value: float) -> None:
    meta = {**META, "completion_ids": [7, 8, 9]}
    assert judge_of(mine(name)).score(GOOD, SAMPLE, meta).value == pytest.approx(value)


@pytest.mark.parametrize("name", ["leaves", "leaves_all", "leaves_later"])
@pytest.mark.parametrize("workers", [None, 1])
def test_sys_exit_does_not_end_the_run_without_a_word(
    mine: Callable[[str], str], name: str, workers: int | None
) -> None:
    spec = RewardSpec(func=mine(name), name="leaving", workers=workers)
    judge = judge_of("box.iou", spec)
    found = judge.score(GOOD, SAMPLE, META)
    assert (found.value, found.parts["leaving"], judge.errors) == (0.5, None, 1)
    judge.close()
    said = r"'leaving' raised on sample 'row-7': RewardError: it called sys\.exit\((4|'enough')\)"
    strict = judge_of(spec, max_errors=0)
    with pytest.raises(RewardError, match=said):
        strict.score(GOOD, SAMPLE, META)
    strict.close()


@pytest.mark.parametrize("workers", [None, 1])
def test_a_traceback_is_shown_once_and_then_counted(
    mine: Callable[[str], str], caplog: pytest.LogCaptureFixture, workers: int | None
) -> None:
    judge = judge_of("box.iou", RewardSpec(func=mine("broken"), workers=workers))
    with caplog.at_level(logging.WARNING, logger="vlrft.rewards"):
        judge.score_group([GOOD, BAD], SAMPLE, [META, META])
        judge.score(GOOD, SAMPLE, META)
    judge.close()
    assert caplog.text.count('raise KeyError("colour")') == 1
    assert caplog.text.count("raised on sample row-7") == judge.errors == 3
    assert "(error 3, rewards.max_errors is 10)" in caplog.text


@pytest.mark.parametrize(("name", "message"), [("number", "not a function"), ("too_few", "cannot be called as")])
def test_functions_that_cannot_be_rewards(mine: Callable[[str], str], name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge_of(mine(name))


def test_parts_of_a_composite_are_kept() -> None:
    def composite(parsed: Parsed, target: Any, meta: Any) -> Score:
        return Score(value=0.5, parts={"type": 1.0, "args": None}, flags=("unknown_label",))

    found = rewards.call.as_score("mine", composite(Parsed(text=""), None, {}))
    assert found == Score(value=0.5, parts={"mine": 0.5, "type": 1.0, "args": None}, flags=("unknown_label",))
    with pytest.raises(RewardError, match="part 'x' returned inf"):
        rewards.call.as_score("mine", Score(value=0.5, parts={"x": math.inf}))
