"""Similarity of meaning by an embedder of yours, spread apart where it collapses.

Target: a string, or a list of strings of which the most similar counts. None may be blank.

Meta: `sample_id` (a run gives it): completions with the same one, in a row, are a group and are mapped alike.

Answer: the whole answer as text; none, or one of more than 200,000 characters, is worth 0 and does not enter the
memory.

Guards: model-made similarities lie close together (a wrong answer at 0.86, a right one at 0.91), so advantages within
a group nearly vanish or consist of noise: hence the rescaling. Every value is multiplied by
min(1, (3 len_ref + 5) / len_pred), lengths in words, against stuffing. An embedder that gives something else than one
finite vector per text is an error, never a score.

Source: ARMed (2508.12957): memory of past scores, quantile as threshold, S-shaped map. The paper's text was not at
hand: slope, quantile, size of the memory and warm-up are our own concrete form, unverified against it.
"""

from __future__ import annotations

import bisect
import math
import statistics
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed, words
from vlrft.registry import load_reference
from vlrft.rewards.base import ordered
from vlrft.rewards.text import length_guard, readable, references, tokens, unread_flags
from vlrft.types import Score

Embedder = Callable[[Sequence[str]], Any]
"""Texts to one vector each: a list of lists, or an array of shape [texts, dimensions]."""

COLLAPSED = 0.02
"""A group whose raw similarities have a smaller standard deviation than this counts as collapsed."""


