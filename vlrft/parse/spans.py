"""Time spans in an answer."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
    (?P<skip>[\s"'\u2018\u2019\u201c\u201d`*$>]++ | <\|\w{1,32}\|> | <(?!\|))
  | (?P<clock>[0-9]++:[0-5][0-9](?::[0-5][0-9])?+(?:\.[0-9]++)?+)(?![\w:])
  | (?P<broken>[0-9]++(?::[0-9]++)++)
  | (?P<number>(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:e[-+]?[0-9]++)?+)
    (?:(?P<percent>[ \t]?%) | [ \t]?(?P<unit>seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h)(?![^\W0-9])(?:\.(?=\s))?
      | (?!\w))
  | (?P<between>to)(?=[0-9])
  | (?P<arrow>-+>|\u2192)
  | (?P<dash>[-\u2010-\u2015\u2212]++)
  | (?P<near>~)
  | (?P<open>[\[({]) | (?P<close>[\])}]) | (?P<comma>,)
  | (?P<word>(?u:\w)++)
  | (?P<mark>.)
    """,
    re.I | re.A | re.X | re.DOTALL,
)
_FACTORS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DIGITS = frozenset(".0123456789")
_NOT_FINITE = frozenset({"nan", "inf", "infinity"})
_BETWEEN = frozenset({"to", "and", "until", "till", "through"})
_DENIALS = frozenset({"not", "never", "cannot", "isn", "wasn", "aren", "doesn", "didn", "except"})
_NEAR_DENIAL = frozenset({"t", "happen", "occur", "be", "exactly", "in", "during", "the", "interval"})
"""Words that may stand between a denial and the span that it denies: "does not happen from 3 to 5"."""
_WRONG = frozenset({"wrong", "incorrect", "false"})
_RIGHT = frozenset({"right", "correct"})
_START = re.compile(r"(?:start|begin)[a-z_]*", re.A)
_END = re.compile(r"(?:end|finish|stop)[a-z_]*", re.A)
_FILLERS = frozenset(
    {"from", "between", "or", "at", "is", "time", "times", "timestamp", "second", "seconds", "s", "sec", "json"}
)
"""Words that neither part a listing nor hide which number is the start and which the end."""


@dataclass(frozen=True, slots=True)
class ParsedSpan:
    """One span as the text has it, in seconds: unchecked, perhaps reversed, negative or not finite."""

    start: float
    end: float
    listing: int = 0
    """Spans with no word of prose between them share this number: they are one listing."""


class _Token(NamedTuple):
    kind: str
    """`time`, `sep`, `open`, `close`, `comma`, `start`, `end`, `filler`, `word` or `mark`; of words, `deny` is "not"
    and the like, `linked` may follow it, `wrong` and `right` say so."""
    value: float = 0.0
    """Of a `sep`: 1 for "and", which may also part two spans."""
    factor: float | None = None
    """Seconds per unit of `value`; None for a number without a unit."""


_MARK = _Token("mark")
_PLAIN = {kind: _Token(kind) for kind in ("open", "close", "comma")} | {"mark": _MARK, "broken": _Token("word")}
_PLAIN |= dict.fromkeys(("arrow", "dash", "near"), _Token("sep"))
_WORD = _Token("word")
_KNOWN_WORDS = {
    word: _Token(kind)
    for kind, known in (
        ("filler", _FILLERS),
        ("deny", _DENIALS),
        ("linked", _NEAR_DENIAL),
        ("wrong", _WRONG),
        ("right", _RIGHT),
    )
    for word in known
}
_WORDS = ("word", "deny", "linked", "wrong", "right")
_NO_LINKS = frozenset({"word", "wrong", "right", "mark", "comma", "time", "sep"})
"""Tokens that end the reach of a denial."""


def read_spans(answer: str, *, bare: float = 1.0, relative: bool = False) -> list[ParsedSpan]:
    """Every span in `answer`, in the order written; an empty list where there is none.

    Reads "a to b", "a - b", "a and b", "a until b", "[a, b]", "(a, b)", lists of those, objects and prose with a start
    and an end (`{"start": a, "end": b}`, "starts at a and ends at b"), and an answer that is nothing but two times.
    An answer that is nothing but one time is the span from that time to itself. A span that is denied ("not 10 to 20",
    "10 to 20 is wrong") and an odd chain ("10 to 20 to 30") are none.
    A time is a number with or without a unit ("12.5", "12.5s", "2 min 5 s") or a clock ("mm:ss", "hh:mm:ss", with a
    fraction or not). Quotes, code fences and bold marks do not matter. Never raises.

    bare: seconds that a number without a unit stands for: 1, or the duration where answers are fractions of it. Where
    one end has a unit, it holds for both. relative: whether they are such fractions, so that percents are times too.
    """
    tokens = _tokens(answer if answer.isascii() else _plain_digits(answer), relative)
    spans: list[ParsedSpan] = []
    roles: dict[str, _Token] = {}
    role = ""
    listing, parted = 0, False
    at, chain = 0, 0
    denied = False
    while at < len(tokens):
        if at >= chain:
            chain, odd = _chain_at(tokens, at)
            at = chain if odd else at
            if odd:
                continue
        kind = tokens[at].kind
        pair, used = _pair_at(tokens, at)
        if pair is not None and (denied or _denied_behind(tokens, at + used)):
            pair = None
        denied = kind == "deny" or (denied and kind not in _NO_LINKS)
        if pair is None and kind == "time" and role:
            roles[role] = tokens[at]
            if len(roles) == 2:
                pair = roles["start"], roles["end"]
                roles = {}
        if pair is not None:
            listing += 1 if parted and spans else 0
            spans.append(_span(*pair, bare, listing))
            parted = False
        if kind in ("start", "end"):
            role = kind
        elif pair is not None or kind in ("time", *_WORDS):
            role = ""
        parted = parted or kind in _WORDS
        at += used
    return spans or _lone(tokens, bare)


