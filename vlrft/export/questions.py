"""The questions of the comparison: the run's first held-out rows with images, or drawn ones where there are none."""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image

from vlrft.config import Config
from vlrft.data.media import MediaError, open_image
from vlrft.data.problems import DataError
from vlrft.data.sources import load_samples
from vlrft.export.answers import MAX_TOKENS, Question
from vlrft.models.base import Family, PromptError
from vlrft.types import MediaPart, Part, TextPart

logger = logging.getLogger(__name__)

COUNT = 2


def find_questions(config: Config, family: Family) -> list[Question]:
    """COUNT questions of images and text; videos are left out (docs/engines.md: their positions differ)."""
    found: list[Question] = []
    try:
        for number, (images, text) in enumerate(_held_out(config)):
            found.append(_question(family, f"held-out-{number}", images, text, "held-out rows"))
    except (DataError, MediaError, PromptError, OSError) as error:
        logger.warning("no held-out rows to compare answers on (%s): drawn images stand in for them", error)
        found = []
    return found or [_question(family, "drawn", [_drawn(seed)], "What is this?", "drawn images") for seed in (1, 2)]


def _held_out(config: Config) -> list[tuple[list[Image.Image], str]]:
    if config.data.eval is None:
        return []
    samples = load_samples(config.data, config.data.eval, role="eval").samples
    with_images = [s for s in samples if s.media and all(ref.kind == "image" for ref in s.media)]
    return [
        (
            [open_image(ref) for ref in sample.media],
            "".join(part.text for part in sample.parts if isinstance(part, TextPart)),
        )
        for sample in with_images[:COUNT]
    ]


def _question(family: Family, name: str, images: list[Image.Image], text: str, origin: str) -> Question:
    parts: tuple[Part, ...] = (*(MediaPart(index=i) for i in range(len(images))), TextPart(text=text))
    prompt = family.render(name, parts, images)
    return Question(origin=origin, images=tuple(images), prompt=prompt, parts=parts)


def _drawn(seed: int) -> Image.Image:
    """Noise: 112 x 84 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (84, 112, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def context_length(questions: list[Question]) -> int:
    """Tokens that the longest question and its answer take."""
    return max(len(question.prompt.token_ids) for question in questions) + 2 * MAX_TOKENS
