"""Numbers that change over a stage: weights glide from point to point, options jump at their step.

A schedule is a list of `[step, value]` with ascending steps; steps are finished ones of the stage, the first is 0.
"""

from __future__ import annotations

import bisect
import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

Points = Sequence[tuple[int, float]]


def weight_at(weight: float | Points, step: int) -> float:
    """`weight` at `step`: piecewise linear between the points, constant before the first and after the last.

    Example: weight_at([(0, 1.0), (100, 0.0)], 25) == 0.75
    """
    if isinstance(weight, int | float):
        return float(weight)
    after = bisect.bisect_right(weight, step, key=lambda point: point[0])
    if after == 0:
        return float(weight[0][1])
    if after == len(weight):
        return float(weight[-1][1])
    (left, low), (right, high) = weight[after - 1], weight[after]
    return low + (high - low) * (step - left) / (right - left)


def check_weight(name: str, weight: float | Points) -> None:
    """Raise ValueError, naming the reward, for a weight that is negative, not finite, or no schedule."""
    if not isinstance(weight, int | float):
        check_steps(f"reward {name!r}: weight", weight)
    for value in [weight] if isinstance(weight, int | float) else [value for _, value in weight]:
        if not math.isfinite(value) or value < 0.0:
            raise ValueError(f"reward {name!r} has weight {value!r}; a weight is finite and not negative")


def is_scheduled(weight: float | Points) -> bool:
    """True for a weight that changes over the stage."""
    return not isinstance(weight, int | float)


def check_steps(what: str, points: Sequence[Sequence[Any]]) -> None:
    """Raise ValueError unless `points` is a list of [step, value] with ascending steps from 0 on."""
    if isinstance(points, str) or not isinstance(points, Sequence) or not points:
        raise ValueError(f"{what}: a schedule is a list such as [[0, 1.0], [100, 0.5]], got {points!r}")
    for point in points:
        if not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 2:
            raise ValueError(f"{what}: {point!r} is not [step, value]; write a schedule as [[0, 1.0], [100, 0.5]]")
        if isinstance(point[0], bool) or not isinstance(point[0], int) or point[0] < 0:
            raise ValueError(f"{what}: step {point[0]!r} of the schedule is not a whole number from 0 on")
    steps = [point[0] for point in points]
    for before, after in itertools.pairwise(steps):
        if after <= before:
            raise ValueError(f"{what}: the steps of the schedule must ascend, but {after} follows {before}; sort them")


def is_schedule(option: Any) -> bool:
    """True for an option that a recipe writes as `{schedule: [[step, value], ...]}`."""
    return isinstance(option, Mapping) and set(option) == {"schedule"}


def _meant_as_schedule(option: Any) -> bool:
    if not isinstance(option, Mapping):
        return False
    near = difflib.get_close_matches("schedule", map(str, option), n=1, cutoff=0.75)
    return bool(near) and isinstance(option.get(near[0]), list | tuple)


def options_by_step(name: str, kwargs: Mapping[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The options of a reward from each step on at which one of them jumps; the first entry is for step 0.

    Raises ValueError, naming reward and option, for a schedule that is none, or is misspelt.

    Example: options_by_step("f", {"t": {"schedule": [[0, 0.5], [9, 0.75]]}}) == [(0, {"t": 0.5}), (9, {"t": 0.75})]
    """
    schedules = {key: option["schedule"] for key, option in kwargs.items() if is_schedule(option)}
    for key, option in kwargs.items():
        if not is_schedule(option) and _meant_as_schedule(option):
            raise ValueError(
                f"reward {name!r}: option {key!r}: {option!r:.80} is no schedule; write "
                "{schedule: [[step, value], ...]}, with no other key"
            )
    for key, points in schedules.items():
        check_steps(f"reward {name!r}: option {key!r}", points)
    starts = sorted({0} | {step for points in schedules.values() for step, _ in points})
    return [
        (start, {key: _held(schedules[key], start) if key in schedules else kwargs[key] for key in kwargs})
        for start in starts
    ]


def _held(points: Sequence[Sequence[Any]], step: int) -> Any:
    """The value of the last point at or before `step`; the first point's before that."""
    return next((value for start, value in reversed(points) if start <= step), points[0][1])