class Rescaled:
    """Cosine similarity of answer and reference, mapped by a sigmoid that follows the scores seen so far.

    Formula: 1 / (1 + exp(-k (s - tau))) * min(1, (3 len_ref + 5) / len_pred), s = max(0, cosine), tau = the
    `quantile` of the last `memory` raw scores, k = steepness / (their interquartile range + epsilon); s itself until
    `warm_up` scores are known
    Range: [0, 1]

    Parts: `semantic.raw` (s), `semantic.threshold` (tau, None in the warm-up), and of the last finished group
    `semantic.raw_spread`, `semantic.spread` (standard deviation of the raw and of the mapped scores) and
    `semantic.collapsed` (1 when the raw spread is below 0.02), None before there is one with two answers.

    The map is refitted where `sample_id` changes, so equal answers of one group get equal values; without a
    `sample_id` at every call. The state is this process's own: in a run over several, each rank has its own memory.

    embedder: a callable from texts to vectors, or "module:attr" of one. Required: this package loads no model. It
    should keep its own cache of the references. `vlrft.rewards.semantic:trigrams` stands in for trials.

    quantile: which quantile of the memory is worth 0.5.

    memory: how many scores are remembered, first in first out.

    warm_up: how many scores must be known before the map is used.

    steepness: how many units of the logistic function the interquartile range is stretched to.

    epsilon: added to the interquartile range, so that a memory of nearly equal scores does not amplify noise.

    Example: score("semantic.rescaled", "<answer>a</answer>", "a", embedder="vlrft.rewards.semantic:trigrams") -> 1.0
    """

    def __init__(
        self,
        embedder: Embedder | str | None = None,
        *,
        quantile: float = 0.6,
        memory: int = 2048,
        warm_up: int = 256,
        steepness: float = 4.0,
        epsilon: float = 0.01,
    ) -> None:
        """Raises ValueError for options that cannot work, ImportError for an embedder that cannot be loaded."""
        if embedder is None:
            raise ValueError(
                "semantic.rescaled needs the option embedder (in a recipe under kwargs, on the command line in "
                "--options), 'package.module:function': a callable from a list of texts to one vector each"
            )
        if not 0.0 < quantile < 1.0 or not 1 <= warm_up <= memory:
            raise ValueError(
                f"semantic.rescaled: quantile must lie in (0, 1) and warm_up in [1, memory], got "
                f"quantile={quantile!r}, warm_up={warm_up!r}, memory={memory!r}"
            )
        if not (0.0 < steepness < math.inf and 0.0 < epsilon < math.inf):
            raise ValueError(
                f"semantic.rescaled: steepness and epsilon must be positive, got {steepness!r} and {epsilon!r}"
            )
        self._embedder = find_embedder("semantic.rescaled", embedder)
        self._quantile, self._warm_up = quantile, warm_up
        self._steepness, self._epsilon = steepness, epsilon
        self._memory: deque[float] = deque(maxlen=memory)
        self._sorted: list[float] = []
        self._threshold: float | None = None
        self._slope = 0.0
        self._sample: str | None = None
        self._group: list[tuple[float, float]] = []
        self._finished: tuple[float, float] | None = None

    def __call__(self, parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
        known = references("semantic.rescaled", target)
        answer = readable(parsed)
        sample = meta.get("sample_id")
        if sample is None or str(sample) != self._sample:
            self._next_group(None if sample is None else str(sample))
        if answer is None:
            return Score(value=0.0, parts=self._parts(None), flags=unread_flags(parsed))
        raw, guard = self._similarity(answer, known)
        value = self._map(raw) * guard
        self._group.append((raw, value))
        self._remember(raw)
        flags = ordered({*parsed.flags, *(["over_length"] if guard < 1.0 else [])})
        return Score(value=value, parts=self._parts(raw), flags=flags)

    def _similarity(self, answer: str, known: Sequence[str]) -> tuple[float, float]:
        """(raw similarity to the nearest reference, length guard)."""
        cosines = similarities("semantic.rescaled", self._embedder, answer, known)
        guards = [length_guard(len(tokens(answer, r)), len(tokens(r, r))) for r in known]
        return max(zip(cosines, guards, strict=True), key=lambda pair: pair[0] * pair[1])

    def _map(self, raw: float) -> float:
        if self._threshold is None:
            return raw
        # Beyond 500 the logistic function is 0 or 1 in a float, and exp would overflow.
        exponent = max(-500.0, min(500.0, self._slope * (raw - self._threshold)))
        return 1.0 / (1.0 + math.exp(-exponent))

    def _next_group(self, sample: str | None) -> None:
        """Close the group so far, and refit the map to the memory."""
        if self._sample is not None and len(self._group) > 1:
            raw, mapped = zip(*self._group, strict=True)
            self._finished = statistics.pstdev(raw), statistics.pstdev(mapped)
        self._sample, self._group = sample, []
        if len(self._sorted) >= self._warm_up:
            self._threshold = _quantile(self._sorted, self._quantile)
            spread = _quantile(self._sorted, 0.75) - _quantile(self._sorted, 0.25)
            self._slope = self._steepness / (spread + self._epsilon)

    def _remember(self, raw: float) -> None:
        if len(self._memory) == self._memory.maxlen:
            self._sorted.pop(bisect.bisect_left(self._sorted, self._memory[0]))
        self._memory.append(raw)
        bisect.insort(self._sorted, raw)

    def _parts(self, raw: float | None) -> dict[str, float | None]:
        raw_spread, spread = self._finished or (None, None)
        return {
            "semantic.raw": raw,
            "semantic.threshold": self._threshold,
            "semantic.raw_spread": raw_spread,
            "semantic.spread": spread,
            "semantic.collapsed": None if raw_spread is None else float(raw_spread < COLLAPSED),
        }

    def state_dict(self) -> dict[str, Any]:
        """JSON-like: the memory, the map in use and the group in progress."""
        return {
            "memory": list(self._memory),
            "threshold": self._threshold,
            "slope": self._slope,
            "sample": self._sample,
            "group": [list(pair) for pair in self._group],
            "finished": None if self._finished is None else list(self._finished),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of `state_dict`; of a longer memory the newest scores. Raises ValueError for another."""
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise ValueError(f"semantic.rescaled: the checkpoint's state lacks {', '.join(missing)}")
        memory = [float(raw) for raw in state["memory"]]
        if not all(map(math.isfinite, memory)):
            raise ValueError("semantic.rescaled: the checkpoint's memory holds a score that is not finite")
        self._memory = deque(memory, maxlen=self._memory.maxlen)
        self._sorted = sorted(self._memory)
        self._threshold, self._slope = state["threshold"], float(state["slope"])
        self._sample = state["sample"]
        self._group = [(float(raw), float(mapped)) for raw, mapped in state["group"]]
        finished = state["finished"]
        self._finished = None if finished is None else (float(finished[0]), float(finished[1]))


def trigrams(texts: Sequence[str]) -> list[list[float]]:
    """Counts of character trigrams in 512 hashed buckets: a stand-in for trials, blind to meaning."""
    vectors = []
    for text in texts:
        counts = [0.0] * 512
        padded = f"  {' '.join(words(text))} "
        for i in range(len(padded) - 2):
            counts[zlib.crc32(padded[i : i + 3].encode("utf-8", "replace")) % 512] += 1.0
        vectors.append(counts)
    return vectors


def _quantile(ascending: Sequence[float], q: float) -> float:
    """Quantile by linear interpolation, as numpy's default."""
    place = q * (len(ascending) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (place - low) * (ascending[high] - ascending[low])


def find_embedder(name: str, embedder: Embedder | str) -> Embedder:
    """The callable itself, or the one behind "module:attr"."""
    found = load_reference(embedder) if isinstance(embedder, str) else embedder
    if not callable(found):
        raise ValueError(f"{name}: embedder {embedder!r} is a {type(found).__name__}, not a callable")
    made: Embedder = found
    return made


def similarities(name: str, embedder: Embedder, answer: str, known: Sequence[str]) -> list[float]:
    """max(0, cosine) of the answer and each reference; a vector of zeros is similar to nothing.

    Raises ValueError when the embedder does not give one finite vector per text.
    """
    import numpy as np

    vectors = np.asarray(embedder([answer, *known]), dtype=float)
    if vectors.ndim != 2 or len(vectors) != 1 + len(known) or not np.isfinite(vectors).all():
        raise ValueError(
            f"{name}: the embedder must give one finite vector per text, as [texts, dimensions]; "
            f"got shape {vectors.shape} for {1 + len(known)} texts"
        )
    # Scaled by the largest component first: a squared component must neither overflow nor vanish.
    scaled = vectors / np.maximum(np.abs(vectors).max(axis=1, initial=0.0, keepdims=True), 1e-300)
    unit = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-300)
    cosines = unit[1:] @ unit[0]
    return [float(min(1.0, max(0.0, cosine))) for cosine in cosines]
