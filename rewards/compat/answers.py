"""How the peers find an answer in a completion, and what form their truths come in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from vlrft.rewards.base import TargetError, is_number

LARGEST = 1e15
"""Numbers from here on are refused: what is computed from smaller ones stays finite."""

_OPEN, _CLOSE = "<answer>", "</answer>"
_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"
_BETWEEN = re.compile(r"</think>\s*+<answer>")


def first(text: str) -> str | None:
    """The first answer block outside the reasoning, stripped; None without one.

    New lines inside it are seen (several peers miss those), blocks inside a closed think block are not (the peers that
    take the first match anywhere pay for an answer that the reasoning only considers).
    """
    return _block(_outside_think(text), 0)[0]


def last(text: str) -> str | None:
    """The last answer block outside the reasoning, stripped; None without one."""
    text = _outside_think(text)
    answer, end = _block(text, 0)
    while end >= 0:
        found, end = _block(text, end)
        answer = answer if found is None else found
    return answer


def _outside_think(text: str) -> str:
    """`text` without its closed think blocks; a `</think>` that nothing opened closes one from the start."""
    closed = text.find(_THINK_CLOSE)
    if closed < 0:
        return text
    opened, kept, start = text.find(_THINK_OPEN), [], 0
    if opened < 0 or closed < opened:
        start = closed + len(_THINK_CLOSE)
    while (opened := text.find(_THINK_OPEN, start)) >= 0:
        closed = text.find(_THINK_CLOSE, opened)
        if closed < 0:
            break
        kept.append(text[start:opened])
        start = closed + len(_THINK_CLOSE)
    return "".join([*kept, text[start:]])


def _block(text: str, start: int) -> tuple[str | None, int]:
    """(the first answer block from `start` on, where it ends); (None, -1) without one. By `find`: linear in time."""
    opened = text.find(_OPEN, start)
    closed = text.find(_CLOSE, opened + len(_OPEN)) if opened >= 0 else -1
    return (text[opened + len(_OPEN) : closed].strip(), closed + len(_CLOSE)) if closed >= 0 else (None, -1)


def first_or_all(text: str) -> str:
    """The first answer block, or the whole completion where there is none (R1-V and what descends from it)."""
    found = first(text)
    return text.strip() if found is None else found


def has_shape(text: str, *, strip: bool = False) -> bool:
    """Whether the whole completion is a think block and an answer block; lazily, so that tags inside pass too."""
    text = text.strip() if strip else text
    if not text.startswith("<think>") or not text.endswith(_CLOSE):
        return False
    return _BETWEEN.search(text, len("<think>"), len(text) - len(_CLOSE)) is not None


def unwrap(target: Any) -> Any:
    """A truth without its answer tags."""
    if isinstance(target, str):
        found = first(target)
        return target if found is None else found
    return target


def truth_text(target: Any, what: str) -> str:
    """A truth that is text (or a number, written out). Raises TargetError for anything else or for nothing."""
    bare = unwrap(target)
    if is_number(bare):
        bare = repr(bare)
    if not isinstance(bare, str) or not bare.strip():
        raise TargetError(f"{what} needs a text as its target, got {target!r}")
    return bare.strip()


def truth_value(target: Any, what: str) -> Any:
    """A truth that is data: as it is, or read from a JSON text. Raises TargetError when it is neither."""
    bare = unwrap(target)
    if not isinstance(bare, str):
        return bare
    try:
        return json.loads(bare)
    except ValueError:
        raise TargetError(f"{what}: the target {target!r} is not JSON; give it as data, or as a JSON text") from None


def json_or_none(text: str) -> Any:
    """The value of a JSON text; None where it is none (or null)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def setting(meta: Mapping[str, Any], key: str, default: float) -> float:
    """A number of the peer's own settings. Raises TargetError for one that is none."""
    value = meta.get(key, default)
    if not is_number(value) or not abs(value) < LARGEST:
        raise TargetError(f"meta[{key!r}] must be a finite number, got {value!r}")
    return float(value)


def fenced(text: str, opening: str = "```json") -> list[str]:
    """The contents of every closed fence that starts with `opening`."""
    blocks, start = [], text.find(opening)
    while start >= 0 and (end := text.find("```", start + len(opening))) >= 0:
        blocks.append(text[start + len(opening) : end])
        start = text.find(opening, end + 3)
    return blocks


def is_right(meta: Mapping[str, Any], what: str) -> bool:
    """Whether `meta["correct"]` (or `accuracy`) says that the answer is right: true, or a score of at least 0.5.

    Raises TargetError where it says neither, or something else.
    """
    correct = meta.get("correct", meta.get("accuracy"))
    if correct is None:
        raise TargetError(f"{what} needs meta['correct'] (or 'accuracy'): whether the completion's answer is right")
    if not isinstance(correct, int | float):
        raise TargetError(f"{what}: meta['correct'] must be true, false or a score, got {correct!r}")
    return correct >= 0.5


def numbers(value: Any, what: str) -> list[float]:
    """A list of finite numbers (or truth values). Raises TargetError for anything else, and for an empty one."""
    if not isinstance(value, list | tuple) or not value:
        raise TargetError(f"{what} must be a list of numbers, got {value!r}")
    if not all(isinstance(v, int | float) and abs(v) < LARGEST for v in value):
        raise TargetError(f"{what} must hold finite numbers, got {value!r}")
    return [float(v) for v in value]
