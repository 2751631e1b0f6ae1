"""Structured answers: lists of calls, exact structures, JSON trees.

Target: `struct.calls`: a list of `[func, object, value]`, `[]` when nothing is to be done. `struct.exact`: a string,
or a list of such calls, of strings or of any JSON. `struct.json`: any JSON
but null.

Meta: `ordered` (default: false for `struct.calls` and `struct.json`, true for `struct.exact`): whether the order of
calls and list entries matters. The option of that name goes before it.

Answer: calls as `func(object, value)` with either quote or none, anywhere in the answer, or as JSON lists or objects
(func, object, value); `[]` or "none" is the empty list. JSON bare, fenced, or amid prose, in JSON or Python quoting.
Numbers compare by value (1, 1.0 and "1" are equal), texts without case and outer space, keys without case.

Guards: every predicted call, entry or leaf counts in the denominator, duplicates and repeated keys too, so dumping
does not pay. Of several JSON values amid prose the first counts, divided by their number (flag `several_answers`).
JSON nested deeper than 32 is unparsable. An answer of more than three times the target's size plus 1000, and of so
many parts that two million pairs would have to be compared, is worth 0 unread (flag `over_length`).

Source: Reason-RFT's transformation reward (tiers 1, 0.5, 0.5, 0.25) with an optimal assignment for its greedy one;
key/value F1 as in document understanding (Donut), with entries of lists kept together.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.parse.calls import MAX_DEPTH, Triple, parse_triples, read_jsons, scalar_text
from vlrft.rewards.base import TargetError
from vlrft.rewards.base import ordered as listed
from vlrft.types import Score

_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{0,30})?(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)
_QUOTES = re.compile("[\"'`\u2018\u2019\u201c\u201d]")
_LOOSE_SPACE = re.compile(r"\s*+([^\w\s])\s*+|(\s+)")

MAX_PAIRS = 2_000_000
"""Comparisons beyond which an answer that is far larger than the target is not read."""

Key = tuple[str, Any]
"""A scalar in the form in which equal scalars are equal."""


def calls(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, ordered: bool | None = None) -> Score:
    """How well the predicted calls fit the true ones, one to one.

    Formula: sum over the best assignment of {1: equal; 0.5: func and object, or func and value; 0.25: func only} /
    max(predicted, true). Ordered: the best alignment that keeps the order (a weighted longest common subsequence).
    No true calls: 1 iff the answer says so.
    Range: [0, 1]

    ordered: whether the order of calls matters; before `meta["ordered"]`.

    Example: score("struct.calls", "<answer>move(1, 'left'), paint(2, 'red')</answer>", [["move", "1", "left"]]) -> 0.5
    """
    truth = [_triple_key(triple) for triple in _true_triples("struct.calls", target)]
    keep_order = _order("struct.calls", meta, ordered, default=False)
    found = parse_triples(parsed.answer) if parsed.answer is not None else None
    if found is None:
        return Score(value=0.0, flags=_unparsable(parsed))
    given = [_triple_key(triple) for triple in found]
    if given == truth:
        return Score(value=1.0, flags=parsed.flags)
    if too_large(len(given), len(truth)):
        return Score(value=0.0, flags=listed({*parsed.flags, "over_length"}))
    align = align_in_order if keep_order else assign
    return Score(value=align(given, truth, _tier) / max(len(given), len(truth)), flags=parsed.flags)


def exact(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, ordered: bool | None = None) -> Score:
    """1 when the answer is the target, whatever its quotes and spaces; a text keeps its case.

    Formula: 1[answer = target]
    Range: {0, 1}

    ordered: whether the order of a list matters; before `meta["ordered"]`.

    Example: score("struct.exact", '<answer>paint( 2, "red" )</answer>', "paint(2, 'red')") -> 1.0
    """
    keep_order = _order("struct.exact", meta, ordered, default=True)
    if not isinstance(target, str | list | tuple) or (isinstance(target, str) and not _bare(target)):
        raise TargetError(f"struct.exact: the target must be a text with content or a list, got {target!r}")
    if not isinstance(target, str):
        check_json("struct.exact", target)
    if parsed.answer is None:
        return Score(value=0.0, flags=parsed.flags)
    if isinstance(target, str):
        return Score(value=float(_bare(parsed.answer) == _bare(target)), flags=parsed.flags)
    given, truth = _lists(parsed.answer, target)
    if given is None:
        return Score(value=0.0, flags=_unparsable(parsed))
    equal = given == truth if keep_order else Counter(given) == Counter(truth)
    return Score(value=float(equal), flags=parsed.flags)


def _lists(answer: str, target: Sequence[Any]) -> tuple[list[Any] | None, list[Any]]:
    """(entries of the answer or None, entries of the target), read as calls where the target's are calls."""
    triples = [_as_triple(item) if not isinstance(item, str) else _only_call(item) for item in target]
    if all(triples):
        found = parse_triples(answer)
        return None if found is None else [_triple_key(t) for t in found], [_triple_key(t) for t in triples if t]
    values = read_jsons(answer)
    only = values[0] if len(values) == 1 and isinstance(values[0], list) else None
    return None if only is None else [_frozen(v) for v in only], [_frozen(v) for v in target]


