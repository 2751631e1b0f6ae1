"""Words and signs beside a value that make it another one, or deny it: a value so qualified is not the answer.

Each question is one search of a window of a few dozen characters, so that the length of a text does not matter.
"""

from __future__ import annotations

import re
from typing import Literal

from vlrft.parse.text import words

_WINDOW = 48
"""Characters that are looked at on either side."""

_HEDGE = r"(?:\s+(?:exactly|equal(?:\s+to)?|quite|about|be|the|really|simply|just))*"
_NEGATED = r"\b(?:not|never|cannot|can't|isn't|aren't|wasn't|weren't|ain't|n't|anything\s+but|other\s+than|except)"
DENIED_BEFORE = rf"{_NEGATED}{_HEDGE}"
"""Pattern of what denies the value that follows."""
_WRONG = r"(?:wrong|incorrect|false|untrue|impossible|excluded|ruled\s+out|eliminated)"
_RIGHT = r"(?:right|correct|true|(?:the\s+)?(?:right\s+|correct\s+)?(?:answer|option|choice|one))"
DENIED_AFTER = (
    rf"[\s)\]\"'*]*(?:(?:is|was|seems|must\s+be|would\s+be)\s+(?:\w+ly\s+)?(?:{_WRONG}|not\s+(?:\w+ly\s+)?{_RIGHT})\b"
    rf"|(?:isn't|wasn't|cannot\s+be|can't\s+be)\s+{_RIGHT}\b|\({_WRONG}\))"
)
"""Pattern of what denies the value before it."""

_SIGN = r"(?P<minus>\b(?:minus|negative)|-(?=\s?[(\[{])|(?<=[=≈$(])\s*-(?=\s))"
_FUNCTION = (
    r"(?:\b(?:half|third|quarter|fifth|tenth|square|cube|power|logarithm|reciprocal|inverse|negation|opposite|multiples?)"
    r"\s+of(?:\s+the)?|\b(?:double|twice|thrice|triple|root|factorial)(?:\s+of)?(?:\s+the)?"
    r"|\b(?:sqrt|cbrt|log(?:_?[0-9]+)?|ln|lg|exp|sin|cos|tan|cot|arcsin|arccos|arctan)"
    r"|\\(?:sqrt|d?frac|tfrac|log|ln|lg|exp|sin|cos|tan|cot|arcsin|arccos|arctan)|[√∛])"
)
_COMPARED = (
    r"(?:<=?|>=?|[≤≥≠≪≫]|!=|\\(?:[gl]eq?|[gl]t|neq?|ll|gg)(?![a-z])"
    r"|\b(?:(?:less|more|fewer|greater|larger|smaller|higher|lower|bigger|other)\s+than|at\s+(?:least|most)))"
)
_DENIED = re.compile(DENIED_AFTER, re.I)
_LAST_WORD = re.compile(r"[^\W\d_]+\Z")
_OPENING = r"[\s({\[|\"'`*$~≈]*"
_ABOUT = r"(?:exactly\s|about\s)?"
_OTHER = rf"(?P<other>{_FUNCTION}|{_COMPARED}|{DENIED_BEFORE}|(?::|\bis|\bequals)[ \t]*-(?=[ \t]))"
_BEFORE = re.compile(rf"(?:{_SIGN}|{_OTHER}){_OPENING}{_ABOUT}\Z", re.I)
_LAST_WORDS = frozenset(
    words(
        "minus negative double twice thrice triple root factorial of the sqrt cbrt log ln lg exp sin cos tan cot "
        "arcsin arccos arctan than least most not never cannot t but except exactly equal to quite about be "
        "really simply just le ge leq geq lt gt ne neq ll gg frac dfrac tfrac"
    )
)
"""Words that may stand right before a number that is qualified; any other word settles the matter quickly."""
# What ends in ">" without comparing: a tag, an arrow, a line that quotes.
_NO_COMPARISON = re.compile(r"(?:[\w\"'/]|[-=])>\s*\Z")
_MINUS_OF = re.compile(r"[0-9)\]}%]\s*(?:minus|-)[\s({\[\"'`*$]*\Z", re.I)
_AFTER = re.compile(
    rf"(?:{DENIED_AFTER}|[\s)\]}}$*]*(?:squared|cubed|factorial|doubled|tripled|halved)\b"
    r"|\s*(?:hundreds?|thousands?|millions?|billions?|trillions?|lakhs?|crores?)\b"
    r"|\s+and\s+(?:a|one)\s+(?:half|third|quarter)\b"
    r"|[\s)*·]*\\(?:pi|sqrt|[dt]?frac|cdot|times|div|pm|mp|infty|alpha|beta|gamma|theta|phi|lambda|mu|omega|ln|log|sin"
    r"|cos|tan|exp)(?![a-z])|\s?[*·×]?\s?[π√])",
    re.I,
)
_APOSTROPHES = str.maketrans("\u2018\u2019", "''")


def before_number(text: str, start: int) -> Literal["", "-"] | None:
    """What stands before the number at `start`: nothing that matters, a minus in words or before a bracket, or None
    for what makes it another number: a function or a share of it, a comparison, a denial."""
    window = text[max(0, start - _WINDOW) : start]
    near = window.rstrip(" \t\n({[|\"'`*$~≈")
    if not near or (near[-1].isalpha() and _LAST_WORD.search(near)[0].lower() not in _LAST_WORDS):  # type: ignore[index]
        return ""
    window = window.translate(_APOSTROPHES)
    found = _BEFORE.search(window)
    if found is None:
        return ""
    if found["minus"]:
        return "" if _MINUS_OF.search(window) else "-"
    if found["other"] == ">" and _NO_COMPARISON.search(window):
        return ""
    return "" if found["other"] == "<" and text[start:][:_WINDOW].lstrip("0123456789.,-+ ").startswith(">") else None


def after_number(text: str, end: int) -> bool:
    """Whether the number that ends at `end` stays what it is: nothing behind it works on it or denies it."""
    return end == len(text) or _AFTER.match(text[end : end + _WINDOW].translate(_APOSTROPHES)) is None


def denied_after(text: str, end: int) -> bool:
    """Whether what stands behind a choice that ends at `end` denies it: "B is wrong"."""
    return _DENIED.match(text[end : end + _WINDOW].translate(_APOSTROPHES)) is not None
