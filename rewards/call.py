"""Calling a reward by name: find it, bind its options, score one completion, probe a target."""

from __future__ import annotations

import difflib
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

Scorer = Callable[[str, Any, Mapping[str, Any]], Score]
"""`(completion, target, meta) -> Score`."""


def names() -> list[str]:
    """Names of the built-in rewards, sorted."""
    return sorted(REWARDS)


def find(name: str, kwargs: Mapping[str, Any] | None = None, *, asynchronous: bool = False) -> Callable[..., Any]:
    """The function behind `name` with its options bound: a name of the table, `name@number`, or a reference of yours.

    asynchronous: the caller can await an `async def` function. A class is made anew at every call.
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
    if inspect.iscoroutinefunction(function) and not asynchronous:
        raise ValueError(f"reward {name!r} is an async function, which only a recipe can name; give a plain one here")
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


def score(name: str, completion: str, target: Any, meta: Mapping[str, Any] | None = None, **keys: Any) -> Score:
    """Score one completion by a per-sample reward, or by a group-aware one as a group of one.

    completion: the raw text with its tags. target, meta: as the reward's family defines them; `meta["output_mode"]`
    (default `think`) says how the text is read. keys: the reward's options, and keys of meta: what the function takes
    is an option, anything else is laid over `meta`.
    The result's `parts` holds the same value under `name`.

    Example: score("box.iou", "<answer>[0, 0, 500, 1000]</answer>", [0, 0, 10, 20],
    image_size=[20, 20], coord_space="norm_1000").value == 1.0
    """
    options = {key: value for key, value in keys.items() if _is_option(name, key, value)}
    known = {**(meta or {}), **{key: value for key, value in keys.items() if key not in options}}
    return scorer(name, options)(completion, target, known)


def _is_option(name: str, key: str, value: Any) -> bool:
    """Whether a keyword of `score` is an option of the reward; so is one that is spelt nearly like an option."""
    base = name.partition("@")[0]
    parameters = inspect.signature(resolve(base if base in REWARDS else name, REWARDS, kind="reward")).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return True
    named = [p.name for p in parameters.values() if p.name not in ("parsed", "target", "meta", "group")]
    if key == "accuracy" and not isinstance(value, str):
        return False  # the option is the name of the reward that says it; a number is what it said
    return key in named or bool(difflib.get_close_matches(key, named, n=1, cutoff=0.85))


def scorer(name: str, options: Mapping[str, Any] | None = None) -> Scorer:
    """`score` of one reward, found once: quicker than `score`, and what a stateful one has learnt stays with it."""
    function = find(name, options)
    if takes_columns(function):
        raise ValueError(f"reward {name!r} scores whole columns; call the function itself, or name it in a recipe")
    grouped = takes_group(function)

    def scored(completion: str, target: Any, meta: Mapping[str, Any]) -> Score:
        parsed = parse(completion, str(meta.get("output_mode") or "think"))
        if grouped:
            return as_score(name, function(Judged(parsed=(parsed,), parts=({},), target=target, meta=(meta,)))[0])
        return as_score(name, function(parsed, target, dict(meta)))

    return scored


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
    if is_builtin(name):
        probe(function, target, dict(meta or {}))


def is_builtin(name: str) -> bool:
    """True for a name of the table, with or without `@number`."""
    return name.partition("@")[0] in REWARDS


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
