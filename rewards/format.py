"""Does the completion have the shape that the prompt asked for? Target: none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import BOXED, OUTPUT_MODES, Parsed, has_tags, match_blocks, visible_length
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
    """1 when the whole completion is the required blocks, each once, in order, unnested and not blank; else 0.

    mode: a name of SHAPES, or a list of tag names of your own. None follows `meta["output_mode"]`: `think` asks for
    think and answer, `answer_then_think` for the same turned round, `adaptive` for think and answer, a lone answer or
    no tags at all; `direct` has no shape to judge (value None).
    min_think_chars: least length of a think block, without outer white space; 0 permits an empty one.
    White space around blocks is free. Tool responses that the environment inserted do not count.
    """
    if mode is not None:
        shapes = [_blocks(mode)]
    else:
        output_mode = str(meta.get("output_mode") or parsed.mode)
        if output_mode not in OUTPUT_MODES:
            raise ValueError(f"unknown output_mode {output_mode!r}; use one of {', '.join(OUTPUT_MODES)}")
        if output_mode == "direct":
            return Score(value=None)
        if output_mode == "adaptive" and not has_tags(parsed.text):
            return Score(value=1.0 if visible_length(parsed.text) else 0.0)
        shapes = _shapes_of(output_mode)
    return Score(value=1.0 if any(_fits(parsed.text, shape, min_think_chars) for shape in shapes) else 0.0)


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
