"""Class names: one label, a set of labels, a path through a taxonomy.

Target: `cls.label` - the label, or a list of synonyms; `cls.multilabel` - a list of labels, [] where none applies;
`cls.hierarchy` - the path from the root to the leaf, ["animal", "dog", "poodle"].

Meta: `labels`, the closed set. For `cls.label` the right label must be among them. For `cls.hierarchy` it is a list of
paths, and then a lone name in the answer stands for the path that leads to it.

Answer: compared after NFKC, case folding, unifying spaces, dashes and underscores, and dropping outer quotes, bold
marks, a final period and a leading article. Digits and all else are significant. A set of labels: JSON, or items
between commas, semicolons, lines or "and". A path: JSON, or names between ">", "/", "|", commas or lines. Unparsable:
punctuation alone. A text that names no label of the closed set, or one outside it, has the flag `unknown_label`.

Guards: equality, not containment, so that no part of a label, no longer word and no list of labels pays; an empty
answer is never a substring of anything; no edit distance and no numeric comparison ("Cessna 172" is not "Airbus 172").
Several labels of the closed set in one answer: 0 and `several_answers`. Listing every label of N where g are right is
worth 2g / (N + g) by the F1 of `cls.multilabel`; repeating one changes nothing.

Source: the classification rewards of Visual-RFT, CLS-RL and VideoChat-R1, without their faults (an empty answer that
scores 1, "rose" in "primrose"). The partial credit by taxonomy is ours: no peer has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from vlrft.parse import Parsed
from vlrft.parse.labels import LabelTable, label_key, label_table, label_words, mentions, read_labels, read_path
from vlrft.rewards.base import TargetError, ordered
from vlrft.types import Score

_DENIALS = frozenset({"not", "no", "never", "neither", "nor", "without", "isn", "cannot", "except"})


def label(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, allow_sentence: bool = False) -> Score:
    """1 when the answer is the label or one of its synonyms.

    Formula: 1[answer == a synonym]; with allow_sentence also 1[the answer names exactly one label, the right one]
    Range: [0, 1]

    allow_sentence: accept a sentence that names exactly one label of the closed set as whole words and denies nothing
    ("It looks like a beagle."); without `labels` the set is the label and its synonyms. Of overlapping labels the
    longest counts ("hot dog" is no "dog").

    Example: score("cls.label", "<think>ears</think><answer>A Golden-Retriever.</answer>", "golden retriever") -> 1.0
    """
    gold = _synonyms(target)
    names = _names(meta.get("labels"))
    if names and not gold & _keys_of(names):
        raise TargetError(f"cls.label target {target!r} is not among the labels; correct it or meta 'labels'")
    names = names or (_names([target] if isinstance(target, str) else list(target)) if allow_sentence else names)
    flags = set(parsed.flags)
    if parsed.answer is None:
        return Score(value=0.0, flags=ordered(flags))
    if label_key(parsed.answer) in gold:
        return Score(value=1.0, flags=ordered(flags))
    if not names:
        return Score(value=0.0, flags=ordered(flags))
    found = mentions(parsed.answer, _table(names), label_table(gold))
    others = found - gold
    if not found or len(others) + bool(found & gold) > 1:
        return Score(value=0.0, flags=ordered(flags | {"several_answers" if found else "unknown_label"}))
    right = allow_sentence and not others and _DENIALS.isdisjoint(label_words(parsed.answer))
    return Score(value=float(right), flags=ordered(flags))


def multilabel(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """F1 between the set of labels listed and the set of right ones.

    Formula: 2 * |P & G| / (|P| + |G|); 1 when both are empty and the answer says so ("[]", "none")
    Range: [0, 1]

    A label outside the closed set counts as a wrong one.

    Example: score("cls.multilabel", "<think>two</think><answer>dog, cat</answer>", ["cat", "bird"]) -> 0.5
    """
    if not isinstance(target, list | tuple) or not all(_is_name(name) for name in target):
        raise TargetError(f"a cls.multilabel target is a list of labels, got {target!r}; correct the row")
    gold = {label_key(name) for name in target}
    known = _keys_of(_names(meta.get("labels")))
    if known and (strange := sorted(gold - known)):
        raise TargetError(f"cls.multilabel target {strange[0]!r} is not among the labels; correct it or meta 'labels'")
    flags = set(parsed.flags)
    if parsed.answer is None:
        return Score(value=0.0, flags=ordered(flags))
    found = read_labels(parsed.answer, known | gold)
    if found is None:
        return Score(value=0.0, flags=ordered(flags | {"unparsable"}))
    said = set(found)
    if known and said - known:
        flags.add("unknown_label")
    value = 2 * len(said & gold) / (len(said) + len(gold)) if said or gold else 1.0
    return Score(value=value, flags=ordered(flags))


def hierarchy(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """How far the answer's path agrees with the right one, from the root on.

    Formula: (steps of the two paths that agree before the first that does not) / max(|answer|, |target|)
    Range: [0, 1]

    A lone name stands for the path that leads to it: through the target's own path where it is on it, else through
    the taxonomy in `labels`, where exactly one path has it. A name that is known nowhere is worth 0. The root alone is
    worth 1 / |target|, whatever the image: leave the root out of the paths where that matters.

    Example: score("cls.hierarchy", "<think>four legs</think><answer>animal > cat</answer>", ["animal", "dog"]) -> 0.5
    """
    if not isinstance(target, list | tuple) or not target or not all(_is_name(step) for step in target):
        raise TargetError(f"a cls.hierarchy target is a path of names, root first, got {target!r}; correct the row")
    gold = tuple(label_key(step) for step in target)
    taxonomy = _taxonomy(meta.get("labels"))
    if taxonomy and not any(path[: len(gold)] == gold for path in taxonomy):
        raise TargetError(f"cls.hierarchy target {list(target)!r} is no path of meta 'labels'; correct one of them")
    flags = set(parsed.flags)
    if parsed.answer is None:
        return Score(value=0.0, flags=ordered(flags))
    read = read_path(parsed.answer)
    if read is None:
        return Score(value=0.0, flags=ordered(flags | {"unparsable"}))
    path, more = read
    if more:
        return Score(value=0.0, flags=ordered(flags | {"several_answers"}))
    if len(path) == 1:
        path = gold[: gold.index(path[0]) + 1] if path[0] in gold else _path_to(path[0], taxonomy)
    if not path:
        return Score(value=0.0, flags=ordered(flags | {"unknown_label"}))
    agreed = next((i for i, (a, b) in enumerate(zip(path, gold, strict=False)) if a != b), min(len(path), len(gold)))
    return Score(value=agreed / max(len(path), len(gold)), flags=ordered(flags))


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(label_key(name))


def _synonyms(target: Any) -> frozenset[str]:
    names = [target] if isinstance(target, str) else target
    if not isinstance(names, list | tuple) or not names or not all(_is_name(name) for name in names):
        raise TargetError(f"a cls.label target is a label or a list of its synonyms, got {target!r}; correct the row")
    return _keys_of(tuple(names))


def _names(labels: Any) -> tuple[str, ...]:
    """Meta `labels` as a tuple of names, () where it says nothing. Raises TargetError."""
    if labels is None:
        return ()
    if not isinstance(labels, list | tuple) or not labels or not all(isinstance(name, str) for name in labels):
        raise TargetError(
            f"meta 'labels' is a non-empty list of label names, got {labels!r}; correct it or leave it out"
        )
    return tuple(labels)


@lru_cache(maxsize=256)
def _keys_of(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(label_key(name) for name in names) - {""}


@lru_cache(maxsize=64)
def _table(names: tuple[str, ...]) -> LabelTable:
    return label_table(_keys_of(names))


def _taxonomy(labels: Any) -> tuple[tuple[str, ...], ...]:
    """Meta `labels` as paths of keys, () where it says nothing. Raises TargetError."""
    if labels is None:
        return ()
    listed = isinstance(labels, list | tuple) and all(
        isinstance(path, list | tuple) and all(isinstance(step, str) for step in path) for path in labels
    )
    paths = _as_keys(tuple(tuple(path) for path in labels)) if listed else ()
    if not paths or not all(path and all(path) for path in paths):
        raise TargetError(f"meta 'labels' of cls.hierarchy is a list of paths, root first, got {labels!r}")
    return paths


@lru_cache(maxsize=64)
def _as_keys(paths: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(label_key(step) for step in path) for path in paths)


def _path_to(name: str, taxonomy: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The one path of the taxonomy that leads to `name`, () where there is none or several."""
    found = {path[: path.index(name) + 1] for path in taxonomy if name in path}
    return found.pop() if len(found) == 1 else ()
