"""The seam between a trainer and whatever samples: prompts and seeds in, completions out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from vlrft.types import Completion, Prompt


class EngineLostError(Exception):
    """An engine's processes or servers are gone in the middle of a run, by no fault of the recipe: starting again may
    help. No RuntimeError, so that what a dead server said of its memory is not taken for the trainer's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn. Log-probs are those of the distribution after temperature and bans."""

    temperature: float = 1.0
    """0 = greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 = off."""
    max_tokens: int = 256
    ignore_eos: bool = False
    """Ban the stop tokens: every completion has exactly `max_tokens` tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and a seed per wanted completion."""

    prompt: Prompt
    seeds: tuple[int, ...]
    """Same seed, same tokens, whatever else is in the batch."""


Sampled = tuple[int, tuple[Completion, ...]]
"""A request's place among those asked for, and its completions."""


class Engine(Protocol):
    """An engine owns no schedule: it answers `generate` and takes new weights when told."""

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[tuple[Completion, ...]]:
        """len(seeds) completions per request, in order."""

    def sync(self, policy_version: int) -> None:
        """Make the next rollouts come from the current weights; completions are stamped with `policy_version`."""


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine that is done with some requests while it works on others: those are judged meanwhile."""

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sampled]:
        """As `generate`, each request's completions as soon as they are there, in whatever order."""


def sampled(engine: Engine, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sampled]:
    """The completions of each request: as soon as they are there, where the engine streams."""
    if isinstance(engine, StreamingEngine):
        return engine.stream(requests, params)
    return enumerate(engine.generate(requests, params))


def in_order(stream: Iterable[Sampled]) -> list[tuple[Completion, ...]]:
    """What a whole stream gave, by the places of the requests."""
    return [completions for _, completions in sorted(stream, key=lambda item: item[0])]


@runtime_checkable
class SnapshotEngine(Engine, Protocol):
    """An engine with weights of its own, which may sample while the trainer moves its weights.

    `snapshot` is called while the weights stand still; `load` and `generate` from the thread that makes rollouts.
    """

    def snapshot(self, policy_version: int) -> Any:
        """The trainer's weights of now, kept until they are loaded."""

    def load(self, snapshot: Any) -> None:
        """Sample with these weights from here on; completions are stamped with the snapshot's version."""


@runtime_checkable
class InterruptibleEngine(Engine, Protocol):
    """An engine that can be told that nobody waits for its answer any more."""

    def abandon(self) -> None:
        """Called while another thread is in `load` or `generate`, which then raises soon. As that thread may be between
        two requests, it is called again until the thread is out. Nothing is asked afterwards."""


@runtime_checkable
class RestingEngine(Engine, Protocol):
    """An engine that shares the trainer's device and can give most of its memory back."""

    def rest(self) -> None:
        """Training begins: nothing is asked until the next `generate`, which ends the rest. All ranks call."""


def row_seed(*key: object) -> int:
    """A 64-bit seed from anything printable (run seed, stage, step, sample id, row): stable over processes."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
