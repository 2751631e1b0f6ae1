"""Option letters as VLM-R1 and CodeVision read them, brackets and bold marks included."""

from __future__ import annotations

import re

_LETTER = re.compile(r"(?<![A-Z])([A-Z])(?=[\s*})\]]*(?:[.,?!:;]|\Z)|[*})\]])")
_NAMED = re.compile(r"(?:ANSWER|OPTION|CHOICE)(?:\s+IS)?[\s:*({\[]{1,9}([A-Z])(?![A-Z])")
_SEVERAL = re.compile(r"(?<![A-Z])([A-Z])[)\]*]{0,3}\s{0,3}(?:OR|AND|/|&|,)\s{0,3}[(\[*]{0,3}([A-Z])(?![A-Z])")
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
