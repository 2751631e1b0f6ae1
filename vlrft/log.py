"""What a run says while it lives: errors for the user, `metrics.jsonl`, phase timers, the progress bar, logging."""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

logger = logging.getLogger(__name__)


class UserError(ValueError):
    """Something the user can put right. The command line prints the message alone, without a traceback."""


def configure_logging(level: int | str = logging.INFO) -> None:
    """Send the `vlrft` loggers to stderr: coloured on a terminal, plain lines elsewhere. A second call is harmless."""
    root = logging.getLogger("vlrft")
    root.setLevel(level)
    if root.handlers:
        return
    handler: logging.Handler
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        handler = RichHandler(console=_console(), show_path=False, log_time_format="%H:%M:%S")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    root.addHandler(handler)


class _StderrHandler(logging.Handler):
    """Looks stderr up for every record, so that a stream swapped after the set-up (test runners, notebooks) is met."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


_shared_console: list[Console] = []


def _console() -> Console:
    """The one stderr console: log lines and the progress bar must share it, or they overwrite each other."""
    from rich.console import Console

    if not _shared_console:
        _shared_console.append(Console(stderr=True))
    return _shared_console[0]


def _flat_json(row: Mapping[str, Any]) -> str:
    clean: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            clean[key] = None
            clean[f"nonfinite/{key}"] = 1
        elif value is None or isinstance(value, bool | int | float | str):
            clean[key] = value
        else:
            raise TypeError(f"metric {key!r} is a {type(value).__name__}; give a Python number, string, bool or None")
    return json.dumps(clean, allow_nan=False, ensure_ascii=False)


class MetricsWriter:
    """Appends one flat JSON line per call to `<run_dir>/metrics.jsonl`, and mirrors numbers to TensorBoard.

    Each line reaches the operating system at once; `sync` and `close` wait for the disk. A NaN or infinity becomes
    null plus `nonfinite/<key>: 1`. A last line that a killed process left unfinished is cut off on opening.
    """

    def __init__(self, run_dir: Path, *, tensorboard: bool = False) -> None:
        self.path = run_dir / "metrics.jsonl"
        self._events_dir = run_dir / "tensorboard"
        run_dir.mkdir(parents=True, exist_ok=True)
        _cut_torn_tail(self.path)
        self._file: IO[str] = self.path.open("a", encoding="utf-8")
        self._events = _tensorboard_writer(self._events_dir) if tensorboard else None

    def write(self, row: Mapping[str, Any]) -> None:
        """Append `row`: keys to numbers, strings, bools or None. TensorBoard needs `global_step` in it."""
        self._file.write(_flat_json(row) + "\n")
        self._file.flush()
        self._mirror(row)

    def sync(self) -> None:
        """Return once all rows so far are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def truncate_after(self, global_step: int) -> int:
        """For resume: keep the rows with `global_step` up to this one, drop the others; returns how many were dropped.

        The file is replaced atomically. TensorBoard's events, which cannot be cut, are written anew from the kept rows.
        """
        self._file.close()
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line).get("global_step", 0) <= global_step]
        temporary = self.path.with_suffix(".jsonl.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        self._file = self.path.open("a", encoding="utf-8")
        if self._events is not None:
            self._events.close()
            shutil.rmtree(self._events_dir)
            self._events = _tensorboard_writer(self._events_dir)
            for line in kept:
                self._mirror(json.loads(line))
        return len(lines) - len(kept)

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mirror(self, row: Mapping[str, Any]) -> None:
        if self._events is None:
            return
        stage = f"{row['stage']}/" if "stage" in row else ""
        for key, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value) and key not in ("step", "global_step"):
                self._events.add_scalar(f"{stage}{key}", float(value), int(row.get("global_step", 0)))


