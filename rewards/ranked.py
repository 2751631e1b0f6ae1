"""Ranked lists of candidates, the likeliest first.

Target: the list of golds. Each is a string, a list of synonyms, or `{"item": string or synonyms, "gain": number}`
(gain 1 where nothing is said). At least one gain is positive, and no two golds share a name.

Meta: `k`, the last rank that counts (default 10; `ranked.recall@5` sets it in the name), and `max_len`, the longest
list that costs nothing (default: 10, k or the number of golds, whichever is most).

Answer: a JSON or Python list, numbered lines, bullets, entries between semicolons, plain lines, or a single entry.
Beside numbered or bulleted lines others are skipped. Commas do not separate. Entries and golds are equal after NFKC,
case folding, one kind of space and dash, without outer quotes, final period and Markdown emphasis.

Guards: an entry that holds several candidates ("A or B", a nested list) equals none of them, so it never matches.
Duplicates are removed and each multiplies the value by 0.9. A list that is still longer than max_len multiplies it by
max_len / length (flag `over_length`), so that dumping all labels does not pay. `ranked.composite` pays 0.2 for the form
of any list, right or wrong; use `ranked.rr` where a wrong list is to earn nothing.

Source: list answers after "On the Robustness of Answer Formats in Medical Reasoning Models" (2509.20866), whose exact
rewards are unverified; the measures are those of information retrieval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.parse import Parsed, normalise
from vlrft.parse.lists import read_list
from vlrft.rewards.base import TargetError, is_number, ordered
from vlrft.types import Score

DUPLICATE_FACTOR = 0.9
DEFAULT_K = 10


@dataclass(frozen=True, slots=True)
class _Ranking:
    """An answer against the golds."""

    hits: tuple[tuple[int, int], ...]
    """(rank from 1, index of the gold) of every gold found within the first k, best rank first."""
    gains: tuple[float, ...]
    """One per gold."""
    k: int
    factor: float
    """What duplicates and length leave of the value."""
    clean: bool
    """True when the answer is written as a list and nothing else."""
    flags: tuple[str, ...]

    def score(self, value: float) -> Score:
        return Score(value=min(1.0, value) * self.factor, flags=self.flags)


def rr(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, k: int | None = None) -> Score:
    """Reciprocal rank of the first entry that equals a gold.

    Formula: 1 / rank, 0 when there is none within k; * 0.9^duplicates * min(1, max_len / length)
    Range: [0, 1]

    k: the last rank that counts; before `meta["k"]`.

    Example: score("ranked.rr", "<answer>1. asthma\\n2. COPD</answer>", [["COPD", "chronic bronchitis"]]) -> 0.5
    """
    ranking = _rank("ranked.rr", parsed, target, meta, k)
    return ranking.score(_reciprocal(ranking))


def recall(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, k: int | None = None) -> Score:
    """Share of the golds that are among the first k entries.

    Formula: golds found / golds; * 0.9^duplicates * min(1, max_len / length). Golds of gain 0 do not count.
    Range: [0, 1]

    k: the last rank that counts; before `meta["k"]`.

    Example: score("ranked.recall@2", '<answer>["a", "b", "c"]</answer>', ["a", "c"]) -> 0.5
    """
    ranking = _rank("ranked.recall", parsed, target, meta, k)
    found = sum(ranking.gains[gold] > 0.0 for _, gold in ranking.hits)
    return ranking.score(found / sum(gain > 0.0 for gain in ranking.gains))


def ndcg(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, k: int | None = None) -> Score:
    """Normalised discounted cumulative gain at k, with linear gains.

    Formula: sum over hits of gain / log2(rank + 1), divided by the same sum for the golds in their best order;
    * 0.9^duplicates * min(1, max_len / length)
    Range: [0, 1]

    k: the last rank that counts; before `meta["k"]`.

    Example: score("ranked.ndcg@5", "<answer>x; y; a</answer>", [{"item": "a", "gain": 3}]) -> 0.5
    """
    ranking = _rank("ranked.ndcg", parsed, target, meta, k)
    # Relative to the largest: the sum of huge gains must stay finite.
    top = max(ranking.gains)
    gained = math.fsum(ranking.gains[gold] / top / math.log2(rank + 1) for rank, gold in ranking.hits)
    best = sorted(ranking.gains, reverse=True)[: ranking.k]
    return ranking.score(gained / math.fsum(gain / top / math.log2(i + 2) for i, gain in enumerate(best)))


def mean_precision(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, k: int | None = None) -> Score:
    """Average precision of the list; its mean over samples is MAP.

    Formula: sum over hits of (hits so far / rank) / min(golds, k); * 0.9^duplicates * min(1, max_len / length).
    Golds of gain 0 do not count.
    Range: [0, 1]

    k: the last rank that counts; before `meta["k"]`.

    Example: score("ranked.map", "<answer>- a\\n- x\\n- y\\n- b</answer>", ["a", "b"]) -> 0.75
    """
    ranking = _rank("ranked.map", parsed, target, meta, k)
    ranks = [rank for rank, gold in ranking.hits if ranking.gains[gold] > 0.0]
    wanted = min(ranking.k, sum(gain > 0.0 for gain in ranking.gains))
    return ranking.score(math.fsum((i + 1) / rank for i, rank in enumerate(ranks)) / wanted)


def composite(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, k: int | None = None) -> Score:
    """Reciprocal rank and the form of the list.

    Formula: (0.8 reciprocal rank + 0.2 list form) * 0.9^duplicates * min(1, max_len / length); list form = 1 when
    the answer is a JSON list, numbered lines, bullets or entries between semicolons, and nothing else
    Range: [0, 1]

    k: the last rank that counts; before `meta["k"]`.

    Example: score("ranked.composite", "<answer>1. asthma\\n2. COPD</answer>", ["COPD"]) -> 0.6
    """
    ranking = _rank("ranked.composite", parsed, target, meta, k)
    return ranking.score(0.8 * _reciprocal(ranking) + 0.2 * ranking.clean)


def _reciprocal(ranking: _Ranking) -> float:
    return next((1.0 / rank for rank, gold in ranking.hits if ranking.gains[gold] > 0.0), 0.0)


def _rank(name: str, parsed: Parsed, target: Any, meta: Mapping[str, Any], k: int | None) -> _Ranking:
    if k is not None and k < 1:
        raise ValueError(f"{name}: k must be at least 1, got {k!r}")
    golds, gains = _golds(name, target)
    k = k or _positive(name, meta, "k") or DEFAULT_K
    max_len = _positive(name, meta, "max_len") or max(DEFAULT_K, k, len(gains))
    found = read_list(parsed.answer) if parsed.answer is not None else None
    if found is None or not found.items:
        flags = ordered({*parsed.flags, *(["unparsable"] if found is not None else [])})
        return _Ranking(hits=(), gains=gains, k=k, factor=1.0, clean=False, flags=flags)
    names = [normalise(item) for item in found.items]
    # An entry that is no text has no name that it could repeat.
    distinct = list(dict.fromkeys(n or i for i, n in enumerate(names)))
    hits: dict[int, int] = {}
    for rank, entry in enumerate(distinct[:k], start=1):
        if isinstance(entry, str) and entry in golds:
            hits.setdefault(golds[entry], rank)
    factor = DUPLICATE_FACTOR ** (len(names) - len(distinct)) * min(1.0, max_len / len(distinct))
    flags = ordered({*parsed.flags, *(["over_length"] if len(distinct) > max_len else [])})
    ranked = tuple((rank, gold) for gold, rank in hits.items())
    return _Ranking(hits=ranked, gains=gains, k=k, factor=factor, clean=found.clean, flags=flags)


def _golds(name: str, target: Any) -> tuple[dict[str, int], tuple[float, ...]]:
    """(normalised name to index of its gold, gain of each gold)."""
    if not isinstance(target, list | tuple) or not target:
        raise TargetError(f"{name}: the target must be a list of golds with at least one, got {target!r}")
    names: dict[str, int] = {}
    gains: list[float] = []
    for index, gold in enumerate(target):
        item, gain = (gold.get("item"), gold.get("gain", 1.0)) if isinstance(gold, Mapping) else (gold, 1.0)
        if not is_number(gain) or not math.isfinite(gain) or gain < 0.0:
            raise TargetError(f"{name}: gold {gold!r} has gain {gain!r}; a gain is a finite number, not negative")
        for synonym in _synonyms(name, gold, item):
            if names.setdefault(synonym, index) != index:
                raise TargetError(f"{name}: two golds of {target!r} are called {synonym!r}; make them one")
        gains.append(float(gain))
    if max(gains) <= 0.0:
        raise TargetError(f"{name}: no gold of {target!r} has a positive gain, so no list could score")
    return names, tuple(gains)


def _synonyms(name: str, gold: Any, item: Any) -> Sequence[str]:
    texts = [item] if isinstance(item, str) else item
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(t, str) for t in texts):
        raise TargetError(f'{name}: gold {gold!r} must be a string, a list of synonyms, or {{"item", "gain"}}')
    names = [normalise(text) for text in texts]
    if not all(names):
        raise TargetError(f"{name}: gold {gold!r} holds a blank name; drop it")
    return names


def _positive(name: str, meta: Mapping[str, Any], key: str) -> int | None:
    value = meta.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TargetError(f"{name}: meta[{key!r}] must be a whole number of at least 1, got {value!r}")
    return value
