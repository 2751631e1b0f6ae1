"""ToolRL: layout, calls and length of a reasoning tool user.

Target: a list of `{"name", "parameters"}`, `[]` where no tool is needed; or the peer's own text with its
`<tool_call>` and `<response>` blocks. For `format` it says which blocks are wanted: calls where there are calls, a
response where there are none or where `meta["response"]` is set; the peer's text says so itself.
Meta: `response` for `format`; `max_words` (512) for `length`.
Answer: the first `<tool_call>` block, one JSON object with `name` and `parameters` per line.
Guards: calls where none are needed cost nothing, and extra calls hurt through the names alone: use tool.call.
Source: ToolRL (arXiv 2504.13958), released rewards.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed
from vlrft.rewards.base import TargetError
from vlrft.rewards.compat.answers import setting
from vlrft.types import Score

Call = tuple[str, dict[str, Any]]

LOWEST, HIGHEST = -3.0, 3.0
WORDS = 512

_MOST = 256
"""Calls in one answer; more are as bad as a line that can not be read."""
_TAGS = ("think", "tool_call", "response")
_THINK, _CALLS, _RESPONSE = r"<think>.*?</think>", r"\n<tool_call>\n.*?\n</tool_call>", r"\n<response>.*?</response>"


def format(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """1 when the completion has exactly the blocks that the truth has, each once, new lines included.

    The layout is think, then calls on lines of their own, then the response, each block after one new line; the spec
    does not print it, this is how we read its short form. Nothing may stand before or after.

    Formula: 1[layout of the truth's kind]
    Range: [0, 1]
    Example: score("compat.tool_rl.format", "<think>a</think>\\n<response>b</response>", []) -> 1.0
    """
    truth = _truth("compat.tool_rl.format", target)
    calls, response = bool(truth), bool(meta.get("response")) or not truth
    if isinstance(target, str) and "<" in target:
        calls, response = "<tool_call>" in target, "<response>" in target
    wanted = {"think": True, "tool_call": calls, "response": response}
    for tag in _TAGS:
        if not parsed.text.count(f"<{tag}>") == parsed.text.count(f"</{tag}>") == int(wanted[tag]):
            return Score(value=0.0)
    layout = _THINK + (_CALLS if calls else "") + (_RESPONSE if response else "")
    return Score(value=float(re.fullmatch(layout, parsed.text, re.DOTALL) is not None))


def correctness(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Names, keys and values of the calls against the true ones, from -3 to 3.

    S = Jaccard of the multisets of names + for each true call the best unused prediction of its name: Jaccard of the
    keys (1 where neither has any) + how many values are equal. Kept: equal lists are worth 3, one line that is no call
    or no calls at all -3, and where the truth has no calls the value is 0 either way; "1" is not 1.

    Formula: 6 S / (1 + sum over true calls of (1 + #parameters)) - 3
    Range: [-3, 3]
    Example: score("compat.tool_rl.correctness", "", [{"name": "f", "parameters": {}}]) -> -3.0
    """
    truth = _truth("compat.tool_rl.correctness", target)
    if not truth:
        return Score(value=0.0)
    made = _block(parsed.text)
    if made is None:
        return Score(value=LOWEST, flags=("unparsable",))
    if made == truth:
        return Score(value=HIGHEST)
    names, wanted = Counter(name for name, _ in made), Counter(name for name, _ in truth)
    total = (names & wanted).total() / (names | wanted).total()
    free = list(made)
    for name, parameters in truth:
        best = max((i for i, call in enumerate(free) if call[0] == name),
                   key=lambda i: _likeness(free[i][1], parameters), default=None)  # fmt: skip
        if best is not None:
            total += _likeness(free.pop(best)[1], parameters)
    most = 1.0 + sum(1 + len(parameters) for _, parameters in truth)
    return Score(value=(HIGHEST - LOWEST) * total / most + LOWEST)


def length(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """Longer reasoning is better, up to 512 words (`meta["max_words"]`); no think block is worth 0.

    Formula: min(1, words of the think block / 512)
    Range: [0, 1]
    Example: score("compat.tool_rl.length", "<think>one two three four</think>", None, {"max_words": 8}) -> 0.5
    """
    most = setting(meta, "max_words", WORDS)
    if not most > 0.0:
        raise TargetError(f"compat.tool_rl.length: meta['max_words'] must be above 0, got {most!r}")
    _, opened, rest = parsed.text.partition("<think>")
    inner, closed, _ = rest.partition("</think>")
    return Score(value=min(1.0, len(inner.split()) / most) if opened and closed else 0.0)


def _likeness(made: Mapping[str, Any], true: Mapping[str, Any]) -> float:
    keys = made.keys() | true.keys()
    shared = made.keys() & true.keys()
    equal = sum(1 for key in shared if made[key] == true[key])
    return (len(shared) / len(keys) if keys else 1.0) + equal


def _truth(what: str, target: Any) -> list[Call]:
    calls = None
    if isinstance(target, str):
        calls = _listed(target) if target.lstrip().startswith("[") else _block(target)
        if calls is None and "<tool_call>" not in target and "<" in target:
            calls = []
    elif isinstance(target, Sequence):
        calls = _all_calls(target)
    if calls is None:
        raise TargetError(
            f'{what} needs a list of {{"name", "parameters"}} as its target, or a text with a '
            f"<tool_call> block, got {target!r}"
        )
    return calls


def _listed(text: str) -> list[Call] | None:
    value = _json(text)
    return _all_calls(value) if isinstance(value, list) else None


def _block(text: str) -> list[Call] | None:
    """The calls of the first block; None without one, or where one line is no call."""
    _, opened, rest = text.partition("<tool_call>")
    inner, closed, _ = rest.partition("</tool_call>")
    if not opened or not closed:
        return None
    lines = inner.strip().split("\n")
    return None if len(lines) > _MOST else _all_calls([_json(line) for line in lines])


def _all_calls(values: Sequence[Any]) -> list[Call] | None:
    calls = [
        (value["name"], value["parameters"])
        for value in values
        if isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("parameters"), dict)
    ]
    return calls if len(calls) == len(values) else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
