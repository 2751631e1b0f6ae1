"""Does the completion have the shape that the prompt asked for?

Target: none; whatever is given is not looked at.

Meta: `output_mode` (`think`, `direct`, `answer_then_think`, `adaptive`; default `think`); for `format.schema` also
`schema`, `negatives`, `options` or `num_options`, and `unit`.

Answer: only the exact ASCII tags are tags. `format.think_answer` wants nothing but white space around and between the
blocks; tool responses that the environment inserted are cut out first. `format.schema` reads JSON and Python literals
alike, fenced or not.

Guards: tags twice, nested, unclosed, or written with look-alike letters, blocks that hold only blanks or zero-width
characters, and text outside the blocks are worth 0. A schema's items are counted with everything else that the answer
holds, so prose around good items lowers the value. How often an item is repeated is not this family's business.

Source: the format rewards of R1-style trainers, made strict as CodeVision has it (each tag once, in order, answer
last); `adaptive` after CLS-RL; the schema after the item-wise format rewards of VisionReasoner and Vision-R1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import BOXED, OUTPUT_MODES, Parsed, has_tags, match_blocks, visible_length
from vlrft.parse.items import KINDS, is_empty_list, valid_items, valid_objects
from vlrft.rewards.base import TargetError, ordered
from vlrft.types import Score

SHAPES: dict[str, tuple[str, ...]] = {
    "think_answer": ("think", "answer"),
    "answer_then_think": ("answer", "think"),
    "answer_only": ("answer",),
    "think_boxed": ("think", BOXED),
    "think_tool": ("think", "tool_call"),
}
"""Named shapes: the blocks that must be there, in order."""

_TAG_NAME = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


def think_answer(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    mode: str | Sequence[str] | None = None,
    min_think_chars: int = 1,
) -> Score:
    """The whole completion is the required blocks, each once, in order, unnested and not blank.

    Formula: 1 if it is, else 0; None (does not apply) in the output mode `direct`, which has no shape to judge
    Range: [0, 1]

    mode: a name of SHAPES (think_answer, answer_then_think, answer_only, think_boxed, think_tool), an output mode, or
    a list of tag names of your own. None follows `meta["output_mode"]`: `think` asks for think and answer,
    `answer_then_think` for the same turned round, `adaptive` for think and answer, a lone answer, or no tags at all.

    min_think_chars: least length of a think block, without outer white space; 0 permits an empty one.

    Example: score("format.think_answer", "<think>left of it</think> <answer>[1, 2, 3, 4]</answer>", None) -> 1.0
    """
    if mode is not None and mode not in OUTPUT_MODES:
        shapes = [_blocks(mode)]
    else:
        output_mode = str(mode or meta.get("output_mode") or parsed.mode)
        if output_mode not in OUTPUT_MODES:
            raise ValueError(f"unknown output_mode {output_mode!r}; use one of {', '.join(OUTPUT_MODES)}")
        if output_mode == "direct":
            return Score(value=None)
        if output_mode == "adaptive" and not has_tags(parsed.text):
            return Score(value=1.0 if visible_length(parsed.text) else 0.0)
        shapes = _shapes_of(output_mode)
    return Score(value=1.0 if any(_fits(parsed.text, shape, min_think_chars) for shape in shapes) else 0.0)


NAMED_SCHEMAS = ("boxes", "points", "spans", "choice", "number", "list", "json")
"""Schemas that a task may name; an object's keys and kinds are the other form."""


