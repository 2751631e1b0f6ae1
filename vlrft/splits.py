"""Which samples of a split a run can use: rows read, images decoded, prompts measured, targets judged.

Nothing here needs a forward pass, so that whatever is wrong with the data is known before compute is spent.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from vlrft.compose import Stage
from vlrft.config import Config, SourceConfig
from vlrft.coords import CoordError
from vlrft.data.media import MediaError, check_media
from vlrft.data.problems import DataError, SampleError, Skipped
from vlrft.data.sources import Loaded, Role, load_samples
from vlrft.models.base import PromptError
from vlrft.rewards.base import TargetError
from vlrft.rewards.judge import Judge
from vlrft.rollout import Renderer, complaints_about, evaluation_judge, training_judge
from vlrft.types import Sample

logger = logging.getLogger(__name__)

_MEASURED = 64
"""Samples of a split whose reference answer is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The usable samples of one split for one stage."""

    samples: list[Sample]
    skipped: list[Skipped]


def roles(config: Config) -> list[Role]:
    return ["train"] if config.data.eval is None else ["train", "eval"]


def source_key(config: Config, role: Role) -> str:
    """Equal for stages that read the same rows."""
    return role + config.data.model_dump_json(include={"root", "task", "on_bad_sample", "check_images", role})


def read_split(config: Config, role: Role) -> Loaded:
    """Rows of a split whose images (the first `data.check_images`) can be decoded.

    Raises SampleError for a bad row unless `data.on_bad_sample="skip"`, DataError when none is left.
    """
    source: SourceConfig | None = config.data.train if role == "train" else config.data.eval
    assert source is not None, "roles() names only splits that the recipe has"
    loaded = load_samples(config.data, source, role=role)
    bad = check_media(loaded.samples[: config.data.check_images], decode=True)
    if bad and config.data.on_bad_sample == "error":
        raise SampleError(bad[0].where, bad[0].reason)
    broken = {item.where for item in bad}
    samples = [s for s in loaded.samples if f"sample {s.id}" not in broken]
    return Loaded(samples=samples, skipped=[*loaded.skipped, *bad])


def check_split(loaded: Loaded, stage: Stage, role: Role, renderer: Renderer) -> Split:
    """The samples whose prompt fits, and whose target the stage can use, without decoding pixels.

    Raises the first problem unless `data.on_bad_sample="skip"`, and DataError when no sample is left.
    """
    judge = evaluation_judge(stage.config) if role == "eval" else training_judge(stage.config)
    samples: list[Sample] = []
    skipped = list(loaded.skipped)
    for sample in loaded.samples:
        try:
            _check(sample, judge, renderer, teach=stage.kind == "sft" and role == "train")
        except (PromptError, TargetError, MediaError, CoordError) as error:
            if stage.config.data.on_bad_sample == "error":
                raise
            skipped.append(Skipped(where=f"sample {sample.id}", reason=str(error)))
        else:
            samples.append(sample)
    with complaints_about("rewards"):
        judge.check_when()
    _warn_of_short_limit(samples, stage, role, renderer)
    if not samples:
        raise DataError(
            f"stage {stage.name!r}: no sample of data.{role} is usable, all {len(skipped)} were left out; "
            f"the last: {skipped[-1].where}: {skipped[-1].reason}"
        )
    if skipped:
        logger.warning("stage %s, data.%s: %d samples, %d left out", stage.name, role, len(samples), len(skipped))
    return Split(samples=samples, skipped=skipped)


def _warn_of_short_limit(samples: list[Sample], stage: Stage, role: Role, renderer: Renderer) -> None:
    """Say so when the right answer would not fit: every completion would be cut, and nothing learned."""
    limit = stage.config.engine.max_completion_length
    for sample in samples[:_MEASURED] if role == "train" else ():
        length = len(renderer.family.encode(renderer.reference_text(sample, renderer.check(sample)))) + 1
        if length > limit:
            logger.warning(
                "stage %s: the reference answer of sample %s has %d tokens, engine.max_completion_length is %d: raise "
                "it, or ask for a shorter answer",
                stage.name, sample.id, length, limit,
            )  # fmt: skip
            return


def _check(sample: Sample, judge: Judge, renderer: Renderer, *, teach: bool) -> None:
    meta = renderer.check(sample)
    judge.check(sample, meta)
    if teach:
        renderer.family.encode(renderer.reference_text(sample, meta))
