"""Several processes that train one model: what they tell each other, and the sum of their gradients.

Every rank holds the whole model, takes every n-th prompt of a step, samples, scores and trains it, and tells the others
the scores. Loss weights are shares of the whole step, so the gradient of the step is the plain sum over ranks: one
all-reduce before each optimiser step. Ranks may differ in groups, micro-batches and media as they like, since nothing
else is collective in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from vlrft.types import Group, Sample

T = TypeVar("T")

_BUCKET = 64 * 2**20
"""Bytes of gradients that are summed in one message."""


class Collectives:
    """What is known of this process's collective calls, for whoever looks into a run that hangs."""

    def __init__(self) -> None:
        self.count = 0
        self.name = "none"
        """Of the last one."""
        self.since: float | None = None
        """`time.monotonic()` at which it began; None when it has ended."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.count, self.name, self.since = self.count + 1, name, time.monotonic()
        yield
        # Not in a `finally`: one that failed stays the last that was begun.
        self.since = None


collectives = Collectives()
"""Those of this process: worlds are made anew, the process is one rank."""


class World:
    """The ranks of a run; a single process is a world of one, in which nothing is sent."""

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        """group: of torch.distributed, through which objects are sent; None = that of all ranks."""
        self.rank, self.size, self.group = rank, size, group

    @classmethod
    def current(cls) -> World:
        """That of torch.distributed, where it has been started."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def apart(self) -> World:
        """The same ranks with a line of their own, which does not get in the way of messages on this one.

        All ranks must call it. For objects only: gradients go over the main line.
        """
        return World(self.rank, self.size, dist.new_group(backend="gloo")) if self.size > 1 else self

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the run's files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Every n-th item, from this rank's on."""
        return list(items[self.rank :: self.size])

    def gather(self, value: T) -> list[T]:
        """What each rank gave, in the order of ranks, on all of them."""
        if self.size == 1:
            return [value]
        everything: list[Any] = [None] * self.size
        with collectives("gather"):
            dist.all_gather_object(everything, value, group=self.group)
        return everything

    def together(self, work: Callable[[], T], expected: tuple[type[Exception], ...]) -> T:
        """What `work` returns on this rank; where it raises one of `expected` on any, all ranks raise.

        Else the others would wait for the rank that is gone. They raise the last of `expected` with the same text.
        """
        try:
            outcome: T | Exception = work()
        except expected as error:
            outcome = error
        said = [str(outcome) if isinstance(outcome, expected) else None]
        first = next((text for (text,) in self.gather(said) if text is not None), None)
        if isinstance(outcome, expected):
            raise outcome
        if first is not None:
            raise expected[-1](first)
        return outcome  # type: ignore[return-value]

    def gather_groups(self, mine: Sequence[Group], proposed: Sequence[Sample]) -> list[Group]:
        """The groups of all ranks in the order of `proposed`, which every rank has; those of others without tensors."""
        if self.size == 1:
            return list(mine)
        place = {id(sample): i for i, sample in enumerate(proposed)}
        own = {place[id(group.sample)]: group for group in mine}
        sent = [
            (i, replace(group.prompt, mm={}, position_ids=None), group.rollouts, group.advantages)
            for i, group in own.items()
        ]
        everyones = {i: (prompt, rollouts, adv) for share in self.gather(sent) for i, prompt, rollouts, adv in share}
        return [
            own[i] if i in own else Group(sample=proposed[i], prompt=prompt, rollouts=rollouts, advantages=advantages)
            for i, (prompt, rollouts, advantages) in sorted(everyones.items())
        ]

    def sum(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sum over ranks of each number; a name that only some ranks have counts as 0 on the others."""
        total: dict[str, float] = {}
        for given in self.gather(dict(numbers)):
            for name, number in given.items():
                total[name] = total.get(name, 0.0) + number
        return total

    def barrier(self) -> None:
        if self.size > 1:
            with collectives("barrier"):
                dist.barrier(group=self.group)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over ranks; a parameter without one on this rank counts as zero."""
        if self.size == 1:
            return
        for bucket in _buckets([p for p in parameters if p.requires_grad]):
            grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
            # A bucket of one needs no second memory: the vocabulary matrix may be the largest tensor of all.
            flat = torch.cat([grad.reshape(-1) for grad in grads]) if len(grads) > 1 else grads[0].reshape(-1)
            with collectives("all_reduce of gradients"):
                dist.all_reduce(flat, group=self.group)
            for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = part.view_as(parameter)

    def refuse_differing(self, model: nn.Module) -> None:
        """Raise RuntimeError where the ranks did not start from the same weights."""
        if self.size == 1:
            return
        with torch.no_grad():
            sums = [float(p.double().sum()) for p in model.parameters()]
        for rank, theirs in enumerate(self.gather(sums)):
            if theirs != sums:
                raise RuntimeError(
                    f"rank {rank} starts from other weights than rank {self.rank}: give all ranks the same model"
                )


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Neighbours of one type, up to _BUCKET bytes."""
    buckets: list[list[nn.Parameter]] = []
    used, kind = 0, None
    for parameter in parameters:
        if not buckets or used + parameter.nbytes > _BUCKET or parameter.dtype != kind:
            buckets.append([])
            used, kind = 0, parameter.dtype
        buckets[-1].append(parameter)
        used += parameter.nbytes
    return buckets


def is_here(group: Group) -> bool:
    """Whether this rank has the group's tensors (see `World.gather_groups`): it then trains it."""
    return group.prompt.position_ids is not None


def own_state(states: Sequence[dict[str, Any]], world: World) -> dict[str, Any]:
    """A rank's part of what all ranks of a run had learned; ranks that were not there then share it, without counts."""
    if world.rank < len(states):
        return states[world.rank]
    return {**states[world.rank % len(states)], "errors": 0}
