"""Decoding in other processes: whatever a video does to its decoder costs that one video."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import decoders_of_mine
import numpy as np
import pytest
from videos import CLIPS, DECODERS, SIZE, need_decoder, number_of, shared_clip, write_video

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.media import check_media
from vlrft.data.problems import DataError
from vlrft.data.video import ClipRequest, DecodingPool, close_pools, media_shape, shared_pool, submit_clip
from vlrft.data.video.process import DecodingProcess, decoding_threads
from vlrft.types import Clip, MediaPart, MediaRef, Sample

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
    """One video of 40 numbered frames under many names."""
    path = write_video(tmp_path / "good.mp4", 40)
    for name in ("good2", "good3", "crash", "hang", "hungry", "confused", "slow"):
        shutil.copy(path, tmp_path / f"{name}.mp4")
    return tmp_path


def request(path: Path, *numbers: int, size: tuple[int, int] = SIZE) -> ClipRequest:
    return ClipRequest(
        ref=MediaRef(kind="video", path=str(path)), times=tuple(number / 10 for number in numbers), size=size
    )


def numbers(future: Future[Clip]) -> list[int]:
    return [number_of(frame) for frame in future.result(timeout=60).frames]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.slow
def test_bad_videos_cost_themselves(films: Path, workers: int) -> None:
    """Crash, hang, too much memory and a bug, each between two good ones, all in one pool."""
    config = VideoConfig(decoder=MINE, timeout_s=2.0, memory_mb=256, workers=workers)
    says = {
        "crash": r"crash\.mp4: the decoding process ended with signal 11 \(.*the last words of a decoder.*\)",
        "hang": r"hang\.mp4: took longer than data\.video\.timeout_s=2 to be decoded",
        "hungry": r"hungry\.mp4: needs more than data\.video\.memory_mb=256 MiB to be decoded",
        "confused": r"confused\.mp4: the decoder .*:wild fails on it \(TypeError: a bug of its own\)",
    }
    pool = DecodingPool(config)
    bad = {name: pool.submit(request(films / f"{name}.mp4", 0, 9)) for name in says}
    good = [pool.submit(request(films / f"{name}.mp4", 3, 7, 30)) for name in ("good", "good2", "good3")]
    for name, future in bad.items():
        with pytest.raises(MediaError, match=says[name]):
            future.result(timeout=60)
    assert [numbers(future) for future in good] == [[3, 7, 30]] * 3
    assert numbers(pool.submit(request(films / "good.mp4", 1, 2))) == [1, 2]
    pool.close()


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_corrupted_clip_is_left_out_and_the_rest_goes_on(decoder: str) -> None:
    need_decoder(decoder)
    paths = [shared_clip(name) for name in ("clip.mp4", "corrupted.mp4", "flipping_a_pancake.mkv")]
    samples = [
        Sample(
            id=path.stem, task="open_qa", parts=(MediaPart(index=0),), media=(MediaRef(kind="video", path=str(path)),)
        )
        for path in paths
    ]
    config = VideoConfig(decoder=decoder, timeout_s=20.0)
    began = time.monotonic()
    (skipped,) = check_media(samples, decode=True, video=config)
    # Starting the process, which loads torch for TorchCodec, is not part of the limit.
    assert time.monotonic() - began < config.timeout_s + 60
    assert skipped.where == "sample corrupted"
    assert (skipped.medium, skipped.decoder) == (str(paths[1]), decoder)
    assert "is damaged" in skipped.reason


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_through_the_pool(name: str) -> None:
    ref, config = MediaRef(kind="video", path=str(shared_clip(name))), VideoConfig()
    shape = media_shape(ref, config)
    clip = submit_clip(ref, shape.timestamps, (56, 84), config).result()
    assert clip.frames.shape == (shape.num_frames, 84, 56, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.stored_size == shape.size
    assert len(clip.digest) == 64


def test_frames_are_shared_and_not_copied(films: Path) -> None:
    """They outlive pool and process, may be written to (torch asks for that), and are given back when nobody looks."""
    clip = submit_clip(
        MediaRef(kind="video", path=str(films / "good.mp4")), (0.0, 0.5), (1024, 1024), VideoConfig()
    ).result()
    close_pools()
    base = clip.frames
    while getattr(base, "base", None) is not None:
        base = base.base
    assert type(base).__name__ in ("memoryview", "mmap")
    clip.frames[0, 0, 0] = (1, 2, 3)
    assert number_of(clip.frames[1]) == 5


def test_a_worker_has_no_torch_and_its_share_of_threads(films: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    assert [decoding_threads(workers) for workers in (1, cores, 4 * cores)] == [min(8, cores), 1, 1]
    code = "import sys, vlrft.data.video.worker; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_workers_are_as_many_as_asked_and_stay(films: Path) -> None:
    pool = DecodingPool(VideoConfig(decoder=f"{decoders_of_mine.__file__}:who", workers=2))
    futures = [pool.submit(request(films / "good.mp4", 0, size=(8, 1))) for _ in range(30)]
    seen = {future.result(timeout=60).frames[0, 0, :7, 0].tobytes() for future in futures}
    pids = {int.from_bytes(pid, "little") for pid in seen}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_frames_beyond_the_limit_are_refused_before_anything_is_decoded(films: Path) -> None:
    pool = DecodingPool(VideoConfig(memory_mb=16))
    with pytest.raises(MediaError, match=r"2 frames of 4096x4096 take 96 MiB, data\.video\.memory_mb is 16"):
        pool.submit(request(films / "good.mp4", 0, 1, size=(4096, 4096))).result(timeout=60)
    pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("limit", [256, 4096])
def test_the_memory_limit_counts_from_where_the_worker_starts(films: Path, limit: int) -> None:
    """4 GiB are enough for the 512 MiB that `hungry` takes, which then fails for another reason."""
    pool = DecodingPool(VideoConfig(decoder=MINE, memory_mb=limit))
    says = "needs more than" if limit == 256 else "fails on it"
    with pytest.raises(MediaError, match=says):
        pool.submit(request(films / "hungry.mp4", 0)).result(timeout=60)
    pool.close()


@pytest.mark.parametrize(
    ("decoder", "says"),
    [("pyaw", r"unknown video decoder 'pyaw'"), ("/nowhere/x.py:decode", r"cannot be loaded .*/nowhere/x\.py")],
)
def test_a_decoder_that_cannot_be_loaded_is_no_fault_of_a_video(films: Path, decoder: str, says: str) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=says) as caught:
            submit_clip(
                MediaRef(kind="video", path=str(films / "good.mp4")), (0.0,), SIZE, VideoConfig(decoder=decoder)
            ).result()
        assert not isinstance(caught.value, MediaError)


def test_closing_cancels_what_waits(films: Path) -> None:
    pool = DecodingPool(VideoConfig(decoder=MINE))
    futures = [
        pool.submit(request(films / "hang.mp4", 0)),
        *(pool.submit(request(films / "good.mp4", 0)) for _ in "ab"),
    ]
    time.sleep(0.5)
    pool.close()
    pool.close()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(timeout=10)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(request(films / "good.mp4", 0))


def test_a_forgotten_pool_ends_its_processes(films: Path) -> None:
    pool = DecodingPool(VideoConfig(decoder=f"{decoders_of_mine.__file__}:who"))
    frame = pool.submit(request(films / "good.mp4", 0, size=(8, 1))).result(timeout=60).frames
    pid = int.from_bytes(frame[0, 0, :7, 0].tobytes(), "little")
    os.kill(pid, 0)
    del pool
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    # Its thread ends by itself.
    until = time.monotonic() + 10
    while [thread for thread in threading.enumerate() if thread.name == "decoding-0"] and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_worker_ends_with_its_parent(films: Path, tmp_path: Path) -> None:
    """Also when the parent is killed and the decoder hangs."""
    code = f"""
