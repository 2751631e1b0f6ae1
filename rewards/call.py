"""Scoring one completion by one reward, named by its name, a reference or the function itself."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrft.parse import Parsed, parse
from vlrft.rewards.awaiting import Loop
from vlrft.rewards.base import Judged, RewardError, TargetError
from vlrft.rewards.finding import (
    Named,
    as_score,
    at_option,
    checked,
    find,
    is_builtin,
    look_up,
    name_of,
    names,
    probe,
)
from vlrft.rewards.keys import (
    EVERYWHERE,
    documented,
    is_number_key,
    near_miss,
    number_read,
    numbers_read,
)
from vlrft.rewards.messages import text_of
from vlrft.rewards.options import try_options
from vlrft.rewards.plain import plain
from vlrft.rewards.signature import as_meant, fits, fitted, misspelt, options_of, takes_columns, takes_group
from vlrft.types import Sample, Score, TextPart

__all__ = [
    "Scorer",
    "as_score",
    "check_target",
    "checked",
    "find",
    "is_builtin",
    "names",
    "probe",
    "read",
    "score",
    "scorer",
    "takes_columns",
    "takes_group",
]

logger = logging.getLogger(__name__)

_ATOMS = frozenset((str, int, float, bool, type(None)))
_LOOKED_INTO = 8
"""How many entries of a long list under a key of meta are looked at for arrays."""


def score(
    name: Named, completion: Any, target: Any = None, meta: Mapping[str, Any] | None = None, **keys: Any
) -> Score:
    """Score one completion by a per-sample reward, or by a group-aware one as a group of one.

    name: of the table (`box.iou`, `box.acc@0.5`), `package.module:function`, `path/to/file.py:function`, or a function
    of yours, also one of TRL's signature or an async one.
    completion: the raw text with its tags, or chat messages, of which the assistant's last one counts.
    target, meta: as the reward's family defines them; `meta["output_mode"]` (default `think`) and
    `meta["lenient_extraction"]` (default false) say how the text is read. A key of meta that is the name of an option
    and no documented key of meta sets that option.
    keys: options of the reward and keys of meta; what is no option is laid over `meta`.
    The result's `parts` holds the same value under `name`.

    Raises TargetError for a target or meta that cannot be judged against, ValueError for a keyword that seems to be a
    misspelt option or an option of another type or out of range, TypeError for a completion that is neither.

    Example: score("box.iou", "<answer>[0, 0, 500, 1000]</answer>", [0, 0, 10, 20],
    image_size=[20, 20], coord_space="norm_1000").value == 1.0
    """
    options = {key: value for key, value in keys.items() if _is_option(name, key, value)}
    call = _kept(name, options) if isinstance(name, str) and is_builtin(name) else Scorer(name, options)
    laid = {key: value for key, value in keys.items() if key not in options}
    if laid:
        laid = {**_as_mapping(meta), **laid}
    return call(completion, target, laid or meta)


def scorer(name: Named, options: Mapping[str, Any] | None = None, **more: Any) -> Scorer:
    """`score` of one reward, found once: quicker than `score`, and what a stateful one has learnt stays with it.

    options, more: the reward's options, as a mapping or by keyword. Keys of meta belong to the call.

    Example: scorer("box.acc", t=0.5)("<answer>[0, 0, 10, 10]</answer>", [0, 0, 10, 12]).value == 1.0
    """
    return Scorer(name, {**(options or {}), **more})


def check_target(name: Named, target: Any, meta: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
    """Raise TargetError, naming what is wrong, when the built-in reward `name` could not judge against `target`.

    The reward is called with an empty completion, since every built-in looks at its target first. Rewards of your own
    are not called: they may be slow, and only they know their target.
    """
    Scorer(name, kwargs).check(target, meta)


def read(completion: Any, meta: Mapping[str, Any]) -> Parsed:
    """The completion taken apart, as `output_mode` and `lenient_extraction` of meta say."""
    lenient = meta.get("lenient_extraction") or False
    if not isinstance(lenient, bool):
        raise ValueError(f"lenient_extraction is true or false, got {lenient!r:.80}")
    return parse(text_of(completion), str(meta.get("output_mode") or "think"), lenient=lenient)


class Scorer:
    """`(completion, target, meta) -> Score` of one reward with its options. It pickles, with what it has learnt."""

    def __init__(self, name: Named, options: Mapping[str, Any] | None = None) -> None:
        """Raises UnknownNameError, LoadError, or ValueError for options that cannot work."""
        self.name = name_of(name)
        self._reward, self._options = name, plain(dict(options or {}))
        function = look_up(name)
        known = options_of(function)
        given = {**self._options, **at_option(name)}
        self._builtin = is_builtin(name)
        self._documented = documented(self.name)
        columns = not inspect.isclass(function) and takes_columns(function)
        self._hints = {} if columns else {key: option.hint for key, option in known.items() if key not in given}
        self._seen = set(self._documented | self._hints.keys())
        self._bound: dict[Any, _Bound] = {}
        self._plain_target: Any = None
        fitted(self.name, function, given)
        required = {key for key, option in known.items() if option.required} | {"embedder"}
        try:
            self._with({})
        except ValueError:
            if given.keys() - known.keys() or not required & self._hints.keys():
                raise
            # A row may bring what is lacking; the first one that does not is told.

    def __call__(self, completion: Any, target: Any = None, meta: Mapping[str, Any] | None = None) -> Score:
        known = self._prepared(meta)
        wanted = self._without_arrays(target)
        bound = self._of_row(known)
        parsed = read(completion, known)
        if bound.columns:
            return as_score(self.name, self._of_one_row(bound.function, parsed, wanted, known))
        if bound.group:
            judged = Judged(parsed=(parsed,), parts=({},), target=wanted, meta=(known,))
            return as_score(self.name, _only(self.name, self._awaited(bound.function(judged))))
        return as_score(self.name, self._awaited(bound.function(parsed, wanted, known)))

    def check(self, target: Any, meta: Mapping[str, Any] | None = None) -> None:
        """Raise TargetError when this is a built-in reward that could not judge against `target`."""
        known = self._prepared(meta)
        bound = self._of_row(known)
        if self._builtin:
            probe(bound.function, self._without_arrays(target), known)

    @property
    def options(self) -> frozenset[str]:
        """Names of the options that a key of meta sets."""
        return frozenset(self._hints) - self._documented

    @property
    def stateful(self) -> bool:
        """Whether it has learnt, or may learn, from what it scores."""
        return inspect.isclass(look_up(self._reward))

    def __getstate__(self) -> dict[str, Any]:
        stateful = [bound for bound in self._bound.values() if hasattr(bound.function, "state_dict")]
        learnt = [(bound.options, bound.function.state_dict()) for bound in stateful]  # type: ignore[attr-defined]
        return {"name": self._reward, "options": self._options, "learnt": learnt}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        Scorer.__init__(self, state["name"], state["options"])
        for options, learnt in state["learnt"]:
            self._with(options).function.load_state_dict(learnt)  # type: ignore[attr-defined]

    def _of_row(self, meta: Mapping[str, Any]) -> _Bound:
        """The function with what `meta` says of its options. Raises TargetError where that cannot be."""
        options = self._options_in(meta)
        try:
            return self._with(options)
        except ValueError as error:
            if not options or isinstance(error, TargetError):
                raise
            raise TargetError(f"meta sets {', '.join(sorted(options))}: {error}") from error

    def _with(self, options: Mapping[str, Any]) -> _Bound:
        """The function with these options besides its own; each set of them is bound once."""
        key = _frozen(options) if options else ()
        if key not in self._bound:
            if len(self._bound) >= _KEPT_MOST and not self.stateful:
                self._bound.clear()
            every = {**self._options, **options}
            function = find(self._reward, every, asynchronous=True)
            if self._builtin:
                try_options(self.name, function, {**every, **at_option(self._reward)})
            self._bound[key] = _Bound(dict(options), function, takes_columns(function), takes_group(function))
        return self._bound[key]

    def _options_in(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of `meta` that set options."""
        if self._hints.keys().isdisjoint(meta):
            return {}
        return {key: meta[key] for key in self._hints if key in meta and self._sets_option(key, meta[key])}

    def _sets_option(self, key: str, value: Any) -> bool:
        if value is None:
            return False
        if key in self._documented:  # the reward reads it from meta, but for a word where a number is documented
            return is_number_key(key) and isinstance(value, str) and fits(value, self._hints[key])
        if fits(as_meant(value, self._hints[key]), self._hints[key]):
            return True
        self._warn_once(f"{key}=", f"meta has {key!r} with {value!r:.40}, which is no value of its option of that name")
        return False

    def _prepared(self, meta: Mapping[str, Any] | None) -> dict[str, Any]:
        """A copy of `meta` without arrays, with numeric texts as numbers where a built-in reward reads numbers."""
        known = dict(_as_mapping(meta))
        for key, value in known.items():
            if key not in self._seen:
                self._hint_at(key)
            kind = type(value)
            if kind in _ATOMS:
                if kind is str and self._builtin:
                    known[key] = number_read(key, value)
            elif _holds_arrays(value, _LOOKED_INTO):
                known[key] = plain(value)
            elif self._builtin and is_number_key(key):
                known[key] = numbers_read(key, value)
        return known

    def _without_arrays(self, target: Any) -> Any:
        if target is self._plain_target or type(target) in _ATOMS:
            return target
        if _holds_arrays(target):
            return plain(target)
        self._plain_target = target  # as a rule several completions in a row have the same target
        return target

    def _hint_at(self, key: str) -> None:
        meant = near_miss(key, self._documented | self._hints.keys()) if self._builtin else None
        if meant is not None:
            self._warn_once(key, f"it does not read {key!r} of meta; did you mean {meant!r}?")
        self._seen.add(key)

    def _warn_once(self, about: str, text: str) -> None:
        if about not in self._seen:
            self._seen.add(about)
            logger.warning("reward %r: %s", self.name, text)

    def _of_one_row(self, function: Callable[..., Any], parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Any:
        """What a function of TRL's signature says of a batch of one completion."""
        from vlrft.rewards.columns import columns_for, values_of

        sample = Sample(id="", task="", parts=(TextPart(text=str(meta.get("prompt") or "")),), target=target, meta=meta)
        columns = columns_for(self.name, function, [parsed.text], sample, target, [meta])
        return values_of(self.name, self._awaited(function(**columns)), 1)[0]

    def _awaited(self, result: Any) -> Any:
        return _LOOP.gather([result])[0] if not self._builtin and inspect.iscoroutine(result) else result


@dataclass(frozen=True, slots=True)
class _Bound:
    """A reward with options of rows bound to it."""

    options: Mapping[str, Any]
    function: Callable[..., Any]
    columns: bool
    group: bool


_LOOP = Loop()
"""Where async rewards run."""
_KEPT: dict[Any, Scorer] = {}
_KEPT_MOST = 256


def _kept(name: str, options: Mapping[str, Any]) -> Scorer:
    """The scorer of a built-in reward, made once unless it learns."""
    key = name, _frozen(options)
    found = _KEPT.get(key)
    if found is None:
        found = Scorer(name, options)
        if len(_KEPT) >= _KEPT_MOST:
            _KEPT.clear()
        if not found.stateful:
            _KEPT[key] = found
    return found


def _is_option(name: Named, key: str, value: Any) -> bool:
    """Whether a keyword of `score` is an option; so is one that seems to be a misspelt option, for `find` to refuse."""
    function = look_up(name)
    decided = _by_name(function, key) if isinstance(name, str) and is_builtin(name) else _by_key(function, key)
    if decided is not None:
        return decided
    is_documented, known = key in documented(name_of(name)), options_of(function)
    if key in known and is_documented:
        return fits(as_meant(plain(value), known[key].hint), known[key].hint)
    return key in known or (not is_documented and misspelt(key, value, function) is not None)


def _by_key(function: Callable[..., Any], key: str) -> bool | None:
    """Whether a key is an option of `function`, where its signature says so whatever the value."""
    if takes_columns(function) or key in EVERYWHERE:
        return False
    is_open = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
    return True if is_open else None


_by_name = functools.lru_cache(maxsize=4096)(_by_key)
"""`_by_key` of the built-in functions, whose signatures do not change."""


def _only(name: str, results: Any) -> Any:
    """The one score of a group of one."""
    if not isinstance(results, Sequence) or isinstance(results, str) or len(results) != 1:
        raise RewardError(f"{name} must return a list with one Score per completion (here 1), got {results!r:.200}")
    return results[0]


def _as_mapping(meta: Any) -> Mapping[str, Any]:
    if meta is None:
        return {}
    if not isinstance(meta, Mapping):
        raise TypeError(f"meta is a mapping such as {{'image_size': [640, 480]}}, got {meta!r:.80}")
    return meta


def _holds_arrays(value: Any, most: int | None = None) -> bool:
    """Whether `value` is or holds anything but lists, mappings, texts and numbers. most: looked at in each list."""
    kind = type(value)
    if kind is list or kind is tuple:
        return any(type(item) not in _ATOMS and _holds_arrays(item, most) for item in value[:most])
    if kind is dict:
        return any(type(item) not in _ATOMS and _holds_arrays(item, most) for item in value.values())
    return kind not in _ATOMS


def _frozen(value: Any) -> Any:
    """Something hashable that is equal for equal options."""
    if isinstance(value, Mapping):
        return tuple(sorted((key, _frozen(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return (type(value).__name__, value) if type(value) in _ATOMS else id(value)
