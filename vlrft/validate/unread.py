"""What else is wrong with a recipe that cannot be read: one unknown key must not hide the mistakes in its rewards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlrft import rewards
from vlrft.recipe import ConfigError, read_recipe

_PLACE = re.compile(r"(?:unknown key )?([\w.]+(?:\[\d+\])*(?:\.\w+)*)")
"""How a line about a key of the config begins."""


def with_other_problems(recipe: str, error: ConfigError) -> ConfigError:
    """`error` of composing `recipe`, with what the file's own rewards and metrics would be told besides, line by line.

    Overrides are not looked at.
    """
    try:
        values = read_recipe(recipe).values
    except ConfigError:
        return error
    first, *others = str(error).splitlines()
    known = [line.strip() for line in others] or [first]
    told = {match[1] for line in known if (match := _PLACE.match(line)) is not None}
    more = []
    for line in _of_rewards(values):
        match = _PLACE.match(line)
        if match is None or match[1] not in told:
            more.append(line)
    if not more:
        return error
    lines = list(dict.fromkeys([*known, *more]))
    return ConfigError(f"{len(lines)} problems in the config:\n  " + "\n  ".join(lines))


def _of_rewards(values: Mapping[str, Any]) -> Iterator[str]:
    """One line per problem of `rewards` and `eval.metrics`, of the whole recipe and of each stage."""
    stages = values.get("stages")
    blocks = [values, *(s for s in (stages if isinstance(stages, list) else []) if isinstance(s, Mapping))]
    for block in blocks:
        data, evaluated, judged = (block.get(key) for key in ("data", "eval", "rewards"))
        mode = data.get("output_mode", "think") if isinstance(data, Mapping) else "think"
        if isinstance(judged, Mapping) and judged.get("funcs"):
            yield from _told(judged, mode, "rewards.funcs")
        if isinstance(evaluated, Mapping) and isinstance(evaluated.get("metrics"), list):
            yield from _told(evaluated["metrics"], mode, "eval.metrics")


def _told(block: Mapping[str, Any] | Sequence[Any], mode: Any, where: str) -> Iterator[str]:
    try:
        rewards.check(block, output_mode=str(mode), where=where)
    except (ValueError, ImportError, AttributeError) as error:
        first, *others = str(error).splitlines()
        yield from (line.strip() for line in others or [first])
