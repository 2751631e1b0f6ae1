"""Questions into user turns, answers into completions: what every task does with templates and output modes."""

from __future__ import annotations

import re
from functools import lru_cache

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vlrft.config import OutputMode
from vlrft.data.problems import DataError
from vlrft.types import MediaPart, Part, Sample, TextPart

MODE_HINTS: dict[OutputMode, str] = {
    "think": "First reason inside <think> </think>, then give the answer inside <answer> </answer>.",
    "direct": "Give the answer alone, with nothing before or after it.",
    "answer_then_think": "First give the answer inside <answer> </answer>, then explain it inside <think> </think>.",
    "adaptive": (
        "Where the answer is plain, give it at once inside <answer> </answer>; "
        "where it is not, first reason inside <think> </think>."
    ),
}

_SLOT = "\ue000{}\ue001"
_SLOT_PATTERN = re.compile("\ue000(\\d+)\ue001")
"""Private-use characters stand for media inside the rendered text, since a template sees the question as one string."""


def render_user_parts(sample: Sample, *, template: str, format_hint: str, space: str) -> tuple[Part, ...]:
    """`template` with the sample's question and the hint filled in; media keep their places.

    Media before the first text stay in front of everything. Raises DataError for a template that does not compile, uses
    an unknown name, or drops the question's media.
    """
    lead = 0
    while lead < len(sample.parts) and isinstance(sample.parts[lead], MediaPart):
        lead += 1
    question = "".join(p.text if isinstance(p, TextPart) else _SLOT.format(p.index) for p in sample.parts[lead:])
    try:
        text = _compiled(template).render(question=question, format_hint=format_hint, space=space)
    except TemplateError as error:
        raise DataError(
            f"data.prompt_template fails ({error}); it may use question, format_hint and space: {template!r}"
        ) from error
    parts: list[Part] = list(sample.parts[:lead])
    # re.split with one group alternates text, slot index, text, ...
    for position, piece in enumerate(_SLOT_PATTERN.split(text)):
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


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(template)
