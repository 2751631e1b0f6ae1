"""The run: its folder, its stages, and the loop over the steps of a stage."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrft import checkpoint, watchdog
from vlrft.autoresume import find_run
from vlrft.checkpoint import CheckpointError, Saved
from vlrft.compose import Composed, stage_configs
from vlrft.engines.base import EngineLostError
from vlrft.log import MetricsWriter, Progress, SilentWriter, Timers, UserError
from vlrft.pipeline import pipeline_of
from vlrft.preempt import StopAsked, StopSignals
from vlrft.records import rollout_file, write_groups
from vlrft.rollout import RolloutWorker
from vlrft.runfolder import RunFolder, read_metrics
from vlrft.setup import Prepared, StageSetup, prepare, start_stage, start_world
from vlrft.stage import UNREADABLE, StageRun
from vlrft.state import Counters
from vlrft.training import STEPS

logger = logging.getLogger(__name__)

Evaluator = Callable[..., Any]
"""`eval.run.evaluate_samples`, handed in so that training does not depend on evaluation."""


class EngineDiedError(RuntimeError):
    """The engine's processes are gone, by no fault of the recipe; the message says how to go on."""


class UnreadableSampleError(UserError):
    """A sample turned out to be unreadable in the middle of a run; the message says how to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run."""

    path: Path
    summary: dict[str, Any]
    """What summary.json says: the last evaluation of every stage, seconds, steps."""


def run(
    composed: Composed,
    *,
    resume: Path | None = None,
    evaluator: Evaluator | None = None,
    changed: bool = False,
    auto: bool = False,
) -> Run:
    """Run every stage of `composed`, or go on with the run in `resume`. See `vlrft.train`.

    auto: go on with the run of this recipe in `train.output_dir` where there is one.

    Blocks until the run is finished; leaves config.yaml, metrics.jsonl, rollouts/, checkpoints/, model/, summary.json
    and report.html in the run folder, which no other run may enter meanwhile. Ctrl-C raises RunInterrupted, SIGTERM
    RunPreempted once the run has saved itself; a run that hangs ends the process (`vlrft/watchdog.py`).
    """
    with StopSignals() as stops:
        if auto:
            found = find_run(composed, start_world(composed.config))
            if found.summary is not None:
                logger.info("%s is finished: nothing to do", found.path)
                return Run(path=found.path, summary=found.summary)
            composed, resume, changed = found.composed, found.path if found.is_there else None, found.changed
        return _run(composed, stops, resume, evaluator, changed=changed)


def _run(
    composed: Composed, stops: StopSignals, resume: Path | None, evaluator: Evaluator | None, *, changed: bool
) -> Run:
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
        if world.is_main:
            watchdog.clear(folder.path)
        world.barrier()
        with closing(prepared), metrics_writer(folder, tensorboard=config.log.tensorboard) as writer:
            run_stages(prepared, saved, folder, writer, evaluator, stops, resuming=resume is not None)
        summary = folder.finish(composed, prepared, time.perf_counter() - started)
        return Run(path=folder.path, summary=world.gather(summary)[0])
    except KeyboardInterrupt:
        raise folder.interrupted() from None
    except StopAsked as stop:
        raise folder.preempted(str(stop)) from None
    except Exception as error:
        if not is_dead_engine(error):
            raise
        raise EngineDiedError(f"the engine has died ({error}); {folder.how_to_go_on()}") from error
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
    stops: StopSignals,
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
        before = run_stage(prepared, index, inside, before, folder, writer, evaluator, stops)
        inside = None


def run_stage(
    prepared: Prepared,
    index: int,
    resumed: Saved | None,
    before: Counters,
    folder: RunFolder,
    writer: MetricsWriter,
    evaluator: Evaluator | None,
    stops: StopSignals,
) -> Counters:
    """All steps of one stage, from the checkpoint `resumed` inside it or from its start; ends with a checkpoint."""
    with closing(open_stage(prepared, prepared.stages[index], resumed, before, folder, stops)) as stage:
        with _watched(stage):
            _steps(stage, index, writer, evaluator)
            _checkpoint(stage, index, writer, is_finished=True)
        stage.state.strategy.release()
    return Counters(global_step=stage.state.global_step, policy_version=stage.state.policy_version)


