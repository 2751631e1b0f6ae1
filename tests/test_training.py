"""Steps of a run: what moves, what is skipped, what is counted, and what a finished run leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vlrft
from vlrft import pipeline, training
from vlrft.compose import compose
from vlrft.config import TrainConfig
from vlrft.grpo import Objective
from vlrft.models.tiny import build_tiny
from vlrft.rewards.base import RewardError
from vlrft.runfolder import read_metrics
from vlrft.state import NonFiniteError, Schedule, StepSums


def train_rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(run) if row["kind"] == "train"]


def start_weights(recipe: dict[str, Any]) -> dict[str, torch.Tensor]:
    tiny = compose(recipe).config.model.tiny
    assert tiny is not None
    return build_tiny(tiny)[0].state_dict()


def end_weights(run: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForImageTextToText

    return dict(AutoModelForImageTextToText.from_pretrained(run / "model").state_dict())


def test_a_run_leaves_all_it_promises(recipe: Any, tmp_path: Path) -> None:
    run = vlrft.train(recipe(train={"steps": 2, "save_steps": 1}, log={"tensorboard": True, "report": True}))
    left = {path.name for path in run.path.iterdir()}
    assert left == {
        "checkpoints", "config.yaml", "config_origins.json", "metrics.jsonl", "model", "report.html", "rollouts",
        "summary.json", "tensorboard",
    }  # fmt: skip
    rows = train_rows(run.path)
    assert [row["step"] for row in rows] == [1, 2]
    wanted = {"reward/mean", "loss", "grad_norm", "policy/entropy", "time/gen", "time/train", "time/score", "time/step"}
    assert all(wanted <= row.keys() for row in rows)
    assert all(row["policy/engine_gap"] < 1e-4 for row in rows), "the engine's log-probs are the trainer's"
    assert run.summary["steps"] == 2
    assert run.summary["seconds"] > 0


def test_the_saved_model_is_a_plain_transformers_model(stage: Any, recipe: Any) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    run = vlrft.train(recipe())
    text = (run.path / "model" / "config.json").read_text()
    assert "vlrft" not in text, "nothing of ours is needed to load it"
    loaded = AutoModelForImageTextToText.from_pretrained(run.path / "model")
    processor = AutoProcessor.from_pretrained(run.path / "model")
    from vlrft import checkpoint

    saved = checkpoint.load_latest(run.path)
    assert saved is not None
    weights = dict(loaded.named_parameters())  # a tied one once
    assert saved.names() == set(weights)
    for name, weight in weights.items():
        assert torch.equal(weight, saved.tensor(name)), name
    before = start_weights(recipe())
    assert any(not torch.equal(weight, before[name]) for name, weight in loaded.state_dict().items())
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    inputs = processor(
        text=[processor.apply_chat_template(chat, add_generation_prompt=True)],
        images=[vlrft.testing.noise_image((56, 56), 0)], return_tensors="pt",
    )  # fmt: skip
    assert loaded(**inputs).logits.isfinite().all()


@pytest.mark.parametrize("kind", ["sft", "grpo"])
@pytest.mark.slow
def test_weights_move_in_bf16_at_a_small_learning_rate(recipe: Any, kind: str) -> None:
    blocks: dict[str, Any] = {
        "parallel": {"cpu": True, "mixed_precision": "bf16"},
        "train": {"learning_rate": 1e-6},
        "stages": [{"kind": kind}],
    }
    run = vlrft.train(recipe(**blocks))
    before, after = start_weights(recipe()), end_weights(run.path)
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    moved = [name for name, weight in after.items() if not torch.equal(weight, before[name])]
    assert len(moved) > 0.9 * len(after)
    assert all(float((after[name] - before[name]).abs().max()) < 1e-5 for name in after)
    assert all(row["skipped_steps"] == 0 for row in train_rows(run.path))


def test_frozen_parts_stay_and_stages_choose_their_own(recipe: Any) -> None:
    stages = [
        {"kind": "sft", "model": {"freeze_vision_tower": True, "freeze_projector": True}},
        {"kind": "grpo", "model": {"freeze_language_model": True}},
    ]
    run = vlrft.train(recipe(stages=stages, train={"steps": 1}))
    from vlrft import checkpoint

    first, second = (
        {name: saved.tensor(name) for name in saved.names()}
        for saved in map(checkpoint.load, checkpoint.complete(run.path))
    )
    before = start_weights(recipe())

    def moved(old: Any, new: Any) -> set[bool]:
        return {name.startswith("model.visual") for name in new if not torch.equal(old[name], new[name])}

    assert moved(before, first) == {False}
    assert moved(first, second) == {True}


def capture_steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """Sums of every optimiser step, as they are merged into the row."""
    seen: list[dict[str, float]] = []
    merge = StepSums.merge

    def spy(self: StepSums, step: StepSums) -> None:
        seen.append(dict(step.sums))
        merge(self, step)

    monkeypatch.setattr(StepSums, "merge", spy)
    return seen


def test_several_passes_leave_the_old_policy(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = capture_steps(monkeypatch)
    run = stage(objective={"num_iterations": 3, "epsilon": 1e-3}, train={"learning_rate": 1e-2, "steps": 4})
    row = training.grpo_step(run)
    assert steps[0]["log_ratio_abs"] == 0.0, "the first pass is on policy, exactly"
    assert steps[0]["ratio_max"] == 1.0
    assert steps[0]["clipped"] == 0.0
    assert all(s["ratio_max"] > 1.0 for s in steps[1:])
    assert steps[2]["clipped"] > 0.0
    assert row["optimizer_steps"] == 3
    assert row["policy/clipped"] > 0.0
    assert run.state.policy_version == 3


def test_minibatches_are_optimiser_steps(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = capture_steps(monkeypatch)
    run = stage(objective={"minibatches": 2}, train={"learning_rate": 1e-2, "steps": 4})
    row = training.grpo_step(run)
    assert row["optimizer_steps"] == 2
    assert steps[0]["log_ratio_abs"] == 0.0
    assert steps[1]["log_ratio_abs"] > 0.0, "the second half is already off policy"


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_kl_is_zero_at_the_start_and_grows(stage: Any, precision: str) -> None:
    run = stage(
        objective={"beta": 0.1}, train={"learning_rate": 1e-2}, parallel={"cpu": True, "mixed_precision": precision}
    )
    frozen = {name: p.clone() for name, p in run.reference.copy.model.named_parameters()}
    kls = [training.grpo_step(run)["policy/kl"] for _ in range(3)]
    assert kls[0] == 0.0
    assert kls[2] > 0.0
    for name, parameter in run.reference.copy.model.named_parameters():
        assert torch.equal(parameter, frozen[name]), name
        assert not parameter.requires_grad
    assert any(not torch.equal(p, frozen[name]) for name, p in run.state.policy.model.named_parameters())


def test_groups_without_spread_are_dropped_unless_kl_acts(stage: Any) -> None:
    flat = {"funcs": [{"func": "box.iou"}]}
    dropped = training.grpo_step(stage(rewards=flat))
    assert (dropped["groups/zero_spread"], dropped["groups/zero_spread_share"]) == (4, 1.0)
    assert dropped["optimizer_steps"] == 0
    kept = training.grpo_step(stage(rewards=flat, objective={"beta": 0.1}))
    assert kept["groups/zero_spread_share"] == 1.0, "they have no spread; the KL term acts on them all the same"
    assert kept["optimizer_steps"] == 1


def test_a_step_without_spread_leaves_no_gap_in_the_curves(recipe: Any) -> None:
    rows = train_rows(vlrft.train(recipe(rewards={"funcs": [{"func": "box.iou"}]}, train={"steps": 2})).path)
    assert [(row["loss"], row["grad_norm"], row["groups/zero_spread_share"]) for row in rows] == [(0.0, 0.0, 1.0)] * 2
    assert all(row["learning_rate"] > 0.0 for row in rows)


def on_the_left(box: list[float]) -> bool:
    return box[0] < 14


def flat_on_the_left(completions: list[str], target: list[list[float]], **columns: Any) -> list[float]:
    """Tells no completions apart where the box begins on the left."""
    return [0.5 if on_the_left(box) else len(text) / 9 for text, box in zip(completions, target, strict=True)]


def test_the_share_of_groups_without_spread(stage: Any) -> None:
    run = stage(rewards={"funcs": [{"func": f"{HERE}flat_on_the_left"}]})
    drawn = [on_the_left(sample.target) for sample in run.state.sampler.peek(0, 4)]
    row = training.grpo_step(run)
    assert row["groups/zero_spread_share"] == sum(drawn) / 4
    assert 0.0 < row["groups/zero_spread_share"] < 1.0
    assert row["optimizer_steps"] == 1


def test_a_step_whose_every_token_is_masked_is_not_taken(stage: Any) -> None:
    run = stage(
        engine={"num_generations": 4, "max_completion_length": 6, "ignore_eos": True},
        objective={"mask_truncated": True},
    )
    row = training.grpo_step(run)
    assert row["completions/truncated_share"] == 1.0
    assert row["optimizer_steps"] == 0
    assert run.state.scheduler.done == 1


@pytest.mark.parametrize(("name", "expected"), [
    ("constant", [0.5, 1.0, 1.0, 1.0]), ("linear", [0.5, 1.0, 2 / 3, 1 / 3]), ("cosine", [0.5, 1.0, 0.75, 0.25]),
])  # fmt: skip
def test_schedules(name: Any, expected: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=9.0)
    schedule = Schedule(optimizer, TrainConfig(learning_rate=2.0, warmup_steps=1, lr_scheduler=name), 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"] / 2.0)
        schedule.step()
    assert rates == pytest.approx(expected)


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int], how: str) -> None:
    """Make loss or gradient of the given (1-based) optimiser steps not finite; one micro-batch per step."""
    original = Objective.loss
    calls = 0

    def loss(self: Objective, batch: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        value, sums = original(self, batch, output)
        if calls in steps:
            value = value * float("nan") if how == "loss" else value + (output["logp"].sum() * 0.0).sqrt()
        return value, sums

    monkeypatch.setattr(Objective, "loss", loss)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_non_finite_step_is_skipped_counted_and_dumped(stage: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    poison(monkeypatch, {2}, how)
    run = stage(train={"steps": 9})
    training.grpo_step(run)
    before = {name: p.clone() for name, p in run.state.policy.model.named_parameters()}
    row = training.grpo_step(run)
    assert all(torch.equal(p, before[name]) for name, p in run.state.policy.model.named_parameters())
    assert (run.state.skipped_steps, run.state.skipped_in_row, run.state.policy_version) == (1, 1, 1)
    assert row["optimizer_steps"] == 0
    assert not any(value != value for value in row.values()), "no NaN gets into the metrics"
    assert "loss" not in row, "it is not known, and not 0"
    (dump,) = (run.folder.path / "skipped_batches").iterdir()
    dumped = torch.load(dump, weights_only=True)
    assert how != "loss" or "loss nan" in dumped["why"]
    assert len(dumped["samples"]) == 4
    assert "input_ids" in dumped["batches"][0]
    assert training.grpo_step(run)["optimizer_steps"] == 1
    assert (run.state.skipped_steps, run.state.skipped_in_row) == (1, 0)


def test_too_many_non_finite_steps_in_a_row_stop_the_run(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, {1, 3, 4, 5}, "loss")
    with pytest.raises(
        NonFiniteError, match=r"3 steps in a row.*skipped_batches/step-00000005-0004\.pt.*learning_rate"
    ):
        vlrft.train(recipe(train={"steps": 9, "max_skipped_steps": 3}))


def picky(completions: list[str], **columns: Any) -> list[float | None]:
    """Applies to answers of even length only."""
    return [len(text) / 9 if len(text) % 2 == 0 else None for text in completions]


def never(completions: list[str], **columns: Any) -> list[float | None]:
    return [None for _ in completions]


def broken(completions: list[str], **columns: Any) -> list[float]:
    raise ZeroDivisionError("no such thing")


HERE = f"{Path(__file__)}:"


def test_completions_that_no_reward_applies_to_leave_the_group(stage: Any) -> None:
    run = stage(rewards={"funcs": [{"func": f"{HERE}picky"}]})
    rendered, _ = pipeline.render(run, pipeline.first_draw(run))
    scored = pipeline.collect(run, pipeline.first_draw(run), rendered)
    kept = [r for group in scored.groups for r in group.rollouts]
    assert all(len(r.completion.text) % 2 == 0 for r in kept)
    assert 0 < len(kept) < 16
    assert scored.unscored == 16 - len(kept)
    assert all(len(group.rollouts) > 1 for group in scored.groups)


def test_nothing_scored_is_a_step_without_update(stage: Any) -> None:
    row = training.grpo_step(stage(rewards={"funcs": [{"func": f"{HERE}never"}]}))
    assert row["completions/unscored"] == 16
    assert row["optimizer_steps"] == 0


def test_weights_are_renormalised_over_the_rewards_that_apply(stage: Any) -> None:
    both = [{"func": "vlrft.testing:even_share", "weight": 0.25}, {"func": f"{HERE}never", "weight": 0.75}]
    run = stage(rewards={"funcs": both})
    scored = pipeline.collect(run, pipeline.first_draw(run), pipeline.render(run, pipeline.first_draw(run))[0])
    assert scored.unscored == 0
    for rollout in (r for group in scored.groups for r in group.rollouts):
        assert rollout.reward == rollout.score.parts["vlrft.testing:even_share"]


def test_a_reward_that_raises_is_counted_and_stops_the_run(recipe: Any, stage: Any) -> None:
    funcs = [{"func": "vlrft.testing:even_share"}, {"func": f"{HERE}broken"}]
    row = training.grpo_step(stage(rewards={"funcs": funcs, "max_errors": 99}))
    assert row["reward_errors"] == 16
    assert row["completions/unscored"] == 0
    with pytest.raises(
        RewardError, match=r"broken' raised on sample 'shapes-0-\d+': ZeroDivisionError.*max_errors is 3"
    ):
        vlrft.train(recipe(rewards={"funcs": funcs, "max_errors": 3}))


@pytest.mark.slow
def test_runs_of_one_process_do_not_disturb_each_other(recipe: Any, tmp_path: Path) -> None:
    first = vlrft.train(recipe(train={"steps": 1, "output_dir": str(tmp_path / "a")}))
    torch.manual_seed(123)
    vlrft.train(recipe(train={"steps": 1, "output_dir": str(tmp_path / "b"), "seed": 7}))
    again = vlrft.train(recipe(train={"steps": 1, "output_dir": str(tmp_path / "c")}))
    assert (first.path / "rollouts/grpo-000001.jsonl").read_bytes() == (
        again.path / "rollouts/grpo-000001.jsonl"
    ).read_bytes()
    weights = end_weights(first.path)
    assert all(torch.equal(weight, weights[name]) for name, weight in end_weights(again.path).items())
