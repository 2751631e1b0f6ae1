"""Rewards with state, async rewards, and rewards in processes of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rewards_of_mine import (
    BARE,
    GROUP,
    HALF,
    HERE,
    RIGHT,
    SAMPLE,
    WRONG,
    judge_of,
    values,
)

import vlrft
from vlrft import checkpoint, pipeline, training
from vlrft.compose import ConfigError, compose
from vlrft.log import UserError
from vlrft.parse import Parsed
from vlrft.records import read_records, rollout_file
from vlrft.rewards import RewardError, TargetError, as_trl
from vlrft.rewards.adapters import to_easyr1, to_swift
from vlrft.rewards.pool import Pool, RewardTimeoutError

# ------------------------------------------------------------------------------------------- state


def test_state_is_kept_by_name() -> None:
    funcs: list[Any] = [f"{HERE}Counting", {"func": f"{HERE}Counting", "name": "late", "kwargs": {"start": 9}}]
    judge = judge_of(*funcs)
    assert values(judge, RIGHT, RIGHT) == pytest.approx([(1 + 1 / 10) / 2, (1 / 2 + 1 / 11) / 2])
    judge.errors = 3
    state = judge.state_dict()
    assert state == {"errors": 3, "rewards": {f"{HERE}Counting": {"seen": 2}, "late": {"seen": 11}}}
    again = judge_of(*funcs)
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert values(again, RIGHT) == values(judge, RIGHT)
    with pytest.raises(ValueError, match="the stored state is of the rewards"):
        judge_of("box.iou").load_state_dict(state)


def test_stateful_rewards_stay_in_this_process() -> None:
    for spec in ({"timeout_s": 1.0}, {"workers": 2}, {"kwargs": {"start": {"schedule": [[0, 1], [5, 2]]}}}):
        with pytest.raises(ValueError, match="keeps state over the run"):
            judge_of({"func": f"{HERE}Counting", **spec})


# ------------------------------------------------------------------------------------------- async


def test_async_rewards_are_awaited_together(calls: list[Any]) -> None:
    judge = judge_of(f"{HERE}waits", f"{HERE}waits_for_each", "box.iou")
    start = time.perf_counter()
    found = judge.score_group([RIGHT, HALF, RIGHT], SAMPLE)
    assert time.perf_counter() - start < 0.4
    assert [s.parts[f"{HERE}waits_for_each"] for s in found] == [0.25] * 3
    assert found[0].value == pytest.approx((0.5 + 0.25 + 1.0) / 3)
    judge.score(RIGHT, SAMPLE)
    assert calls[0] is calls[1], "one loop for all calls, so that clients stay usable"


SLEEPS = """
import asyncio, time

def blocks(parsed, target, meta):
    time.sleep(0.5)
    return 1.0

async def waits(parsed, target, meta):
    await asyncio.sleep(0.5)
    return 1.0

async def waits_for_columns(completions, **columns):
    await asyncio.sleep(0.5)
    return [1.0 for _ in completions]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [{"func": "blocks", "workers": 4}, {"func": "waits"}, {"func": "waits_for_columns"}],
    ids=lambda s: s["func"],
)
def test_rows_of_a_batch_wait_side_by_side(tmp_path: Path, spec: dict[str, Any]) -> None:
    """In TRL, EasyR1 and ms-swift: eight rows, each of its own prompt and half a second."""
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    funcs = [{**spec, "func": f"{tmp_path}/sleeps.py:{spec['func']}"}]
    trl, easyr1, swift = as_trl(funcs), to_easyr1(funcs), to_swift(funcs)()
    texts, targets = ["x"] * 8, list(range(8))
    calls: list[Callable[[], Any]] = [
        lambda: trl(texts, target=targets),
        lambda: easyr1([{"response": "x", "ground_truth": i} for i in targets]),
        lambda: swift(texts, solution=targets),
    ]
    for call in calls:
        call()  # workers start with the first call
        began = time.monotonic()
        found = call()
        assert time.monotonic() - began < 3.0, "one after another they take four seconds"
        assert len(found) == 8


def test_samples_of_a_step_wait_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    judge = judge_of({"func": f"{tmp_path}/sleeps.py:waits", "name": "waits"}, "format.think_answer")
    began = time.monotonic()
    found = judge.score_groups([([RIGHT, BARE], SAMPLE, None), ([], SAMPLE, None), *[([HALF], SAMPLE, None)] * 6])
    assert time.monotonic() - began < 2.0
    assert [[score.value for score in scores] for scores in found] == [[1.0, 0.5], [], *[[1.0]] * 6]


def test_async_rewards_inside_a_running_loop() -> None:
    async def notebook() -> float | None:
        return judge_of(f"{HERE}waits").score(RIGHT, SAMPLE).value

    assert asyncio.run(notebook()) == 0.5


