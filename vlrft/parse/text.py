"""Text in one normal form, so that two ways of writing the same words compare equal."""

from __future__ import annotations

import re
import unicodedata

_DASHES = re.compile(r"[\u2010-\u2015\u2212]")
# A minus before a number is part of it: "-5" and "5" are two answers.
_GAPS = re.compile(r"(?:[\s_]|(?<![\s(=<>\[{,:;$])(?<!^)-|-(?!\.?[0-9]))+")
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"
_WORD = re.compile(r"[^\W_]+(?:[.,][0-9]+)*")
_BOXED = re.compile(r"\\f?boxed\s?\{")
_BRACES = re.compile(r"[{}]")


def normalise(text: str) -> str:
    """NFKC, case folded; runs of space, underscore and dash become one space; outer quotes and a final period go.

    A minus sign directly before a number stays. Example: normalise(' "Red_Blood-Cell." ') == "red blood cell"
    """
    flat = _DASHES.sub("-", unicodedata.normalize("NFKC", text).casefold()).strip(_QUOTES + " ")
    return _GAPS.sub(" ", flat).lstrip(_QUOTES + " ").rstrip(_QUOTES + " .")


def words(text: str) -> list[str]:
    """The words and numbers of `text` in order, NFKC and case folded; punctuation separates, but 1.5 and 1,000 hold."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def boxed(text: str) -> list[str]:
    """What stands in each of LaTeX's boxed braces, stripped, in order; of nested ones the outer, unclosed ones not.

    Example: boxed(r"so \\boxed{\\frac{1}{2}}") == [r"\\frac{1}{2}"]
    """
    found, position = [], 0
    while opening := _BOXED.search(text, position):
        depth = 1
        for brace in _BRACES.finditer(text, opening.end()):
            depth += 1 if brace.group() == "{" else -1
            if depth == 0:
                found.append(text[opening.end() : brace.start()].strip())
                position = brace.end()
                break
        if depth:
            break
    return found
