"""The folder of a run: who may write into it, what stands in it at the start and at the end."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrft import checkpoint
from vlrft.adapters import has_adapters, plain_state_dict, save_adapter
from vlrft.compose import Composed, save_resolved, stage_configs, with_absolute_paths
from vlrft.config import Config
from vlrft.data.problems import SampleError, Skipped
from vlrft.data.quarantine import QuarantineFile
from vlrft.data.tasks.templates import whole_templates
from vlrft.log import UserError
from vlrft.memory import peak_resident_mb
from vlrft.runlock import LOCK, RunLock

if TYPE_CHECKING:
    from vlrft.setup import Prepared

CONFIG = "config.yaml"
SUMMARY = "summary.json"
"""Written last: a run that has one is finished."""
_STARTING = ".starting-"
"""Scratch folder in which a run's first files are written."""


class RunFolderError(UserError):
    """A folder that cannot take this run."""


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C in a run; the message says how to go on."""

    exit_status = 130
    """Of the command: as if the signal itself had ended it."""


class RunPreempted(RunInterrupted):
    """SIGTERM in a run, which has saved itself; the message says how to go on."""

    exit_status = 143


class RunFolder:
    """config.yaml, metrics.jsonl, rollouts/, checkpoints/, skipped.jsonl, quarantine.jsonl, model/, adapter/ (of runs
    with adapters), summary.json, report.html."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """writes: False on all ranks but one; they only read."""
        self.path = path.expanduser().resolve()
        self.writes = writes
        self.lock = RunLock(self.path)

    def refuse_other_run(self, *, resuming: bool) -> None:
        """Raise RunFolderError for a folder that holds another run (or, resuming, none), FolderInUseError for one that
        a run is writing into. A folder to resume in is locked from here on, a new one when it is made, until `close`.
        """
        if resuming:
            if not (self.path / CONFIG).is_file():
                raise RunFolderError(f"{self.path} holds no run to resume: {CONFIG} is missing")
            if self.writes:
                self.lock.acquire()
            return
        if not self.writes:
            return
        blocking = next((p for p in self.path.parents if p.exists() and not p.is_dir()), None)
        if blocking is not None:
            raise RunFolderError(f"train.output_dir={self.path}: {blocking} is a file; give this run another place")
        if self.path.is_file():
            raise RunFolderError(f"train.output_dir is a file: {self.path}; give a folder")
        self.lock.check_free()
        # A run that was killed before it began may have left what it started with.
        if self.path.is_dir() and any(not _is_start(p.name) for p in self.path.iterdir()):
            if not (self.path / CONFIG).is_file():
                raise RunFolderError(f"{self.path} is not empty; give this run its own place: train.output_dir=...")
            raise RunFolderError(
                f"{self.path} holds another run. Go on with it: vlrft train --resume {self.path}; "
                "or give this run its own place: train.output_dir=..."
            )

    def open(
        self,
        composed: Composed,
        skipped: Sequence[Skipped],
        *,
        tasks: Collection[str] = (),
        resuming: bool,
        changed: bool = False,
    ) -> checkpoint.Saved | None:
        """Write what is known at the start; returns the newest checkpoint when resuming, None without one.

        changed: the config of a resumed run is another one now, and is kept.

        tasks: of the samples. Their prompt templates are written as whole texts, so that the run, its checkpoints and
        their evaluations keep the wording that it started with.
        """
        if resuming:
            if changed and self.writes:
                self._keep_config(composed, tasks)
            return checkpoint.load_latest(self.path)
        if not self.writes:
            return None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
        except OSError as error:
            raise RunFolderError(f"train.output_dir={self.path} cannot be made: {error.strerror or error}") from error
        # Another run may have begun, and ended, since the folder was looked at.
        self.refuse_other_run(resuming=False)
        for leftover in self.path.glob(_STARTING + "*"):
            shutil.rmtree(leftover)
        self.list_skipped(skipped)
        self._keep_config(composed, tasks)
        return None

    def _keep_config(self, composed: Composed, tasks: Collection[str]) -> None:
        # config.yaml last and whole: it is what makes the folder a run that can be resumed.
        with tempfile.TemporaryDirectory(prefix=_STARTING, dir=self.path) as scratch:
            kept = replace(composed, config=with_templates(with_absolute_paths(composed.config), tasks))
            save_resolved(kept, Path(scratch) / CONFIG)
            for written in sorted(Path(scratch).iterdir(), key=lambda path: path.name == CONFIG):
                os.replace(written, self.path / written.name)

    def close(self) -> None:
        """Let other runs in."""
        self.lock.release()

    def interrupted(self) -> RunInterrupted:
        """What to raise for a Ctrl-C."""
        if not (self.path / CONFIG).is_file():
            return RunInterrupted("interrupted before the run began")
        return RunInterrupted(f"interrupted; {self.how_to_go_on()}")

    def preempted(self, signal_name: str) -> RunPreempted:
        """What to raise when a run has ended itself for a signal."""
        return RunPreempted(f"ended by {signal_name}, nothing is lost; {self.how_to_go_on()}")

    def how_to_go_on(self) -> str:
        return f"go on with: vlrft train --resume {shlex.quote(str(self.path))}"

    def list_skipped(self, skipped: Sequence[Skipped]) -> None:
        """Add what is not yet in skipped.jsonl to it, and media that cannot be read to quarantine.jsonl."""
        if not skipped or not self.writes:
            return
        quarantine = QuarantineFile(self.path / "quarantine.jsonl")
        for item in skipped:
            if item.medium is not None:
                error = SampleError(item.medium, item.reason.removeprefix(f"{item.medium}: "))
                sample = item.where.removeprefix("sample ").removesuffix(f": {item.medium}")
                quarantine.add(error, sample=sample, decoder=item.decoder)
        path = self.path / "skipped.jsonl"
        listed = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        lines = [json.dumps({"where": s.where, "reason": s.reason}, ensure_ascii=False) for s in skipped]
        everything = dict.fromkeys([*listed, *lines])
        if len(everything) > len(listed):
            write_whole(path, "".join(f"{line}\n" for line in everything))

    def finish(self, composed: Composed, prepared: Prepared, seconds: float) -> dict[str, Any]:
        """Save the trained model with its processor, adapters merged and also by themselves, summary.json and the
        report; returns the summary, {} where this rank does not write."""
        if not self.writes:
            return {}
        temporary = self.path / ".model-writing"
        shutil.rmtree(temporary, ignore_errors=True)
        with _no_progress_bars():
            model = prepared.family.model
            model.save_pretrained(temporary, state_dict=plain_state_dict(model) if has_adapters(model) else None)
            prepared.family.processor.save_pretrained(temporary)
        shutil.rmtree(self.path / "model", ignore_errors=True)
        os.replace(temporary, self.path / "model")
        if has_adapters(prepared.family.model):
            save_adapter(prepared.family.model, self.path / "adapter")
        summary = {"recipe": composed.recipe_name, **summarise(self.path), "seconds": round(seconds, 1)}
        summary["peak_memory_mb"] = peak_resident_mb()
        write_whole(self.path / SUMMARY, json.dumps(summary, indent=2) + "\n")
        if composed.config.log.report:
            from vlrft.report import write_report

            write_report(self.path)
        return summary


def _is_start(name: str) -> bool:
    """Whether a run that has written nothing else leaves it."""
    return name == LOCK or name.startswith(_STARTING)


def with_templates(config: Config, tasks: Collection[str]) -> Config:
    """A copy that says the prompt template of each task as a whole text, for every stage."""
    copy = config.model_copy(deep=True)
    named = [s.config.data.prompt_template for s in stage_configs(config)] + [config.data.prompt_template]
    tasks = {*tasks, *(task for setting in named if isinstance(setting, dict) for task in setting)}
    if not tasks:
        return copy
    shared: dict[str, str] = whole_templates(config.data, tasks)
    copy.data.prompt_template = shared
    for stage, resolved in zip(copy.stages, stage_configs(config), strict=True):
        own = whole_templates(resolved.config.data, tasks)
        extra = stage.model_extra
        if extra is not None and (own != shared or "prompt_template" in (extra.get("data") or {})):
            extra["data"] = {**(extra.get("data") or {}), "prompt_template": own}
    return copy


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Without transformers' own bars, which would break into ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def summarise(run_dir: Path) -> dict[str, Any]:
    """First and last evaluation, last one of every stage, and steps, as a flat dict."""
    rows = read_metrics(run_dir)
    summary: dict[str, Any] = {"steps": max((r["global_step"] for r in rows), default=0)}
    evaluations = [r for r in rows if r["kind"] == "eval"]
    for key in sorted({k for r in evaluations for k in r if k.startswith("eval/") and "flags" not in k}):
        having = [r for r in evaluations if key in r]
        summary[f"start/{key}"] = having[0][key]
        for row in having:
            if row["step"]:
                summary[f"{row['stage']}/{key}"] = row[key]
    return summary


def write_whole(path: Path, text: str) -> None:
    """Write a text file that is whole or absent."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
