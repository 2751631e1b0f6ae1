"""Does the answer use the video: its order in time, and what its frames show.

Target: `video.temporal_contrast` called alone: the accuracies, in [0, 1], of all rollouts on the ordered frames. In a
run both rewards take the accuracies from what the other rewards said, and the target is not looked at.

Meta: `control`: accuracies of rollouts on the same frames shuffled, which every sample must bring: nothing in a run
rolls out on shuffled frames by itself so far. `margin` and `bonus` override the options; `index`: which of the target's
rollouts this completion is, where they are not as many as the completions. `video.semantic`: `media`, handed to the
embedder as it is; `accuracy` of this completion where no run knows it.

Answer: not read by `video.temporal_contrast`. `video.semantic` reads the reasoning after its first sentence, which only
opens it; where nothing is left the value is 0, and in the output mode `direct`, which has no reasoning, it is None.

Guards: both only add to right answers, so that neither order nor eloquence is paid by itself. A group that is as good
on shuffled frames gets nothing. Similarities that are not finite, or not one for each text, are errors of the embedder
and stop the run rather than become rewards.

Source: Video-R1's temporal bonus (which compares with 0.8 times the shuffled mean, by its author's word a slip) and
VideoRFT's semantic consistency (which doubles a SigLIP cosine).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from vlrft.parse import Parsed, words
from vlrft.registry import resolve
from vlrft.rewards.base import Judged, RewardError, TargetError, is_number, ordered
from vlrft.types import Score

Embedder = Callable[[Sequence[str], Any], Any]
"""(texts, media) -> one cosine per text, one list of cosines (one per frame) per text, or the pair (vectors of the
texts, vectors of the frames). Cosines of several frames are averaged."""

EMBEDDERS = {"words": "vlrft.rewards.video:word_cosines"}
"""Embedders by name; all others are references to your own."""

_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[\u3002\uff01\uff1f]")
_ROUNDING = 1e-9
"""Means that differ by less are equal."""


def temporal_contrast(
    group: Judged, *, accuracy: str = "accuracy", margin: float = 0.0, bonus: float = 0.3, correct_above: float = 0.0
) -> list[Score]:
    """A bonus for right answers where the order of the frames helps.

    Formula: bonus * 1[accuracy > correct_above] if mean(accuracies) > mean(control) + margin, else 0
    Range: [0, 1]

    accuracy: the name of the reward, in a run, that says how right each completion is; None there = None here. Called
    alone, the accuracies are the target; as long as the group, it is taken in order, else `meta["index"]` says which
    one this completion is. Without it the value is what a right answer of the group gets (0 where none is right), and
    the parts `rollout_0`, `rollout_1`, ... are what each of them gets.

    margin: by how much the ordered mean must exceed the control's.

    bonus: the value of a right answer then, in [0, 1].

    correct_above: an answer is right when its accuracy exceeds this (Video-R1: 0.1).

    Example: score("video.temporal_contrast", "", [1, 0], {"control": [0, 0], "index": 0}) -> 0.3
    """
    meta = group.meta[0]
    if any(group.parts):
        known = _accuracies_of_run("video.temporal_contrast", group, accuracy)
        ours = [value for value in known if value is not None]
        if not ours:
            return [Score(value=None) for _ in known]
    else:
        ours = _accuracies("the target of video.temporal_contrast", group.target)
        known = _rollouts_of_call(ours, group)
    control = _accuracies("meta['control']", meta.get("control"))
    margin = _setting("margin", meta, margin, least=-1.0)
    bonus = _setting("bonus", meta, bonus, least=0.0)
    helps = math.fsum(ours) / len(ours) - math.fsum(control) / len(control) > margin + _ROUNDING
    worth = {value: bonus if helps and value > correct_above else 0.0 for value in ours}
    if not known:
        parts = {f"rollout_{i}": worth[value] for i, value in enumerate(ours)}
        return [Score(value=max(worth.values()), parts=parts, flags=parsed.flags) for parsed in group.parsed]
    pairs = zip(known, group.parsed, strict=True)
    return [Score(value=None if value is None else worth[value], flags=parsed.flags) for value, parsed in pairs]


def _rollouts_of_call(ours: Sequence[float], group: Judged) -> list[float | None]:
    """The accuracy of each completion; empty where nobody says which rollouts they are."""
    indices = [meta.get("index") for meta in group.meta]
    if all(index is None for index in indices):
        return list(ours) if len(ours) == len(group.parsed) else []
    for index in indices:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(ours):
            raise TargetError(
                f"meta['index'] says which of the {len(ours)} rollouts of the target this is, from 0, got {index!r}"
            )
    return [ours[index] for index in indices if index is not None]


def _accuracies_of_run(name: str, group: Judged, accuracy: str) -> list[float | None]:
    """What the run's reward `accuracy` said of each completion."""
    for parts in group.parts:
        if accuracy not in parts:
            raise TargetError(
                f"{name}: no reward named {accuracy!r} says how right an answer is; set the option accuracy to one of "
                f"{', '.join(parts)}"
            )
    return [parts[accuracy] for parts in group.parts]


