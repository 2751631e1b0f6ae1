"""What the steps of one stage work with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from accelerate.utils import set_seed

from vlrft.config import Config
from vlrft.data.media import MediaError
from vlrft.dist import World
from vlrft.engines.base import row_seed
from vlrft.grpo import Objective
from vlrft.log import Timers
from vlrft.models.base import PromptError
from vlrft.objectives.advantage import Assigned
from vlrft.preempt import StopSignals
from vlrft.reference import Reference
from vlrft.rollout import RolloutWorker, Scored
from vlrft.runfolder import RunFolder
from vlrft.setup import StageSetup
from vlrft.shortage import enough_memory
from vlrft.state import TrainState
from vlrft.types import Group, Prompt, Sample

UNREADABLE = (MediaError, PromptError)
"""What a sample raises whose media or text cannot be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The samples of one step, drawn and not yet learned from."""

    step: int
    """Steps of the stage before it."""
    samples: tuple[Sample, ...]
    upcoming: tuple[Sample, ...] = ()
    """What the step after it will probably show; () = not known."""
    policy_version: int
    """Of the weights that roll it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledOut:
    """The rollouts of all ranks for one step, scored, weighed and on disk."""

    scored: Scored
    assigned: Assigned
    completions: int
    """Completions that there should be: G of every sample that could be shown."""
    metrics: dict[str, float]


class Pipeline(Protocol):
    """Where `grpo_step` gets its rollouts from. The step's batch stays `run.waiting[0]` until it has been learned."""

    def next(self, run: StageRun) -> RolledOut:
        """The rollouts of the step to come; blocks until they are there."""

    def trained(self, run: StageRun) -> None:
        """The weights have moved."""

    def drain(self, run: StageRun) -> None:
        """Wait for what is in work: then the engine is free, with the current weights, and all rollouts on disk."""

    def close(self) -> None:
        """Let go of threads."""


@dataclass(slots=True, kw_only=True)
class StageRun:
    """A stage while it runs."""

    setup: StageSetup
    state: TrainState
    worker: RolloutWorker
    objective: Objective
    reference: Reference | None
    folder: RunFolder
    timers: Timers
    world: World
    """The ranks, as this part of the run talks to them."""
    waiting: deque[Draw] = field(default_factory=deque)
    """The batch of the step to come, and those behind it that have been drawn ahead; all of them in the checkpoint."""
    rollouts: Pipeline = field(init=False)
    """Where the steps get their rollouts from (`vlrft.pipeline`)."""
    stops: StopSignals = field(default_factory=StopSignals)
    """Asked where a run may end early."""
    unscored_steps: int = 0
    """Steps in a row of which no completion was scored."""

    @property
    def config(self) -> Config:
        return self.setup.config

    def waiting_state(self) -> list[dict[str, Any]]:
        """`waiting` by the ids of the samples, for the checkpoint."""
        return [{"samples": [s.id for s in d.samples], "policy_version": d.policy_version} for d in self.waiting]

    def load_waiting(self, state: Sequence[Mapping[str, Any]]) -> None:
        """The batches of `waiting_state`, without samples that the data no longer has."""
        here = {sample.id: sample for sample in self.setup.samples}
        for place, entry in enumerate(state):
            samples = tuple(here[name] for name in entry["samples"] if name in here)
            version = entry["policy_version"]
            self.waiting.append(Draw(step=self.state.step + place, samples=samples, policy_version=version))

    def close(self) -> None:
        """End the threads and processes of the stage."""
        try:
            self.rollouts.close()
        finally:
            self.worker.judge.close()

    def enough_memory(self, phase: str, work: Callable[[], Sequence[Prompt | Group]]) -> AbstractContextManager[None]:
        """See `shortage.enough_memory`."""
        where = f"stage {self.setup.name}, step {self.state.step + 1}, {phase}"
        return enough_memory(self.config, where, work, self.folder.how_to_go_on())

    def reseed(self, part: str) -> None:
        """Start the global generators anew for a part of a step. Ours take explicit seeds; a reward or model of the
        user's may not, and a resumed run that reads stored rollouts has not run it."""
        set_seed(row_seed(self.config.train.seed, self.setup.name, self.state.step, part) % 2**32)
