"""Several processes that train one model: what they tell each other, and the sum of their gradients.

Every rank holds the whole model, takes every n-th prompt of a step, samples, scores and trains it, and tells the others
the scores. Loss weights are shares of the whole step, so the gradient of the step is the plain sum over ranks: one
all-reduce before each optimiser step. Ranks may differ in groups, micro-batches and media as they like, since nothing
else is collective in between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from vlrft.types import Group, Sample

T = TypeVar("T")

_BUCKET = 64 * 2**20
"""Bytes of gradients that are summed in one message."""


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By size in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A collective call that goes on."""

    name: str
    number: int
    """In this process, from 1."""
    since: float
    """`time.monotonic()` at which it began."""


class Collectives:
    """What is known of this process's collective calls, for whoever looks into a run that hangs."""

    def __init__(self) -> None:
        self.count = 0
        self.name = "none"
        """Of the last one that was begun."""
        self._open: dict[int, Call] = {}
        """By thread: the trainer's and the rollouts' wait on lines of their own."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        thread = threading.get_ident()
        self.count, self.name = self.count + 1, name
        self._open[thread] = Call(name=name, number=self.count, since=time.monotonic())
        yield
        # Not in a `finally`: one that failed stays the last that its thread has begun.
        del self._open[thread]

    def open_calls(self) -> list[Call]:
        """Those that go on now, of all threads, the oldest first; any thread may ask."""
        return sorted(self._open.values(), key=lambda call: call.since)


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

    def together(
        self, work: Callable[[], T], expected: tuple[type[Exception], ...], kept: tuple[type[Exception], ...] = ()
    ) -> T:
        """What `work` returns on this rank; where it raises one of `expected` on any, all ranks raise.

        Else the others would wait for the rank that is gone. They raise, with the same text, that of `kept` which it
        is (each made of one text), else the last of `expected`: a rank's exit status says whether to start again.
        """
        said: tuple[str, int] | None = None
        try:
            outcome = work()
        except expected as error:
            failure: Exception | None = error
            said = str(error), next((i for i, kind in enumerate(kept) if isinstance(error, kind)), len(kept))
        else:
            failure = None
        first = next((about for about in self.gather(said) if about is not None), None)
        if failure is not None:
            raise failure
        if first is not None:
            raise (*kept, expected[-1])[first[1]](first[0])
        return outcome

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
        """Replace every gradient by its sum over ranks, on all of them; one that no rank has stays None.

        The optimiser leaves those alone, as it does in a process of its own: a zero would let its momentum and weight
        decay move the parameter.
        """
        if self.size == 1:
            return
        for bucket in _buckets(self._learning_anywhere([p for p in parameters if p.requires_grad])):
            grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
            # A bucket of one needs no second memory: the vocabulary matrix may be the largest tensor of all.
            flat = torch.cat([grad.reshape(-1) for grad in grads]) if len(grads) > 1 else grads[0].reshape(-1)
            with collectives("all_reduce of gradients"):
                dist.all_reduce(flat, group=self.group)
            for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = part.view_as(parameter)

    def _learning_anywhere(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Those that have a gradient on some rank."""
        if not parameters:
            return []
        device = parameters[0].device
        has_P = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=device)
        with collectives("all_reduce of which gradients there are"):
            dist.all_reduce(has_P, op=dist.ReduceOp.MAX, group=self.group)
        return [p for p, has in zip(parameters, has_P.tolist(), strict=True) if has]

    def refuse_differing(self, model: nn.Module) -> None:
        """Raise RuntimeError where the ranks did not start from the same weights, bit by bit."""
        if self.size == 1:
            return
        sums = [_checksum(p) for p in model.parameters()]
        for rank, theirs in enumerate(self.gather(sums)):
            if theirs != sums:
                raise RuntimeError(
                    f"rank {rank} starts from other weights than rank {self.rank}: give all ranks the same model"
                )


def _checksum(tensor: torch.Tensor) -> int:
    """Of the bits. Integers, since a sum of floats depends on its order, and that on the processor."""
    return int(tensor.detach().view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64))


def wait_in_collectives(seconds: float) -> None:
    """Let every collective call of this process wait so long (0: a month) before torch gives it up.

    For all process groups that there are, those of libraries too: torch's own limits (NCCL 10 minutes, gloo 30, the
    store through which ranks find each other 5) end healthy runs in which one rank is slow, and nothing but torch's
    message says why. PyTorch has no public call for groups that others make.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    from torch.distributed import distributed_c10d

    longest = timedelta(seconds=seconds or 30 * 86400)
    distributed_c10d._get_default_store().set_timeout(longest)
    for group in list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(longest, group)


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
