"""What only a processor can tell: prompts as text, and lengths in tokens. Loads torch and transformers, no weights."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from vlrft.compose import Stage
from vlrft.config import Config, ModelConfig
from vlrft.coords import CoordError
from vlrft.data.media import MediaError
from vlrft.data.problems import DataError
from vlrft.log import UserError
from vlrft.models import load_family
from vlrft.models.base import Family, PromptError
from vlrft.renderer import Renderer
from vlrft.rollout import complaints_about
from vlrft.types import Prompt, Sample
from vlrft.validate.report import Finding, Level, Shown, finding_of, grouped

PROMPTS = 3
"""Prompts that are shown."""


def load_processor(model: ModelConfig, config: Config) -> Family:
    """The family of the recipe's model without its weights. Raises UserError when there is none."""
    with complaints_about("model.tiny" if model.tiny is not None else "model.model_name_or_path"):
        try:
            return load_family(model, config.data, weights=False)
        except OSError as error:
            raise UserError(f"model.model_name_or_path={model.model_name_or_path} cannot be loaded: {error}") from error


def measured(
    samples: Sequence[Sample], renderer: Renderer, stage: Stage, *, where: str
) -> tuple[list[tuple[Sample, dict[str, Any]]], list[Finding]]:
    """(samples whose prompt fits, each with what rewards are told of it; findings about lengths)."""
    limit = renderer.data.max_prompt_length
    good: list[tuple[Sample, dict[str, Any]]] = []
    bad: list[tuple[str, str]] = []
    long: list[tuple[str, int]] = []
    lengths: list[int] = []
    for sample in samples:
        try:
            meta, length = renderer.measure(sample)
        except (PromptError, MediaError, CoordError) as error:
            bad.append((sample.id, str(error)))
            continue
        lengths.append(length)
        if length > limit:
            long.append((sample.id, length))
        else:
            good.append((sample, meta))
    skips = stage.config.data.on_bad_sample == "skip" and len(good) > len(samples) // 2
    level: Level = "warning" if skips else "problem"
    findings = [
        finding_of(level, where, message, places, "data.on_bad_sample=skip leaves such samples out")
        for message, places in grouped(bad)
    ]
    if long:
        findings.append(finding_of(
            level, where,
            f"prompts of more than data.max_prompt_length={limit} tokens, the longest {max(n for _, n in long)}",
            [name for name, _ in long],
            "raise data.max_prompt_length, or lower data.max_pixels, of videos data.video.max_frames or max_pixels",
        ))  # fmt: skip
    if lengths:
        findings.append(_lengths("note", where, "prompts", lengths, f"data.max_prompt_length is {limit}"))
    return good, findings


def answers_fit(
    samples: Sequence[tuple[Sample, dict[str, Any]]], renderer: Renderer, stage: Stage, *, where: str
) -> Iterator[Finding]:
    """Reference answers against `engine.max_completion_length`, the token that ends them included."""
    limit = stage.config.engine.max_completion_length
    lengths = []
    for sample, meta in samples:
        try:
            lengths.append((sample.id, renderer.reference_tokens(sample, meta)))
        except (CoordError, DataError, PromptError) as error:
            yield Finding(level="problem", where=where, what=str(error), examples=(sample.id,))
    if not lengths:
        return
    yield _lengths(
        "note", where, "reference answers", [n for _, n in lengths], f"engine.max_completion_length is {limit}"
    )
    long = [name for name, length in lengths if length > limit]
    if long:
        yield finding_of(
            "problem" if 2 * len(long) > len(lengths) else "warning", where,
            f"reference answers of more than engine.max_completion_length={limit} tokens, the longest "
            f"{max(n for _, n in lengths)}",
            long,
            "raise engine.max_completion_length: a right answer would be cut",
        )  # fmt: skip


def shown_prompts(samples: Sequence[Sample], renderer: Renderer, *, where: str) -> tuple[list[Shown], list[Finding]]:
    """Up to three prompts rendered whole, media decoded: of different tasks and media where there are such."""
    shown: list[Shown] = []
    findings: list[Finding] = []
    for sample in _various(samples):
        try:
            prompt = renderer.prompt(sample)
        except (PromptError, MediaError, DataError) as error:
            findings.append(Finding(level="problem", where=where, what=str(error), examples=(sample.id,)))
            continue
        shown.append(
            Shown(
                where=where,
                sample=sample.id,
                media=tuple(_about(sample, prompt)),
                tokens=len(prompt.token_ids),
                text=renderer.family.processor.tokenizer.decode(list(prompt.compact_ids), skip_special_tokens=False),
            )
        )
    return shown, findings


def _various(samples: Sequence[Sample]) -> list[Sample]:
    """One of each task and kind of media, then evenly spread ones, PROMPTS in all where there are so many."""
    kinds = {(sample.task, *(ref.kind for ref in sample.media)): sample for sample in reversed(samples)}
    spread = [samples[i * (len(samples) - 1) // max(1, PROMPTS - 1)] for i in range(PROMPTS)] if samples else []
    chosen = {id(sample): sample for sample in (*reversed(kinds.values()), *spread)}
    return list(chosen.values())[:PROMPTS]


def _about(sample: Sample, prompt: Prompt) -> Iterator[str]:
    for ref, stored, seen, lasts in zip(
        sample.media, prompt.image_sizes, prompt.input_sizes, prompt.durations, strict=True
    ):
        length = f", {lasts:.2f} s" if lasts is not None else ""
        yield f"{ref.kind} {ref.name()}: {stored[0]}x{stored[1]}{length}, shown at {seen[0]}x{seen[1]}"


def _lengths(level: Level, where: str, what: str, lengths: Sequence[int], limit: str) -> Finding:
    return Finding(
        level=level,
        where=where,
        what=f"{what} have {min(lengths)} to {max(lengths)} tokens, mean {statistics.fmean(lengths):.0f}; {limit}",
    )
