"""When the rollouts of a step are made: right before it learns from them, or some steps ahead.

`OnPolicy` rolls out a step with the weights that it then moves. `Ahead` keeps up to `engine.max_staleness` steps in
work on a thread while the trainer learns: step k+S is rolled out with the weights of step k, always, so that a run does
not depend on who is faster. What a step then learns from is S steps old; the mismatch weights account for it
(objectives/mismatch.py).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from vlrft.dist import own_state
from vlrft.engines.base import InterruptibleEngine, RestingEngine, SnapshotEngine
from vlrft.objectives.advantage import Assigned
from vlrft.records import group_from_record, read_records, rollout_file, write_groups
from vlrft.renderer import Rendered
from vlrft.rollout import Scored
from vlrft.stage import UNREADABLE, Draw, Pipeline, RolledOut, StageRun

logger = logging.getLogger(__name__)

_LET_GO_S = 30.0
"""Seconds that a rollout in work gets to end when its run has failed."""


def pipeline_of(run: StageRun) -> Pipeline:
    """As `engine.max_staleness` says."""
    staleness = run.config.engine.max_staleness
    return Ahead(run, staleness) if staleness and run.setup.kind == "grpo" else OnPolicy()


class OnPolicy:
    """Rollouts of the very weights that learn from them."""

    def next(self, run: StageRun) -> RolledOut:
        run.reseed("rollout")
        judge = run.worker.judge
        before = judge.state_dict()
        try:
            rolled = roll_out(run, first_draw(run))
        except UNREADABLE:
            # The step is as if it had not begun, and is saved so.
            judge.load_state_dict(before)
            raise
        let_rest(run)
        return rolled

    def trained(self, run: StageRun) -> None:
        with run.timers("sync"):
            run.worker.engine.sync(run.state.policy_version)

    def drain(self, run: StageRun) -> None:
        """Nothing is ever in work."""

    def close(self) -> None:
        """There is no thread."""


class Ahead:
    """Rollouts made on a thread, `steps` ahead of the step that is being learned.

    Global generators are not seeded for them: trainer and thread would draw from the same ones.
    """

    def __init__(self, run: StageRun, steps: int) -> None:
        """`run`'s engine must take snapshots (`SnapshotEngine`)."""
        self.steps = steps
        self._behind = replace(run, world=run.world.apart())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._in_work: deque[Future[RolledOut]] = deque()

    def next(self, run: StageRun) -> RolledOut:
        self._fill(run)
        with run.timers("wait"):
            rolled = self._in_work[0].result()
        self._in_work.popleft()
        # The thread takes up the next one now, with the weights that this step starts from.
        self._fill(run, after=1)
        return rolled

    def trained(self, run: StageRun) -> None:
        """The engine keeps the weights that it samples with; the next batch brings new ones."""

    def drain(self, run: StageRun) -> None:
        wait(self._in_work)
        run.worker.engine.sync(run.state.policy_version)

    def close(self) -> None:
        """Nothing is in work at the end of a stage, but after an error or Ctrl-C there is: nobody will learn from it,
        and nobody watches it any more, so it is given up, and a thread that does not let go is left behind."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        engine, deadline, pause = self._behind.worker.engine, time.monotonic() + _LET_GO_S, 0.5
        while running := [rollout for rollout in self._in_work if not rollout.done()]:
            if time.monotonic() > deadline:
                logger.warning("a rollout ahead of training has not ended %.0f s after the run: left behind", _LET_GO_S)
                return
            if isinstance(engine, InterruptibleEngine):
                engine.abandon()
            wait(running, timeout=pause)
            pause *= 2
        self._thread.shutdown(wait=True)

    def _fill(self, run: StageRun, after: int = 0) -> None:
        """Have `steps` steps in work behind the `after` ones that are no longer."""
        snapshot = None
        left = run.config.train.steps - run.state.step
        while len(self._in_work) < min(self.steps, left - after):
            place = len(self._in_work) + after
            while len(run.waiting) <= place:
                run.waiting.append(draw(run, run.state.step + len(run.waiting)))
            if snapshot is None:
                snapshot = engine_of(run).snapshot(run.state.policy_version)
            self._in_work.append(self._thread.submit(self._roll_out, run.waiting[place], snapshot))

    def _roll_out(self, drawn: Draw, snapshot: Any) -> RolledOut:
        with self._behind.timers("sync"):
            engine_of(self._behind).load(snapshot)
        return roll_out(self._behind, drawn)


def engine_of(run: StageRun) -> SnapshotEngine:
    engine = run.worker.engine
    assert isinstance(engine, SnapshotEngine), "checked when the recipe was read"
    return engine


def let_rest(run: StageRun) -> None:
    """Nothing is asked of the engine while the weights move."""
    if isinstance(run.worker.engine, RestingEngine):
        run.worker.engine.rest()


def first_draw(run: StageRun) -> Draw:
    """The batch of the step to come."""
    if not run.waiting:
        run.waiting.append(draw(run, run.state.step))
    return run.waiting[0]


def draw(run: StageRun, step: int) -> Draw:
    """The next samples of the sampler, for the stage's step `step`."""
    sampler, count = run.state.sampler, run.config.train.prompts_per_step
    samples = sampler.propose(step, count)
    peek = getattr(sampler, "peek", None)
    upcoming = peek(step + 1, count) if peek is not None and step + 1 < run.config.train.steps else ()
    return Draw(step=step, samples=tuple(samples), upcoming=tuple(upcoming), policy_version=run.state.policy_version)


