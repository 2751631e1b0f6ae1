"""Are the options given to a built-in reward within the range that it takes, and is a function a reward at all?

Ranges are known to the rewards alone, so the example of the docstring is scored with the options: what a reward says of
its options then is said before any data is read. (Types are read from the annotations: signature.py.)
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from vlrft.parse import parse
from vlrft.rewards.base import Judged, TargetError
from vlrft.rewards.signature import takes_group

_SLOW = ("chart.", "math.")
"""Families that start processes to score a completion; their options are tried on an empty one, which needs none."""

_ABOUT_OPTION = re.compile(r"(?:[\w.]+: )?(\w+)\b")
"""How a complaint about a value begins that may come from meta or from the option of the same name."""


def refuse_foreign(name: str, function: Callable[..., Any]) -> None:
    """Raise ValueError for a function with another trainer's signature, which would be called with other things."""
    parameters = inspect.signature(function).parameters
    for mark, trainer in (("solution_str", "verl"), ("reward_inputs", "easyr1"), ("reward_input", "easyr1")):
        if mark in parameters:
            how = ", batch=False" if mark == "reward_input" else ""
            raise ValueError(
                f"reward {name!r} has the signature of {trainer}'s compute_score: wrap it in its file, "
                f"`reward = vlrft.rewards.adapters.from_{trainer}(compute_score{how})`, and name that"
            )


def try_options(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise ValueError, naming reward and options, when the built-in `function`, already bound to them, refuses them.

    Stateful rewards check theirs when they are made, so they are not called.

    Example: try_options("box.acc", find("box.acc", {"t": 5}), {"t": 5}) raises
    reward 'box.acc' with t=5: box.acc: the threshold must lie in (0, 1], got 5
    """
    from vlrft.rewards.describe import describe

    if not options or hasattr(function, "state_dict"):
        return
    example = describe(name).example
    if example is None:
        return
    completions = ["", example.completion]
    if name.startswith(_SLOW) or "embedder" in options:
        completions = completions[:1]
    for completion in completions:
        try:
            _call(function, completion, example.target, example.meta)
        except TargetError as error:
            begins = _ABOUT_OPTION.match(str(error))
            if begins is not None and begins[1] in options:
                raise ValueError(f"{_with(name, options)}: {error}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{_with(name, options)}: {error}") from error


def _with(name: str, options: Mapping[str, Any]) -> str:
    return f"reward {name!r} with {', '.join(f'{key}={value!r:.40}' for key, value in options.items())}"


def _call(function: Callable[..., Any], completion: str, target: Any, meta: Mapping[str, Any]) -> None:
    parsed = parse(completion, str(meta.get("output_mode") or "think"))
    if takes_group(function):
        function(Judged(parsed=(parsed,), parts=({},), target=target, meta=(meta,)))
    else:
        function(parsed, target, meta)
