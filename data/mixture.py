"""Several sources as one: names that keep their samples apart, and draws by weight.

A mixture without weights is all samples together, so a source counts by its size. With weights, `MixtureSampler` draws
so that after every draw each source has its share of all draws, to within one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from vlrft.config import MixtureEntry, SourceConfig
from vlrft.data.problems import DataError
from vlrft.data.samplers import SequentialSampler, ShuffleSampler
from vlrft.types import Group, Sample


def entry_names(entries: Sequence[MixtureEntry], what: str) -> list[str]:
    """The name of each entry, as stated or from its path. Raises DataError when two are alike."""
    names: list[str] = []
    for number, entry in enumerate(entries):
        name = entry.name or PurePosixPath(entry.path or "").name.partition(".")[0] or entry.format
        if name in names:
            raise DataError(f"{what}.mixture[{number}]: a second source is called {name!r}; give it a name of its own")
        names.append(name)
    return names


def sampler_settings(source: SourceConfig, name: str) -> tuple[str, dict[str, Any]]:
    """(sampler, its extra arguments) for a training source, where the recipe says `name`.

    A weighted mixture is drawn by the mixture sampler in place of `shuffle`. Raises DataError for another sampler, to
    which the weights would mean nothing.
    """
    if not source.mixture or source.mixture[0].weight is None:
        return name, {}
    if name not in ("shuffle", "mixture"):
        raise DataError(
            f"sampler.name is {name!r}, which knows nothing of the weights of data.train's mixture; set it to mixture, "
            "or take the weights out"
        )
    names = entry_names(source.mixture, "data.train")
    return "mixture", {"weights": {key: entry.weight for key, entry in zip(names, source.mixture, strict=True)}}


class MixtureSampler:
    """Draws from several sources by weight; within a source each epoch visits every sample once, in a fresh order.

    `weights`: source name -> share, relative to the others; None = every source by its number of samples. The source of
    a sample is what its id has before `/`. The next draw goes to the source that is furthest behind its share; one
    whose samples are all in the batch already waits for the next batch. So no share is left to chance, and a small
    source with a large weight is repeated.
    """

    def __init__(self, samples: Sequence[Sample], *, seed: int = 0, weights: Mapping[str, float] | None = None) -> None:
        by_source: dict[str, list[Sample]] = {name: [] for name in weights or ()}
        for sample in samples:
            by_source.setdefault(_source_of(sample), []).append(sample)
        weights = weights or {name: len(held) for name, held in by_source.items()}
        for name, held in by_source.items():
            if name not in weights:
                raise DataError(f"sample {held[0].id} belongs to no source of the mixture ({', '.join(weights)})")
            if not held:
                raise DataError(f"no sample of data.train's source {name!r} is usable; check what was skipped")
        total = sum(weights.values())
        self._shares = {name: weight / total for name, weight in weights.items()}
        self._drawn = dict.fromkeys(weights, 0)
        self._within = {name: ShuffleSampler(held, seed=_seed_of(seed, name)) for name, held in by_source.items()}
        self._all = SequentialSampler(samples, seed=seed)
        self.samples = samples

    def propose(self, step: int, n: int) -> list[Sample]:
        turns, self._drawn = self._turns(n)
        share = Counter(turns)
        drawn = {name: iter(held.propose(step, share[name])) for name, held in self._within.items()}
        return [next(drawn[name]) for name in turns]

    def peek(self, step: int, n: int) -> list[Sample]:
        """What `propose` would give now; nothing moves on."""
        turns, _ = self._turns(n)
        share = Counter(turns)
        seen = {name: iter(held.peek(step, share[name])) for name, held in self._within.items()}
        return [next(seen[name]) for name in turns]

    def _turns(self, n: int) -> tuple[list[str], dict[str, int]]:
        """The sources of the next `n` draws, and how often each has been drawn after them."""
        turns: list[str] = []
        counts = dict(self._drawn)
        left = {name: len(held.samples) for name, held in self._within.items()}
        before = sum(counts.values())
        for draws in range(before + 1, before + 1 + min(n, len(self.samples))):
            name = max(left, key=lambda name: self._shares[name] * draws - counts[name])
            turns.append(name)
            counts[name] += 1
            left[name] -= 1
            if not left[name]:
                del left[name]
        return turns, counts

    def accept(self, groups: Sequence[Group]) -> list[bool]:
        return [True] * len(groups)

    def observe(self, groups: Sequence[Group]) -> None:
        """Nothing to learn: the shares are fixed."""

    def state_dict(self) -> dict[str, Any]:
        return {
            **self._all.state_dict(),
            "shares": dict(self._shares),
            "drawn": dict(self._drawn),
            "within": {name: sampler.state_dict() for name, sampler in self._within.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises DataError when the state belongs to other samples, another seed or other weights."""
        self._all.load_state_dict({key: state[key] for key in ("seed", "data", "epoch", "cursor")})
        if dict(state["shares"]) != self._shares:
            raise DataError(
                f"the sampler's saved state belongs to other weights: {state['shares']}, not {self._shares}; resume "
                "with those that the run was started with"
            )
        self._drawn = {name: int(count) for name, count in state["drawn"].items()}
        for name, sampler in self._within.items():
            sampler.load_state_dict(state["within"][name])


def _source_of(sample: Sample) -> str:
    name, slash, _ = sample.id.partition("/")
    return name if slash else ""


def _seed_of(seed: int, name: str) -> int:
    """A seed for one source: its order does not depend on the other sources."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6])
