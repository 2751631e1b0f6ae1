"""A text as the units in which repetition, copying and length are measured, and the scripts that it is written in."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from vlrft.parse.text import words

_TAG = re.compile(r"</?(?:think|answer|tool_call|tool_response)>|<\|[a-z_]{1,32}\|>")
# Han with its extensions, kana, hangul.
_CJK = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"[{_CJK}]+|[^{_CJK}]+")
_HAS_CJK = re.compile(rf"[{_CJK}]")
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:[.,][0-9]+)*", re.A)
_LONGEST_WORD = 40
_WIDTHS = frozenset({"FULLWIDTH", "HALFWIDTH"})


def without_tags(text: str) -> str:
    """`text` with a space for every tag of ours and every special token."""
    return _TAG.sub(" ", text)


def units(text: str) -> list[str]:
    """Words, case folded and without punctuation; each Chinese, Japanese or Korean character is one of its own.

    A word of more than 40 characters is cut into its characters: nobody writes such words, and a letter repeated
    without end would be a single one.
    """
    if text.isascii():  # what `words` gives, at half the cost
        found, cjk = _ASCII_WORD.findall(text.lower()), False
    else:
        found, cjk = words(text), _HAS_CJK.search(text) is not None
    if not cjk and (not found or len(max(found, key=len)) <= _LONGEST_WORD):
        return found
    pieces: list[str] = []
    for word in found:
        for run in _RUN.findall(word) if cjk else (word,):
            if len(run) > _LONGEST_WORD or _HAS_CJK.match(run):
                pieces.extend(run)
            else:
                pieces.append(run)
    return pieces


def ngrams(found: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Every run of n units, in order."""
    return list(zip(*(found[i:] for i in range(n)), strict=False))


def scripts(text: str) -> Counter[str]:
    """How many letters of each script `text` has, by the script's name in Unicode: `LATIN`, `CJK`, `CYRILLIC` ..."""
    found: Counter[str] = Counter()
    for char, times in Counter(text).items():
        script = _script(char)
        if script is not None:
            found[script] += times
    return found


@functools.lru_cache(maxsize=4096)
def _script(char: str) -> str | None:
    """First word of a letter's name; None for what is no letter."""
    if not char.isalpha():
        return None
    first, _, rest = unicodedata.name(char, "UNKNOWN").partition(" ")
    return rest.partition(" ")[0] if first in _WIDTHS else first
