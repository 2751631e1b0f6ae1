"""Evaluation on held-out samples with the rewards themselves as judges, so that curve and metric cannot drift."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from vlrft.compose import Composed, stage_configs
from vlrft.config import Config
from vlrft.data.problems import DataError, Skipped
from vlrft.dist import World
from vlrft.engines.base import Engine, Request, SamplingParams, row_seed
from vlrft.eval.metrics import summarise
from vlrft.log import Timers
from vlrft.renderer import Renderer
from vlrft.rollout import RolloutWorker, evaluation_judge
from vlrft.runfolder import write_whole
from vlrft.setup import check_config, load_model
from vlrft.splits import check_split, read_split
from vlrft.types import Group, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What an evaluation found."""

    metrics: dict[str, float]
    """`eval/<reward name>`: mean over the held-out samples; `eval/n`: how many there were; `eval/of`: how many held-out
    rows there are, with those that cannot be used."""
    groups: tuple[Group, ...]
    """One rollout per sample, for a closer look."""
    skipped: tuple[Skipped, ...] = ()
    """Samples that could not be rendered (with `data.on_bad_sample="skip"`)."""
    path: Path | None = None
    """Where the metrics were written, for the evaluation of a run."""


def evaluate_samples(
    samples: Sequence[Sample], config: Config, renderer: Renderer, engine: Engine, world: World | None = None
) -> Results:
    """One completion per sample, decoded as `eval` says, judged by every metric of `eval.metrics`.

    world: each rank takes its share of the samples; all get the whole results.
    """
    world = world if world is not None else World()
    everyones, samples = samples, world.share(samples)
    worker = RolloutWorker(renderer=renderer, engine=engine, judge=evaluation_judge(config), timers=Timers())
    params = SamplingParams(temperature=config.eval.temperature, max_tokens=config.engine.max_completion_length)
    groups: list[Group] = []
    skipped: list[Skipped] = []
    size = config.eval.prompts_per_batch
    most = -(-len(everyones) // world.size)  # of any rank: all must ask the engine equally often
    for start in range(0, most, size):
        rendered, left_out = renderer.usable(samples[start : start + size])
        skipped.extend(left_out)
        if following := samples[start + size : start + 2 * size]:
            renderer.prepare(following)  # decoded while this batch is generated
        requests = [Request(prompt=p, seeds=(row_seed(config.train.seed, "eval", s.id),)) for s, p in rendered]
        done = engine.generate(requests, params)
        groups.extend(worker.score_all(rendered, done))
    groups = world.gather_groups(groups, everyones)
    skipped = [item for items in world.gather(skipped) for item in items]
    metrics = summarise(groups, [metric.name or metric.func for metric in config.eval.metrics])
    if errors := sum(world.gather(worker.judge.errors)):
        metrics["eval/reward_errors"] = errors
    return Results(metrics=metrics, groups=tuple(groups), skipped=tuple(skipped))


def evaluate(composed: Composed, *, run_dir: Path | None = None) -> Results:
    """Evaluate a recipe's model as it starts, or with `run_dir` the trained model of that run.

    Samples are checked and left out as in training, so that the last stage's own evaluation is repeated exactly.
    Raises DataError when the recipe has no held-out rows, or the run no trained model yet.
    """
    stage = stage_configs(composed.config)[-1]
    config, model = stage.config, stage.config.model
    if config.data.eval is None:
        raise DataError("the recipe has no held-out rows: set data.eval")
    if run_dir is not None:
        if not (run_dir / "model").is_dir():
            raise DataError(f"{run_dir} holds no trained model yet; finish it with: vlrft train --resume {run_dir}")
        model = model.trained_at((run_dir / "model").resolve())
    check_config(composed.config, [stage])
    loaded = read_split(config, "eval")
    prepared = load_model(config, model)
    renderer = prepared.renderer(config)
    split = check_split(loaded, stage, "eval", renderer)
    samples, rows = split.cut(config.eval.limit)
    with closing(prepared):
        results = evaluate_samples(samples, config, renderer, prepared.engine)
    results.metrics["eval/of"] = rows
    if run_dir is None:
        return results
    path = run_dir / "evaluation.json"
    write_whole(path, json.dumps(results.metrics, indent=2) + "\n")
    return replace(results, path=path)
