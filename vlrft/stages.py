"""The run: its folder, its stages, and the loop over the steps of a stage."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrft import checkpoint
from vlrft.checkpoint import CheckpointError, Saved
from vlrft.compose import Composed, stage_configs
from vlrft.log import MetricsWriter, Progress, SilentWriter, Timers, UserError
from vlrft.pipeline import pipeline_of
from vlrft.records import rollout_file, write_groups
from vlrft.rollout import RolloutWorker
from vlrft.runfolder import RunFolder
from vlrft.setup import Prepared, StageSetup, prepare, start_stage, start_world
from vlrft.stage import UNREADABLE, StageRun
from vlrft.state import Counters
from vlrft.training import STEPS

Evaluator = Callable[..., Any]
"""`eval.run.evaluate_samples`, handed in so that training does not depend on evaluation."""


class UnreadableSampleError(UserError):
    """A sample turned out to be unreadable in the middle of a run; the message says how to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run."""

    path: Path
    summary: dict[str, Any]
    """What summary.json says: the last evaluation of every stage, seconds, steps."""


def run(
    composed: Composed, *, resume: Path | None = None, evaluator: Evaluator | None = None, changed: bool = False
) -> Run:
    """Run every stage of `composed`, or go on with the run in `resume`. See `vlrft.train`.

    Blocks until the run is finished; leaves config.yaml, metrics.jsonl, rollouts/, checkpoints/, model/, summary.json
    and report.html in the run folder, which no other run may enter meanwhile. Ctrl-C raises RunInterrupted.
    """
    started = time.perf_counter()
    config = composed.config
    path = resume if resume is not None else Path(config.train.output_dir)
    world = start_world(config)
    folder = RunFolder(path, writes=world.is_main)
    try:
        folder.refuse_other_run(resuming=resume is not None)
        prepared = prepare(composed, stage_configs(config))
        tasks = {sample.task for setup in prepared.stages for sample in (*setup.samples, *setup.held_out)}
        saved = folder.open(composed, prepared.skipped, tasks=tasks, resuming=resume is not None, changed=changed)
        world.barrier()
        with closing(prepared), metrics_writer(folder, tensorboard=config.log.tensorboard) as writer:
            run_stages(prepared, saved, folder, writer, evaluator, resuming=resume is not None)
        summary = folder.finish(composed, prepared, time.perf_counter() - started)
        return Run(path=folder.path, summary=world.gather(summary)[0])
    except KeyboardInterrupt:
        raise folder.interrupted() from None
    finally:
        folder.close()


def metrics_writer(folder: RunFolder, *, tensorboard: bool) -> MetricsWriter:
    return MetricsWriter(folder.path, tensorboard=tensorboard) if folder.writes else SilentWriter()


def run_stages(
    prepared: Prepared,
    saved: Saved | None,
    folder: RunFolder,
    writer: MetricsWriter,
    evaluator: Evaluator | None,
    *,
    resuming: bool,
) -> None:
    """Every stage that `saved`, the newest checkpoint of a resumed run, has not finished."""
    first, before, inside = 0, Counters(), None
    if saved is not None:
        counters = saved.state["state"]["counters"]
        first = saved.state["stage"]
        before = Counters(global_step=counters["global_step"], policy_version=counters["policy_version"])
        _refuse_other_stages([setup.name for setup in prepared.stages], saved)
        saved.load_weights(prepared.family.model)
        inside = saved if counters["step"] else None
    if resuming:
        # Rows at step 0 without a checkpoint are the first evaluation, which comes again.
        writer.truncate_after(before.global_step if saved is not None else -1)
    for index in range(first, len(prepared.stages)):
        before = run_stage(prepared, index, inside, before, folder, writer, evaluator)
        inside = None


def run_stage(
    prepared: Prepared,
    index: int,
    resumed: Saved | None,
    before: Counters,
    folder: RunFolder,
    writer: MetricsWriter,
    evaluator: Evaluator | None,
) -> Counters:
    """All steps of one stage, from the checkpoint `resumed` inside it or from its start; ends with a checkpoint."""
    setup = prepared.stages[index]
    with closing(open_stage(prepared, setup, resumed, before, folder)) as stage:
        if index == 0 and stage.state.step == 0:
            _evaluate(stage, writer, evaluator)
        _steps(stage, index, writer, evaluator)
        _checkpoint(stage, index + 1, writer)
        stage.state.strategy.release()
    return Counters(global_step=stage.state.global_step, policy_version=stage.state.policy_version)


def open_stage(
    prepared: Prepared, setup: StageSetup, resumed: Saved | None, before: Counters | None, folder: RunFolder
) -> StageRun:
    """A stage that is ready for its next step; close it at the end."""
    timers = Timers()
    parts = start_stage(prepared, setup, resumed, before, folder.path)
    worker = RolloutWorker(renderer=parts.renderer, engine=parts.engine, judge=parts.judge, timers=timers)
    stage = StageRun(
        setup=setup, state=parts.state, worker=worker, objective=parts.objective, reference=parts.reference,
        folder=folder, timers=timers, world=prepared.world,
    )  # fmt: skip
    if resumed is not None:
        stage.load_waiting(resumed.state["waiting"])
    stage.rollouts = pipeline_of(stage)
    return stage


def _steps(stage: StageRun, index: int, writer: MetricsWriter, evaluator: Evaluator | None) -> None:
    setup, state, timers = stage.setup, stage.state, stage.timers
    train, every = setup.config.train, setup.config.eval.every
    shows = setup.config.log.progress and stage.world.is_main
    with Progress(setup.name, total=train.steps, done=state.step, enabled=shows) as bar:
        while state.step < train.steps:
            try:
                with timers("step"):
                    row = STEPS[setup.kind](stage)
            except UNREADABLE as error:
                _checkpoint(stage, index, writer)
                raise UnreadableSampleError(_how_to_go_on(stage, error)) from error
            state.step, state.global_step = state.step + 1, state.global_step + 1
            row = {**_where(stage, "train"), **row, "skipped_steps": state.skipped_steps, **timers.collect()}
            writer.write(row)
            bar.update(state.step, row)
            last = state.step == train.steps
            if last or (every and state.step % every == 0):
                _evaluate(stage, writer, evaluator)
            if not last and train.save_steps and state.step % train.save_steps == 0:
                _checkpoint(stage, index, writer)


def _refuse_other_stages(names: list[str], saved: Saved) -> None:
    """Raise CheckpointError where the stage that wrote a checkpoint is not where it would be in this recipe."""
    after = saved.state["stage"]
    if saved.state["of"] not in names[max(0, after - 1) : after + 1]:
        raise CheckpointError(
            f"{saved.path} is of another recipe: stage {saved.state['of']!r} wrote it, the stages here are "
            f"{', '.join(names)}; resume it in the folder of its own run"
        )


def _checkpoint(stage: StageRun, stage_index: int, writer: MetricsWriter) -> None:
    """`stage_index`: where to go on; the stage after this one when this one is finished."""
    stage.rollouts.drain(stage)
    with stage.timers("save"):
        writer.sync()
        state: dict[str, Any] = {"stage": stage_index, "of": stage.setup.name, "state": stage.state.state_dict()}
        state["waiting"] = stage.waiting_state()
        state["judges"] = stage.world.gather(stage.worker.judge.state_dict())
        if stage.state.step == stage.config.train.steps:
            state["state"]["counters"]["step"] = 0
        name = f"{stage.state.global_step:08d}-{stage_index:02d}"
        entries, keep = stage.state.strategy.entries(), stage.config.train.keep_checkpoints
        checkpoint.save(stage.folder.path, name, state, entries, keep=keep, world=stage.world)


def _how_to_go_on(stage: StageRun, error: Exception) -> str:
    again = f"vlrft train --resume {shlex.quote(str(stage.folder.path))}"
    return (
        f"{error}. Nothing is lost: the run is saved after step {stage.state.step} of stage {stage.setup.name}. Go on "
        f"without such samples: {again} data.on_bad_sample=skip; or mend the file and go on with it: {again}"
    )


def _where(stage: StageRun, kind: str) -> dict[str, Any]:
    return {
        "stage": stage.setup.name,
        "kind": kind,
        "step": stage.state.step,
        "global_step": stage.state.global_step,
    }


def _evaluate(stage: StageRun, writer: MetricsWriter, evaluator: Evaluator | None) -> None:
    samples = stage.setup.held_out
    if evaluator is None or not samples:
        return
    stage.rollouts.drain(stage)
    start = time.perf_counter()
    results = evaluator(samples, stage.config, stage.worker.renderer, stage.worker.engine, stage.world)
    seconds = time.perf_counter() - start
    stage.folder.list_skipped(results.skipped)
    if stage.config.log.rollouts and stage.world.is_main:
        path = rollout_file(stage.folder.path, stage.setup.name, stage.state.step, evaluation=True)
        write_groups(path, results.groups, stage=stage.setup.name, step=stage.state.step)
    of = {"eval/of": stage.setup.held_out_rows}
    writer.write({**_where(stage, "eval"), **results.metrics, **of, "time/eval": seconds})
