"""Questions into user turns, answers into completions: what every task does with templates and output modes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError

from vlrft.config import OutputMode
from vlrft.data.problems import DataError
from vlrft.data.tasks.templates import ENVIRONMENT, check_mode, whole_template
from vlrft.types import MediaPart, Part, Sample, TextPart

_SLOT = "\ue000{}\ue001"
_SLOT_PATTERN = re.compile("\ue000(\\d+)\ue001")
"""Private-use characters stand for media inside the rendered text, since a template sees the question as one string."""


def render_user_parts(
    sample: Sample, *, task: str, template: str | None, variables: Mapping[str, Any]
) -> tuple[Part, ...]:
    """`template` with the sample's question and `variables` filled in; media keep their places.

    Media before the first text stay in front of everything. `variables["mode"]` is the output mode.
    Raises DataError for a template that does not compile, uses an unknown name or a key that the sample's meta lacks,
    is written for another output mode, or drops the question's media; UnknownNameError for an unknown name of one.
    """
    text = whole_template(template, task)
    check_mode(text, variables["mode"])
    lead = 0
    while lead < len(sample.parts) and isinstance(sample.parts[lead], MediaPart):
        lead += 1
    question = "".join(p.text if isinstance(p, TextPart) else _SLOT.format(p.index) for p in sample.parts[lead:])
    try:
        filled = _compiled(text).render({**variables, "question": question})
    except TemplateError as error:
        raise DataError(
            f"data.prompt_template fails on sample {sample.id} ({error}); it may use question, format_hint and space, "
            f"what else docs/tasks.md lists, and the keys of meta that every row has: {template or 'default'!r}"
        ) from error
    parts: list[Part] = list(sample.parts[:lead])
    # re.split with one group alternates text, slot index, text, ...
    for position, piece in enumerate(_SLOT_PATTERN.split(filled)):
        if position % 2:
            parts.append(MediaPart(index=int(piece)))
        elif piece:
            parts.append(TextPart(text=piece))
    if [p for p in parts if isinstance(p, MediaPart)] != [p for p in sample.parts if isinstance(p, MediaPart)]:
        raise DataError(
            f"data.prompt_template loses or repeats media of sample {sample.id}; use {{{{ question }}}} once"
        )
    return tuple(parts)


def wrap_answer(answer: str, *, think: str | None, default_think: str, output_mode: OutputMode) -> str:
    """The completion that carries `answer` in the given mode.

    `think` is the row's own reasoning, None = it has none: `think` and `answer_then_think` then use `default_think`,
    `adaptive` answers at once.
    """
    tagged = f"<answer>{answer}</answer>"
    block = f"<think>{think or default_think}</think>"
    match output_mode:
        case "direct":
            return answer
        case "answer_then_think":
            return tagged + block
        case "adaptive":
            return block + tagged if think else tagged
        case "think":
            return block + tagged


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    return ENVIRONMENT.from_string(template)
