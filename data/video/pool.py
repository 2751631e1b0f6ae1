"""The pool of decoding processes: requests in, futures out. One bad video costs one MediaError, never the run."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

from vlrft.config import VideoConfig
from vlrft.data.video.cache import ClipCache
from vlrft.data.video.clips import ClipRequest
from vlrft.data.video.process import DecodingProcess
from vlrft.types import Clip

_Job = tuple[ClipRequest, "Future[Clip]"]


@dataclass(slots=True)
class _Shared:
    """What the threads of a pool know of it; they do not keep the pool itself alive."""

    config: VideoConfig
    cache: ClipCache | None
    jobs: queue.SimpleQueue[_Job | None] = field(default_factory=queue.SimpleQueue)
    processes: list[DecodingProcess] = field(default_factory=list)
    closed: bool = False
    owner: int = field(default_factory=os.getpid)


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
        # Also at the end of the program.
        self._finalizer = weakref.finalize(self, _shut, self._shared, config.workers)

    def submit(self, request: ClipRequest) -> Future[Clip]:
        """The future's `result` is the Clip; it raises MediaError for a video that cannot be read, DataError when no
        decoder can be loaded, and CancelledError when the pool is closed first.

        Raises RuntimeError after `close`.
        """
        if self._shared.closed:
            raise RuntimeError("the pool of decoding processes is closed")
        if not self._threads:
            self._threads = [
                threading.Thread(target=_work, args=(self._shared,), name=f"decoding-{i}", daemon=True)
                for i in range(self.config.workers)
            ]
            for thread in self._threads:
                thread.start()
        future: Future[Clip] = Future()
        self._shared.jobs.put((request, future))
        return future

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
    for _ in range(workers):
        shared.jobs.put(None)
    for process in tuple(shared.processes):
        process.kill()


def _work(shared: _Shared) -> None:
    """A thread with a process of its own: one request after the other."""
    process: DecodingProcess | None = None
    while (job := shared.jobs.get()) is not None:
        request, future = job
        if shared.closed:
            future.cancel()
        if not future.set_running_or_notify_cancel():
            continue
        try:
            clip = shared.cache.load(request, shared.config.decoder) if shared.cache is not None else None
            if clip is None:
                process = _living(process, shared)
                clip = process.clip(request)
                if shared.cache is not None:
                    shared.cache.store(request, shared.config.decoder, clip)
        except BaseException as error:
            future.set_exception(CancelledError() if shared.closed else error)
        else:
            future.set_result(clip)
        # Nothing here may keep the frames alive while the thread waits.
        del job, request, future, clip


def _living(process: DecodingProcess | None, shared: _Shared) -> DecodingProcess:
    """`process`, or a new one in its place when there is none or it has died."""
    if process is not None and process.alive:
        return process
    if process is not None:
        shared.processes.remove(process)
        process.kill()
    started = DecodingProcess(shared.config)
    shared.processes.append(started)
    if shared.closed:
        started.kill()
    return started
