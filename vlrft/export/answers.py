"""Questions with images, the run's own greedy answers, and what is different in another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vlrft.engines.base import Request, SamplingParams
from vlrft.engines.canary import TOLERANCES, trainer_logprobs
from vlrft.engines.hf import HFEngine
from vlrft.models.base import Family
from vlrft.types import Part, Prompt, TextPart

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_TOKENS = 16
"""Of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A user turn: raw images and text, and the prompt that the trainer makes of them."""

    origin: str
    """Where questions of this kind come from."""
    images: tuple[Image, ...]
    prompt: Prompt
    parts: tuple[Part, ...]

    def messages(self) -> list[dict[str, Any]]:
        """As chat templates and processors take it."""
        content = [
            {"type": "text", "text": part.text}
            if isinstance(part, TextPart)
            else {"type": "image", "image": self.images[part.index]}
            for part in self.parts
        ]
        return [{"role": "user", "content": content}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model makes of a question."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Greedy, up to MAX_TOKENS or with the stop token."""
    logprobs: tuple[float, ...]
    """Of the tokens of the run's own answer, at temperature 1 and without bans."""


def run_answers(family: Family, questions: Sequence[Question]) -> list[Answer]:
    """The run's own model, through the trainer's own rendering, sampling and forward."""
    requests = [Request(prompt=question.prompt, seeds=(0,)) for question in questions]
    rows = HFEngine(family).generate(requests, SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS))
    tokens = [tuple(completion.token_ids) for (completion,) in rows]
    return [
        Answer(
            prompt_ids=question.prompt.token_ids,
            token_ids=ids,
            logprobs=tuple(trainer_logprobs(family, question.prompt, ids)),
        )
        for question, ids in zip(questions, tokens, strict=True)
    ]


def differences(own: Sequence[Answer], theirs: Sequence[Answer], dtype: torch.dtype) -> list[str]:
    """What is not equal, one line each.

    Greedy tokens may differ in half precision, where two are as good as equal; log-probs then still have to agree.
    """
    found: list[str] = []
    for number, (a, b) in enumerate(zip(own, theirs, strict=True)):
        if a.prompt_ids != b.prompt_ids:
            where = _first(a.prompt_ids, b.prompt_ids)
            found.append(
                f"prompt {number}: {len(a.prompt_ids)} tokens in the run, {len(b.prompt_ids)} there, unlike from token "
                f"{where} on"
            )
            continue
        gaps = [abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True)]
        # Not `largest > tolerance`, which a NaN would pass.
        if not all(gap <= TOLERANCES[dtype] for gap in gaps):
            worst = max(range(len(gaps)), key=lambda i: gaps[i] if gaps[i] == gaps[i] else float("inf"))
            found.append(
                f"prompt {number}: log-prob of token {worst} of the answer is {a.logprobs[worst]:.5f} in the run, "
                f"{b.logprobs[worst]:.5f} there (tolerance {TOLERANCES[dtype]:.0e})"
            )
        elif a.token_ids != b.token_ids and dtype == torch.float32:
            where = _first(a.token_ids, b.token_ids)
            found.append(
                f"prompt {number}: greedy answers unlike from token {where} on: {list(a.token_ids)} in the run, "
                f"{list(b.token_ids)} there"
            )
    return found


def _first(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
