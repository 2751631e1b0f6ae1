"""Numbers in an answer, as exact rationals."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from vlrft.parse.measures import ANY, declared_pattern
from vlrft.parse.qualifiers import after_number, before_number

Take = Literal["only", "last"]

_MAX_POWER = 400
"""Largest power of ten that is worked out; a float ends at 308."""
_MAX_DIGITS = 1000
"""Most digits of one number that are read."""

_PLAIN = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?")
_BODY = re.compile(r"(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?|\.[0-9]+")
_NON_FINITE = frozenset({"nan", "inf", "infinity", "infty", "∞"})
_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "lakh": 10**5,
    "crore": 10**7,
}
_SCALE = "|".join(_SCALES)
_CHUNK = r"(?:[0-9]++(?:[.,][0-9]++)*+|(?<!\.)\.[0-9]++)"

_FULLWIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_SIGNS = dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFE63], "-")
_LOOKALIKES: dict[int, str] = {**_FULLWIDTH, **_SIGNS, 0x2044: "/", 0x00BA: "°", 0x02DA: "°", 0x03BC: "µ"}
_POWERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_OTHER_DIGIT = re.compile(r"(?![0-9])\d")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_LATEX = (
    (re.compile(r"\s?\\(?:text|textrm|mathrm|mbox)\s?\{\s?([^{}]*)\}"), r" \1"),
    (re.compile(r"([0-9]?)\s?\\[dt]?frac\s?\{([0-9.,]+)\}\s?\{([0-9.,]+)\}"), r"\1 \2/\3"),
    (re.compile(r"([-+]) (?=[0-9.,]+/)"), r"\1"),
    (re.compile(r"\{,\}|\\,(?=[0-9]{3})"), ","),
    (re.compile(r"\\[,;: ]"), " "),
    (re.compile(r"\^\s?\{?\s?\\circ\s?\}?|\\degree"), "°"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\f?boxed(?![a-z])"), ""),
    (re.compile(r"\\pm(?![a-z])"), "±"),
)
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_EITHER_SIGN = re.compile(r"\+/?-(?=\s?[0-9.])")


@dataclass(frozen=True, slots=True)
class NumberReading:
    """What an answer says as a number.

    Example: read_number("about 3/4") == NumberReading(Fraction(3, 4)); read_number("nan").flag == "non_finite"
    """

    value: Fraction | None
    """Exact; None where the answer is not one finite number."""
    flag: str | None = None
    """Why there is none: `unparsable`, `several_answers`, `non_finite` (also: too large for a float), `out_of_range`
    (too many digits, or too small to hold)."""
    whole: bool = False
    """True when the text is nothing but this number, its unit, brackets, quotes, bold marks and a final period."""


def parse_number(text: str, *, unit: str | None = None, take: Take = "only") -> Fraction | None:
    """The one number that `text` gives, or None; `read_number` also says why.

    Example: parse_number("It costs 1,250.5 in all") == Fraction(2501, 2); parse_number("3 or 4") is None
    """
    return read_number(text, unit=unit, take=take).value


def read_number(text: str, *, unit: str | None = None, take: Take = "only") -> NumberReading:
    """Read `text` as one number. Never raises for a text, one pass, digits kept exactly.

    Syntax: sign, also as "minus" or "negative" right before the number, thousands commas ("1,250"), decimals, a
    fraction ("3/4", "1 3/4", LaTeX's frac), percent ("50%" is 1/2) and per mille, scientific ("1e3", "2 x 10^-3"), "5
    million", "12 hundred", "3 lakh"; digits and signs of every script. Digits glued to letters ("B52", "3D") are
    words. In a sentence exactly one number may stand; take="last" takes the last of several. A number that its words
    or signs make another one ("half of 12", "sqrt(12)", "12 squared", "<12", "not 12"; see `qualifiers`) is not read.
    unit: what may follow the number, and is dropped (with unit="%" a percentage is not divided by 100). A number
    followed by any other unit of measure ("12 cm" where none is declared) is not the number asked for. How the unit
    may be spelt: `measures.declared_pattern`.
    """
    if take not in ("only", "last"):
        raise ValueError(f"take must be 'only' or 'last', got {take!r}")
    plain = text.strip()
    if _PLAIN.fullmatch(plain):
        return NumberReading(Fraction(plain), whole=True)
    clean = _prepared(plain)
    found: re.Match[str] | None = None
    for match in _pattern(unit).finditer(clean):
        if _is_number(match):
            if take == "only" and (found or _is_list(match["body"])):
                return NumberReading(None, "several_answers")
            found = match
    return _reading(found, clean) if found else NumberReading(None, "unparsable")


def _is_number(match: re.Match[str]) -> bool:
    kind = match.lastgroup
    return kind in ("number", "chain") or (kind == "word" and match.group().casefold() in _NON_FINITE)


def _is_list(body: str | None) -> bool:
    """True for several numbers that are written without spaces, "1,2,3", unlike "1,000"."""
    return body is not None and "," in body and not _BODY.fullmatch(body)


def _reading(match: re.Match[str], text: str) -> NumberReading:
    if match.lastgroup != "number":
        return NumberReading(None, "non_finite" if match.lastgroup == "word" else "unparsable")
    body = match["body"]
    before, after = before_number(text, match.start()), after_number(text, match.end())
    if before is None or not after or (before == "-" and match["sign"]):
        return NumberReading(None, "unparsable")
    if _is_list(body):
        last = body.rpartition(",")[2]
        return NumberReading(*(_decimal(last, 0) if _BODY.fullmatch(last) else (None, "unparsable")))
    outside = text[: match.start()][:64] + text[match.end() :][:64]
    value, flag = _value(match)
    value = -value if value is not None and before == "-" else value
    return NumberReading(value, flag, whole=before != "-" and not outside.strip("\"'`*$()[]{}. \t\n"))


def _value(match: re.Match[str]) -> tuple[Fraction | None, str | None]:
    if match["unsure"] or match["foreign"]:
        return None, "unparsable"
    body, power = match["body"], 0
    if not _BODY.fullmatch(body):
        return None, "unparsable"
    exponents = [match["exponent"][1:] if match["exponent"] else "", match["ten"] or ""]
    if match["power"]:
        if body != "10":
            return None, "unparsable"
        body, exponents = "1", [match["power"]]
    for exponent in exponents:
        power += int(exponent[:8] or "0")
    value, flag = _decimal(body, power)
    if value is not None and match["under"]:
        under, flag = _decimal(match["under"], 0) if _BODY.fullmatch(match["under"]) else (None, "unparsable")
        value = value / under if under else None
        flag = "non_finite" if under == 0 else flag
    if value is None:
        return None, flag
    value += int(match["ones"] or "0")
    for scale in (match["scale"] or "").lower().split():
        value *= _SCALES[scale.removesuffix("s")]
    value /= 100 if match["percent"] else 1000 if match["mille"] else 1
    return _bounded(-value if match["sign"] == "-" else value)


def _decimal(body: str, power: int) -> tuple[Fraction | None, str | None]:
    """`body` x 10^power, without ever building a number that does not fit."""
    ones, _, decimals = body.replace(",", "").partition(".")
    digits = (ones + decimals).lstrip("0")
    if not digits:
        return Fraction(0), None
    magnitude = len(digits) - len(decimals) + power
    if magnitude > _MAX_POWER:
        return None, "non_finite"
    if magnitude < -_MAX_POWER or len(digits) > _MAX_DIGITS or len(decimals) > _MAX_DIGITS:
        return None, "out_of_range"
    shift = power - len(decimals)
    return _bounded(Fraction(int(digits) * 10**shift) if shift >= 0 else Fraction(int(digits), 10**-shift))


def _bounded(value: Fraction) -> tuple[Fraction | None, str | None]:
    return (value, None) if abs(value) < 1 << 1024 else (None, "non_finite")


def _prepared(text: str) -> str:
    """`text` with look-alikes, raised digits and the LaTeX of numbers in plain ASCII.

    Not NFKC: it would read the square of ten as 102.
    """
    if not text.isascii():
        text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m.group()), text)
        text = text.translate(_LOOKALIKES)
        text = _RAISED.sub(lambda m: "^" + m.group().translate(_POWERS), text)
        text = _OTHER_DIGIT.sub(lambda m: str(int(m.group())), text)
    if "\\" in text or "{" in text:
        for pattern, plain in _LATEX:
            text = pattern.sub(plain, text)
    return _EITHER_SIGN.sub("±", text)


@lru_cache(maxsize=256)
def _pattern(unit: str | None) -> re.Pattern[str]:
    """The tokens of a text: words, numbers with what follows them, and digits that are part of something else.

    Whatever begins a token is consumed by one of the alternatives, so that no text is scanned twice.
    """
    declared = declared_pattern(name) if unit and (name := _prepared(unit).strip()) else r"(?!)"
    return re.compile(
        rf"""
        (?P<word>(?:[^\W\d]\w*+(?:[-.'^]\w++)*+|∞))
      | (?P<chain>{_CHUNK}(?:(?:\s?/\s?{_CHUNK}){{2,}}+|(?:\s?:\s?{_CHUNK})++))
      | (?P<number>
            (?P<unsure>±\s?)?(?P<sign>(?<![\w)\]}}%+±-])[+-])?
            (?:(?P<ones>[0-9]{{1,9}})[ ](?=[0-9]{{1,9}}/[0-9]))?
            (?P<body>{_CHUNK})(?P<exponent>[eE][+-]?[0-9]++)?+
            (?:\s?/\s?(?P<under>{_CHUNK}))?+
            (?:\s?(?:×|x|\*|·|\\times|\\cdot)\s?10\s?\^\s?\{{?(?P<ten>[+-]?[0-9]++)\}}?)?+
            (?:\^\{{?(?P<power>[+-]?[0-9]++)\}}?)?+
            (?:\s{{0,2}}(?P<unit>{declared})(?![\w^/])|
                (?:\s{{0,2}}(?P<scale>(?i:hundreds?\s(?:{_SCALE})s?|(?:{_SCALE})s?)\b))?+
                (?:\s{{0,2}}(?:{declared}(?![\w^/])|(?P<percent>%|(?i:per\s?cent\b|pct\b))
                    |(?P<mille>‰|(?i:per\s?mille\b))|(?P<foreign>{ANY})(?![^\W\d_])))?+
            )
            (?![\w^%])(?!-[^\W\d])
        )
      | (?P<glued>[0-9][\w.,^]*+)
        """,
        re.VERBOSE,
    )