def _only_call(text: str) -> Triple | None:
    found = parse_triples(text)
    return found[0] if found and len(found) == 1 else None


def json_tree(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, ordered: bool | None = None) -> Score:
    """F1 of the leaves of two JSON trees: a leaf counts when its value and all keys above it agree.

    Formula: 2 matched / (leaves_pred + leaves_ref); an empty object or list is one leaf. Entries of lists are paired
    so that most leaves match: by the best assignment, or where order matters by the best alignment that keeps it.
    Range: [0, 1]

    ordered: whether the order of list entries matters; before `meta["ordered"]`.

    Example: score("struct.json", '<answer>{"a": 1, "b": [2, 3]}</answer>', {"a": 1, "b": [3]}) -> 0.8
    """
    keep_order = _order("struct.json", meta, ordered, default=False)
    if target is None:
        raise TargetError("struct.json: the target is missing (None); give the expected JSON")
    check_json("struct.json", target)
    values = read_jsons(parsed.answer) if parsed.answer is not None else []
    if not values:
        return Score(value=0.0, flags=_unparsable(parsed))
    flags = {*parsed.flags, *(["several_answers"] if len(values) > 1 else [])}
    value = tree_f1(values[0], target, ordered=keep_order)
    if value is None:
        return Score(value=0.0, flags=listed(flags | {"over_length"}))
    return Score(value=value / len(values), flags=listed(flags))


def tree_f1(given: Any, truth: Any, *, ordered: bool = False) -> float | None:
    """See `json_tree`; None when `given` is so much larger than `truth` that nothing would be left of the value."""
    sizes = leaves(given), leaves(truth)
    if too_large(*sizes):
        return None
    return min(1.0, 2.0 * _matched(given, truth, align_in_order if ordered else assign) / sum(sizes))


def too_large(given: int, truth: int) -> bool:
    """True when `given` parts are so many more than `truth` that comparing all pairs is not worth its time."""
    return given > 3 * truth + 1000 and given * truth > MAX_PAIRS


def leaves(tree: Any) -> int:
    """Scalars in a JSON tree, an empty object or list as one."""
    if isinstance(tree, dict | list | tuple) and tree:
        return sum(map(leaves, tree.values() if isinstance(tree, dict) else tree))
    return 1


Align = Callable[[Sequence[Any], Sequence[Any], Callable[[Any, Any], float]], float]


def _matched(given: Any, truth: Any, align: Align) -> float:
    """How many leaves agree under the best pairing of list entries."""
    if isinstance(given, dict) and isinstance(truth, dict):
        if not given and not truth:
            return 1.0
        known = {str(key).casefold(): value for key, value in given.items()}
        pairs = ((known[k], value) for key, value in truth.items() if (k := str(key).casefold()) in known)
        return math.fsum(_matched(ours, theirs, align) for ours, theirs in pairs)
    if isinstance(given, list | tuple) and isinstance(truth, list | tuple):
        if not given and not truth:
            return 1.0
        if align is align_in_order:
            return align(given, truth, lambda a, b: _matched(a, b, align))
        ours, theirs = (Counter(scalar_key(v) for v in side if not _is_tree(v)) for side in (given, truth))
        branches, true_branches = ([v for v in side if _is_tree(v)] for side in (given, truth))
        return (ours & theirs).total() + align(branches, true_branches, lambda a, b: _matched(a, b, align))
    if _is_tree(given) or _is_tree(truth):
        return 0.0
    return float(scalar_key(given) == scalar_key(truth))


def _is_tree(value: Any) -> bool:
    return isinstance(value, dict | list | tuple)