def _accuracies(what: str, values: Any) -> list[float]:
    usable = isinstance(values, list | tuple) and values and all(_is_share(value) for value in values)
    if not usable:
        raise TargetError(
            f"{what} is a list of accuracies in [0, 1], at least one, got {values!r:.120}; give one for each rollout"
        )
    return [float(value) for value in values]


def _setting(name: str, meta: Mapping[str, Any], option: float, *, least: float) -> float:
    """`meta[name]`, or the option where meta says nothing."""
    value = meta.get(name)
    stated = option if value is None else value
    if not is_number(stated) or not least <= stated <= 1.0:
        message = f"{name} of video.temporal_contrast must lie in [{least:g}, 1], got {stated!r}"
        raise ValueError(message) if value is None else TargetError(f"meta[{name!r}]: {message}")
    return float(stated)


class Semantic:
    """How well the reasoning describes what the video shows, for right answers.

    Formula: clip(weight * mean cosine of the reasoning after its first sentence and the frames, 0, 1) * 1[accuracy > 0]
    Range: [0, 1]

    It sees all completions of a sample at once, and the embedder is called once for all that can earn something.

    embedder: a callable `(texts, media)`, or "module:attr" of one, that returns one cosine per text, or one list of
    cosines (one per frame) per text, or a pair: vectors of the texts, vectors of the frames. Required: this package
    loads no model. Frames come again with every group of their sample, so the embedder should keep its own cache of
    them. `words` stands in for trials: it takes captions of the frames for the frames.

    weight: what the cosine is multiplied by; image-text cosines of the SigLIP kind seldom pass 0.5.

    accuracy: the name of the reward, in a run, that says how right each completion is; None there = None here. Called
    alone, `meta["accuracy"]` says it.

    Example: score("video.semantic", "<think>A. b</think>", None, {"media":"b","accuracy":1}, embedder="words") -> 1.0
    """

    def __init__(
        self, embedder: Embedder | str | None = None, *, weight: float = 2.0, accuracy: str = "accuracy"
    ) -> None:
        """Raises ValueError for options that cannot work, ImportError for an embedder that cannot be loaded."""
        if embedder is None:
            raise ValueError(
                "video.semantic needs the option embedder (in a recipe under kwargs, on the command line in "
                "--options), 'package.module:function': a callable (texts, media) that returns cosines or a pair of "
                "vectors; for trials there is 'words'"
            )
        found = resolve(embedder, EMBEDDERS, kind="embedder") if isinstance(embedder, str) else embedder
        if not callable(found):
            raise ValueError(f"video.semantic: embedder {embedder!r} is a {type(found).__name__}, not a callable")
        if not 0.0 < weight < math.inf:
            raise ValueError(f"video.semantic: weight must be finite and above 0, got {weight!r}")
        self._embedder: Embedder = found
        self._weight, self._accuracy = weight, accuracy

    def __call__(self, group: Judged) -> list[Score]:
        media = group.meta[0].get("media")
        if media is None:
            raise TargetError(
                "video.semantic needs meta['media'], what the embedder takes as the frames, got None; add it"
            )
        known = self._accuracies(group)
        texts = [_described(parsed) for parsed in group.parsed]
        wanted = [i for i, text in enumerate(texts) if text and (known[i] or 0.0) > 0.0]
        cosines = dict(zip(wanted, self._cosines([texts[i] for i in wanted], media), strict=True)) if wanted else {}
        scores = []
        for i, parsed in enumerate(group.parsed):
            applies = known[i] is not None and parsed.mode != "direct"
            value = min(1.0, max(0.0, self._weight * cosines.get(i, 0.0))) if applies else None
            scores.append(Score(value=value, flags=ordered(set(parsed.flags))))
        return scores

    def _accuracies(self, group: Judged) -> list[float | None]:
        if any(group.parts):
            return _accuracies_of_run("video.semantic", group, self._accuracy)
        known: list[float | None] = []
        for meta in group.meta:
            value = meta.get("accuracy")
            if not _is_share(value):
                raise TargetError(
                    "video.semantic pays right answers only: outside a run meta['accuracy'] must say how right this "
                    f"one is, in [0, 1], got {value!r}; add it"
                )
            known.append(float(value))
        return known

    def _cosines(self, texts: Sequence[str], media: Any) -> list[float]:
        """One cosine per text, the mean over the frames. Raises RewardError for what cannot be one."""
        import numpy as np

        found = self._embedder(texts, media)
        if isinstance(found, tuple) and len(found) == 2 and np.ndim(found[0]) == np.ndim(found[1]) == 2:
            ours, frames = (_unit(np.asarray(vectors, dtype=float)) for vectors in found)
            shapes_agree = ours.shape[1] == frames.shape[1]
            cosines = ours @ frames.T if shapes_agree else np.empty(0)
        else:
            cosines = np.asarray(found, dtype=float)
        if (
            cosines.ndim not in (1, 2)
            or len(cosines) != len(texts)
            or not cosines.size
            or not np.isfinite(cosines).all()
        ):
            raise RewardError(
                f"video.semantic: the embedder must return a finite cosine (or one for each frame) for each of "
                f"{len(texts)} texts, or the vectors of texts and frames; got {type(found).__name__} of {found!r:.200}"
            )
        return [float(value) for value in (cosines if cosines.ndim == 1 else cosines.mean(axis=1))]

    def state_dict(self) -> dict[str, Any]:
        """Empty: nothing is learned."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for a state that is not empty, since it is another reward's."""
        if state:
            raise ValueError(f"video.semantic keeps no state, but the checkpoint has {sorted(state)} for it")


def word_cosines(texts: Sequence[str], media: Sequence[str]) -> list[list[float]]:
    """An embedder for trials: `media` are captions of the frames, compared with each text as bags of words."""
    bags = [Counter(words(caption)) for caption in media]
    return [[_bag_cosine(Counter(words(text)), bag) for bag in bags] for text in texts]


def _bag_cosine(a: Counter[str], b: Counter[str]) -> float:
    norms = math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
    return sum(n * b[word] for word, n in a.items()) / norms if norms else 0.0


def _described(parsed: Parsed) -> str:
    """The reasoning after its first sentence."""
    opening = _SENTENCE_END.search(parsed.think or "")
    return (parsed.think or "")[opening.end() :].strip() if opening else ""


def _unit(vectors: Any) -> Any:
    """Rows scaled to length 1; a row of zeros stays one."""
    import numpy as np

    scaled = vectors / np.maximum(np.abs(vectors).max(axis=1, initial=0.0, keepdims=True), 1e-300)
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-300)


def _is_share(value: Any) -> TypeGuard[float]:
    return is_number(value) and 0.0 <= value <= 1.0
