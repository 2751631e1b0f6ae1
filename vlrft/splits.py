"""Which samples of a split a run can use: rows read, images decoded, prompts measured, targets judged.

Nothing here needs a forward pass, so that whatever is wrong with the data is known before compute is spent.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from vlrft.compose import Stage
from vlrft.config import Config, SourceConfig
from vlrft.coords import CoordError
from vlrft.data.media import MediaError, check_media, left_out
from vlrft.data.problems import DataError, SampleError, Skipped, lost_rows
from vlrft.data.sources import Loaded, Role, load_samples
from vlrft.models.base import PromptError
from vlrft.renderer import Renderer
from vlrft.rewards.base import TargetError
from vlrft.rollout import complaints_about, evaluation_judge, training_judge
from vlrft.types import Sample

logger = logging.getLogger(__name__)

_MEASURED = 64
"""Samples of a training split whose reference answer is measured against the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The usable samples of one split for one stage."""

    samples: list[Sample]
    skipped: list[Skipped]

    def cut(self, limit: int | None) -> tuple[list[Sample], int]:
        """(the first `limit` samples, how many they would be if no row had been lost)."""
        rows = len(self.samples) + lost_rows(self.skipped)
        return self.samples[:limit], rows if limit is None else min(limit, rows)


def roles(config: Config) -> list[Role]:
    return ["train"] if config.data.eval is None else ["train", "eval"]


def source_key(config: Config, role: Role) -> str:
    """Equal for stages that read the same rows."""
    return role + config.data.model_dump_json(
        include={"root", "task", "on_bad_sample", "check_images", "check_videos", "video", role}
    )


def read_split(config: Config, role: Role) -> Loaded:
    """Rows of a split whose media can be read: of the first `data.check_images` the images are decoded, of the first
    `data.check_videos` with videos these (by all `data.video.workers`). Headers are read when prompts are measured.

    Raises SampleError for a bad row unless `data.on_bad_sample="skip"`, DataError when none is left.
    """
    source: SourceConfig | None = config.data.train if role == "train" else config.data.eval
    assert source is not None, "roles() names only splits that the recipe has"
    loaded = load_samples(config.data, source, role=role)
    still = [sample for sample in loaded.samples[: config.data.check_images] if not _has_video(sample)]
    moving = [sample for sample in loaded.samples if _has_video(sample)][: config.data.check_videos]
    bad = [*check_media(still, decode=True), *check_media(moving, decode=True, video=config.data.video)]
    if bad and config.data.on_bad_sample == "error":
        raise SampleError(bad[0].where, bad[0].reason)
    broken = {item.where for item in bad}
    samples = [s for s in loaded.samples if f"sample {s.id}" not in broken]
    return Loaded(samples=samples, skipped=[*loaded.skipped, *bad])


def _has_video(sample: Sample) -> bool:
    return any(ref.kind == "video" for ref in sample.media)


def check_split(loaded: Loaded, stage: Stage, role: Role, renderer: Renderer) -> Split:
    """The samples whose prompt fits, and whose target the stage can use, without decoding pixels.

    Raises the first problem unless `data.on_bad_sample="skip"`, and DataError when no sample is left.
    """
    judge = evaluation_judge(stage.config) if role == "eval" else training_judge(stage.config)
    teach = stage.kind == "sft" and role == "train"
    too_long: tuple[Sample, int] | None = None
    samples: list[Sample] = []
    skipped = list(loaded.skipped)
    for sample in loaded.samples:
        try:
            meta = renderer.check(sample)
            judge.check(sample, meta)
            length = renderer.reference_tokens(sample, meta) if teach else None
        except (PromptError, TargetError, MediaError, CoordError) as error:
            if stage.config.data.on_bad_sample == "error":
                raise
            skipped.append(left_out(sample, error, stage.config.data.video))
        else:
            samples.append(sample)
            if role == "train" and len(samples) <= _MEASURED and too_long is None:
                length = renderer.reference_tokens(sample, meta) if length is None else length
                too_long = (sample, length) if length > stage.config.engine.max_completion_length else None
    with complaints_about("rewards"):
        judge.check_when()
    if too_long is not None:
        _warn_of_short_limit(stage, *too_long)
    if not samples:
        raise DataError(
            f"stage {stage.name!r}: no sample of data.{role} is usable, all {len(skipped)} were left out; "
            f"the last: {skipped[-1].where}: {skipped[-1].reason}"
        )
    if skipped:
        logger.warning("stage %s, data.%s: %d samples, %d left out", stage.name, role, len(samples), len(skipped))
    return Split(samples=samples, skipped=skipped)


def _warn_of_short_limit(stage: Stage, sample: Sample, length: int) -> None:
    """Say that a right answer would not fit: every completion would be cut, and nothing learned."""
    logger.warning(
        "stage %s: the reference answer of sample %s has %d tokens, engine.max_completion_length is %d: raise it, or "
        "ask for a shorter answer",
        stage.name, sample.id, length, stage.config.engine.max_completion_length,
    )  # fmt: skip
