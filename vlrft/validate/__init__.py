"""A recipe checked before it costs anything: its rows, media, coordinates, times, rewards, and with a processor its
prompts.

    report = validate(compose("./my.yaml"))
    print(report.as_text())

Nothing here loads torch or transformers unless prompts are to be rendered.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from vlrft import rewards
from vlrft.compose import Composed, Stage, stage_configs
from vlrft.config import Config, SourceConfig
from vlrft.data.media import MediaError, check_media, image_size
from vlrft.data.mixture import sampler_settings
from vlrft.data.problems import DataError
from vlrft.data.samplers import SAMPLERS
from vlrft.data.sources import Loaded, Role, load_samples
from vlrft.data.tasks import check_templates
from vlrft.data.video import probe
from vlrft.log import UserError
from vlrft.registry import UnknownNameError, resolve
from vlrft.rewards.judge import Judge
from vlrft.rollout import evaluation_judge, training_judge
from vlrft.splits import roles, source_key
from vlrft.types import Sample
from vlrft.validate import rows as of_rows
from vlrft.validate.report import Finding, Report, SplitRead
from vlrft.validate.scoring import judge_samples

__all__ = ["Report", "validate"]

SPACE = "norm_1000"
"""Space of the answers where no processor says which one the model writes in."""


def validate(composed: Composed, *, rows: int | None = None, decode: bool = False, render: bool = False) -> Report:
    """Everything that can be found out about a recipe without a model.

    Reads every row of every split, and the header of every image and video (rows: of the first so many samples of each
    source); gives the rewards right and wrong answers. decode: also reads all pixels, which finds damaged files, videos
    by all `data.video.workers`. render: also loads the processor (no weights), shows three prompts and measures all.
    Problems are in the report, never raised. Synthetic rows are generated, as a run would.
    """
    began = time.perf_counter()
    stages = stage_configs(composed.config)
    report = Report(recipe=composed.recipe_name, stages=tuple(f"stage {s.name} ({s.kind})" for s in stages))
    for stage in stages:
        report.add(_of_settings(stage))
    work = _Work(report, stages, rows, decode)
    for stage in stages:
        work.read(stage)
    if render:
        _render(work, stages, composed.config)
    else:
        for stage in stages:
            for role in roles(stage.config):
                work.note_input(stage, role)
                work.judge(stage, role, work.usable(stage, role), lambda s, stage=stage: _plain_meta(s, stage.config))
    report.seconds = time.perf_counter() - began
    return report


class _Work:
    """Rows by source, and what has been judged already: stages share both."""

    def __init__(self, report: Report, stages: Sequence[Stage], limit: int | None, decode: bool) -> None:
        self.report = report
        self.limit = limit
        self.decode = decode
        self._names: dict[str, str] = {}
        """What findings call each source."""
        for role in ("train", "eval"):
            keys = {source_key(s.config, role): s.name for s in reversed(stages) if role in roles(s.config)}
            own = len(keys) > 1
            self._names |= {key: f"stage {name}, data.{role}" if own else f"data.{role}" for key, name in keys.items()}
        self._loaded: dict[str, Loaded] = {}
        self._done: set[str] = set()

    def read(self, stage: Stage) -> None:
        """Load the splits of a stage, if no stage before has, and look at their rows."""
        config = stage.config
        for role in roles(config):
            key = source_key(config, role)
            if key in self._loaded:
                continue
            where = self.where(stage, role)
            try:
                self._loaded[key] = loaded = _load(config, role, self.limit, decode=self.decode)
            except (DataError, UnknownNameError) as error:
                self._loaded[key] = Loaded(samples=[], skipped=[])
                self.report.add([of_rows.unusable(error, where)])
                continue
            self.report.add(of_rows.unusable(error, where) for error in loaded.problems)
            if loaded.rows:
                self.report.splits.append(_summary(loaded, where, self.limit))
            self.report.add(of_rows.bad_rows(loaded.skipped, len(loaded.samples), where, config.data.on_bad_sample))
            for look in (of_rows.suspicious_spaces, of_rows.durations, of_rows.repetitions):
                self.report.add(look(loaded.samples, where))
        if config.data.eval is not None:
            self.report.add(of_rows.overlap(self.usable(stage, "train"), self.usable(stage, "eval")))

    def where(self, stage: Stage, role: Role) -> str:
        """What findings call a split: with a stage's name, its first, where stages read different rows."""
        return self._names[source_key(stage.config, role)]

    def usable(self, stage: Stage, role: Role) -> list[Sample]:
        return self._loaded[source_key(stage.config, role)].samples

    def note_input(self, stage: Stage, role: Role) -> None:
        """Once for each split: what only a processor could check."""
        key = source_key(stage.config, role)
        if key not in self._done and stage.config.data.resize is None:
            self._done.add(key)
            self.report.add(of_rows.unchecked_input(self.usable(stage, role), self.where(stage, role)))

    def judge(self, stage: Stage, role: Role, samples: Sequence[Sample], meta_of: Any) -> None:
        """Right and wrong answers before the rewards of a split, once for stages that agree in all of it."""
        config = stage.config
        block = config.rewards.model_dump_json() if role == "train" else config.eval.model_dump_json()
        settings = config.data.model_dump_json(include={"output_mode", "prompt_template", "resize"})
        scored = role == "eval" or stage.kind == "grpo"
        key = f"{source_key(config, role)}{block}{settings}{scored}"
        if key in self._done or not samples:
            return
        self._done.add(key)
        judge = _judge(config, role)
        if judge is None:
            return
        where = f"{'rewards.funcs' if role == 'train' else 'eval.metrics'} on {self.where(stage, role)}"
        scores, findings = judge_samples(samples, config.data, judge, meta_of, where=where, scored=scored)
        judge.close()
        self.report.add(findings)
        if scores is not None:
            self.report.scores.append(scores)


