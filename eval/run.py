"""Evaluation on held-out samples with the rewards themselves as judges, so that curve and metric cannot drift."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlrft.compose import Composed, stage_configs
from vlrft.config import Config, RewardSpec
from vlrft.data.problems import DataError
from vlrft.data.sources import load_samples
from vlrft.engines import build_engine
from vlrft.engines.base import Engine, Request, SamplingParams, row_seed
from vlrft.eval.metrics import summarise
from vlrft.log import Timers
from vlrft.models import load_family
from vlrft.rewards.judge import Judge
from vlrft.rollout import Renderer, RolloutWorker
from vlrft.types import Group, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What an evaluation found."""

    metrics: dict[str, float]
    """`eval/<reward name>`: mean over the held-out samples; `eval/n`: how many there were."""
    groups: tuple[Group, ...]
    """One rollout per sample, for a closer look."""
    path: Path | None = None
    """Where the metrics were written, for the evaluation of a run."""


def evaluate_samples(samples: Sequence[Sample], config: Config, renderer: Renderer, engine: Engine) -> Results:
    """One completion per sample, decoded as `eval` says, judged by every metric of `eval.metrics`."""
    judge = Judge(
        [RewardSpec(func=name) for name in config.eval.metrics], config.data.output_mode, config.rewards.max_errors
    )
    worker = RolloutWorker(renderer=renderer, engine=engine, judge=judge, timers=Timers())
    params = SamplingParams(temperature=config.eval.temperature, max_tokens=config.engine.max_completion_length)
    groups: list[Group] = []
    size = config.eval.prompts_per_batch
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        prompts = [renderer.prompt(sample) for sample in part]
        requests = [Request(prompt=p, seeds=(row_seed(config.train.seed, "eval", p.sample_id),)) for p in prompts]
        done = engine.generate(requests, params)
        groups.extend(worker.score(s, p, c) for s, p, c in zip(part, prompts, done, strict=True))
    return Results(metrics=summarise(groups, config.eval.metrics), groups=tuple(groups))


def held_out(config: Config) -> list[Sample]:
    """The samples of `data.eval`, up to `eval.limit`. Empty when the recipe has no held-out rows."""
    if config.data.eval is None:
        return []
    return load_samples(config.data, config.data.eval, role="eval").samples[: config.eval.limit]


def evaluate(composed: Composed, *, run_dir: Path | None = None) -> Results:
    """Evaluate a recipe's model as it starts, or with `run_dir` the trained model of that run.

    Raises DataError when the recipe has no held-out rows, or the run no trained model yet.
    """
    config = stage_configs(composed.config)[-1].config
    samples = held_out(config)
    if not samples:
        raise DataError("the recipe has no held-out rows: set data.eval")
    model = config.model
    if run_dir is not None:
        if not (run_dir / "model").is_dir():
            raise DataError(f"{run_dir} holds no trained model yet; finish it with: vlrft train --resume {run_dir}")
        model = model.model_copy(update={"tiny": None, "model_name_or_path": str(run_dir / "model")})
    family = load_family(model, config.data)
    engine = build_engine(config.engine, family, attention=model.attention, precision=config.parallel.mixed_precision)
    results = evaluate_samples(samples, config, Renderer(family, config.data), engine)
    if run_dir is None:
        return results
    path = run_dir / "evaluation.json"
    path.write_text(json.dumps(results.metrics, indent=2) + "\n", encoding="utf-8")
    return replace(results, path=path)