def assign(given: Sequence[Any], truth: Sequence[Any], worth: Callable[[Any, Any], float]) -> float:
    """Most that pairs of `given` and `truth`, each used once, are worth together."""
    if not given or not truth:
        return 0.0
    if len(given) == 1 or len(truth) == 1:
        return max(worth(a, b) for a in given for b in truth)
    # Loaded on use: naming and describing rewards must stay quick.
    from scipy.optimize import linear_sum_assignment

    weights = [[worth(a, b) for b in truth] for a in given]
    rows, columns = linear_sum_assignment(weights, maximize=True)
    return math.fsum(weights[row][column] for row, column in zip(rows, columns, strict=True))


def align_in_order(given: Sequence[Any], truth: Sequence[Any], worth: Callable[[Any, Any], float]) -> float:
    """As `assign`, but pairs may not cross: a longest common subsequence with weights."""
    best = [0.0] * (len(truth) + 1)
    for a in given:
        previous = best
        best = [0.0]
        for j, b in enumerate(truth):
            best.append(max(previous[j] + worth(a, b), previous[j + 1], best[j]))
    return best[-1]


def scalar_key(value: Any) -> Key:
    """A scalar such that equal ones are equal: numbers and numeric texts by value, texts without case, outer space."""
    if isinstance(value, str):
        bare = value.strip()
        if not _NUMBER.fullmatch(bare):
            return "text", " ".join(bare.casefold().split())
        value = float(bare)
    if isinstance(value, bool) or value is None:
        return "text", str(value).casefold()
    if not math.isfinite(value):
        return "text", repr(value)
    return "number", float(f"{value:.12g}") + 0.0


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return "object", frozenset((str(key).casefold(), _frozen(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "list", tuple(map(_frozen, value))
    return scalar_key(value)


def _tier(given: tuple[Key, ...], truth: tuple[Key, ...]) -> float:
    if given[0] != truth[0]:
        return 0.0
    return 0.25 + 0.25 * (given[1] == truth[1]) + 0.25 * (given[2] == truth[2]) + 0.25 * (given[1:] == truth[1:])


def _triple_key(triple: Triple) -> tuple[Key, ...]:
    return tuple(map(scalar_key, triple))


def _bare(text: str) -> str:
    """`text` without quotes and without space that separates no words."""
    return _LOOSE_SPACE.sub(lambda m: m[1] or " ", _QUOTES.sub("", text)).strip()


def _as_triple(item: Any) -> Triple | None:
    scalars = isinstance(item, list | tuple) and len(item) == 3 and not any(map(_is_tree, item))
    if not scalars or not isinstance(item[0], str) or not item[0].strip():
        return None
    return item[0].strip(), scalar_text(item[1]), scalar_text(item[2])


def _true_triples(name: str, target: Any) -> list[Triple]:
    if not isinstance(target, list | tuple):
        raise TargetError(f"{name}: the target must be a list of [func, object, value], got {target!r}")
    triples = [_as_triple(item) for item in target]
    for item, triple in zip(target, triples, strict=True):
        if triple is None:
            raise TargetError(f"{name}: call {item!r} of the target is not [func, object, value] with a named func")
    check_json(name, target)
    return [triple for triple in triples if triple is not None]


def check_json(name: str, target: Any, depth: int = 0) -> None:
    """Raise TargetError for what JSON cannot hold, for numbers that are not finite, and for too deep nesting."""
    if depth > MAX_DEPTH:
        raise TargetError(f"{name}: the target is nested deeper than {MAX_DEPTH}; judge a part of it")
    if isinstance(target, int) and target.bit_length() > 1000:
        raise TargetError(f"{name}: a number of {target.bit_length()} bits in the target; write it as a text")
    if isinstance(target, dict | list | tuple):
        if isinstance(target, dict) and len({str(key).casefold() for key in target}) < len(target):
            raise TargetError(f"{name}: keys {list(target)!r} of the target differ only by case; rename one")
        for value in target.values() if isinstance(target, dict) else target:
            check_json(name, value, depth + 1)
    elif not isinstance(target, str | int | float | None) or (isinstance(target, float) and not math.isfinite(target)):
        raise TargetError(f"{name}: {target!r} in the target is not a finite number, text, boolean or null")


def _order(name: str, meta: Mapping[str, Any], option: bool | None, *, default: bool) -> bool:
    value = meta.get("ordered") if option is None else option
    if value is None:
        return default
    if not isinstance(value, bool):
        raise TargetError(f"{name}: ordered must be true or false, got {value!r}")
    return value


def _unparsable(parsed: Parsed) -> tuple[str, ...]:
    return listed({*parsed.flags, *(["unparsable"] if parsed.answer is not None else [])})