def _of_settings(stage: Stage) -> Iterator[Finding]:
    """Rewards, metrics, templates and sampler of a stage, as far as no row is needed."""
    config = stage.config
    blocks: list[tuple[str, Any]] = [("rewards.funcs", config.rewards)]
    if config.data.eval is not None:
        blocks.append(("eval.metrics", config.eval.metrics))
    for where, block in blocks:
        try:
            rewards.check(block, output_mode=config.data.output_mode, where=where)
        except (ValueError, ImportError, AttributeError) as error:
            listing = "'vlrft rewards ls' lists the rewards, 'vlrft rewards show NAME' explains one"
            first, *others = str(error).splitlines()  # of several problems the first line tells the number
            for what in others or [first]:
                yield Finding(level="problem", where=where, what=what.strip(), next=listing)
    try:
        check_templates(config.data)
    except (DataError, UnknownNameError) as error:
        yield Finding(level="problem", where="data", what=str(error), next="docs/tasks.md lists tasks and templates")
    try:
        resolve(sampler_settings(config.data.train, config.sampler.name)[0], SAMPLERS, kind="sampler")
    except (DataError, UnknownNameError, ImportError, AttributeError) as error:
        yield Finding(level="problem", where="sampler", what=str(error))


def _load(config: Config, role: Role, limit: int | None, *, decode: bool) -> Loaded:
    """Every row of a split; what is wrong is listed, all of it, whatever the recipe says of bad rows."""
    source = config.data.train if role == "train" else config.data.eval
    assert source is not None, "roles() names only splits that the recipe has"
    loaded = load_samples(
        config.data, source if limit is None else _limited(source, limit), role=role, collect=True
    )  # fmt: skip
    if not decode:
        return loaded
    damaged = check_media(loaded.samples, decode=True, video=config.data.video)
    places = {item.where for item in damaged}
    samples = [sample for sample in loaded.samples if f"sample {sample.id}" not in places]
    return Loaded(samples=samples, skipped=[*loaded.skipped, *damaged], problems=loaded.problems)


def _limited(source: SourceConfig, limit: int) -> SourceConfig:
    def at_most(stated: int | None) -> dict[str, int]:
        return {"limit": limit if stated is None else min(limit, stated)}

    if not source.mixture:
        return source.model_copy(update=at_most(source.limit))
    entries = [entry.model_copy(update=at_most(entry.limit)) for entry in source.mixture]
    return source.model_copy(update={"mixture": entries})


def _summary(loaded: Loaded, where: str, limit: int | None) -> SplitRead:
    kinds = Counter(ref.kind for sample in loaded.samples for ref in sample.media)
    counts = Counter(item.kind for item in loaded.skipped if item.whole)
    return SplitRead(
        where=where,
        tasks=dict(Counter(sample.task for sample in loaded.samples)),
        bad=counts["bad"],
        published=counts["published"],
        filtered=counts["rule"],
        images=kinds["image"],
        videos=kinds["video"],
        limit=limit,
    )


def _judge(config: Config, role: Role) -> Judge | None:
    """The judge of a split, which raises at the first error of a reward; None where `_of_settings` has said why not."""
    strict = config.model_copy(update={"rewards": config.rewards.model_copy(update={"max_errors": 0})})
    try:
        return training_judge(strict) if role == "train" else evaluation_judge(strict)
    except (UserError, UnknownNameError):
        return None


def _plain_meta(sample: Sample, config: Config) -> dict[str, Any]:
    """What rewards are told of a prompt, as if each picture were shown at the size that it is stored at.

    One whose places are in the pixels of a larger input is taken to be shown at a size that they fit.
    """
    meta: dict[str, Any] = {"coord_space": SPACE}
    if not sample.media:
        return meta
    stored = sample.meta.get("image_size")
    if stored is None:
        ref = sample.media[0]
        try:
            stored = image_size(ref) if ref.kind == "image" else probe(ref).size
        except MediaError as error:
            raise DataError(f"sample {sample.id}: {error}") from error
    seen = config.data.resize or of_rows.input_size(sample, (stored[0], stored[1]))
    return {**meta, "image_size": list(stored), "input_size": list(seen)}


def _render(work: _Work, stages: Sequence[Stage], config: Config) -> None:
    """Lengths, prompts and answers as the model's own processor has them."""
    from vlrft.renderer import Renderer
    from vlrft.selection import learning
    from vlrft.setup import check_config, check_learning
    from vlrft.validate.render import answers_fit, load_processor, measured, shown_prompts

    try:
        check_config(config, stages)
        family = load_processor(config.model, config)
        for stage in stages:
            check_learning(stage.config)
            learning(family, stage.config.model, stage.name)
    except (UserError, DataError, ValueError, ImportError, AttributeError) as error:
        work.report.add([Finding(level="problem", where="recipe", what=str(error), next="correct the recipe")])
        return
    renderers: dict[str, Renderer] = {}
    for stage in stages:
        key = stage.config.data.model_dump_json(exclude={"train", "eval"})
        renderer = renderers.setdefault(key, Renderer(family, stage.config.data))
        for role in roles(stage.config):
            where = work.where(stage, role)
            good, findings = measured(work.usable(stage, role), renderer, stage, where=where)
            work.report.add(findings)
            work.report.add(answers_fit(good, renderer, stage, where=where))
            metas = {id(sample): meta for sample, meta in good}
            work.judge(stage, role, [sample for sample, _ in good], lambda s, metas=metas: metas[id(s)])
            if role == "train" and not any(shown.where == where for shown in work.report.prompts):
                prompts, wrong = shown_prompts([sample for sample, _ in good], renderer, where=where)
                work.report.prompts += prompts
                work.report.add(wrong)