def open_stage(
    prepared: Prepared,
    setup: StageSetup,
    resumed: Saved | None,
    before: Counters | None,
    folder: RunFolder,
    stops: StopSignals | None = None,
) -> StageRun:
    """A stage that is ready for its next step; close it at the end."""
    timers = Timers()
    parts = start_stage(prepared, setup, resumed, before, folder.path)
    worker = RolloutWorker(renderer=parts.renderer, engine=parts.engine, judge=parts.judge, timers=timers)
    stage = StageRun(
        setup=setup, state=parts.state, worker=worker, objective=parts.objective, reference=parts.reference,
        folder=folder, timers=timers, world=prepared.world, stops=stops or StopSignals(),
    )  # fmt: skip
    if resumed is not None:
        stage.load_waiting(resumed.state["waiting"])
    stage.rollouts = pipeline_of(stage)
    return stage


def _steps(stage: StageRun, index: int, writer: MetricsWriter, evaluator: Evaluator | None) -> None:
    state, train = stage.state, stage.config.train
    shows = stage.config.log.progress and stage.world.is_main
    with Progress(stage.setup.name, total=train.steps, done=state.step, enabled=shows) as bar:
        if (index == 0 and state.step == 0) or _owes_evaluation(stage):
            _end_if_asked(stage, index, writer)
            _evaluate(stage, writer, evaluator)
        while state.step < train.steps:
            row = _step(stage, index, writer)
            writer.write(row)
            bar.update(state.step, row)
            if _evaluation_is_due(stage):
                # Before the evaluation, which a resumed run makes up for: it may take longer than is left.
                _end_if_asked(stage, index, writer)
                _evaluate(stage, writer, evaluator)
            if state.step < train.steps and train.save_steps and state.step % train.save_steps == 0:
                _checkpoint(stage, index, writer)


def _step(stage: StageRun, index: int, writer: MetricsWriter) -> dict[str, Any]:
    """One step and its row of metrics. A step that ends in its middle is as if it had not begun, and is saved so."""
    state = stage.state
    try:
        stage.stops.check(stage.world)
        with stage.timers("step"):
            row = STEPS[stage.setup.kind](stage)
    except (StopAsked, *UNREADABLE) as error:
        _checkpoint(stage, index, writer)
        if isinstance(error, StopAsked):
            raise
        raise UnreadableSampleError(_how_to_go_on(stage, error)) from error
    state.step, state.global_step = state.step + 1, state.global_step + 1
    if stage.reference is not None:
        stage.reference.after_step(state.step)
    return {**_where(stage, "train"), **row, "skipped_steps": state.skipped_steps, **stage.timers.collect()}


def _watched(stage: StageRun) -> watchdog.Watchdog:
    return watchdog.Watchdog(
        stage.timers,
        stage.config.train.time_limits,
        stage.folder.path,
        stage.world,
        where=lambda: f"stage {stage.setup.name}, step {stage.state.step + 1}",
        hint=f"{stage.folder.how_to_go_on()} (train.time_limits.<phase>=SECONDS raises a limit)",
    )


def _end_if_asked(stage: StageRun, index: int, writer: MetricsWriter) -> None:
    try:
        stage.stops.check(stage.world)
    except StopAsked:
        _checkpoint(stage, index, writer)
        raise


def _evaluation_is_due(stage: StageRun) -> bool:
    step, every = stage.state.step, stage.config.eval.every
    return step == stage.config.train.steps or bool(every and step % every == 0)


