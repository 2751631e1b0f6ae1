"""Keys of meta: which ones a reward documents, near misses of them, and numbers that a table has as text."""

from __future__ import annotations

import difflib
import functools
import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vlrft.coords import SPACES
from vlrft.parse import OUTPUT_MODES
from vlrft.rewards.describe import describe
from vlrft.rewards.finding import look_up
from vlrft.rewards.signature import number_in, options_of
from vlrft.rewards.table import REWARDS

if TYPE_CHECKING:
    from vlrft.rewards.entry import Entry

logger = logging.getLogger(__name__)

EVERYWHERE = ("output_mode", "lenient_extraction")
"""Keys that say how a completion is read, whatever the reward."""

_NUMBERS = frozenset(
    (
        *("num_options", "num_tokens", "max_tokens", "max_length", "response_length", "max_response_length", "max_len"),
        *("duration", "timeout_s", "abs_tol", "rel_tol", "iou_threshold", "k", "given_frames", "first_frame", "buffer"),
        *("overlong_buffer_length", "margin", "bonus", "index", "budget", "step", "width", "height", "radius", "scale"),
        *("max_words", "length", "position_tolerance", "accuracy", "correct"),
        *("image_size", "input_size", "control", "formats", "group_lengths", "group_correct", "timestamps"),
    )
)
"""Keys whose value is a number, or a list of numbers."""

_TRUTHS = frozenset(("correct", "negatives", "ordered", "lenient_extraction"))
_TRUTH = {"true": True, "false": False}

_NAME = re.compile(r"`([a-z][a-z_0-9]*)`")
_AS = re.compile(r"\b[Aa]s (?:for )?([a-z]+(?:\.[a-z_0-9]+)*)\b")


def documented(name: str) -> frozenset[str]:
    """The keys of meta that the page of the built-in reward `name` speaks of; EVERYWHERE for a reward of your own."""
    base = name.partition("@")[0]
    return _documented(base) if base in REWARDS else frozenset(EVERYWHERE)


@functools.cache
def _documented(base: str) -> frozenset[str]:
    """What stands in backticks in `Meta:`, there and where it points to: `as for box.*`, `as for num.exact`."""
    found: set[str] = set(EVERYWHERE)
    read: set[str] = set()
    waiting = [base]
    while waiting:
        text = describe(waiting.pop()).family.get("Meta", "")
        if text not in read:
            read.add(text)
            found.update(_NAME.findall(text))
            for other in _AS.findall(text):
                waiting += [known for known in REWARDS if known == other or known.startswith(f"{other}.")][:1]
    return frozenset(found) - {*SPACES, *OUTPUT_MODES}


def near_miss(key: str, known: frozenset[str]) -> str | None:
    """The documented key that `key` seems to be a slip of the pen for, None where it can well be another column."""
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.85)
    return near[0] if near and len(key) > 3 else None


class NearMisses:
    """Tells once of each key of meta that seems to be a slip for one that a built-in reward reads."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._known: dict[str, frozenset[str]] = {}
        self._seen: set[str] = set()
        for entry in entries:
            spec = entry.spec
            if entry.builtin:
                options = options_of(look_up(spec.func)).keys() - spec.kwargs.keys()
                self._known[entry.name] = documented(spec.func) | options
            self._seen.update((*spec.when, *([spec.target] if spec.target else [])))
        self._seen.update(key for known in self._known.values() for key in known)

    def tell(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self._seen:
                continue
            self._seen.add(key)
            for name, known in self._known.items():
                if (meant := near_miss(key, known)) is not None:
                    logger.warning("reward %r: it does not read %r of meta; did you mean %r?", name, key, meant)
                    break


def is_number_key(key: str) -> bool:
    """Whether `meta[key]` is a number, or a list of numbers, where a reward reads it."""
    return key in _NUMBERS


def number_read(key: str, value: str) -> Any:
    """`value` as the number or truth that the key stands for, as a table holds it; unchanged where it is none."""
    if key in _TRUTHS and value.strip().lower() in _TRUTH:
        return _TRUTH[value.strip().lower()]
    number = number_in(value) if key in _NUMBERS else None
    return value if number is None else number


def numbers_read(key: str, value: Any) -> Any:
    """As `number_read`, of the entries of a list."""
    if not isinstance(value, list | tuple):
        return value
    return [number_read(key, item) if isinstance(item, str) else item for item in value]
