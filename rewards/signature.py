"""The options of a reward as its signature states them: names, types, defaults, and near misses of a name."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.rewards.base import is_number

_GIVEN = ("group", "completions", "prompts", "completion_ids")
"""Parameters that whoever calls a reward fills in, besides the first three of a per-sample one."""

_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "t": ("threshold", "thresh", "iou", "iou_threshold", "iou_thr"),
    "s": ("sigma", "std", "scale"),
    "k": ("top_k", "topk"),
    "n": ("ngram", "n_gram", "ngram_size", "ngrams"),
    "lo": ("low", "lower"),
    "hi": ("high", "upper"),
    "low": ("lo", "min", "min_tokens"),
    "high": ("hi", "max"),
    "min_words": ("min",),
    "max_words": ("max",),
}
"""What options with short names are called elsewhere."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PLAIN = {bool: "true or false", str: "a text", dict: "an object", list: "a list"}
_PLURALS = {"a number": "numbers", "a whole number": "whole numbers", "a text": "texts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a reward."""

    name: str
    hint: Any
    """Its annotation, evaluated; `typing.Any` where it has none, or one that cannot be evaluated."""
    default: Any
    """`inspect.Parameter.empty` for one that must be given."""

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def kind(self) -> str:
        """Its type in words: `a number`, `a list of texts`."""
        return _words(self.hint)


def takes_columns(function: Callable[..., Any]) -> bool:
    """True for TRL's signature, `f(completions, prompts=None, **columns) -> list[float | None]`.

    TRL hands over everything by keyword, so a function may take `completion_ids` alone, or nothing but `**columns`.
    """
    parameters = inspect.signature(function).parameters
    if "completions" in parameters or "completion_ids" in parameters:
        return True
    kinds = [p.kind for p in parameters.values()]
    named = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if inspect.Parameter.VAR_KEYWORD not in kinds or "group" in parameters:
        return False
    return not named or (len(named) < 3 and inspect.Parameter.VAR_POSITIONAL not in kinds)


def takes_group(function: Callable[..., Any]) -> bool:
    """True for a group-aware reward, `(group: Judged) -> list[Score]`."""
    return "group" in inspect.signature(function).parameters


def options_of(function: Callable[..., Any]) -> Mapping[str, Option]:
    """The options of a reward function or class, by name, in the order of its signature; bound ones are among them."""
    plain = getattr(function, "func", function)
    cached = isinstance(plain, types.FunctionType | type)  # what else is callable need not be hashable
    return _cached_options(plain) if cached else _options(plain)


def _options(function: Callable[..., Any]) -> Mapping[str, Option]:
    parameters = list(inspect.signature(function).parameters.values())
    if not inspect.isclass(function) and not takes_columns(function) and not takes_group(function):
        parameters = parameters[3:]  # (parsed, target, meta), whatever they are called
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    hints = _hints(function)
    return {
        p.name: Option(name=p.name, hint=hints.get(p.name, Any), default=p.default)
        for p in parameters
        if p.kind not in variadic and p.name not in _GIVEN
    }


_cached_options = functools.lru_cache(maxsize=512)(_options)


def _hints(function: Any) -> Mapping[str, Any]:
    if not isinstance(function, types.FunctionType | types.MethodType):
        function = function.__init__ if inspect.isclass(function) else type(function).__call__
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that exist for type checkers only: nothing can be checked
        return {}


def fitted(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` with a number in place of a numeric text and a list in place of a lone text, where those are meant.

    Raises ValueError, in one line for each, for values that do not fit their option's annotation. Names that are no
    option are left as they are.
    """
    known = options_of(function)
    read = {key: as_meant(value, known[key].hint) if key in known else value for key, value in options.items()}
    wrong = [
        f"reward {name!r}: option {key!r} must be {known[key].kind}, got {value!r:.80}"
        for key, value in read.items()
        if key in known and not fits(value, known[key].hint)
    ]
    if wrong:
        raise ValueError("\n".join(wrong))
    return read


def as_meant(value: Any, hint: Any) -> Any:
    """`value` as an annotation wants it: a numeric text as a number, a lone text as a list, else unchanged."""
    if fits(value, hint) or not isinstance(value, str):
        return value
    number = number_in(value)
    if number is not None and fits(number, hint):
        return number
    return [value] if fits([value], hint) else value


def number_in(text: str) -> int | float | None:
    """The number that `text` is, in decimal notation; None for anything else."""
    text = text.strip()
    if _NUMBER.fullmatch(text) is None:
        return None
    return float(text) if set(text) & set(".eE") else int(text)


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type that an annotation states; anything fits one that is not understood."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in inner)
    if origin is typing.Literal:
        return value in inner
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return is_number(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is Callable:
        return callable(value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Collection):
        listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return listed and all(fits(item, inner[0]) for item in value)
    return isinstance(value, hint) if hint in _PLAIN else True


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(member) for member in inner)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in inner)
    if origin is Callable:
        return "a callable"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "an object"
    if isinstance(origin, type) and issubclass(origin, Collection):
        return f"a list of {_PLURALS.get(_words(inner[0]), 'values')}"
    if hint in (None, type(None)):
        return "null"
    return {float: "a number", int: "a whole number", **_PLAIN}.get(hint, "any value")


def misspelt(key: str, value: Any, function: Callable[..., Any]) -> str | None:
    """The option that `key` seems to mean: near to its name, or what it is called elsewhere, with a value that fits it.

    None where `key` is an option itself, or can well be a column of its own.
    """
    known = options_of(function)
    if key in known:
        return None
    near = [name for name in known if key in _ELSEWHERE.get(name, ())]
    near += difflib.get_close_matches(key, list(known), n=1, cutoff=0.75)
    near += [name for name in known if len(name) > 3 and (name.startswith(f"{key}_") or key.startswith(f"{name}_"))]
    return next((name for name in near if fits(as_meant(value, known[name].hint), known[name].hint)), None)
