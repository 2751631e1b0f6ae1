"""Conditions on a part, as a recipe writes them: `box.iou > 0`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlrft.registry import nearest

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}
_GATE = re.compile(r"\s*(?P<part>[^<>=\s]+)\s*(?P<op>>=|<=|==|>|<)\s*(?P<number>[^<>=\s]+)\s*")


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on the unweighted value of one part."""

    part: str
    op: str
    number: float

    def holds(self, parts: Mapping[str, float | None]) -> bool | None:
        """None where the part does not apply: then there is nothing to decide on."""
        value = parts[self.part]
        return None if value is None else _OPERATORS[self.op](value, self.number)


def read_gate(what: str, text: str) -> Gate:
    """The condition in `text`. Raises ValueError, naming `what` it belongs to, for anything else than `part op number`.

    Example: read_gate("reward 'format.think_answer'", "box.iou >= 0.5") == Gate("box.iou", ">=", 0.5)
    """
    match = _GATE.fullmatch(text)
    try:
        number = float(match["number"]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or not math.isfinite(number):
        raise ValueError(
            f"{what}: the condition {text!r} is not 'part op number' with one of {' '.join(_OPERATORS)}; "
            "write for example 'box.iou > 0'"
        )
    return Gate(match["part"], match["op"], number)


def check_gates(gates: Mapping[str, Gate | None], names: Sequence[str]) -> None:
    """Raise ValueError unless every gate names a reward of the list that has no gate itself.

    So no circle can arise, and a gate never hangs on whether another one is open.
    """
    for name, gate in gates.items():
        if gate is None:
            continue
        if gate.part not in names:
            raise ValueError(
                f"the condition of {name!r} names {gate.part!r}, which is no reward of the list"
                f"{nearest(gate.part, list(names))}; the list has: {', '.join(names)}"
            )
        if gate.part == name:
            raise ValueError(f"reward {name!r} is its own gate; name another reward of the list")
        inner = gates.get(gate.part)
        if inner is not None:
            raise ValueError(
                f"reward {name!r} has a gate on {gate.part!r}, which has a gate itself; a gate names a reward without "
                f"one, perhaps {inner.part!r}"
            )
