"""Option letters as VLM-R1 and CodeVision read them, brackets and bold marks included."""

from __future__ import annotations

import re

_LETTER = re.compile(r"(?<![A-Z])([A-Z])(?=[\s*})\]]*(?:[.,?!:;]|\Z)|[*})\]])")
_NAMED = re.compile(r"(?:ANSWER|OPTION|CHOICE)(?:\s+IS)?[\s:*({\[]{1,9}([A-Z])(?=[\s*})\]]*(?:[.,?!:;]|\Z)|[*})\]])")
_SEVERAL = re.compile(r"(?<![A-Z])([A-Z])[)\]*]{0,3}\s{0,3}(?:OR|AND|/|&|,)\s{0,3}[(\[*]{0,3}([A-Z])(?![A-Z])")
_ARTICLE = re.compile(r"A (?!(?:is|was|because|since|and|or|as|for|with|but)\b)[a-z]")
_LONGEST = 4_000
"""Characters; the end of a longer answer is read."""


def one_letter(text: str) -> str | None:
    """The letter that an answer names, in upper case; None for none or for several."""
    text = text.strip().upper()[-_LONGEST:]
    if any(a != b for a, b in _SEVERAL.findall(text)):
        return None
    named = set(_NAMED.findall(text))
    found = named if len(named) == 1 else set(_LETTER.findall(text))
    return str(found.pop()) if len(found) == 1 else None


def is_article(text: str, start: int) -> bool:
    """Whether the capital A at `start` begins "A dog", and is no choice, in contrast to "A is right"."""
    return _ARTICLE.match(text, start) is not None
