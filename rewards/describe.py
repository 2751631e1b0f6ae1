"""What a reward's docstrings and signature say: for `vlrft rewards show`, the pages in docs/rewards/ and the tests.

A family's module says `Target:`, `Meta:`, `Answer:`, `Guards:` and `Source:`; a reward's function says what it is, its
`Formula:`, its `Range:`, its options, and an `Example:` that a test evaluates.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from vlrft.registry import resolve
from vlrft.rewards.signature import Option, options_of, takes_group
from vlrft.rewards.table import REWARDS

EXTRAS: dict[str, str] = {
    "text.wer": "rewards",
    "text.rouge": "rewards",
    "text.edit": "rewards",
    "med.open": "rewards",
    "math.verify": "rewards",
    "seg.mask_iou": "rewards",
    "chart.render": "charts",
    "chart.visual": "charts",
    "compat.video_r1.ocr": "rewards",
    "compat.video_r1.free_form": "rewards",
}
"""Rewards that need an extra of the package, and which."""

FAMILY_FIELDS = ("Target", "Meta", "Answer", "Guards", "Source")
"""Paragraphs of a family's module docstring, in the order in which they are shown."""

_EXAMPLE = re.compile(r"^Example: (score\(.+\)) -> (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One call of `score`, and what it gives."""

    source: str
    """The call as it is written."""
    name: str
    completion: str
    target: Any
    meta: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One reward in words."""

    name: str
    summary: str
    formula: str
    range: str
    """`[0, 1]` for all but some of `compat`."""
    body: str
    """Everything after the summary and before the example: formula, range, what options mean, remarks."""
    options: tuple[Option, ...]
    needs: tuple[str, ...]
    """What it cannot do without besides a completion and a target: `a group`, `an embedder`, `num_tokens`, an extra."""
    example: Example | None
    module: str
    """Name of the family's module, whose docstring holds `family`."""
    title: str
    """First line of that docstring."""
    family: Mapping[str, str]
    """Paragraph by its word in FAMILY_FIELDS."""


def describe(name: str) -> Described:
    """What is said of the built-in reward `name`, with or without `@number`, or of one of yours by its reference.

    Raises UnknownNameError for another name, LoadError for a reference that cannot be loaded, ValueError for a
    docstring of a built-in that is not in the form.
    """
    base = name.partition("@")[0]
    if base not in REWARDS and ":" in name:
        return _described(name, resolve(name, REWARDS, kind="reward"), None)
    function = resolve(base, REWARDS, kind="reward", listing="vlrft rewards ls")
    return _described(name, function, family_module(base, function))


def _described(name: str, function: Callable[..., Any], family: ModuleType | None) -> Described:
    if not callable(function):
        raise ValueError(f"reward {name!r} is a {type(function).__name__}, not a function")
    text = inspect.getdoc(function) or ""
    summary, _, rest = text.partition("\n")
    title, _, remarks = ((inspect.getdoc(family) if family else "") or "").partition("\n")
    example = example_of(name, text) if family else None
    return Described(
        name=name,
        summary=summary.strip(),
        formula=" ".join(_paragraph(rest, "Formula").split()),
        range=_paragraph(rest, "Range"),
        body=_EXAMPLE.sub("", rest).strip() if family else rest.strip(),
        options=tuple(options_of(function).values()),
        needs=_needs(name.partition("@")[0], function, example) if family else (),
        example=example,
        module=family.__name__ if family else function.__module__,
        title=title.strip(),
        family={key: said for key in FAMILY_FIELDS if (said := _paragraph(remarks, key))},
    )


def _needs(base: str, function: Callable[..., Any], example: Example | None) -> tuple[str, ...]:
    called = function.__call__ if inspect.isclass(function) else function
    found = ["a group"] if takes_group(called) else []
    if "embedder" in options_of(function) and example is not None and "embedder" in example.options:
        found.append("an embedder")
    if example is not None and "num_tokens" in example.meta:
        found.append("num_tokens")
    if base in EXTRAS:
        found.append(f"the extra {EXTRAS[base]!r}")
    return tuple(found)


def family_module(base: str, function: Callable[..., Any]) -> ModuleType:
    """The module whose docstring speaks for `base`: the one that the table names, else the one that defines it."""
    named = importlib.import_module(REWARDS[base].partition(":")[0])
    if "\nTarget:" in (named.__doc__ or ""):
        return named
    return importlib.import_module(function.__module__)


def example_of(name: str, text: str) -> Example | None:
    """The `Example:` line of a docstring, None where it has none. Raises ValueError when it cannot be read."""
    found = _EXAMPLE.search(text)
    if found is None:
        return None
    try:
        call = ast.parse(found.group(1), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError("it is no call")
        positional = [_literal(argument) for argument in call.args]
        options = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
        reward, completion, target, *more = positional
        meta = more[0] if more else {}
        value = float(found.group(2))
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"reward {name!r}: the example {found.group()!r} cannot be read: {error}") from error
    return Example(
        source=found.group(1),
        name=reward,
        completion=completion,
        target=target,
        meta=meta,
        options=options,
        value=value,
    )


def _literal(node: ast.expr) -> Any:
    """A Python literal, or `[...] * number`, which keeps long lists on the line."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return ast.literal_eval(node.left) * ast.literal_eval(node.right)
    return ast.literal_eval(node)


def _paragraph(text: str, word: str) -> str:
    """What follows `word:` at the start of a line, up to a blank line or the next such word."""
    following = "|".join((*FAMILY_FIELDS, "Formula", "Range", "Example"))
    found = re.search(rf"^{word}: *(.*?)(?=\n\s*\n|\n(?:{following}):|\Z)", text, re.MULTILINE | re.DOTALL)
    return found.group(1).strip() if found else ""


def as_text(described: Described) -> str:
    """For a terminal: what it is, formula and options, then the forms of target, meta and answer."""
    parts = [described.name, described.summary or "(without a docstring)"]
    if described.needs:
        parts.append(f"Needs: {', '.join(described.needs)}")
    parts.append(described.body)
    lines = [f"  {option.name}: {option.kind}, {default_of(option)}" for option in described.options]
    parts.append("\n".join(["Options:", *lines]) if lines else "Options: none")
    if described.example is not None:
        parts.append(f"Example: {described.example.source} -> {described.example.value:.6g}")
    parts += [f"{key}: {text}" for key, text in described.family.items()]
    return "\n\n".join(part for part in parts if part)


def default_of(option: Option) -> str:
    """`required`, or `default 0.5`; floats to six digits."""
    if option.required:
        return "required"
    value = option.default
    shown = f"{value:.6g}" if isinstance(value, float) else repr(list(value) if isinstance(value, tuple) else value)
    return f"default {shown}"