def _pair_at(tokens: list[_Token], at: int) -> tuple[tuple[_Token, _Token] | None, int]:
    """The two ends of a span that starts with token `at`, if any, and how many tokens to go on by."""
    kind = tokens[at].kind
    if kind == "time" and at + 2 < len(tokens) and tokens[at + 1].kind == "sep" and tokens[at + 2].kind == "time":
        return (tokens[at], tokens[at + 2]), 3
    if kind == "open" and at + 4 < len(tokens) and tokens[at + 1].kind == "time":
        inner = tokens[at + 2].kind, tokens[at + 3].kind, tokens[at + 4].kind
        if inner == ("comma", "time", "close"):
            return (tokens[at + 1], tokens[at + 3]), 5
    return None, 1


def _chain_at(tokens: list[_Token], at: int) -> tuple[int, bool]:
    """(where the times end that are linked from `at` on, whether no pairs can be made of them: "10 to 20 to 30")."""
    end, every_and, links = at, True, 0
    if tokens[at].kind == "time":
        while end + 2 < len(tokens) and tokens[end + 1].kind == "sep" and tokens[end + 2].kind == "time":
            every_and = every_and and tokens[end + 1].value == 1.0
            end, links = end + 2, links + 1
    return end + 1, links > 0 and links % 2 == 0 and not every_and


def _denied_behind(tokens: list[_Token], at: int) -> bool:
    """Whether the tokens from `at` on say that what stands before is wrong."""
    kinds = [token.kind for token in tokens[at : at + 5] if token.kind not in ("filler", "close")]
    return kinds[:1] == ["wrong"] or (kinds[:1] == ["deny"] and "right" in kinds[1:2])


def _lone(tokens: list[_Token], bare: float) -> list[ParsedSpan]:
    """The span of an answer that holds one or two times and no prose."""
    times = [t for t in tokens if t.kind == "time"]
    if not 1 <= len(times) <= 2 or any(t.kind in (*_WORDS, "sep", "start", "end") for t in tokens):
        return []
    if sum((t.kind == "open") - (t.kind == "close") for t in tokens):  # cut off, perhaps amid a number
        return []
    return [_span(times[0], times[-1], bare, 0)]


def _span(first: _Token, second: _Token, bare: float, listing: int) -> ParsedSpan:
    start = first.value * (first.factor or second.factor or bare)
    end = second.value * (second.factor or first.factor or bare)
    return ParsedSpan(start, end, listing)


def _plain_digits(text: str) -> str:
    """Full-width digits and signs as ASCII; minus and dash stay what they are."""
    return unicodedata.normalize("NFKC", text)


def _tokens(text: str, relative: bool) -> list[_Token]:
    tokens: list[_Token] = []
    sign = 1.0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind == "skip":
            continue
        after_time = bool(tokens) and tokens[-1].kind == "time"
        if kind in ("dash", "near") and not after_time:
            # A dash right before a number is its sign unless it parts two times; "~" then means "about".
            signs = kind == "dash" and len(match.group()) == 1 and text[match.end() : match.end() + 1] in _DIGITS
            sign = -1.0 if signs else 1.0
            continue
        token = _token(match, sign, relative)
        sign = 1.0
        if token.kind == "filler" and tokens and tokens[-1].kind == "sep":
            continue  # "to second 15"
        if token is _MARK and tokens and tokens[-1] is _MARK:
            continue
        if token.kind == "time" and after_time and _continues(tokens[-1], token):
            last = tokens.pop()
            token = _Token(
                "time", last.value * (last.factor or 1.0) / (token.factor or 1.0) + token.value, token.factor
            )
        tokens.append(token)
    return tokens


def _continues(last: _Token, token: _Token) -> bool:
    """True for the seconds after minutes and the like: "2 min 5 s"."""
    return last.factor is not None and token.factor is not None and last.factor > token.factor


def _token(match: re.Match[str], sign: float, relative: bool) -> _Token:
    if match["percent"]:
        return _Token("time", sign * float(match["number"]) / 100.0) if relative else _Token("word")
    if match["between"]:
        return _Token("sep")
    if match["number"]:
        unit = match["unit"]
        return _Token("time", sign * float(match["number"]), _FACTORS[unit[0].lower()] if unit else None)
    if match["clock"]:
        seconds = 0.0
        for part in match["clock"].split(":"):
            seconds = seconds * 60.0 + float(part)
        return _Token("time", sign * seconds, 1.0)
    if match["word"]:
        return _word(match["word"].lower(), sign)
    return _PLAIN[match.lastgroup or "mark"]


def _word(word: str, sign: float) -> _Token:
    if word in _NOT_FINITE:
        return _Token("time", sign * float(word))
    if word in _BETWEEN:
        return _Token("sep", float(word == "and"))
    if _START.fullmatch(word):
        return _Token("start")
    if _END.fullmatch(word):
        return _Token("end")
    return _KNOWN_WORDS.get(word, _WORD)
