"""Calling a reward by name: find it, bind its options, score one completion, probe a target."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from vlrft.parse import Parsed, parse
from vlrft.registry import resolve
from vlrft.rewards.base import Judged, RewardError
from vlrft.rewards.table import REWARDS
from vlrft.types import Score


def names() -> list[str]:
    """Names of the built-in rewards, sorted."""
    return sorted(REWARDS)


def find(name: str, kwargs: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """The function behind `name` with its options bound: a name of the table, `name@number`, or a reference of yours.

    Raises UnknownNameError for an unknown name, ValueError for an option that the function does not take or lacks.
    """
    base, at, number = name.partition("@")
    options = dict(kwargs or {})
    if at and (base in REWARDS or ":" not in name):
        function = resolve(base, REWARDS, kind="reward")
        options |= _at_option(name, function, number)
    else:
        function = resolve(name, REWARDS, kind="reward")
    if not callable(function):
        raise ValueError(f"reward {name!r} is a {type(function).__name__}, not a function")
    if inspect.isclass(function):
        return _instance(name, function, options)
    if inspect.iscoroutinefunction(function):
        raise ValueError(f"reward {name!r} is an async function; give a plain one that waits for its own calls")
    _check_options(name, function, options)
    return functools.partial(function, **options) if options else function


def _at_option(name: str, function: Callable[..., Any], number: str) -> dict[str, float]:
    """What follows '@', as the option that the reward has for it: a threshold `t`, or a rank `k`."""
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"reward {name!r}: what follows '@' must be a number, as in box.acc@0.5") from None
    if "k" not in inspect.signature(function).parameters:
        return {"t": value}
    if value != int(value):
        raise ValueError(f"reward {name!r}: what follows '@' is a rank, a whole number, as in ranked.recall@5")
    return {"k": int(value)}


def _instance(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """A stateful reward is a class; every use of it in a recipe has its own state."""
    try:
        made: Callable[..., Any] = factory(**options)
    except TypeError as error:
        raise ValueError(f"reward {name!r} cannot be made with options {sorted(options)}: {error}") from error
    return made


def _check_options(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    signature = inspect.signature(function)
    columns = takes_columns(function)
    try:
        if columns:
            signature.bind_partial(**options)
        elif takes_group(function):
            signature.bind(None, **options)
        else:
            signature.bind(None, None, None, **options)
    except TypeError as error:
        positional = {"completions", "prompts"} if columns else set(list(signature.parameters)[:3])
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        usable = [n for n, p in signature.parameters.items() if n not in positional and p.kind not in variadic]
        hint = "; write the threshold as box.acc@0.5" if "t" in usable and "t" not in options else ""
        wanted = "(completions, ...)" if columns else "(parsed, target, meta)"
        raise ValueError(
            f"reward {name!r} cannot be called as {wanted} with options {sorted(options)}: {error}; "
            f"its options: {', '.join(usable) or 'none'}{hint}"
        ) from error


def takes_columns(function: Callable[..., Any]) -> bool:
    """True for TRL's signature, `f(completions, prompts=None, **columns) -> list[float | None]`."""
    return "completions" in inspect.signature(function).parameters


def takes_group(function: Callable[..., Any]) -> bool:
    """True for a group-aware reward, `(group: Judged) -> list[Score]`."""
    return "group" in inspect.signature(function).parameters


def score(name: str, completion: str, target: Any, meta: Mapping[str, Any] | None = None, **kwargs: Any) -> Score:
    """Score one completion by a per-sample reward.

    completion: the raw text with its tags. target, meta: as the reward's family defines them; `meta["output_mode"]`
    (default `think`) says how the text is read. kwargs: the reward's options.
    The result's `parts` holds the same value under `name`.

    Example: score("box.iou", "<think>it</think><answer>[0, 0, 10, 10]</answer>", [0, 0, 10, 20]).value == 0.5
    """
    function = find(name, kwargs)
    if takes_columns(function):
        raise ValueError(f"reward {name!r} scores whole columns; call the function itself, or name it in a recipe")
    known = dict(meta or {})
    parsed = parse(completion, str(known.get("output_mode") or "think"))
    if takes_group(function):
        return as_score(name, function(Judged(parsed=(parsed,), parts=({},), target=target, meta=(known,)))[0])
    return as_score(name, function(parsed, target, known))


def as_score(name: str, result: Any) -> Score:
    """What a per-sample reward returned, as a Score with its part. Raises RewardError unless it is finite or None."""
    if isinstance(result, Score):
        value = checked(name, result.value)
        parts = {key: checked(f"{name}: part {key!r}", part) for key, part in result.parts.items()}
        return Score(value=value, parts={name: value, **parts}, flags=result.flags)
    value = checked(name, result)
    return Score(value=value, parts={name: value})


def checked(name: str, value: Any) -> float | None:
    """`value` as a finite float or None; raises RewardError for anything else."""
    if value is None:
        return None
    if not isinstance(value, numbers.Real):
        raise RewardError(f"{name} returned {value!r} ({type(value).__name__}); a reward is a number or None")
    if not math.isfinite(value):
        raise RewardError(f"{name} returned {float(value)!r}; a reward must be finite")
    return float(value)


def check_target(name: str, target: Any, meta: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
    """Raise TargetError, naming what is wrong, when the built-in reward `name` could not judge against `target`.

    The reward is called with an empty completion, since every built-in looks at its target first. Rewards of your own
    are not called: they may be slow, and only they know their target.
    """
    function = find(name, kwargs)
    if name.partition("@")[0] in REWARDS:
        known = dict(meta or {})
        empty = Parsed(text="", mode=str(known.get("output_mode") or "think"))
        if takes_group(function):
            function(Judged(parsed=(empty,), parts=({},), target=target, meta=(known,)))
        else:
            function(empty, target, known)
