"""ChartMimic: low-level scores of a chart's recorded elements.

Target: a dump of elements, also as a JSON text: `text`: texts, or `{"text", "x", "y"}`; `legend`: texts; `layout`: the
grid's objects; `type`: names, `{"type", "count"}` objects or name to count; `color`: chart type to list of hex colours,
or `[type, hex]` pairs. Plural names and `colour` are the same. Elements that the target does not have are empty. A
Matplotlib program is run in the sandbox of chart.render, and what it draws is the dump.
Meta: `elements`, the same dump of what the completion's program drew; `position_tolerance` (0.1 in the peer's option)
compares the positions of texts too.
Answer: `meta["elements"]`, else the first answer block (the whole completion where there is none) as JSON, fenced or
not, or a Matplotlib program, run likewise.
Guards: the peer's dump is written by the model's own program, which can forge it: use chart.render for training.
Source: ChartMimic (arXiv 2406.09961), low-level scores.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.optimize import linear_sum_assignment

from vlrft.parse import Parsed
from vlrft.rewards.base import TargetError
from vlrft.rewards.chart import recorded
from vlrft.rewards.chart.colour import Array, similarity
from vlrft.rewards.compat.actions import finite
from vlrft.rewards.compat.answers import fenced, first_or_all, setting
from vlrft.types import Score

_NAMES = {
    "text": ("text", "texts"),
    "legend": ("legend", "legends"),
    "layout": ("layout", "layouts"),
    "type": ("type", "types", "chart_types"),
    "color": ("color", "colors", "colour", "colours"),
}
_HEX = re.compile(r"#([0-9a-f]{6})(?:[0-9a-f]{2})?")
_DRAWS = "matplotlib"
"""What a program that draws must hold to be run."""
_MOST = 500
"""Colours or placed texts of one side that are matched; what lies beyond counts as not found."""


def text(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """F1 of the texts as a multiset.

    With `meta["position_tolerance"]` two equal texts agree only where x and y differ by at most that share of the true
    value. Mended: two charts without any text agree (the peer gives 0), here as in the other scores.

    Formula: 2 P R / (P + R)
    Range: [0, 1]
    Example: score("compat.chartmimic.text", '{"text": ["a", "b"]}', {"text": ["a"]}) -> 0.6666666666666666
    """
    return _f1("text", parsed, target, meta)


def legend(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """F1 of the legend's texts as a multiset, as `text`.

    Formula: 2 P R / (P + R)
    Range: [0, 1]
    Example: score("compat.chartmimic.legend", '{"legend": ["a"]}', {"legend": ["a"]}) -> 1.0
    """
    return _f1("legend", parsed, target, meta)


def layout(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """F1 of the grid's objects, equal in all keys, as a multiset.

    Formula: 2 P R / (P + R)
    Range: [0, 1]
    Example: score("compat.chartmimic.layout", '{"layout": {"nrows": 1}}', {"layout": [{"nrows": 1}]}) -> 1.0
    """
    return _f1("layout", parsed, target, meta)


def type(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """F1 of the chart types, each counted as often as both sides have it.

    Formula: P = sum of min counts / #predicted, R = the same / #true, 2 P R / (P + R)
    Range: [0, 1]
    Example: score("compat.chartmimic.type", '{"type": {"bar": 3}}', {"type": {"bar": 1}}) -> 0.5
    """
    return _f1("type", parsed, target, meta)


def color(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """F1 of the colours: within a chart type the best assignment of similarities.

    Mended: the assignment is found in polynomial time (the peer tries all permutations).

    Formula: S = sum over types of the best sum of max(0, 1 - dE2000 / 100); P = S / #predicted, R = S / #true
    Range: [0, 1]
    Example: score("compat.chartmimic.color", '{"color": {"bar": ["#ff0000"]}}', {"color": {"bar": ["#FF0000"]}}) -> 1.0
    """
    truth = _colours(_element("color", _true_dump("color", target)))
    if truth is None or any(shade is None for shades in truth.values() for shade in shades):
        raise TargetError(f"compat.chartmimic.color needs lists of hex colours by chart type, got {target!r}")
    found = _colours(_element("color", _dump(parsed, meta)))
    if found is None:
        return Score(value=0.0, flags=("unparsable",))
    shared = sum(_assigned(found[kind], truth[kind]) for kind in found.keys() & truth.keys())
    return _score(shared, sum(map(len, found.values())), sum(map(len, truth.values())))


def _f1(name: str, parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    truth = _items(name, _element(name, _true_dump(name, target)))
    if truth is None:
        raise TargetError(f"compat.chartmimic.{name}: the target's {name} has the wrong form: {target!r}")
    tolerance = setting(meta, "position_tolerance", 0.0) if meta.get("position_tolerance") is not None else None
    found = _items(name, _element(name, _dump(parsed, meta)))
    if found is None:
        return Score(value=0.0, flags=("unparsable",))
    if tolerance is not None and name in ("text", "legend"):
        shared = _placed(found, truth, tolerance)
    else:
        mine, theirs = (Counter(key for key, _ in side) for side in (found, truth))
        shared = (mine & theirs).total()
    return _score(shared, len(found), len(truth))


def _score(shared: float, found: int, truth: int) -> Score:
    if not found and not truth:
        return Score(value=1.0)
    return Score(value=min(1.0, 2.0 * shared / (found + truth)))


Item = tuple[str, tuple[float, float] | None]


def _placed(found: Sequence[Item], truth: Sequence[Item], tolerance: float) -> int:
    free, shared = list(truth[:_MOST]), 0
    for key, place in found[:_MOST]:
        partner = next((item for item in free if item[0] == key and _near(place, item[1], tolerance)), None)
        if partner is not None:
            free.remove(partner)
            shared += 1
    return shared


def _near(place: tuple[float, float] | None, true: tuple[float, float] | None, tolerance: float) -> bool:
    if place is None or true is None:
        return place is None and true is None
    return all(abs(a - b) <= tolerance * abs(b) for a, b in zip(place, true, strict=True))


def _items(name: str, value: Any) -> list[Item] | None:
    """What an element lists, in a form that compares; None where it has the wrong form."""
    if name == "type":
        return _types(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return None
    if name == "layout":
        return [(json.dumps(_whole(item), sort_keys=True), None) for item in value]
    return _texts(value)


def _whole(value: Any) -> Any:
    """Numbers of a flat object or list that are whole as whole numbers: 1.0 rows are 1 row."""
    if isinstance(value, dict):
        return {key: _whole(item) if isinstance(item, float) else item for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) if isinstance(item, float) else item for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _texts(value: Sequence[Any]) -> list[Item] | None:
    items: list[Item] = []
    for item in value:
        written = item.get("text") if isinstance(item, dict) else item
        if not isinstance(written, str):
            return None
        place = finite(item.get("pos", [item.get("x"), item.get("y")])) if isinstance(item, dict) else None
        items.append((written, (place[0], place[1]) if place is not None and len(place) == 2 else None))
    return items


def _types(value: Any) -> list[Item] | None:
    counts: Counter[str] = Counter()
    entries = list(value.items()) if isinstance(value, dict) and "type" not in value else value
    for entry in [entries] if isinstance(entries, dict) else entries if isinstance(entries, list) else [None]:
        if isinstance(entry, str):
            entry = (entry, 1)
        elif isinstance(entry, dict):
            entry = (entry.get("type"), entry.get("count", 1))
        if not isinstance(entry, tuple) or not isinstance(entry[0], str) or isinstance(entry[1], bool):
            return None
        if not isinstance(entry[1], int) or not 0 <= entry[1] <= _MOST:
            return None
        counts[entry[0]] += entry[1]
    return [(kind, None) for kind in counts.elements()]


def _colours(value: Any) -> dict[str, list[str | None]] | None:
    """Colours by chart type, None for what is no colour; None where the element has the wrong form."""
    if isinstance(value, dict):
        pairs = [(str(kind), shade) for kind, shades in value.items() for shade in _listed(shades)]
    elif isinstance(value, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        pairs = [(str(pair[0]), pair[1]) for pair in value]
    else:
        return None
    found: dict[str, list[str | None]] = {}
    for kind, shade in pairs:
        match = _HEX.fullmatch(shade.lower()) if isinstance(shade, str) else None
        found.setdefault(kind, []).append(f"#{match[1]}" if match else None)
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _assigned(found: Sequence[str | None], truth: Sequence[str | None]) -> float:
    mine, theirs = ([shade for shade in side if shade is not None][:_MOST] for side in (found, truth))
    if not mine or not theirs:
        return 0.0
    alike = _alike(tuple(mine), tuple(theirs))
    rows, columns = linear_sum_assignment(alike, maximize=True)
    return float(alike[rows, columns].sum())


@functools.lru_cache(maxsize=1024)
def _alike(mine: tuple[str, ...], theirs: tuple[str, ...]) -> Array:
    """Completions of a group share most of their colours."""
    return similarity(list(mine), list(theirs))


def _element(name: str, dump: Any) -> Any:
    """An element of a dump, empty where the dump lacks it; a list is the element itself."""
    if not isinstance(dump, dict):
        return dump
    own = [key for key in _NAMES[name] if key in dump]
    if own:
        return dump[own[0]]
    whole = "data" in dump or any(key in dump for keys in _NAMES.values() for key in keys)
    return dump if dump and not whole else []


def _true_dump(name: str, target: Any) -> Any:
    value = _json(target) if isinstance(target, str) else target
    if value is None and isinstance(target, str) and _DRAWS in target:
        value = recorded(target)
    if not isinstance(value, dict | list):
        raise TargetError(f"compat.chartmimic.{name} needs a dump of chart elements as its target, got {target!r}")
    return value


def _dump(parsed: Parsed, meta: Mapping[str, Any]) -> Any:
    given = meta.get("elements")
    if given is not None:
        return _json(given) if isinstance(given, str) else given
    answer = first_or_all(parsed.text)
    found = _json([answer, *fenced(answer, "```"), *fenced(answer)][-1])
    return _drawn(answer) if found is None and _DRAWS in answer else found


def _drawn(program: str) -> Any:
    """What a Matplotlib program draws in the sandbox; None where it fails, which is the completion's fault."""
    try:
        return recorded(program)
    except TargetError:
        return None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