class SilentWriter(MetricsWriter):
    """Takes everything and writes nothing: for all ranks but one."""

    def __init__(self) -> None:
        """There is no file."""

    def write(self, row: Mapping[str, Any]) -> None:
        _flat_json(row)

    def sync(self) -> None:
        """Nothing waits for the disk."""

    def truncate_after(self, global_step: int) -> int:
        return 0

    def close(self) -> None:
        """Nothing to close."""


def _cut_torn_tail(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        complete = file.read().rfind(b"\n") + 1
        file.truncate(complete)


def _tensorboard_writer(folder: Path) -> Any | None:
    try:
        summary = importlib.import_module("tensorboard.summary")
    except ImportError:
        logger.warning("tensorboard is not installed: curves go to metrics.jsonl only; pip install 'vlrft[trackers]'")
        return None
    return summary.Writer(str(folder))


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A phase that goes on."""

    name: str
    since: float
    """`time.monotonic()` at which it began."""
    parts: int = 1
    is_first: bool = False
    """Whether it is the first of its name: engines start and kernels compile then."""


class Timers:
    """Seconds per named phase. `with timers("gen"): ...` adds up; `collect` hands over and starts again from zero.

    Any thread may time. Nested phases each count their whole time, so a sum over the names is meaningful only for
    phases side by side.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open: dict[object, Phase] = {}
        self._seen: set[str] = set()
        self._adding = threading.Lock()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with self.watched(name):
                yield
        finally:
            with self._adding:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    @contextmanager
    def watched(self, name: str, *, parts: int = 1) -> Iterator[None]:
        """Be in phase `name` without counting its seconds. parts: it may take as many times its limit."""
        key = object()
        self._open[key] = Phase(name=name, since=time.monotonic(), parts=parts, is_first=name not in self._seen)
        self._seen.add(name)
        try:
            yield
        finally:
            del self._open[key]

    def open_phases(self) -> list[Phase]:
        """The phases that go on now, of all threads; any thread may ask."""
        return list(self._open.values())

    def collect(self) -> dict[str, float]:
        """`{"time/gen": 1.2, ...}` since the last call."""
        with self._adding:
            done, self._seconds = self._seconds, {}
        return {f"time/{name}": seconds for name, seconds in done.items()}


HEADLINES = ("reward/mean", "loss", "eval/box.iou")
"""Metrics that the progress line shows, in this order, when a row has them."""


def headline(row: Mapping[str, Any]) -> str:
    """One row of metrics in a few words: `reward 0.412  loss 0.013  gen 1.2s train 0.8s`."""
    parts = [
        f"{key.removesuffix('/mean')} {row[key]:.4g}" for key in HEADLINES if isinstance(row.get(key), int | float)
    ]
    phases = [
        f"{key.removeprefix('time/')} {value:.1f}s"
        for key, value in row.items()
        if key.startswith("time/") and key != "time/step" and value >= 0.05
    ]
    return "  ".join([*parts, " ".join(phases)]).strip()


class Progress:
    """A progress bar with the headline metrics on a terminal; elsewhere one line about every `interval` seconds.

    `with Progress("grpo", total=100) as bar: bar.update(step, row)`; `done` is where a resumed stage starts.
    """

    def __init__(self, title: str, *, total: int, done: int = 0, enabled: bool = True, interval: float = 10.0) -> None:
        self.title, self.total, self.done = title, total, done
        self.enabled, self.interval = enabled, interval
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._last_line = -math.inf

    def __enter__(self) -> Self:
        if self.enabled and sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[headline]}", markup=False),
                console=_console(),
            )
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, headline="")
            self._bar.start()
        return self

    def update(self, step: int, row: Mapping[str, Any]) -> None:
        """Show that `step` of `total` is done, with what `row` says about it."""
        if not self.enabled:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, headline=headline(row))
            return
        now = time.monotonic()
        if now - self._last_line >= self.interval or step >= self.total:
            self._last_line = now
            print(f"{self.title} {step}/{self.total}  {headline(row)}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
