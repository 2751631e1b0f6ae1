"""Does the completion say the same thing again and again?

Target: none; whatever is given is not looked at.

Answer: `repetition.ngram` reads the whole completion without its tags, `repetition.items` the entries of the list that
the answer gives: a JSON or Python list, numbered or bulleted lines, semicolons, or lines. No answer is worth 0.

Guards: words are compared without regard to case, width and punctuation; every Chinese, Japanese or Korean character
is a word of its own, and a "word" of more than 40 characters is cut into its characters, so that one letter a thousand
times is no long word. Texts too short for a single n-gram cannot repeat one and are worth 1; blank ones are worth 0.
Both rewards are blind to whether the text is right: weigh them low, or put a gate on the task's reward.

Source: the repetition penalty of VLM-R1 (n-grams of six words, list items), as a share to be kept instead of a penalty.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from vlrft.parse import Parsed
from vlrft.parse.items import list_items
from vlrft.parse.units import ngrams, units, without_tags
from vlrft.types import Score


def ngram(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, n: int = 6) -> Score:
    """Share of n-grams of the completion that are different ones.

    Formula: unique n-grams / all n-grams; 1 for fewer than n words, 0 for none
    Range: [0, 1]

    n: words in an n-gram.

    Example: score("repetition.ngram", "<think>a b a b a</think>", None, n=2) -> 0.5
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"repetition.ngram: n must be a whole number from 1 on, got {n!r}")
    found = units(without_tags(parsed.text))
    if len(found) < n:
        return Score(value=1.0 if found else 0.0, flags=parsed.flags)
    grams = ngrams(found, n)
    return Score(value=len(set(grams)) / len(grams), flags=parsed.flags)


def items(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Share of the answer's list items that are different ones.

    Formula: unique items / all items; 1 for a single item, 0 where the answer has none
    Range: [0, 1]

    Texts are compared without regard to case, width, dashes and outer quotes; numbers, boxes and objects by value.

    Example: score("repetition.items", "<answer>[[0, 0, 9, 9], [0, 0, 9, 9]]</answer>", None) -> 0.5
    """
    found: list[Hashable] = list_items(parsed.answer) if parsed.answer is not None else []
    return Score(value=len(set(found)) / len(found) if found else 0.0, flags=parsed.flags)
