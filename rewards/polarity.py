"""Whether two findings contradict each other: one is negated, or they name opposite sides, kinds or changes.

By cue words, in English; med.open caps what such an answer is worth.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from vlrft.parse import words

_NEGATIONS = frozenset(
    words(
        "no not non none without absent absence negative never neither nor denies denied cannot hardly unlikely "
        "improbable resolved disappeared excluded excludes lack lacks lacking devoid freeof clearof ruledout"
    )
)
_BEHIND = frozenset(words("excluded ruledout resolved unlikely improbable disappeared"))
"""Cues that speak of what stands before them, if anything does: "pneumonia was excluded by CT"."""
_REFUSALS = frozenset(words("no not cannot never hardly"))
_REFUSED = frozenset(words("excluded excludes ruledout unlikely improbable"))
"""A refusal of these states the finding: "cannot be excluded", "not unlikely"."""
_PAIRS = {
    ("free", "of"): "freeof",
    ("free", "from"): "freeof",
    ("clear", "of"): "clearof",
    ("ruled", "out"): "ruledout",
    ("rule", "out"): "ruledout",
    ("rules", "out"): "ruledout",
}
_CONTRACTED = frozenset(words("isn aren wasn weren doesn don didn hasn haven hadn can couldn"))
_BREAKS = frozenset(words("but however although though except yet"))
_STATUS = frozenset(
    words(
        "of for the a an any is are was were be been seen present visible identified evident noted detected found "
        "observed there it this that t evidence sign signs finding findings has have completely fully now very highly"
    )
)
"""Words that carry no finding."""
_STOPS = str.maketrans(dict.fromkeys(".;:!?", "\n"))

_OPPOSITES: tuple[tuple[str, str], ...] = (
    ("left lll lul lv", "right rll rml rul rv"),
    ("unilateral unilaterally", "bilateral bilaterally"),
    ("benign nonmalignant", "malignant malignancy cancerous"),
    ("acute", "chronic"),
    ("increased increase increases increasing elevated raised", "decreased decrease decreases decreasing reduced"),
    ("present", "absent"),
    ("normal", "abnormal"),
    ("upper", "lower"),
    ("anterior", "posterior"),
    ("medial", "lateral"),
    ("proximal", "distal"),
)
_SIDES = {
    word: (number, side) for number, pair in enumerate(_OPPOSITES) for side in (0, 1) for word in pair[side].split()
}
_LEVEL = _SIDES["upper"][0]
_TWO_WAYS = {"lll": (_LEVEL, 1), "rll": (_LEVEL, 1), "lul": (_LEVEL, 0), "rul": (_LEVEL, 0)}
_LEFT, _RIGHT, _BOTH = _SIDES["left"], _SIDES["right"], _SIDES["bilateral"]
_BETWEEN = frozenset({"or", "and", "versus", "vs"})


def contradicts(answer: str, reference: str) -> bool:
    """True when `answer` negates what `reference` states, or the other way round, or says its opposite."""
    return negation_differs(answer, reference) or opposite(answer, reference)


def opposite(answer: str, reference: str) -> bool:
    """True when `answer` has a word whose opposite `reference` has, and not that one, or names both side by side.

    Example: opposite("right lung", "left lung"), opposite("left or right lung", "left lung"); but not
    opposite("left lung, right lung clear", "left lung")
    """
    wanted, _ = _sides(reference)
    if not wanted:
        return False
    got, offered = _sides(answer)
    for pair, side in wanted:
        other = pair, 1 - side
        if other in wanted or other not in got:
            continue
        if (pair, side) not in got or pair in offered:
            return True
    one_said, one_meant = ((_LEFT in said) != (_RIGHT in said) for said in (got, wanted))
    if _BOTH in wanted:
        return _BOTH not in got and one_said
    return _BOTH in got and one_meant and not one_said


@functools.lru_cache(maxsize=4096)
def _sides(text: str) -> tuple[frozenset[tuple[int, int]], frozenset[int]]:
    """(pairs of opposites that `text` has with the side, pairs of which it names both next to each other)."""
    found: set[tuple[int, int]] = set()
    offered: set[int] = set()
    last: tuple[int, int] | None = None
    for word in words(text):
        here = _SIDES.get(word)
        if here is None:
            last = last if word in _BETWEEN else None
            continue
        found.add(here)
        if word in _TWO_WAYS:
            found.add(_TWO_WAYS[word])
        if last is not None and last == (here[0], 1 - here[1]):
            offered.add(here[0])
        last = here
    return frozenset(found), frozenset(offered)


def negation_differs(answer: str, reference: str) -> bool:
    """True when one text negates what the other states, judged by cue words; see Open."""
    got, wanted = _polarity(answer), _polarity(reference)
    if (got is None) != (wanted is None):
        return True
    if got is None or wanted is None:
        return False
    flipped = (got[0] - got[1]) & (wanted[1] - wanted[0]) | (got[1] - got[0]) & (wanted[0] - wanted[1])
    return bool(flipped)


def _polarity(text: str) -> tuple[set[str], set[str]] | None:
    """(negated words, stated words); None when the text has no negation."""
    negated: set[str] = set()
    stated: set[str] = set()
    any_cue = False
    for clause in _clauses(text):
        cue = next((i for i, word in enumerate(clause) if word in _NEGATIONS), None)
        before = [w for w in clause[:cue] if w not in _STATUS]
        if cue is None:
            stated.update(before)
            continue
        any_cue = True
        after = [w for w in clause[cue + 1 :] if w not in _STATUS and w not in _NEGATIONS]
        if clause[cue] in _BEHIND and before:
            after = []
        # "effusion is absent", "no effusion": a cue with nothing after it speaks of what stands before it.
        negated.update(after or before)
        stated.update(before if after else ())
    return (negated, stated) if any_cue else None


def _clauses(text: str) -> Iterator[list[str]]:
    """Words between full stops, semicolons, colons, line ends and words such as "but"; n't is read as "not", "ruled
    out" and the like as one word, and a refused negation ("cannot be excluded") as none."""
    for piece in text.translate(_STOPS).split("\n"):
        clause: list[str] = []
        for word in words(piece):
            if word in _BREAKS:
                yield clause
                clause = []
            elif word == "t" and clause and clause[-1] in _CONTRACTED:
                clause[-1] = "not"
            elif clause and (clause[-1], word) in _PAIRS:
                clause[-1] = _PAIRS[clause[-1], word]
            else:
                clause.append(word)
            if clause and clause[-1] in _REFUSED:
                refusal = next(
                    (i for i, w in enumerate(clause[-5:-1], max(0, len(clause) - 5)) if w in _REFUSALS), None
                )
                if refusal is not None:
                    del clause[-1], clause[refusal]
        yield clause
