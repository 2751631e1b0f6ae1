"""What goes wrong in the pool itself: whatever it is, every request is answered and the next one gets its turn."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import subprocess
import threading
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import decoders_of_mine
import pytest
from videos import SIZE, number_of, write_video

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.problems import DataError
from vlrft.data.video import ClipRequest, DecodingPool, close_pools
from vlrft.data.video.cache import ClipCache
from vlrft.data.video.process import DecodingProcess
from vlrft.types import Clip, MediaRef

pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")

MINE = f"{decoders_of_mine.__file__}:wild"


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Any:
    yield
    close_pools()
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoding-")]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    path = write_video(tmp_path / "good.mp4", 40)
    shutil.copy(path, tmp_path / "slow.mp4")
    return tmp_path


def request(path: Path, number: int) -> ClipRequest:
    return ClipRequest(ref=MediaRef(kind="video", path=str(path)), times=(number / 10,), size=SIZE)


def numbers(future: Future[Clip]) -> list[int]:
    return [number_of(frame) for frame in future.result(timeout=60).frames]


def raising(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_a_cache_that_refuses_costs_nothing_but_a_line(
    films: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    pool = DecodingPool(VideoConfig(cache_dir=str(tmp_path / "cache")))
    gone = pool.submit(request(films / "gone.mp4", 0))
    with pytest.raises(MediaError, match=r"gone\.mp4: cannot be opened"):
        gone.result(timeout=60)
    assert [numbers(pool.submit(request(films / "good.mp4", i))) for i in (3, 4)] == [[3], [4]]
    assert "a clip cannot be read, decoded anew" in caplog.text
    pool.close()


@pytest.mark.parametrize(
    "error",
    [
        OSError("disk"),
        KeyboardInterrupt(),
        *(pytest.param(e, marks=pytest.mark.slow) for e in (ValueError("bug"), SystemExit(3), MemoryError())),
    ],
)
@pytest.mark.parametrize("where", ["entry", "load", "store"])
def test_whatever_is_raised_in_a_thread_is_answered_and_the_next_gets_its_turn(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    pool = DecodingPool(VideoConfig(cache_dir=str(tmp_path / "cache")))
    with monkeypatch.context() as patched:
        patched.setattr(ClipCache, where, raising(error))
        with pytest.raises(type(error)):
            pool.submit(request(films / "good.mp4", 1)).result(timeout=60)
    assert numbers(pool.submit(request(films / "good.mp4", 2))) == [2]
    assert [thread.is_alive() for thread in pool._threads] == [True]
    pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError("broken"), ValueError("closed file"), KeyboardInterrupt()])
def test_a_broken_talk_with_a_process_ends_it(
    films: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    pool = DecodingPool(VideoConfig())
    assert numbers(pool.submit(request(films / "good.mp4", 1))) == [1]
    (before,) = pool._shared.processes
    with monkeypatch.context() as patched:
        patched.setattr(DecodingProcess, "clip", raising(error))
        with pytest.raises(type(error)):
            pool.submit(request(films / "good.mp4", 1)).result(timeout=60)
    assert not before.alive, "an old answer would be taken for the next one's"
    assert numbers(pool.submit(request(films / "good.mp4", 2))) == [2]
    pool.close()


def test_an_error_beside_the_answer_ends_no_thread(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a callback of the future leaves with more than an Exception."""
    pool = DecodingPool(VideoConfig())
    future = pool.submit(request(films / "good.mp4", 1))
    future.add_done_callback(raising(SystemExit(1)))
    assert numbers(future) == [1]
    assert numbers(pool.submit(request(films / "good.mp4", 2))) == [2]
    pool.close()


def test_a_start_that_fails_is_tried_again(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = DecodingPool(VideoConfig())
    assert numbers(pool.submit(request(films / "good.mp4", 1))) == [1]
    pool._shared.processes[0].kill()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", raising(OSError(11, "Resource temporarily unavailable")))
        for _ in range(2):
            with pytest.raises(DataError, match=r"no process can be started .*Resource temporarily unavailable"):
                pool.submit(request(films / "good.mp4", 1)).result(timeout=60)
    assert numbers(pool.submit(request(films / "good.mp4", 2))) == [2]
    assert len(pool._shared.processes) == 1
    pool.close()


def test_a_start_that_fails_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", raising(OSError(11, "Resource temporarily unavailable")))
    held = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(DataError):
            DecodingProcess(VideoConfig())
    assert len(os.listdir("/proc/self/fd")) == held


@pytest.mark.slow
def test_what_is_asked_while_the_pool_closes_is_cancelled(films: Path) -> None:
    for _ in range(20):
        pool = DecodingPool(VideoConfig(workers=2))
        futures: list[Future[Clip]] = []

        def ask(pool: DecodingPool = pool, futures: list[Future[Clip]] = futures) -> None:
            with contextlib.suppress(RuntimeError):
                while True:
                    futures.append(pool.submit(request(films / "gone.mp4", 0)))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.002)
        pool.close()
        thread.join(timeout=10)
        assert not thread.is_alive()
        for future in futures:
            with pytest.raises((CancelledError, MediaError)):
                future.result(timeout=10)


def test_a_pool_is_not_used_in_a_fork(films: Path) -> None:
    pool = DecodingPool(VideoConfig())
    pool._shared.owner += 1
    with pytest.raises(RuntimeError, match="belongs to the parent process"):
        pool.submit(request(films / "good.mp4", 0))
    pool._shared.owner -= 1
    pool.close()


def test_questions_go_before_clips(films: Path) -> None:
    pool = DecodingPool(VideoConfig(decoder=MINE))
    pool.submit(request(films / "good.mp4", 0)).result(timeout=60)
    clips = [pool.submit(request(films / "slow.mp4", 0)) for _ in range(4)]
    info = pool.inspect(MediaRef(kind="video", path=str(films / "good.mp4"))).result(timeout=60)
    assert info.num_frames == 40
    assert not clips[-1].done()
    assert [numbers(clip) for clip in clips] == [[0]] * 4
    pool.close()
