"""Which samples come next. A sampler's whole state is a small dict, so that a resumed run draws the same batches."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vlrft.data.problems import DataError
from vlrft.types import Group, Sample

SAMPLERS: dict[str, str] = {
    "shuffle": "vlrft.data.samplers:ShuffleSampler",
    "sequential": "vlrft.data.samplers:SequentialSampler",
    "mixture": "vlrft.data.mixture:MixtureSampler",
}
"""Built as `sampler(samples, seed=..., **kwargs)`."""


class Sampler(Protocol):
    """Proposes prompts, judges the groups that came of them, and learns from them.

    It may also have `peek(step, n)`: what `propose` would give now, found without moving on. The trainer decodes the
    videos of the next step by it while this one computes; nothing else depends on it.
    """

    def propose(self, step: int, n: int) -> list[Sample]:
        """The next `n` different samples, or all where there are fewer; moves the sampler on.

        `step` is for samplers that follow a schedule.
        """
        ...

    def accept(self, groups: Sequence[Group]) -> list[bool]:
        """For each group whether it goes into the batch; the rest is drawn anew."""
        ...

    def observe(self, groups: Sequence[Group]) -> None:
        """Scored groups of a finished step, for samplers that adapt."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-like state; `load_state_dict` of an equal sampler continues exactly from it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class SequentialSampler:
    """The samples in their order, over and over. `seed` is taken so that all samplers are built alike; unused."""

    def __init__(self, samples: Sequence[Sample], *, seed: int = 0) -> None:
        if not samples:
            raise DataError("a sampler needs at least one sample; check what the data source skipped")
        self.samples = samples
        self.seed = seed
        self._epoch = 0
        self._cursor = 0

    def propose(self, step: int, n: int) -> list[Sample]:
        batch: list[Sample] = []
        for _ in range(min(n, len(self.samples))):
            batch.append(self.samples[self._cursor])
            self._cursor += 1
            if self._cursor == len(self.samples):
                self._epoch, self._cursor = self._epoch + 1, 0
        return batch

    def peek(self, step: int, n: int) -> list[Sample]:
        """What `propose` would give now; nothing moves on."""
        count = len(self.samples)
        return [self.samples[(self._cursor + i) % count] for i in range(min(n, count))]

    def accept(self, groups: Sequence[Group]) -> list[bool]:
        return [True] * len(groups)

    def observe(self, groups: Sequence[Group]) -> None:
        """Nothing to learn: the order is fixed."""

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "data": _digest(self.samples), "epoch": self._epoch, "cursor": self._cursor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises DataError when the state belongs to other samples or another seed."""
        here = self.state_dict()
        for key, what in (("data", "other samples (or another order)"), ("seed", "another seed")):
            if state[key] != here[key]:
                raise DataError(
                    f"the sampler's saved state belongs to {what}: {state[key]!r}, not {here[key]!r}; "
                    "resume with the data and seed that the run was started with"
                )
        self._epoch, self._cursor = int(state["epoch"]), int(state["cursor"])


class ShuffleSampler(SequentialSampler):
    """A fresh permutation per epoch, from (seed, epoch) alone; every epoch visits each sample once.

    Where a batch reaches over the end of an epoch, samples that it already holds are put off to the next batch.
    """

    def __init__(self, samples: Sequence[Sample], *, seed: int = 0) -> None:
        super().__init__(samples, seed=seed)
        self._deferred: list[int] = []
        self._order = self._permutation(self._epoch)

    def propose(self, step: int, n: int) -> list[Sample]:
        taken, self._epoch, self._cursor, self._deferred, self._order = self._draw(n)
        return [self.samples[i] for i in taken]

    def peek(self, step: int, n: int) -> list[Sample]:
        return [self.samples[i] for i in self._draw(n)[0]]

    def _draw(self, n: int) -> tuple[list[int], int, int, list[int], list[int]]:
        """The next `n` positions, and the epoch, cursor, put-off positions and order after them."""
        # Keys in the order in which they were added.
        taken: dict[int, None] = {}
        epoch, cursor, deferred, order = self._epoch, self._cursor, deque(self._deferred), self._order
        n = min(n, len(self.samples))
        while len(taken) < n:
            if deferred and deferred[0] not in taken:
                taken[deferred.popleft()] = None
                continue
            if cursor == len(order):
                epoch, cursor = epoch + 1, 0
                order = self._permutation(epoch)
            index = order[cursor]
            cursor += 1
            if index in taken:
                deferred.append(index)
            else:
                taken[index] = None
        return list(taken), epoch, cursor, list(deferred), order

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "deferred": list(self._deferred)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._deferred = [int(i) for i in state["deferred"]]
        self._order = self._permutation(self._epoch)

    def _permutation(self, epoch: int) -> list[int]:
        import numpy as np

        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
        return [int(i) for i in generator.permutation(len(self.samples))]


def _digest(samples: Sequence[Sample]) -> str:
    """Short fingerprint of the sample ids in order."""
    text = "\n".join(sample.id for sample in samples)
    return f"{len(samples)}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
