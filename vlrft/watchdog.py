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
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from vlrft.config import TimeLimitsConfig
from vlrft.dist import World, collectives, wait_in_collectives
from vlrft.engines import vllm_guard
from vlrft.log import Phase, Timers

EXIT_STATUS = 75
"""Of a process that found its run hanging: EX_TEMPFAIL of sysexits.h, try again later."""
NOTE = "hang.json"
_STDERR = 2
_LONGEST_TICK = 5.0
_PATIENCE = 10.0
"""Seconds that the rank which found the hang waits for the stacks of the others."""
_MARGIN = 600.0
"""Seconds between `train.time_limits.collective` and torch's own limit."""


def clear(run_dir: Path) -> None:
    """Remove what an earlier hang of the run has left: the note would end every rank at once."""
    for path in (run_dir / NOTE, *run_dir.glob("hang-rank*.txt")):
        path.unlink(missing_ok=True)


def beyond(limits: TimeLimitsConfig) -> float:
    """Seconds that torch may wait in a collective call, so that a watchdog speaks first; 0 = for ever."""
    return limits.collective and limits.collective + _MARGIN


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
        self.torch_limit = beyond(limits)
        seconds: dict[str, float] = limits.model_dump()
        self.start = seconds.pop("start")
        self.limits = {name: limit for name, limit in seconds.items() if limit > 0.0}
        self.tick = min([_LONGEST_TICK, *(limit / 10 for limit in self.limits.values())])
        self._is_blind = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        # All groups of the stage are made by now, those of sharding libraries too.
        wait_in_collectives(self.torch_limit)
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
        phases += [Phase(name="collective", since=call.since) for call in collectives.open_calls()]
        for phase in phases:
            limit, taken = self._limit(phase), now - phase.since
            if limit is not None and taken > limit:
                return f"phase {phase.name} has taken {taken:.1f} s, train.time_limits allows {limit:.0f} s"
        return None

    def _limit(self, phase: Phase) -> float | None:
        limit = self.limits.get(phase.name)
        return None if limit is None else limit * phase.parts + (self.start if phase.is_first else 0.0)

    def _watch(self) -> None:
        note = self.run_dir / NOTE
        while not self._end.wait(self.tick):
            self._set_timer()
            found, told = self.overrun(), self._told(note)
            if found is None and told is None:
                continue
            if found is not None and told is None:
                self._tell(note, found)
            self._give_up(found or f"told by {told}", is_cause=found is not None)

    def _set_timer(self) -> None:
        """For native code that does not let this thread run: by the longest limit of all, since the phase that is open
        now may end before the next look."""
        open_limits = [self._limit(phase) or 0.0 for phase in self.timers.open_phases()]
        longest = max([*self.limits.values(), *open_limits]) + self.start
        faulthandler.dump_traceback_later(longest + 10 * self.tick, exit=True, file=_STDERR)

    def _tell(self, note: Path, found: str) -> None:
        about = {"rank": self.world.rank, "found": found, "where": self.where(), "at": time.strftime("%FT%T%z")}
        temporary = note.with_name(f".{NOTE}.{self.world.rank}")
        try:
            temporary.write_text(json.dumps(about) + "\n", encoding="utf-8")
            os.replace(temporary, note)
        except OSError as error:  # a full disk, or one that is gone: this rank ends all the same
            _say(f"the other ranks could not be told: {error}\n")

    def _told(self, note: Path) -> str | None:
        """What a rank has left in the note, in words; None where there is none."""
        try:
            about = json.loads(note.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            # A file system that is away for a while: the limits count on without it.
            if not self._is_blind:
                _say(f"{note} cannot be looked for: {error}\n")
            self._is_blind = True
            return None
        return f"rank {about['rank']}, {about['where']}: {about['found']}"

    def _give_up(self, found: str, *, is_cause: bool) -> None:
        path = self.run_dir / f"hang-rank{self.world.rank}.txt"
        try:
            said = f"{self._report(found)}\nstacks of all threads: {path}\n{self.hint}\n"
            # The timer was for the phases; it must not cut short what follows.
            faulthandler.dump_traceback_later(6 * _PATIENCE, exit=True, file=_STDERR)
            _say(said)
            self._keep_stacks(path, said)
            if is_cause:
                self._wait_for_others()
            end_children()
        finally:
            os._exit(EXIT_STATUS)

    def _keep_stacks(self, path: Path, said: str) -> None:
        try:
            with path.open("w", encoding="utf-8") as file:
                file.write(f"{said}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            _say(f"the stacks could not be kept: {error}\n")
            faulthandler.dump_traceback(_STDERR, all_threads=True)

    def _report(self, found: str) -> str:
        now = time.monotonic()
        phases = ", ".join(f"{p.name} for {now - p.since:.1f} s" for p in self.timers.open_phases()) or "none"
        last = f"{collectives.name} (call {collectives.count})"
        waiting = [f"{c.name} (call {c.number}), waiting for {now - c.since:.1f} s" for c in collectives.open_calls()]
        return (
            f"the run hangs: rank {self.world.rank} of {self.world.size}, {self.where()}: {found}\n"
            f"open phases: {phases}\nlast collective call: {'; '.join(waiting) or last}"
        )

    def _wait_for_others(self) -> None:
        until = time.monotonic() + _PATIENCE + self.tick
        expected = [self.run_dir / f"hang-rank{rank}.txt" for rank in range(self.world.size) if rank != self.world.rank]
        while not all(os.path.exists(path) for path in expected) and time.monotonic() < until:
            time.sleep(0.05)
        # The last of them may still be writing.
        time.sleep(min(1.0, self.tick) if self.world.size > 1 else 0.0)


def _say(text: str) -> None:
    """Not through sys.stderr, whose lock the thread that hangs may hold."""
    with suppress(OSError):  # nobody listens
        os.write(_STDERR, text.encode())


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
