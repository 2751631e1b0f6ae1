"""Units of measure in a text: which ones end a number that asked for none, and how a declared one may be spelt."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache

# "in" is an inch only where no word follows: "5 in total" is five.
_LONG = (
    r"ft|feet|foot|yd|in(?!\s+\w)|inch(?:es)?|yards?|miles?|(?:milli|centi|kilo)?met(?:er|re)s?"
    r"|(?:kilo|milli)?grams?|pounds?|ounces?|tons?|tonnes?|lit(?:er|re)s?"
)
ANY = (
    rf"(?:(?:square|cubic|sq\.?|cu\.?)\s)?(?:[munµcdk]?m(?:\^[23]|/s)?|{_LONG})|km/h|mph|mi|g|lbs?|oz"
    r"|[nµmkMG](?:[mgsVWAJN]|Hz|Pa|eV|Wh|Ah)|p[AF]|s|secs?|seconds?|mins?|minutes?"
    r"|h|hrs?|hours?|days?|weeks?|months?|years?|[mc]?[lL]"
    r"|Hz|W|V|J|h?Pa|Wh|eV|mol|k?cal|[kMGT]i?[bB](?:ps|/s)?|mb|CM|MM|KM|KG|MG|ML|FT|HZ|°[CF]?|degrees?"
    r"|[€£¥]|dollars?|euros?|[kKMB]|bn|mn|dozens?|ppm|ppb|(?:ten|hundred|thousand|million|billion)ths?|π|pi"
)
"""Pattern of what makes a number another one than was asked for, where no unit is declared."""

_PREFIXES = {"": "", "p": "p", "n": "n", "µ": "µ", "u": "µ", "m": "m", "k": "k", "M": "M", "G": "G", "T": "T"}
_BASES = ("m", "g", "s", "A", "W", "V", "Hz", "Pa", "J", "N", "eV", "Wh", "Ah", "F", "bar", "mol")
_SOME = {"t": ("", "k", "M", "G"), "T": ("", "m", "µ", "u", "n"), "S": ("", "m", "µ", "u"), "G": ("", "m", "µ", "u"),
         "K": ("", "m"), "k": ("",), "l": ("", "m", "c", "µ", "u", "M"), "L": ("", "m", "c", "µ", "u", "M"),
         "M": ("", "m", "µ", "u", "n"), "b": ("", "k", "K", "M", "G", "T"), "B": ("", "k", "K", "M", "G", "T"),
         "bps": ("", "k", "K", "M", "G", "T"), "Bps": ("", "k", "K", "M", "G", "T"), "cal": ("", "k"),
         "Cal": ("",)}  # fmt: skip


def _known() -> dict[str, str]:
    """Spelling of a symbol to the unit that it stands for: "um" and "µm" are one, "mm" and "Mm" are two."""
    found = {prefix + base: name + base for base in _BASES for prefix, name in _PREFIXES.items()}
    for base, prefixes in _SOME.items():
        for prefix in prefixes:
            name = "k" if prefix == "K" else _PREFIXES.get(prefix, prefix)
            found[prefix + base] = name + ("l" if base == "L" else base)
    return found


_UNIT_OF = _known()
_BY_FOLD: dict[str, list[str]] = defaultdict(list)
for _spelling in sorted(_UNIT_OF):
    _BY_FOLD[_spelling.lower()].append(_spelling)
_RUN = re.compile(r"[^\W\d_]+")
_PER = frozenset({"s", "h", "l"})
"""After a slash these are the second, the hour and the litre in either case."""


@lru_cache(maxsize=256)
def declared_pattern(name: str) -> str:
    """Pattern of the ways in which the unit `name` may be written.

    One rule for the case: letters are compared without it, unless another unit differs from this one by case only, as
    MW from mW, Mm from mm and MB from Mb do; then with it. µ and u are one, and so are L and l. A name of more than
    three characters may have a plural s.
    """
    pieces: list[str] = []
    position = 0
    for run in _RUN.finditer(name):
        gap = name[position : run.start()]
        pieces += [_gap(gap), _spellings(run.group(), after_slash=gap.rstrip().endswith("/"))]
        position = run.end()
    whole = "".join([*pieces, _gap(name[position:])])
    return rf"{whole}(?i:e?s)?" if len(name) > 3 else whole


def _gap(text: str) -> str:
    return r"\s+".join(map(re.escape, re.split(r"\s+", text)))


def _spellings(symbol: str, *, after_slash: bool) -> str:
    alike = _BY_FOLD.get(symbol.lower(), [])
    several = len({_UNIT_OF[spelling] for spelling in alike}) > 1
    if (after_slash and symbol.lower() in _PER) or not several:
        return rf"(?i:{_micro(symbol)})"
    unit = _UNIT_OF.get(symbol)
    same = {spelling for spelling in alike if _UNIT_OF[spelling] == unit}
    return rf"(?:{'|'.join(sorted(map(_micro, same | {symbol})))})"


def _micro(symbol: str) -> str:
    """The pattern of one spelling; µ may be u, where that is a unit."""
    unit = _UNIT_OF.get(symbol, "")
    return rf"[uµ]{re.escape(symbol[1:])}" if unit.startswith("µ") else re.escape(symbol)
