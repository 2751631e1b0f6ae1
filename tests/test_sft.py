"""The warm start: what is taught, in every family's coordinates, and that it is learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vlrft
from vlrft import pipeline, training
from vlrft.config import RewardSpec
from vlrft.grpo import Minibatch
from vlrft.rewards.judge import Judge
from vlrft.runfolder import read_metrics
from vlrft.sft import reference_groups, sft_loss
from vlrft.testing import plain_logps
from vlrft.types import FinishReason

SFT = [{"kind": "sft"}]


def test_loss_falls_and_nothing_is_rolled_out(recipe: Any) -> None:
    run = vlrft.train(recipe(stages=SFT, train={"steps": 25, "learning_rate": 5e-3}))
    losses = [row["loss"] for row in read_metrics(run.path) if row["kind"] == "train"]
    assert len(losses) == 25
    assert losses[-1] < 0.5 * losses[0]
    assert {path.name[:5] for path in (run.path / "rollouts").iterdir()} == {"eval-"}


@pytest.mark.parametrize("mode", ["direct", "think"])
def test_the_answer_and_the_stop_token_are_taught(stage: Any, mode: str) -> None:
    run = stage(stages=SFT, data={"output_mode": mode})
    rendered, left_out = pipeline.render(run, pipeline.first_draw(run))
    groups = reference_groups(rendered, run.worker.renderer)
    assert left_out == 0
    family = run.worker.renderer.family
    for group in groups:
        completion = group.rollouts[0].completion
        assert family.decode(completion.token_ids[:-1]) == completion.text
        assert completion.token_ids[-1] == family.stop_ids[0]
        assert completion.finish_reason == FinishReason.STOP
        assert ("<answer>" in completion.text) == (mode == "think")
    batches = training.pack_step(run, Minibatch(groups=tuple(groups)))
    taught = sum(int((batch.weight_N > 0).sum()) for batch in batches)
    assert taught == sum(len(group.rollouts[0].completion.token_ids) for group in groups)


def test_the_loss_is_the_mean_over_all_tokens_of_the_step(stage: Any) -> None:
    run = stage(stages=SFT, train={"micro_batch_tokens": 60})
    groups = reference_groups(pipeline.render(run, pipeline.first_draw(run))[0], run.worker.renderer)
    batches = training.pack_step(run, Minibatch(groups=tuple(groups)))
    assert len(batches) > 1
    policy = run.state.policy
    loss = sum(float(sft_loss(b, policy(**b.inputs, layout=b.layout))[0].detach()) for b in batches)

    from vlrft.models.tiny import build_tiny

    family = run.worker.renderer.family
    plain, _ = build_tiny(run.config.model.tiny)
    with torch.no_grad():
        expected = torch.cat([logp for group in groups for logp in plain_logps(plain, family, group)])
    assert loss == pytest.approx(-float(expected.mean()), abs=1e-5)


@pytest.mark.parametrize("resize", [None, pytest.param([112, 84], marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["direct", pytest.param("think", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "space"),
    [("qwen2_vl", "norm_1000"), ("qwen2_5_vl", "abs_input"), ("qwen3_vl", "norm_1000"), ("internvl", "norm_1000")],
)
def test_references_score_full_marks_in_every_family(stage: Any, name: str, space: str, mode: str, resize: Any) -> None:
    tiny = {
        "family": name, "hidden_size": 32, "num_layers": 2, "intermediate_size": 64, "vision_hidden_size": 32,
        "vision_layers": 1, "vision_heads": 2, "vision_intermediate_size": 64,
    }  # fmt: skip
    run = stage(model={"tiny": tiny}, data={"output_mode": mode, "resize": resize}, train={"prompts_per_step": 12})
    judge = Judge([RewardSpec(func="box.iou"), RewardSpec(func="box.acc@0.5")], mode)
    renderer = run.worker.renderer
    assert renderer.family.coord_space == space
    for group in reference_groups(pipeline.render(run, pipeline.first_draw(run))[0], renderer):
        meta = renderer.judge_meta(group.sample, group.prompt)
        score = judge.score(group.rollouts[0].completion.text, group.sample, meta)
        assert score.parts["box.acc@0.5"] == 1.0
        # Integers of the model's grid: a box edge may be off by half a unit.
        assert score.parts["box.iou"] == pytest.approx(1.0, abs=0.01 if resize is None else 0.06)
        assert score.flags == ()
        if space == "abs_input" and resize is None:
            assert score.value == 1.0
