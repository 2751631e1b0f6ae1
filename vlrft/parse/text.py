"""Text in one normal form, so that two ways of writing the same words compare equal."""

from __future__ import annotations

import re
import unicodedata

_GAPS = re.compile(r"[\s_\-\u2010-\u2015\u2212]+")
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"
_WORD = re.compile(r"[^\W_]+(?:[.,][0-9]+)*")


def normalise(text: str) -> str:
    """NFKC, case folded; runs of space, underscore and dash become one space; outer quotes and a final period go.

    Example: normalise(' "Red_Blood-Cell." ') == "red blood cell"
    """
    flat = _GAPS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    while True:
        bare = flat.strip(_QUOTES + " ").removesuffix(".")
        if bare == flat:
            return flat
        flat = bare


def words(text: str) -> list[str]:
    """The words and numbers of `text` in order, NFKC and case folded; punctuation separates, but 1.5 and 1,000 hold."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
