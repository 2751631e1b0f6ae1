"""The one mutable object of a stage, and one optimiser step on it. Stop 11 of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vlrft.config import TrainConfig
from vlrft.data.samplers import Sampler
from vlrft.pack import Batch
from vlrft.policy import Policy

LossFn = Callable[[Batch, dict[str, Tensor]], tuple[Tensor, dict[str, float]]]
"""(micro-batch, output of the policy) -> its share of the step's loss, and sums for the metrics."""


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient."""


@dataclass(slots=True, kw_only=True)
class TrainState:
    """What changes while a stage trains; everything here is in the checkpoint."""

    accelerator: Accelerator
    policy: Policy
    """The bare module; `wrapped` is what training calls."""
    wrapped: Any
    optimizer: Any
    scheduler: Any
    sampler: Sampler
    step: int = 0
    """Finished steps of this stage."""
    global_step: int = 0
    """Finished steps of the run."""
    policy_version: int = 0
    """Optimiser steps taken since the run began."""
    skipped_in_row: int = 0
    skipped_steps: int = 0

    def state_dict(self) -> dict[str, Any]:
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {
            "model": self.policy.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "sampler": self.sampler.state_dict(),
            "counters": counters,
            "rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.sampler.load_state_dict(state["sampler"])
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
        torch.set_rng_state(state["rng"])


_COUNTERS = ("step", "global_step", "policy_version", "skipped_in_row", "skipped_steps")


def make_optimizer(policy: Policy, train: TrainConfig) -> tuple[torch.optim.Optimizer, Any]:
    """Fused AdamW over what is not frozen, and the schedule as a function of optimiser steps."""
    learning = [p for p in policy.model.parameters() if p.requires_grad]
    if not learning:
        raise ValueError("every part of the model is frozen: set one of model.freeze_* to false")
    optimizer = torch.optim.AdamW(
        learning,
        lr=train.learning_rate,
        betas=(train.adam_beta1, train.adam_beta2),
        eps=train.adam_epsilon,
        weight_decay=train.weight_decay,
        fused=True,
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def schedule(train: TrainConfig, optimizer_steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at each optimiser step: linear warm-up, then constant, linear or cosine to 0."""

    def factor(done: int) -> float:
        if done < train.warmup_steps:
            return (done + 1) / (train.warmup_steps + 1)
        progress = (done - train.warmup_steps) / max(1, optimizer_steps - train.warmup_steps)
        if train.lr_scheduler == "linear":
            return max(0.0, 1.0 - progress)
        if train.lr_scheduler == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return 1.0

    return factor


@dataclass(slots=True, kw_only=True)
class StepSums:
    """Sums over the optimiser steps of one rollout."""

    loss: float = 0.0
    grad_norm: float = 0.0
    steps: int = 0
    tokens: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.sums[name] = max(self.sums.get(name, value), value) if name.endswith("_max") else (
            self.sums.get(name, 0.0) + value
        )  # fmt: skip

    def metrics(self, scheduler: Any) -> dict[str, float]:
        """Means over tokens (and steps), under the names of metrics.jsonl."""
        tokens, steps = max(self.tokens, 1.0), max(self.steps, 1)
        row = {"loss": self.loss / steps, "grad_norm": self.grad_norm / steps}
        row["learning_rate"] = float(scheduler.get_last_lr()[0])
        row["tokens/trained"] = self.tokens
        for name, value in self.sums.items():
            row[f"policy/{name}"] = value if name.endswith("_max") else value / tokens
        return row


def optimizer_step(
    state: TrainState, batches: Sequence[Batch], loss_fn: LossFn, sums: StepSums, *, train: TrainConfig, dump_to: Path
) -> None:
    """Backward through all micro-batches, clip, step. A non-finite loss or gradient skips the step, counted and dumped.

    Raises NonFiniteError after `train.max_skipped_steps` skipped steps in a row.
    """
    state.optimizer.zero_grad(set_to_none=True)
    state.wrapped.train()
    loss = 0.0
    for batch in batches:
        output = state.wrapped(**batch.inputs, layout=batch.layout)
        value, extra = loss_fn(batch, output)
        # DDP averages gradients over ranks; the loss is already a share of the global one.
        state.accelerator.backward(value * state.accelerator.num_processes)
        loss += float(value.detach())
        sums.tokens += float(batch.loss_mask_N.sum())
        sums.add("entropy", float((output["entropy"].detach() * batch.loss_mask_N).sum()))
        for name, number in extra.items():
            sums.add(name, number)
    norm = float(state.accelerator.clip_grad_norm_(state.policy.model.parameters(), train.max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        _skip(state, batches, train, dump_to, f"loss {loss}, gradient norm {norm}")
        return
    state.optimizer.step()
    state.scheduler.step()
    state.policy_version += 1
    state.skipped_in_row = 0
    sums.loss, sums.grad_norm, sums.steps = sums.loss + loss, sums.grad_norm + norm, sums.steps + 1


def _skip(state: TrainState, batches: Sequence[Batch], train: TrainConfig, dump_to: Path, why: str) -> None:
    state.optimizer.zero_grad(set_to_none=True)
    state.skipped_in_row += 1
    state.skipped_steps += 1
    dump_to.mkdir(parents=True, exist_ok=True)
    path = dump_to / f"step-{state.global_step + 1:08d}-{state.skipped_steps:04d}.pt"
    samples = [group.sample.id for batch in batches for group in batch.groups]
    torch.save({"why": why, "samples": samples, "batches": [batch.inputs for batch in batches]}, path)
    if state.skipped_in_row >= train.max_skipped_steps:
        raise NonFiniteError(
            f"{state.skipped_in_row} steps in a row were not finite ({why}); the last batch is in {path}. "
            "Lower train.learning_rate or train.max_grad_norm, and look at that batch"
        )
