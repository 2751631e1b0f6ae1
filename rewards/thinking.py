"""Is there reasoning worth the name in front of the answer?

Target: none; whatever is given is not looked at.

Meta: `prompt` (or `question`): the text of the question, for `thinking.no_copy_of_prompt`. A run gives it. Without one
there is nothing to compare with, and that reward does not apply (None). `output_mode`: see below.

Answer: only the reasoning is read. A completion without any is worth 0 in the output modes `think` and
`answer_then_think`; in `direct`, and in `adaptive` where the model chose not to reason, the rewards do not apply: None.

Guards: punctuation, blanks and zero-width characters are no words. Copies are found without regard to case, width and
punctuation. Words without sense, or repeated ones, pass: `repetition.ngram` looks at those.

Source: our own; peers reward reasoning for any content, or for its length (ToolRL), which fills it with padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlrft.parse import Parsed
from vlrft.parse.units import ngrams, units
from vlrft.rewards.base import TargetError
from vlrft.types import Score


def min_max(
    parsed: Parsed, target: Any, meta: Mapping[str, Any], *, min_words: int = 1, max_words: int | None = None
) -> Score:
    """The reasoning has at least `min_words` and at most `max_words` words.

    Formula: 1 if min_words <= words <= max_words, else 0
    Range: [0, 1]

    min_words: with 1 it is enough that the reasoning is not empty and not only punctuation. Every Chinese, Japanese or
    Korean character counts as a word.

    max_words: None = no upper end.

    Example: score("thinking.min_max", "<think>left of it</think><answer>B</answer>", None, min_words=4) -> 0.0
    """
    if min_words < 1 or (max_words is not None and max_words < min_words):
        raise ValueError(f"thinking.min_max: 1 <= min_words <= max_words must hold, got {min_words!r}, {max_words!r}")
    if _not_asked(parsed):
        return Score(value=None, flags=parsed.flags)
    count = len(units(parsed.think or ""))
    fits = min_words <= count and (max_words is None or count <= max_words)
    return Score(value=1.0 if fits else 0.0, flags=parsed.flags)


def no_copy_of_prompt(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, n: int = 6) -> Score:
    """Share of the reasoning that is not copied from the question.

    Formula: 1 - (n-grams of the reasoning that stand in the question) / (all n-grams of the reasoning); reasoning of
    fewer than n words is one n-gram of its own length
    Range: [0, 1]

    n: words in a row that make a copy.

    Example: score("thinking.no_copy_of_prompt", "<think>Find it</think>", None, {"prompt": "Find it!"}) -> 0.0
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"thinking.no_copy_of_prompt: n must be a whole number from 1 on, got {n!r}")
    prompt = meta.get("prompt", meta.get("question"))
    if prompt is not None and not isinstance(prompt, str):
        raise TargetError(f"meta['prompt'] is a {type(prompt).__name__}; give the text of the question")
    if _not_asked(parsed) or prompt is None:
        return Score(value=None, flags=parsed.flags)
    found = units(parsed.think or "")
    if not found:
        return Score(value=0.0, flags=parsed.flags)
    size = min(n, len(found))
    grams, asked = ngrams(found, size), set(ngrams(units(prompt), size))
    return Score(value=1.0 - sum(gram in asked for gram in grams) / len(grams), flags=parsed.flags)


def _not_asked(parsed: Parsed) -> bool:
    return parsed.mode == "direct" or (parsed.mode == "adaptive" and parsed.think is None)
