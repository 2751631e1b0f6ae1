"""Rewards given as functions themselves, where a recipe can only name them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from pydantic import Field

from vlrft.config import RewardSpec
from vlrft.rewards.finding import Named, name_of


class FunctionSpec(RewardSpec):
    """A RewardSpec whose function is at hand. It pickles when the function does."""

    function: Callable[..., Any] = Field(exclude=True)


def spec_of(function: Callable[..., Any], **keys: Any) -> FunctionSpec:
    """`function` as an entry of a list of rewards, named by its own name. keys: the other keys of the entry.

    Raises ValidationError (a ValueError) for keys that an entry does not have.
    """
    name = name_of(function)
    where = getattr(function, "__module__", None) or type(function).__module__
    keys = {**keys, "name": keys.get("name") or name}
    # The colon tells it from every name of the table.
    return FunctionSpec(func=f"{where}:{getattr(function, '__qualname__', name)}", function=function, **keys)


def reward_of(spec: RewardSpec) -> Named:
    """What `find` takes: the function itself where it was given."""
    return spec.function if isinstance(spec, FunctionSpec) else spec.func


def check_sendable(spec: RewardSpec) -> None:
    """Raise ValueError for a function that a process of its own could not load."""
    if not isinstance(spec, FunctionSpec):
        return
    function = spec.function
    module = getattr(function, "__module__", None) or type(function).__module__
    try:
        pickle.dumps(function)
        lost = module == "__main__" or module.startswith("vlrft_user_")
    except Exception:  # pickle raises whatever the object's own methods raise
        lost = True
    if lost:
        raise ValueError(
            f"reward {spec.name!r} is to run in processes of its own (workers, timeout_s), which cannot load a "
            "function of this session; put it in a file and name it as "
            f"'path/to/file.py:{name_of(function)}', or drop the two"
        )