def roll_out(run: StageRun, drawn: Draw) -> RolledOut:
    """Show, sample, score, weigh and store one batch: stops 3 to 8. All ranks take part."""
    with run.timers("media"):
        rendered, left_out = render(run, drawn)
    with run.enough_memory("rollout", lambda: [prompt for _, prompt in rendered]):
        scored = collect(run, drawn, rendered)
    scored = everyones(run, scored, drawn)
    judge = run.worker.judge
    assigned = run.objective.assign(scored.groups)
    with run.timers("save"):
        store(run, drawn, assigned)
    errors = run.world.sum({"reward_errors": judge.errors})
    composed = judge.metrics([r.score.parts for g in scored.groups for r in g.rollouts])
    return RolledOut(
        scored=scored,
        assigned=assigned,
        completions=(len(drawn.samples) - left_out) * run.config.engine.num_generations,
        metrics={**composed, "samples/left_out": left_out, "reward_errors": int(errors["reward_errors"])},
    )


def render(run: StageRun, drawn: Draw) -> tuple[list[Rendered], int]:
    """This rank's samples with their prompts, and how many of all could not be rendered (skipped.jsonl).

    The videos of the batch after this one are decoded meanwhile: only a hint, one that then draws other samples decodes
    those.
    """
    world, renderer = run.world, run.worker.renderer
    rendered, left_out = world.together(lambda: renderer.usable(world.share(drawn.samples)), UNREADABLE)
    everyones_left_out = [item for items in world.gather(left_out) for item in items]
    run.folder.list_skipped(everyones_left_out)
    if drawn.upcoming:
        renderer.prepare(world.share(drawn.upcoming))
    return rendered, len(everyones_left_out)


def collect(run: StageRun, drawn: Draw, rendered: Sequence[Rendered]) -> Scored:
    """The scored groups of this rank: generated, or read back when an interrupted run had already rolled them out."""
    judge = run.worker.judge
    judge.step = drawn.step
    path = rollout_file(run.folder.path, run.setup.name, drawn.step + 1)
    records = {r["sample_id"]: r for r in read_records(path)} if run.config.log.rollouts and path.exists() else {}
    groups = [group_from_record(records[s.id], s, prompt) for s, prompt in rendered if s.id in records]
    versions = {rollout["policy_version"] for record in records.values() for rollout in record["rollouts"]}
    # Of all records and ranks: they must decide alike.
    if versions == {drawn.policy_version} and any(run.world.gather(bool(groups))):
        # As the judges were left after scoring them.
        judge.load_state_dict(own_state(next(iter(records.values()))["judges"], run.world))
        return run.worker.scored(groups, len(rendered) * run.config.engine.num_generations)
    return run.worker.rollout(rendered, run.config, (run.config.train.seed, run.setup.name, drawn.step))


def everyones(run: StageRun, scored: Scored, drawn: Draw) -> Scored:
    """The scored groups of all ranks, in the order of the samples."""
    groups = run.world.gather_groups(scored.groups, drawn.samples)
    return Scored(groups=tuple(groups), unscored=sum(run.world.gather(scored.unscored)))


def store(run: StageRun, drawn: Draw, assigned: Assigned) -> None:
    """Keep the step's rollouts before any weight moves: a killed run goes on from them."""
    if run.config.log.rollouts:
        judges = run.world.gather(run.worker.judge.state_dict())
        if run.world.is_main:
            path = rollout_file(run.folder.path, run.setup.name, drawn.step + 1)
            groups = [*assigned.kept, *assigned.dropped]
            write_groups(path, groups, stage=run.setup.name, step=drawn.step + 1, judges=judges)
