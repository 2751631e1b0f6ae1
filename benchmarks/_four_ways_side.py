"""One way of benchmarks/four_ways.py on given rollouts: a rank that trains steps of which it reads the rollouts back.

    python benchmarks/_four_ways_side.py RECIPE OUT ROLLOUTS KEY=VALUE ...

Rank 0 writes OUT/result.pt: the metrics of every step, each parameter's gradient in the first optimiser step, the
weights at the end, and the largest difference between engine and trainer in a replayed token's log-prob.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vlrft.compose import compose, stage_configs
from vlrft.engines.base import Request, SamplingParams
from vlrft.engines.canary import trainer_logprobs
from vlrft.pack import count, pack
from vlrft.pipeline import collect, first_draw, render
from vlrft.policy import Policy
from vlrft.runfolder import RunFolder
from vlrft.setup import prepare, start_world
from vlrft.stage import StageRun
from vlrft.stages import open_stage
from vlrft.training import grpo_step
from vlrft.types import Group

COMPARED = 24
"""Completions whose log-probs are asked of the engine."""


def run(recipe: str, out: Path, rollouts: Path, changes: list[str]) -> None:
    composed = compose(recipe, [*changes, f"train.output_dir={out / 'run'}"])
    world = start_world(composed.config)
    prepared = prepare(composed, stage_configs(composed.config))
    folder = RunFolder(out / "run", writes=world.is_main)
    if world.is_main:
        shutil.copytree(rollouts, folder.path / "rollouts")
    world.barrier()
    stage = open_stage(prepared, prepared.stages[0], None, None, folder)
    gap = engine_gap(stage)
    rows, gradients = [], dict[str, Any]()
    for step in range(stage.config.train.steps):
        stage.state.step = step
        rows.append(grpo_step(stage))
        if step == 0:
            gradients = states(stage, "exp_avg")
    weights = states(stage, "weight")
    stage.close()
    prepared.close()
    if world.is_main:
        torch.save({"rows": rows, "gradients": gradients, "weights": weights, "gap": gap}, out / "result.pt")


def states(stage: StageRun, key: str) -> dict[str, torch.Tensor]:
    """A copy of one optimiser state (or the weight) of every parameter."""
    return {name: full[key].float().clone() for name, full in stage.state.strategy.entries() if key in full}


def engine_gap(stage: StageRun) -> float:
    """Largest |engine - trainer| of a replayed token's log-prob, temperature 1, no bans; of the hf engine, which does
    not replay, of the log-probs that it has sampled with."""
    drawn = first_draw(stage)
    rendered, _ = render(stage, drawn)
    groups = collect(stage, drawn, rendered).groups
    engine, family = stage.worker.engine, stage.worker.renderer.family
    if not hasattr(engine, "replay"):
        return sampled_gap(stage.state.policy, groups)
    # A rollout brings the weights.
    engine.generate([Request(prompt=g.prompt, seeds=(0,)) for g in groups], SamplingParams(max_tokens=1))
    gap = 0.0
    for group, rollout in [(g, r) for g in groups for r in g.rollouts][:COMPARED]:
        tokens = rollout.completion.token_ids
        ours = trainer_logprobs(family, group.prompt, tokens)
        gap = max(gap, *(abs(a - b) for a, b in zip(ours, engine.replay(group.prompt, tokens), strict=True)))
    return gap


def sampled_gap(policy: Policy, groups: Sequence[Group]) -> float:
    """Largest difference of the log-probs that tokens were sampled with and those of the trainer's own forward."""
    gap, compared = 0.0, 0
    was_training = policy.training
    policy.eval()
    for group in groups:
        if compared >= COMPARED:
            break
        (batch,) = pack([group], policy.family.collate_media, token_budget=2**40, aggregation="token_sum",
                        max_completion_length=1, counts=count([group]))  # fmt: skip
        batch = batch.to(policy.model.device)
        with torch.no_grad():
            logp_N = policy(**batch.inputs, layout=batch.layout)["logp"]
        gap = max(gap, float((logp_N - batch.behaviour_logp_N).abs().max()))
        compared += len(group.rollouts)
    policy.train(was_training)
    return gap


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
