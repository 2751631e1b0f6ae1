"""Rewards written for verl, EasyR1 and ms-swift as rewards of ours, for `score` and for a recipe.

    # mine.py, then `func: mine.py:reward`
    reward = from_verl(compute_score, data_source="mine")

None of the trainers is imported. What is made here pickles when the function or ORM that it is made of does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.base import RewardError
from vlrft.rewards.finding import as_score
from vlrft.rewards.plain import plain
from vlrft.types import Score

PerSample = Callable[[Parsed, Any, Mapping[str, Any]], Any]


def from_verl(compute_score: Callable[..., Any], *, data_source: str | None = None, **kwargs: Any) -> PerSample:
    """A per-sample reward out of verl's `compute_score(data_source, solution_str, ground_truth, extra_info)`.

    It gets the whole completion, the sample's target and its meta. Of a dict `score` is the value and every other
    number a part. data_source: what is passed as such; by default `meta["data_source"]`, else "". kwargs: passed on.
    An `async def` gives an async reward, which a recipe can name.
    """
    kind = AsyncFromVerl if _is_async(compute_score) else FromVerl
    return kind(compute_score, data_source, kwargs)


class FromVerl:
    """What `from_verl` makes."""

    def __init__(self, compute_score: Callable[..., Any], data_source: str | None, kwargs: Mapping[str, Any]) -> None:
        self.compute_score, self.data_source, self.kwargs = compute_score, data_source, dict(kwargs)
        self.__name__, self.__doc__ = _name(compute_score), compute_score.__doc__

    def __call__(self, parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Any:
        return self.read(self.called(parsed, target, meta))

    def called(self, parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Any:
        source = self.data_source if self.data_source is not None else meta.get("data_source", "")
        return self.compute_score(
            data_source=source, solution_str=parsed.text, ground_truth=target, extra_info=dict(meta), **self.kwargs
        )

    def read(self, result: Any) -> Score:
        who = "verl's compute_score"
        return _from_dict(who, result, "score") if isinstance(result, Mapping) else as_score(who, plain(result))


class AsyncFromVerl(FromVerl):
    """The same of an `async def`."""

    async def __call__(self, parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
        return self.read(await self.called(parsed, target, meta))


def from_easyr1(compute_score: Callable[..., Any], *, batch: bool = True, **kwargs: Any) -> PerSample:
    """A per-sample reward out of EasyR1's `compute_score`; its components become parts, `overall` is the value.

    The function gets `response`, `response_length` (`meta["num_tokens"]`, else the number of characters) and
    `ground_truth`: as a list with one such dict, or with batch=False as the dict itself. kwargs: passed on.
    """
    return FromEasyR1(compute_score, batch, kwargs)


class FromEasyR1:
    """What `from_easyr1` makes."""

    def __init__(self, compute_score: Callable[..., Any], batch: bool, kwargs: Mapping[str, Any]) -> None:
        self.compute_score, self.batch, self.kwargs = compute_score, batch, dict(kwargs)
        self.__name__, self.__doc__ = _name(compute_score), compute_score.__doc__

    def __call__(self, parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
        length = meta.get("num_tokens", len(parsed.text))
        given = {"response": parsed.text, "response_length": length, "ground_truth": target}
        result = self.compute_score([given] if self.batch else given, **self.kwargs)
        return _from_dict("EasyR1's compute_score", result[0] if self.batch else result, "overall")


def from_swift(orm: Any, *, target: str = "solution", **kwargs: Any) -> Callable[..., Any]:
    """A reward of TRL's signature out of one of ms-swift's ORM classes, which has almost that signature.

    target: under which name the ORM wants the target. kwargs: for its constructor. An asynchronous ORM gives an async
    reward, which a recipe can name.
    """
    instance = orm(**kwargs)
    return AsyncFromSwift(instance, target) if _is_async(instance) else FromSwift(instance, target)


class FromSwift:
    """What `from_swift` makes."""

    def __init__(self, orm: Callable[..., Any], target: str) -> None:
        self.orm, self.target = orm, target
        self.__name__, self.__doc__ = _name(orm), type(orm).__doc__

    def __call__(self, completions: Sequence[Any], prompts: Any = None, **columns: Any) -> Any:
        renamed = {self.target: columns.pop("target"), **columns} if "target" in columns else columns
        return self.orm(completions=completions, prompts=prompts, **renamed)


class AsyncFromSwift(FromSwift):
    """The same of an ORM whose `__call__` is an `async def`."""

    async def __call__(self, completions: Sequence[Any], prompts: Any = None, **columns: Any) -> Any:
        return await super().__call__(completions, prompts, **columns)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _from_dict(who: str, result: Any, key: str) -> Score:
    if not isinstance(result, Mapping) or key not in result:
        raise RewardError(f"{who} returned {result!r:.200}; expected a dict with {key!r}")
    numbers = {name: value for name, value in plain(result).items() if isinstance(value, int | float)}
    checked = {name: as_score(f"{who}: {name}", value).value for name, value in numbers.items()}
    return Score(value=checked.get(key), parts={name: value for name, value in checked.items() if name != key})