def test_async_timeouts_and_errors_are_counted() -> None:
    judge = judge_of("box.iou", {"func": f"{HERE}waits_for_each", "timeout_s": 0.4}, f"{HERE}fails")
    found = judge.score_group(GROUP, SAMPLE)
    assert [s.parts[f"{HERE}waits_for_each"] for s in found] == [0.25, 0.25, None, 0.25]
    assert {s.parts[f"{HERE}fails"] for s in found} == {None}
    assert judge.errors == 5
    with pytest.raises(RewardError, match=r"fails' raised on sample 'row-7': OSError: no network; that is error 1"):
        judge_of(f"{HERE}fails", max_errors=0).score(RIGHT, SAMPLE)


# --------------------------------------------------------------------------------------- processes


def test_slow_rewards_run_in_processes_that_a_timeout_kills(mine: str, caplog: pytest.LogCaptureFixture) -> None:
    judge = judge_of("box.iou", {"func": f"{mine}slow", "timeout_s": 0.5, "workers": 2, "weight": 0.0})
    with caplog.at_level(logging.WARNING, logger="vlrft.rewards"):
        found = judge.score_group([RIGHT, WRONG, HALF, RIGHT], SAMPLE)
    assert [s.parts[f"{mine}slow"] is None for s in found] == [False, True, True, False]
    assert [s.value for s in found] == [1.0, 0.0, 0.5, 1.0]
    assert judge.errors == 2
    assert "slow raised on sample row-7" in caplog.text
    assert "took longer than timeout_s=0.5 and was killed" in caplog.text
    assert "its process ended (exit code 3)" in caplog.text
    pid = judge.score(RIGHT, SAMPLE).parts[f"{mine}slow"]
    assert pid not in (None, float(os.getpid()))
    judge.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid or 0), 0)
    with pytest.raises(
        RewardError, match=r"raised on sample 'row-7': RewardTimeoutError: .*and rewards\.max_errors is 0"
    ):
        judge_of({"func": f"{mine}slow", "timeout_s": 0.5}, max_errors=0).score(WRONG, SAMPLE)


def test_a_worker_that_died_between_calls_is_replaced(mine: str) -> None:
    judge = judge_of({"func": f"{mine}columns", "workers": 1})
    (first,) = values(judge, RIGHT)
    os.kill(int(first or 0), signal.SIGKILL)
    time.sleep(0.1)
    (second,) = values(judge, RIGHT)
    assert (second not in (None, first), judge.errors) == (True, 0)


def test_a_pool_answers_in_order_and_names_what_fails(mine: str) -> None:
    pool = Pool("box.acc@0.5", {}, workers=1, timeout_s=30.0)
    parsed = [Parsed(text="", answer=a) for a in ("[0, 0, 10, 10]", "[50, 50, 60, 60]")]
    good, poor, bad, odd = pool.run(
        [((p, [0, 0, 10, 10], {}), {}) for p in parsed]
        + [((parsed[0], "left", {}), {}), ((parsed[0], lambda: None, {}), {})]
    )
    assert (good.value, poor.value) == (1.0, 0.0)
    assert isinstance(bad, TargetError)
    assert "a box target is" in str(bad)
    assert "cannot be sent" in str(odd)
    pool.close()
    missing = Pool(f"{mine}nobody", {}, workers=1, timeout_s=None)
    with pytest.raises(RewardError, match=r"nobody cannot be loaded in a process of its own: .* has no attribute"):
        missing.run([((), {})])
    assert issubclass(RewardTimeoutError, RewardError)


def test_columns_and_async_functions_in_a_process(mine: str) -> None:
    judge = judge_of({"func": f"{mine}columns", "workers": 1}, {"func": f"{mine}later", "workers": 1, "weight": 0.0})
    pids = values(judge)
    assert len(set(pids)) == 1
    assert pids[0] != os.getpid()
    assert judge.score(RIGHT, SAMPLE).parts[f"{mine}later"] == 0.125
    judge.close()


# ------------------------------------------------------------------------------------------ recipe


