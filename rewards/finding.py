"""From a name to a function: the table, `name@number`, references to your own; options bound, results checked."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.registry import nearest, resolve
from vlrft.rewards.base import Judged, RewardError
from vlrft.rewards.blocks import shared
from vlrft.rewards.options import refuse_foreign
from vlrft.rewards.signature import fitted, misspelt, options_of, takes_columns, takes_group
from vlrft.rewards.table import REWARDS
from vlrft.types import Score

Named = str | Callable[..., Any]
"""A reward by its name or reference, or the function (or class) itself."""


def names() -> list[str]:
    """Names of the built-in rewards, sorted."""
    return sorted(REWARDS)


def name_of(reward: Named) -> str:
    """What messages and parts call a reward. Raises TypeError for what can be none."""
    if isinstance(reward, str):
        return reward
    if not callable(reward):
        raise TypeError(f"a reward is a name such as 'box.iou' or a function, got {reward!r:.80}")
    return str(getattr(reward, "__name__", type(reward).__name__))


def look_up(reward: Named) -> Callable[..., Any]:
    """The function or class behind `reward`, without options. Raises UnknownNameError, LoadError, ValueError."""
    if not isinstance(reward, str):
        return reward
    base, at, _ = reward.partition("@")
    known = base if at and (base in REWARDS or ":" not in reward) else reward
    function = resolve(known, REWARDS, kind="reward", listing="vlrft rewards ls")
    if not callable(function):
        raise ValueError(f"reward {reward!r} is a {type(function).__name__}, not a function")
    found: Callable[..., Any] = function
    return found


def at_option(reward: Named) -> dict[str, Any]:
    """What follows '@' in the name, as the option that the reward has for it: a threshold `t`, or a rank `k`."""
    base, at, number = reward.partition("@") if isinstance(reward, str) else ("", "", "")
    if not at or (base not in REWARDS and ":" in base + number):
        return {}
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"reward {reward!r}: what follows '@' must be a number, as in box.acc@0.5") from None
    if "k" not in inspect.signature(look_up(reward)).parameters:
        return {"t": value}
    if value != int(value):
        raise ValueError(f"reward {reward!r}: what follows '@' is a rank, a whole number, as in ranked.recall@5")
    return {"k": int(value)}


def find(reward: Named, kwargs: Mapping[str, Any] | None = None, *, asynchronous: bool = False) -> Callable[..., Any]:
    """The function behind `reward` with its options bound: a name of the table, `name@number`, a reference, a function.

    asynchronous: the caller can await an `async def` function. A class is made anew at every call.
    Raises UnknownNameError for an unknown name, LoadError or MissingAttributeError for a reference that cannot be
    loaded, ValueError for an option that the function does not take or lacks, or of another type.
    """
    name, function = name_of(reward), look_up(reward)
    refuse_foreign(name, function)
    given = {**(kwargs or {}), **at_option(reward)}
    try:
        options = fitted(name, function, given)
    except ValueError as error:
        raise ValueError("\n".join([str(error), *_wrong_names(name, function, given)])) from error
    if inspect.isclass(function):
        made = _instance(name, function, options)
        return shared(name, made) if is_builtin(reward) else made
    if inspect.iscoroutinefunction(function) and not asynchronous:
        raise ValueError(f"reward {name!r} is an async function, which cannot be awaited here; give a plain one")
    _check_options(name, function, options)
    bound = functools.partial(function, **options) if options else function
    return shared(name, bound) if is_builtin(reward) and not takes_group(function) else bound


def _instance(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """A stateful reward is a class; every use of it in a recipe has its own state."""
    try:
        made: Callable[..., Any] = factory(**options)
    except TypeError as error:
        raise ValueError(
            f"reward {name!r} cannot be made with options {sorted(options)}: {error}{_meant(factory, options)}"
        ) from error
    return made


def _wrong_names(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> list[str]:
    """What is said of options that the function does not take or lacks; none of that where all is well."""
    try:
        if not inspect.isclass(function):
            _check_options(name, function, options)
    except ValueError as error:
        return [str(error)]
    return []


def _check_options(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    signature = inspect.signature(function)
    columns, group = takes_columns(function), takes_group(function)
    known = options_of(function)
    try:
        if columns:
            signature.bind_partial(**options)
        elif group:
            signature.bind(None, **options)
        else:
            signature.bind(None, None, None, **options)
    except TypeError as error:
        if not (columns or group) and not _takes_three(signature):
            raise ValueError(
                f"reward {name!r} cannot be called as a reward, it is {name_of(function)}{signature}: write "
                "(parsed, target, meta, **options) -> float, TRL's (completions, prompts=None, **columns) -> list, or "
                "(group) -> list"
            ) from error
        lacking = [key for key, option in known.items() if option.required and key not in options]
        wanted = "(completions, ...)" if columns else "(group)" if group else "(parsed, target, meta)"
        raise ValueError(
            f"reward {name!r} cannot be called as {wanted} with options {sorted(options)}: {error}; "
            f"its options: {', '.join(known) or 'none'}{_meant(function, options) or _how_to_give(name, lacking)}"
        ) from error


def _takes_three(signature: inspect.Signature) -> bool:
    """Whether the first three arguments can be given by position."""
    kinds = [p.kind for p in signature.parameters.values()]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Parameter.VAR_POSITIONAL in kinds or sum(kind in positional for kind in kinds) >= 3


def _how_to_give(name: str, lacking: Sequence[str]) -> str:
    """`; write the threshold as box.acc@0.5`, of options that must be given."""
    if not lacking:
        return ""
    if lacking == ["t"] and name in REWARDS:
        return f"; write the threshold as {name}@0.5"
    given = ", ".join(f"{key}: ..." for key in lacking)
    return f"; give {', '.join(lacking)}: by keyword, in a recipe kwargs: {{{given}}}, on the command line --options"


def _meant(function: Callable[..., Any], options: Mapping[str, Any]) -> str:
    """`; did you mean X?` for the first option that the function does not have."""
    known = options_of(function)
    for key, value in options.items():
        if key not in known:
            meant = misspelt(key, value, function)
            return f"; did you mean {meant!r}?" if meant else nearest(key, list(known))
    return ""


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


def is_builtin(reward: Named) -> bool:
    """True for a name of the table, with or without `@number`."""
    return isinstance(reward, str) and reward.partition("@")[0] in REWARDS


def probe(
    function: Callable[..., Any],
    target: Any,
    meta: Mapping[str, Any],
    parts: Mapping[str, float | None] | None = None,
) -> None:
    """Call a built-in reward with an empty completion. parts: what a group-aware one is to see of the others."""
    empty = Parsed(text="", mode=str(meta.get("output_mode") or "think"))
    if takes_group(function):
        function(Judged(parsed=(empty,), parts=(parts or {},), target=target, meta=(meta,)))
    else:
        function(empty, target, meta)
