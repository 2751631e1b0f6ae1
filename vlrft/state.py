"""The one mutable object of a stage, and one optimiser step on it. Stop 11 of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlrft.config import TrainConfig
from vlrft.data.samplers import Sampler
from vlrft.dist import World
from vlrft.generators import rng_state, set_rng_state
from vlrft.pack import Batch
from vlrft.policy import Policy
from vlrft.shard.base import Strategy

LossFn = Callable[[Batch, dict[str, Tensor]], tuple[Tensor, dict[str, float]]]
"""(micro-batch, output of the policy) -> its share of the step's loss, and sums for the metrics."""


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient."""


class Schedule:
    """Learning rate over the planned optimiser steps: linear warm-up, then constant, or linear or cosine to 0.

    Steps that were planned and not taken (every group dropped, gradient not finite) count, so that it ends in time.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, train: TrainConfig, planned_steps: int) -> None:
        self.optimizer = optimizer
        self.train = train
        self.planned_steps = planned_steps
        self.done = 0
        self._apply()

    def factor(self, done: int) -> float:
        """Share of `train.learning_rate` for the optimiser step after `done` others."""
        warmup = self.train.warmup_steps
        if done < warmup:
            return (done + 1) / (warmup + 1)
        progress = min(1.0, (done - warmup) / max(1, self.planned_steps - warmup))
        if self.train.lr_scheduler == "linear":
            return 1.0 - progress
        if self.train.lr_scheduler == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        return 1.0

    def step(self) -> None:
        self.done += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]
        self._apply()

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * self.factor(self.done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """How far a run is at the border of two stages."""

    global_step: int = 0
    policy_version: int = 0


@dataclass(slots=True, kw_only=True)
class TrainState:
    """What changes while a stage trains; everything here is in the checkpoint."""

    world: World
    strategy: Strategy
    """Has the weights, the gradients and the optimiser."""
    scheduler: Schedule
    sampler: Sampler
    step: int = 0
    """Finished steps of this stage."""
    global_step: int = 0
    """Finished steps of the run."""
    policy_version: int = 0
    """Optimiser steps taken since the run began."""
    skipped_in_row: int = 0
    skipped_steps: int = 0

    @property
    def policy(self) -> Policy:
        """The bare module."""
        return self.strategy.policy

    @property
    def wrapped(self) -> Any:
        """What training calls."""
        return self.strategy.wrapped

    @property
    def optimizer(self) -> Any:
        return self.strategy.optimizer

    def state_dict(self) -> dict[str, Any]:
        """All but weights and optimiser states (`Strategy.entries`). Collective: each rank has its own generators."""
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {
            "scheduler": self.scheduler.state_dict(),
            "sampler": self.sampler.state_dict(),
            "counters": counters,
            "rng": self.world.gather(rng_state()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state["scheduler"])
        self.sampler.load_state_dict(state["sampler"])
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
        set_rng_state(state["rng"][self.world.rank % len(state["rng"])])


_COUNTERS = ("step", "global_step", "policy_version", "skipped_in_row", "skipped_steps")


@dataclass(slots=True, kw_only=True)
class StepSums:
    """Sums over the optimiser steps of one rollout."""

    loss: float = 0.0
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    """Of the last step."""
    steps: int = 0
    skipped: int = 0
    """Steps that were not taken, since loss or gradient was not finite."""
    tokens: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        before = self.sums.get(name, 0.0)
        self.sums[name] = max(before, value) if name.endswith("_max") else before + value

    def merge(self, step: StepSums) -> None:
        """Take over what one finished optimiser step has summed up."""
        self.loss, self.grad_norm = self.loss + step.loss, self.grad_norm + step.grad_norm
        self.learning_rate = step.learning_rate
        self.steps, self.tokens = self.steps + 1, self.tokens + step.tokens
        for name, value in step.sums.items():
            self.add(name, value)

    def sum_over(self, world: World) -> None:
        """Make the sums of one optimiser step those of all ranks: each has a share of loss and tokens."""
        if world.size == 1:
            return
        shares = world.gather((self.loss, self.tokens, self.sums))
        self.loss, self.tokens = sum(s[0] for s in shares), sum(s[1] for s in shares)
        self.sums = {}
        for _, _, sums in shares:
            for name, value in sums.items():
                self.add(name, value)

    def metrics(self, *, idle: float | None = None) -> dict[str, float]:
        """Means over tokens (and steps), under the names of metrics.jsonl; no means where no step was taken.

        idle: what loss and gradient norm are where there was nothing to learn from, so that curves have no gap; None =
        not known. A step that was skipped for not being finite leaves its gap.
        """
        row = {"optimizer_steps": float(self.steps), "tokens/trained": self.tokens}
        if self.steps == 0:
            if idle is not None and self.skipped == 0:
                row |= {"loss": idle, "grad_norm": idle, "learning_rate": self.learning_rate}
            return row
        row |= {"loss": self.loss / self.steps, "grad_norm": self.grad_norm / self.steps}
        row["learning_rate"] = self.learning_rate
        for name, value in self.sums.items():
            row[f"policy/{name}"] = value if name.endswith("_max") else value / max(self.tokens, 1.0)
        return row


def optimizer_step(
    state: TrainState, batches: Sequence[Batch], loss_fn: LossFn, sums: StepSums, *, train: TrainConfig, dump_to: Path
) -> None:
    """Backward through all micro-batches, clip, step. A non-finite loss or gradient skips the step, counted and dumped.

    Raises NonFiniteError after `train.max_skipped_steps` skipped steps in a row.
    """
    state.strategy.clear()
    state.wrapped.train()
    step = StepSums(learning_rate=state.optimizer.param_groups[0]["lr"])
    for batch in batches:
        output = state.wrapped(**batch.inputs, layout=batch.layout, touch_vision=batch.touch_vision)
        value, extra = loss_fn(batch, output)
        state.strategy.backward(value, last=batch is batches[-1])
        step.loss += float(value.detach())
        step.tokens += float(batch.loss_mask_N.sum())
        step.add("entropy", float((output["entropy"].detach() * batch.loss_mask_N).sum()))
        for name, number in extra.items():
            step.add(name, number)
    step.sum_over(state.world)
    step.grad_norm = state.strategy.step(wanted=math.isfinite(step.loss))
    if math.isfinite(step.loss) and math.isfinite(step.grad_norm):
        state.policy_version += 1
        state.skipped_in_row = 0
        sums.merge(step)
    else:
        sums.skipped += 1
        _skip(state, batches, train, dump_to, f"loss {step.loss}, gradient norm {step.grad_norm}")
    state.scheduler.step()


def _skip(state: TrainState, batches: Sequence[Batch], train: TrainConfig, dump_to: Path, why: str) -> None:
    state.skipped_in_row += 1
    state.skipped_steps += 1
    dump_to.mkdir(parents=True, exist_ok=True)
    rank = f"-rank{state.world.rank}" if state.world.size > 1 else ""
    path = dump_to / f"step-{state.global_step + 1:08d}-{state.skipped_steps:04d}{rank}.pt"
    samples = [group.sample.id for batch in batches for group in batch.groups]
    torch.save({"why": why, "samples": samples, "batches": [batch.inputs for batch in batches]}, path)
    if state.skipped_in_row >= train.max_skipped_steps:
        raise NonFiniteError(
            f"{state.skipped_in_row} steps in a row were not finite ({why}); the last batch is in {path}. "
            "Lower train.learning_rate or train.max_grad_norm, and look at that batch"
        )