def test_a_recipe_declares_it_all(recipe: Callable[..., dict[str, Any]]) -> None:
    rewards = {
        "funcs": [
            {"func": "box.iou", "name": "accuracy", "weight": [[0, 1.0], [10, 0.5]], "when": {"task": ["grounding"]}},
            {"func": "box.acc", "kwargs": {"t": {"schedule": [[0, 0.5], [5, 0.75]]}}},
            {"func": "format.think_answer", "gate": "accuracy > 0", "weight": 0.1},
            {"func": "length.group_kimi", "weight": 0.1},
        ],
        "combine": "sum",
        "correct": "accuracy >= 0.75",
    }
    config = compose(recipe(rewards=rewards)).config.rewards
    assert config.funcs[0].weight == [(0, 1.0), (10, 0.5)]
    assert (config.combine, config.correct) == ("sum", "accuracy >= 0.75")
    with pytest.raises(
        ConfigError, match=r"rewards\.funcs\[0\]\.weight: should be a number, or a schedule.*got 'much'"
    ):
        compose(recipe(rewards={"funcs": [{"func": "box.iou", "weight": "much"}]}))


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({"funcs": [{"func": "box.iou", "gate": "format > 0"}]}, r"rewards: .*'format', which is no reward"),
        ({"funcs": [{"func": "box.iou", "when": {"tsk": "x"}}]}, r"rewards: reward 'box\.iou': when names 'tsk'"),
        ({"funcs": [{"func": "box.iou", "weight": [[5, 1.0], [2, 1.0]]}]}, "must ascend"),
    ],
)
def test_a_recipe_is_checked_before_anything_runs(stage: Any, rewards: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stage(rewards=rewards)


def test_a_step_of_training_with_all_of_it(stage: Any) -> None:
    rewards = {
        "funcs": [
            {"func": "vlrft.testing:even_share", "weight": [[0, 1.0], [4, 0.0]]},
            {"func": "length.group_kimi", "weight": 0.5},
            {"func": f"{HERE}Counting", "weight": 0.0, "name": "seen"},
            {"func": f"{HERE}step_of", "weight": 0.0, "name": "step"},
        ]
    }
    run = stage(rewards=rewards, engine={"num_generations": 4})
    run.state.step = 2
    row = training.grpo_step(run)
    assert run.worker.judge.step == 2
    assert row["reward/step"] == 0.02
    assert 0.0 < row["reward/seen"] < 1.0
    stored = list(read_records(rollout_file(run.folder.path, "grpo", 3)))
    assert stored[0]["judges"][0]["rewards"] == {"seen": {"seen": 16}}
    assert all("judges" not in record for record in stored[1:])
    for record in stored:
        for rollout in record["rollouts"]:
            parts = rollout["score"]["parts"]
            pair = 0.5 * parts["vlrft.testing:even_share"], 0.5 * parts["length.group_kimi"]
            assert rollout["reward"] == pytest.approx(sum(pair))


def test_metrics_show_weights_gates_and_token_ids(stage: Any) -> None:
    funcs = [
        {"func": "vlrft.testing:even_share", "name": "even", "weight": [[0, 1.0], [10, 0.0]]},
        {"func": f"{HERE}tokens_given", "name": "ids", "gate": "even > 2", "weight": 0.5},
    ]
    run = stage(rewards={"funcs": funcs})
    run.state.step = 5
    row = training.grpo_step(run)
    assert (row["reward_weight/even"], row["gate_closed/ids"], row["reward/ids"]) == (0.5, 1.0, 1.0)


def test_a_run_that_nothing_is_scored_in_is_warned_of_and_stops(
    stage: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stage(rewards={"funcs": [{"func": f"{HERE}nothing"}]})
    monkeypatch.setattr(training, "UNSCORED_STEPS", 3)
    with caplog.at_level(logging.WARNING, logger="vlrft.training"):
        for step in range(2):
            run.state.step = step
            training.grpo_step(run)
    assert caplog.text.count("completions of step 1 has a score to compare, so nothing is learned") == 1
    assert "step 2" not in caplog.text
    run.state.step = 2
    with pytest.raises(
        UserError, match=r"stage grpo: none of the \d+ completions of step 3 .* step 3 of the kind in a row"
    ):
        training.grpo_step(run)


def test_stored_rollouts_bring_back_the_state(stage: Any) -> None:
    funcs = [{"func": "vlrft.testing:even_share"}, {"func": f"{HERE}Counting", "weight": 0.0}]
    run = stage(rewards={"funcs": funcs})
    rendered, _ = pipeline.render(run, pipeline.first_draw(run))
    first = pipeline.collect(run, pipeline.first_draw(run), rendered)
    pipeline.store(run, pipeline.first_draw(run), run.objective.assign(first.groups))
    state = run.worker.judge.state_dict()
    run.worker.judge.load_state_dict({"errors": 0, "rewards": {f"{HERE}Counting": {"seen": 0}}})
    again = pipeline.collect(run, pipeline.first_draw(run), rendered)
    assert run.worker.judge.state_dict() == state
    assert [g.rollouts for g in again.groups] == [g.rollouts for g in first.groups]


@pytest.mark.parametrize("stored", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_state_survives_an_interrupted_run(recipe: Callable[..., dict[str, Any]], tmp_path: Path, stored: bool) -> None:
    """Cut back to the checkpoint of step 2; step 3 is read back from its rollouts, or scored again."""
    funcs = [{"func": "vlrft.testing:even_share"}, {"func": f"{HERE}Counting", "name": "seen"}]
    blocks = {"rewards": {"funcs": funcs}, "train": {"steps": 3, "save_steps": 2}}
    whole = vlrft.train(recipe(**blocks)).path
    cut = shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(checkpoint.complete(cut)[-1])
    (cut / "summary.json").unlink()
    last = rollout_file(cut, "grpo", 3)
    if not stored:
        last.unlink()
    vlrft.train(resume=cut)
    assert last.read_bytes() == rollout_file(whole, "grpo", 3).read_bytes()
    states = [saved.state["judges"] for saved in map(checkpoint.load_latest, (whole, cut)) if saved is not None]
    assert states[0] == states[1] == [{"errors": 0, "rewards": {"seen": {"seen": 48}}}]