def schema(
    parsed: Parsed,
    target: Any,
    meta: Mapping[str, Any],
    *,
    schema: str | Mapping[str, str] | None = None,
    negatives: bool | None = None,
) -> Score:
    """Share of the answer's items that are valid under the task's schema.

    Formula: valid items / items; text between or around the items is one more item that is not valid
    Range: [0, 1]

    schema: None = `meta["schema"]`, or `json` where that says nothing. `boxes`, `points`, `spans`: lists of numbers or
    objects that hold them; boxes and spans must not be inverted or empty. `choice`: capital letters among the options
    (`meta["options"]`, `meta["num_options"]`; A-Z where neither is given). `number`: one finite number and nothing
    else, in `meta["unit"]`. `list`: entries that are not blank, in any form of list. `json`: JSON or Python values.
    A mapping `{"label": "string", "bbox": "box", "score?": "number"}` asks for objects with these keys, each once and
    of that kind (any, number, integer, string, boolean, list, object, box, point, span); `?` marks a key that may be
    missing, and other keys are free.

    negatives: whether an empty list (`[]`, None, No Objects) is valid, and then worth 1; None = `meta["negatives"]`,
    false where that says nothing.

    Example: score("format.schema", "<answer>[[0, 0, 9, 9], [1]]</answer>", None, {"schema": "boxes"}) -> 0.5
    """
    wanted = _schema(schema if schema is not None else meta.get("schema", "json"))
    allowed = _negatives(negatives if negatives is not None else meta.get("negatives", False))
    options = _num_options(meta)
    if parsed.answer is None:
        return Score(value=0.0, flags=parsed.flags)
    if is_empty_list(parsed.answer):
        return Score(value=1.0 if allowed else 0.0, flags=parsed.flags)
    if isinstance(wanted, str):
        unit = meta.get("unit")
        valid = valid_items(parsed.answer, wanted, options=options, unit=None if unit is None else str(unit))
    else:
        valid = valid_objects(parsed.answer, wanted)
    flags = set(parsed.flags) | (set() if any(valid) else {"unparsable"})
    return Score(value=sum(valid) / len(valid) if valid else 0.0, flags=ordered(flags))


def _schema(wanted: Any) -> str | Mapping[str, str]:
    if isinstance(wanted, str) and wanted in NAMED_SCHEMAS:
        return wanted
    keys = list(wanted.items()) if isinstance(wanted, Mapping) else []
    if keys and all(isinstance(key, str) and isinstance(kind, str) and kind in KINDS for key, kind in keys):
        return dict(keys)
    raise TargetError(
        f"schema is {wanted!r}; use one of {', '.join(NAMED_SCHEMAS)}, or a mapping of keys to "
        f"{', '.join(KINDS)}, such as {{'label': 'string', 'bbox': 'box'}}"
    )


def _negatives(allowed: Any) -> bool:
    if not isinstance(allowed, bool):
        raise TargetError(f"negatives is {allowed!r}; it is true where an empty list can be right, else false")
    return allowed


def _num_options(meta: Mapping[str, Any]) -> int:
    options = meta.get("options")
    count = len(options) if isinstance(options, list | tuple) else meta.get("num_options", 26)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 26:
        raise TargetError(f"num_options is {count!r}; it is a whole number from 1 to 26")
    return count


def _shapes_of(output_mode: str) -> list[tuple[str, ...]]:
    return {
        "think": [SHAPES["think_answer"]],
        "answer_then_think": [SHAPES["answer_then_think"]],
        "adaptive": [SHAPES["think_answer"], SHAPES["answer_only"]],
    }[output_mode]


def _blocks(mode: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(mode, str):
        if mode not in SHAPES:
            raise ValueError(
                f"format.think_answer: unknown mode {mode!r}; use one of {', '.join(SHAPES)}, or a list of tag names"
            )
        return SHAPES[mode]
    names = tuple(mode)
    bad = [n for n in names if not isinstance(n, str) or not _TAG_NAME.fullmatch(n)]
    if not names or bad or len(set(names)) != len(names):
        raise ValueError(
            f"format.think_answer: mode {list(names)!r} is not a list of different tag names like ['think']"
        )
    return names


def _fits(text: str, blocks: tuple[str, ...], min_think_chars: int) -> bool:
    contents = match_blocks(text, blocks)
    if contents is None:
        return False
    least = (min_think_chars if name == "think" else 1 for name in blocks)
    return all(visible_length(content) >= need for content, need in zip(contents, least, strict=True))