import os, sys, time
from vlrft.config import VideoConfig
from vlrft.data.video import ClipRequest
from vlrft.data.video.process import DecodingProcess
from vlrft.types import MediaRef
import threading
process = DecodingProcess(VideoConfig(decoder={MINE!r}))
request = ClipRequest(ref=MediaRef(kind="video", path={str(films / "hang.mp4")!r}), times=(0.0,), size=(8, 8))
threading.Thread(target=process.clip, args=(request,), daemon=True).start()
time.sleep(0.5)
print(process._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the decoding process outlived its parent")


def test_a_fork_makes_its_own_pool_and_leaves_its_parents(films: Path) -> None:
    """As workers of a torch DataLoader are forked."""
    code = f"""
import os
from vlrft.config import VideoConfig
from vlrft.data.video import submit_clip
from vlrft.types import MediaRef
config = VideoConfig(decoder={MINE.replace(":wild", ":who")!r})
def who():
    clip = submit_clip(MediaRef(kind="video", path={str(films / "good.mp4")!r}), (0.0,), (8, 1), config).result()
    return int.from_bytes(clip.frames[0, 0, :7, 0].tobytes(), "little")
before = who()
child = os.fork()
if child == 0:
    raise SystemExit(0 if who() != before else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), who() == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["0", "True"], done.stderr


def test_configs_that_show_other_frames_share_a_pool() -> None:
    assert shared_pool(VideoConfig(fps=1.0)) is shared_pool(VideoConfig(num_frames=8, max_pixels=99))
    assert shared_pool(VideoConfig()) is not shared_pool(VideoConfig(workers=2))


def test_a_video_that_is_gone_is_said(films: Path) -> None:
    future = submit_clip(MediaRef(kind="video", path=str(films / "gone.mp4")), (0.0,), SIZE, VideoConfig())
    with pytest.raises(MediaError, match=r"gone\.mp4: no such file"):
        future.result(timeout=60)


def test_several_threads_may_ask(films: Path) -> None:
    found: list[list[int]] = []
    config = VideoConfig()

    def ask() -> None:
        found.append(numbers(submit_clip(MediaRef(kind="video", path=str(films / "good.mp4")), (0.4,), SIZE, config)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[4]] * 8


def test_a_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(
        DataError, match=r"decoder=pyav cannot be started: the decoding process ended with exit status 1"
    ):
        DecodingProcess(VideoConfig())
