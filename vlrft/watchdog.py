"""A run that hangs ends itself: stacks of every rank, which phase, for how long, and how to go on.

A thread in every rank looks at the open phases (`log.Timers`) and at the collective call that waits (`dist`), and holds
them against `train.time_limits`. The rank that finds one too long leaves a note in the run folder; all ranks see it,
write the stacks of their threads to `hang-rank<r>.txt`, and end with status 75. Where native code holds the interpreter
so that this thread cannot run, a timer in C (faulthandler) writes the stacks to stderr and ends the process with 1.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from vlrft.config import TimeLimitsConfig
from vlrft.dist import World, collectives
from vlrft.engines import vllm_guard
from vlrft.log import Phase, Timers

EXIT_STATUS = 75
"""Of a process that found its run hanging: EX_TEMPFAIL of sysexits.h, try again later."""
NOTE = "hang.json"
_STDERR = 2
_LONGEST_TICK = 5.0
_PATIENCE = 10.0
"""Seconds that the rank which found the hang waits for the stacks of the others."""


def clear(run_dir: Path) -> None:
    """Remove what an earlier hang of the run has left: the note would end every rank at once."""
    for path in (run_dir / NOTE, *run_dir.glob("hang-rank*.txt")):
        path.unlink(missing_ok=True)


class Watchdog:
    """with Watchdog(timers, limits, run_dir, world, where=lambda: "step 3", hint="..."): ..."""

    def __init__(
        self,
        timers: Timers,
        limits: TimeLimitsConfig,
        run_dir: Path,
        world: World,
        *,
        where: Callable[[], str],
        hint: str,
    ) -> None:
        """where: which step this is. hint: how to go on after a hang."""
        self.timers, self.run_dir, self.world = timers, run_dir, world
        self.where, self.hint = where, hint
        seconds: dict[str, float] = limits.model_dump()
        self.start = seconds.pop("start")
        self.limits = {name: limit for name, limit in seconds.items() if limit > 0.0}
        self.tick = min([_LONGEST_TICK, *(limit / 10 for limit in self.limits.values())])
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self.limits:
            self._set_timer()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self.limits:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def overrun(self) -> str | None:
        """What has taken longer than it may, in words; None while all is well."""
        now = time.monotonic()
        phases = self.timers.open_phases()
        if (since := collectives.since) is not None:
            phases.append(Phase(name="collective", since=since))
        for phase in phases:
            limit, taken = self._limit(phase), now - phase.since
            if limit is not None and taken > limit:
                return f"phase {phase.name} has taken {taken:.1f} s, train.time_limits allows {limit:.0f} s"
        return None

    def _limit(self, phase: Phase) -> float | None:
        limit = self.limits.get(phase.name)
        return None if limit is None else limit * phase.parts + (self.start if phase.is_first else 0.0)

    def _watch(self) -> None:
        while not self._end.wait(self.tick):
            self._set_timer()
            found, note = self.overrun(), self.run_dir / NOTE
            if found is None and not note.exists():
                continue
            if found is not None and not note.exists():
                self._tell(note, found)
            self._give_up(found or f"told by {self._cause(note)}", is_cause=found is not None)

    def _set_timer(self) -> None:
        """For native code that does not let this thread run: by the longest limit of all, since the phase that is open
        now may end before the next look."""
        open_limits = [self._limit(phase) or 0.0 for phase in self.timers.open_phases()]
        longest = max([*self.limits.values(), *open_limits]) + self.start
        faulthandler.dump_traceback_later(longest + 10 * self.tick, exit=True, file=_STDERR)

    def _tell(self, note: Path, found: str) -> None:
        about = {"rank": self.world.rank, "found": found, "where": self.where(), "at": time.strftime("%FT%T%z")}
        temporary = note.with_name(f".{NOTE}.{self.world.rank}")
        temporary.write_text(json.dumps(about) + "\n", encoding="utf-8")
        os.replace(temporary, note)

    def _cause(self, note: Path) -> str:
        about = json.loads(note.read_text(encoding="utf-8"))
        return f"rank {about['rank']}, {about['where']}: {about['found']}"

    def _give_up(self, found: str, *, is_cause: bool) -> None:
        path = self.run_dir / f"hang-rank{self.world.rank}.txt"
        said = f"{self._report(found)}\nstacks of all threads: {path}\n{self.hint}\n"
        try:
            # Not through sys.stderr, whose lock the thread that hangs may hold.
            os.write(_STDERR, said.encode())
            with path.open("w", encoding="utf-8") as file:
                file.write(f"{said}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            if is_cause:
                self._wait_for_others()
            end_children()
        except OSError as error:  # a full disk: the run ends all the same
            os.write(_STDERR, f"the stacks could not be kept: {error}\n".encode())
        finally:
            os._exit(EXIT_STATUS)

    def _report(self, found: str) -> str:
        now = time.monotonic()
        phases = ", ".join(f"{p.name} for {now - p.since:.1f} s" for p in self.timers.open_phases()) or "none"
        last = f"{collectives.name} (call {collectives.count})"
        if (since := collectives.since) is not None:
            last += f", waiting for {now - since:.1f} s"
        return (
            f"the run hangs: rank {self.world.rank} of {self.world.size}, {self.where()}: {found}\n"
            f"open phases: {phases}\nlast collective call: {last}"
        )

    def _wait_for_others(self) -> None:
        until = time.monotonic() + _PATIENCE + self.tick
        expected = [self.run_dir / f"hang-rank{rank}.txt" for rank in range(self.world.size)]
        while not all(path.exists() for path in expected) and time.monotonic() < until:
            time.sleep(0.05)
        # The last of them may still be writing.
        time.sleep(min(1.0, self.tick) if self.world.size > 1 else 0.0)


def end_children() -> None:
    """Kill every process that descends from this one (Linux): `os._exit` runs none of the code that would end them.

    Guards of vLLM servers are left, with what is below them: they notice the end of this process, and clear away what
    the servers have in shared memory too (`engines/vllm_guard.py`).
    """
    waiting, found = [os.getpid()], list[int]()
    while waiting:
        for path in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            try:
                children = [child for child in map(int, path.read_text().split()) if not _is_guard(child)]
            except OSError:  # it has ended meanwhile
                continue
            found += children
            waiting += children
    for child in found:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _is_guard(process: int) -> bool:
    try:
        return vllm_guard.NAME.encode() in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended meanwhile
        return False