def _owes_evaluation(stage: StageRun) -> bool:
    """Whether a resumed stage was saved between a step and the evaluation that follows it."""
    if stage.state.step == 0 or not _evaluation_is_due(stage):
        return False
    step = stage.state.global_step
    rows = read_metrics(stage.folder.path) if stage.world.is_main else []
    return stage.world.gather(not any(row["kind"] == "eval" and row["global_step"] == step for row in rows))[0]


def _refuse_other_stages(names: list[str], saved: Saved) -> None:
    """Raise CheckpointError where the stage that wrote a checkpoint is not where it would be in this recipe."""
    after = saved.state["stage"]
    if saved.state["of"] not in names[max(0, after - 1) : after + 1]:
        raise CheckpointError(
            f"{saved.path} is of another recipe: stage {saved.state['of']!r} wrote it, the stages here are "
            f"{', '.join(names)}; resume it in the folder of its own run"
        )


def _checkpoint(stage: StageRun, index: int, writer: MetricsWriter, *, is_finished: bool = False) -> None:
    """index: of the stage; when it is finished, a resumed run goes on with the next one."""
    if stage.state.global_step == 0 and not is_finished:
        return  # nothing has been learned, and a run without checkpoint begins with the first evaluation
    stage.rollouts.drain(stage)
    with stage.timers("save"):
        writer.sync()
        stage_index = index + is_finished
        state: dict[str, Any] = {"stage": stage_index, "of": stage.setup.name, "state": stage.state.state_dict()}
        state["waiting"] = stage.waiting_state()
        state["judges"] = stage.world.gather(stage.worker.judge.state_dict())
        if is_finished:
            state["state"]["counters"]["step"] = 0
        elif stage.reference is not None:
            stage.reference.save()
        name = f"{stage.state.global_step:08d}-{stage_index:02d}"
        model, keep = stage.state.policy.model, stage.config.train.keep_checkpoints
        entries = (entry for entry in stage.state.strategy.entries() if checkpoint.is_kept(entry[0], model))
        checkpoint.save(stage.folder.path, name, state, entries, keep=keep, world=stage.world)
        if stage.world.is_main:
            _forget_references(stage)


def _forget_references(stage: StageRun) -> None:
    """Delete those that only checkpoints needed which are gone."""
    if stage.reference is not None:
        oldest = int(checkpoint.complete(stage.folder.path)[0].name.split("-")[0])
        stage.reference.forget(oldest - (stage.state.global_step - stage.state.step))


def _how_to_go_on(stage: StageRun, error: Exception) -> str:
    again = f"vlrft train --resume {shlex.quote(str(stage.folder.path))}"
    return (
        f"{error}. Nothing is lost: the run is saved after step {stage.state.step} of stage {stage.setup.name}. Go on "
        f"without such samples: {again} data.on_bad_sample=skip; or mend the file and go on with it: {again}"
    )


_DEAD_ENGINE = "vllm.v1.engine.exceptions.EngineDeadError"
"""Named, so that vLLM is not imported to look for it."""


def is_dead_engine(error: BaseException) -> bool:
    """Whether vLLM says that its workers are gone, or its servers stay away."""
    return isinstance(error, EngineLostError) or any(
        f"{kind.__module__}.{kind.__qualname__}" == _DEAD_ENGINE for kind in type(error).__mro__
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
    parts = math.ceil(len(samples) / stage.config.eval.prompts_per_batch)
    with stage.timers.watched("eval", parts=parts), stage.state.strategy.resting():
        results = evaluator(samples, stage.config, stage.worker.renderer, stage.worker.engine, stage.world)
    seconds = time.perf_counter() - start
    stage.folder.list_skipped(results.skipped)
    if stage.config.log.rollouts and stage.world.is_main:
        path = rollout_file(stage.folder.path, stage.setup.name, stage.state.step, evaluation=True)
        write_groups(path, results.groups, stage=stage.setup.name, step=stage.state.step)
    of = {"eval/of": stage.setup.held_out_rows}
    writer.write({**_where(stage, "eval"), **results.metrics, **of, "time/eval": seconds})
