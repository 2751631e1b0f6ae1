"""The pool of decoding processes: requests in, futures out. One bad video costs one MediaError, never the run."""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.problems import DataError
from vlrft.data.video.cache import ClipCache
from vlrft.data.video.clips import ClipRequest
from vlrft.data.video.info import VideoInfo
from vlrft.data.video.process import DecodingProcess
from vlrft.types import Clip, MediaRef

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    request: ClipRequest | MediaRef
    """A clip to be decoded, or a video to be looked into."""
    future: Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class _Shared:
    """What the threads of a pool know of it; they do not keep the pool itself alive."""

    config: VideoConfig
    cache: ClipCache | None
    clips: deque[_Job] = field(default_factory=deque)
    infos: deque[_Job] = field(default_factory=deque)
    """Go first: somebody waits for each of them, and they are short."""
    turns: queue.SimpleQueue[bool] = field(default_factory=queue.SimpleQueue)
    """True for each job, False for each thread that is to end. (The pool may be forgotten, and so end, at any moment of
    any thread: no lock is held here that its end would wait for.)"""
    processes: list[DecodingProcess] = field(default_factory=list)
    closed: bool = False
    owner: int = field(default_factory=os.getpid)

    def has_closed(self) -> bool:
        """`closed`, read anew: another thread may have set it."""
        return self.closed

    def next_job(self) -> _Job | None:
        """None where it has been cancelled meanwhile."""
        for jobs in (self.infos, self.clips):
            try:
                return jobs.popleft()
            except IndexError:
                continue
        return None


class DecodingPool:
    """`config.workers` decoding processes behind one queue, and the cache before them.

    A process that crashes, that takes longer than `config.timeout_s` or more than `config.memory_mb` costs its request:
    it is replaced with the next one. They start with the first request that the cache does not answer.
    """

    def __init__(self, config: VideoConfig) -> None:
        self.config = config
        cache = ClipCache(config.cache_dir, capacity=int(config.cache_gb * 2**30)) if config.cache_dir else None
        self._shared = _Shared(config, cache)
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        # Also at the end of the program.
        self._finalizer = weakref.finalize(self, _shut, self._shared, config.workers)

    def submit(self, request: ClipRequest) -> Future[Clip]:
        """The future's `result` is the Clip; it raises MediaError for a video that cannot be read, DataError when no
        decoder can be loaded, and CancelledError when the pool is closed first.

        Raises RuntimeError after `close`, and in a process that was forked from the one that made the pool.
        """
        return self._put(_Job(request), self._shared.clips)

    def inspect(self, ref: MediaRef) -> Future[VideoInfo]:
        """The same for what an encoded video is (`read_info`)."""
        return self._put(_Job(ref), self._shared.infos)

    def _put(self, job: _Job, jobs: deque[_Job]) -> Future[Any]:
        shared = self._shared
        if shared.closed:
            raise RuntimeError("the pool of decoding processes is closed")
        if shared.owner != os.getpid():
            raise RuntimeError("the pool of decoding processes belongs to the parent process; make one of your own")
        self._start()
        jobs.append(job)
        shared.turns.put(True)
        if shared.has_closed():
            # In between, and nobody may look at the queue any more.
            job.future.cancel()
        return job.future

    def _start(self) -> None:
        with self._starting:
            while len(self._threads) < self.config.workers:
                thread = threading.Thread(
                    target=_work, args=(self._shared,), name=f"decoding-{len(self._threads)}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    if not self._threads:
                        raise
                    # Fewer of them are slower, and no less able.
                    return
                self._threads.append(thread)

    def close(self) -> None:
        """Kill the processes and cancel what is waiting. May be called twice."""
        self._finalizer()
        for thread in self._threads:
            thread.join()


def _shut(shared: _Shared, workers: int) -> None:
    if shared.owner != os.getpid():
        # A fork that ends: threads and processes are its parent's.
        return
    shared.closed = True
    while (job := shared.next_job()) is not None:
        job.future.cancel()
    for _ in range(workers):
        shared.turns.put(False)
    for process in tuple(shared.processes):
        process.kill()


def _work(shared: _Shared) -> None:
    """A thread with a process of its own: one request after the other. Whatever happens in it, the future of the
    request is answered and the next one gets its turn."""
    process: DecodingProcess | None = None
    while shared.turns.get():
        job = shared.next_job()
        if job is None:
            continue
        try:
            if shared.closed:
                job.future.cancel()
            if job.future.set_running_or_notify_cancel():
                process = _answer(job, process, shared)
        except BaseException as error:
            log.exception("a decoding thread goes on after an error of its own")
            if not job.future.done():
                job.future.set_exception(error)
        # Nothing here may keep the frames alive while the thread waits.
        del job


def _answer(job: _Job, process: DecodingProcess | None, shared: _Shared) -> DecodingProcess | None:
    """Answer the job by `process`, or by a new one where there is none or it has died; returns the one in use."""
    held = process

    def running() -> DecodingProcess:
        nonlocal held
        if held is None or not held.alive:
            held = _replaced(held, shared)
        return held

    try:
        request = job.request
        found = running().info(request) if isinstance(request, MediaRef) else _clip(request, running, shared)
    except BaseException as error:
        if held is not None and not isinstance(error, MediaError | DataError):
            # Where the talk with it stopped is not known.
            held.kill()
        job.future.set_exception(CancelledError() if shared.closed else error)
    else:
        job.future.set_result(found)
    return held


def _clip(request: ClipRequest, running: Callable[[], DecodingProcess], shared: _Shared) -> Clip:
    """From the cache, or by a running process."""
    if shared.cache is None:
        return running().clip(request)
    entry = shared.cache.entry(request, shared.config.decoder)
    found = shared.cache.load(entry)
    if found is None:
        found = running().clip(request)
        shared.cache.store(entry, found)
    return found


def _replaced(process: DecodingProcess | None, shared: _Shared) -> DecodingProcess:
    """A new process in the place of one that has died."""
    if process is not None:
        process.kill()
        if process in shared.processes:
            shared.processes.remove(process)
    started = DecodingProcess(shared.config)
    shared.processes.append(started)
    if shared.closed:
        started.kill()
    return started
