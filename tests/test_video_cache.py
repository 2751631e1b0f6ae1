"""Decoded clips on disk: what makes an entry, what makes it invalid, and how much stays."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import decoders_of_mine
import numpy as np
import pytest
from videos import SIZE, number_of, write_video

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.video import ClipCache, ClipRequest, DecodingPool
from vlrft.data.video.clips import clip_digest
from vlrft.types import Clip, MediaRef

MIB = 2**20


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"nobody decodes this")
    return path


def request(path: Path, *times: float, size: tuple[int, int] = (64, 32), **options: float) -> ClipRequest:
    return ClipRequest(ref=MediaRef(kind="video", path=str(path), **options), times=times or (0.0, 1.0), size=size)  # type: ignore[arg-type]


def clip(wanted: ClipRequest, seed: int = 0) -> Clip:
    frames = np.random.default_rng(seed).integers(0, 256, size=wanted.shape, dtype=np.uint8)
    digest = clip_digest(frames, wanted.times)
    return Clip(frames=frames, timestamps=wanted.times, fps=2.0, duration=2.5, stored_size=(640, 480), digest=digest)


def test_what_is_kept_comes_back(film: Path, tmp_path: Path) -> None:
    wanted, kept = request(film), clip(request(film))
    cache = ClipCache(tmp_path / "cache", capacity=MIB)
    assert cache.load(cache.entry(wanted, "pyav")) is None
    cache.store(cache.entry(wanted, "pyav"), kept)
    found = ClipCache(tmp_path / "cache", capacity=MIB).load(cache.entry(wanted, "pyav"))
    assert found is not None
    assert (found.frames == kept.frames).all()
    assert found.frames.flags.writeable
    assert replace(found, frames=None) is not found
    for field in ("timestamps", "fps", "duration", "stored_size", "digest"):
        assert getattr(found, field) == getattr(kept, field)


def test_every_part_of_the_key_counts(film: Path, tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "cache", capacity=MIB)
    cache.store(cache.entry(request(film), "pyav"), clip(request(film)))
    copy = tmp_path / "copy.mp4"
    shutil.copy2(film, copy)
    for other in (
        request(copy),
        request(film, 0.0, 1.5),
        request(film, size=(32, 64)),
        request(film, start=1.0),
        request(film, end=1.0),
        ClipRequest(ref=MediaRef(kind="video", data=film.read_bytes()), times=(0.0, 1.0), size=(64, 32)),
        ClipRequest(ref=MediaRef(kind="video", frames=(str(film),)), times=(0.0, 1.0), size=(64, 32)),
        ClipRequest(ref=MediaRef(kind="video", frames=(str(film),), fps=3.0), times=(0.0, 1.0), size=(64, 32)),
    ):
        assert cache.load(cache.entry(other, "pyav")) is None
        cache.store(cache.entry(other, "pyav"), clip(other))
        assert cache.load(cache.entry(other, "pyav")) is not None
    assert cache.load(cache.entry(request(film), "decord")) is None
    assert cache.load(cache.entry(request(film), "pyav")) is not None
    assert len(list((tmp_path / "cache").iterdir())) == 9


def test_a_changed_file_is_another_one(film: Path, tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "cache", capacity=MIB)
    cache.store(cache.entry(request(film), "pyav"), clip(request(film)))
    os.utime(film, ns=(1, film.stat().st_mtime_ns + 1))
    assert cache.load(cache.entry(request(film), "pyav")) is None
    film.unlink()
    with pytest.raises(MediaError, match=r"film\.mp4: cannot be opened \(No such file"):
        cache.entry(request(film), "pyav")


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "flipped", "header", "no_json", "other_times"])
def test_a_damaged_entry_is_a_miss(film: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = ClipCache(tmp_path / "cache", capacity=MIB)
    cache.store(cache.entry(request(film), "pyav"), clip(request(film)))
    (entry,) = (tmp_path / "cache").iterdir()
    content = entry.read_bytes()
    head, _, body = content.partition(b"\n")
    flipped = bytes([body[0] ^ 1]) + body[1:]
    entry.write_bytes(
        {
            "empty": b"",
            "cut": content[:-1],
            "longer": content + b"\0",
            "flipped": head + b"\n" + flipped,
            "header": b"{}\n" + body,
            "no_json": b"\xff\xfe\n" + body,
            "other_times": head.replace(b"1.0", b"1.5") + b"\n" + body,
        }[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert cache.load(cache.entry(request(film), "pyav")) is None
    assert "damaged, decoded anew" in caplog.text
    assert not entry.exists()
    cache.store(cache.entry(request(film), "pyav"), clip(request(film)))
    assert cache.load(cache.entry(request(film), "pyav")) is not None


def test_the_least_recently_used_go_first(film: Path, tmp_path: Path) -> None:
    """Room for four entries of 100 KiB, of which the oldest is used again before the fifth comes."""
    folder = tmp_path / "cache"
    wanted = [request(film, float(i), size=(200, 512 // 3)) for i in range(5)]
    kept = [clip(item, i) for i, item in enumerate(wanted)]
    size = kept[0].frames.nbytes
    cache = ClipCache(folder, capacity=4 * size + 4096)
    for i, item in enumerate(wanted[:4]):
        cache.store(cache.entry(item, "pyav"), kept[i])
        (entry,) = (path for path in folder.iterdir() if time.time() - path.stat().st_mtime < 500)
        os.utime(entry, (time.time() - 1000 + i,) * 2)
    assert cache.load(cache.entry(wanted[0], "pyav")) is not None
    cache.store(cache.entry(wanted[4], "pyav"), kept[4])
    assert [cache.load(cache.entry(item, "pyav")) is not None for item in wanted] == [True, False, True, True, True]


def test_the_cap_holds(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = ClipCache(folder, capacity=MIB)
    for i in range(60):
        wanted = request(film, float(i), size=(100, 100))
        cache.store(cache.entry(wanted, "pyav"), clip(wanted))
        held = sum(path.stat().st_size for path in folder.iterdir())
        assert held <= MIB * (1 + 1 / 64) + 40_000
    assert held > MIB * 0.9


def test_a_clip_larger_than_the_cache_is_not_kept(film: Path, tmp_path: Path) -> None:
    wanted = request(film, size=(1000, 1000))
    cache = ClipCache(tmp_path / "cache", capacity=MIB)
    cache.store(cache.entry(wanted, "pyav"), clip(wanted))
    assert not (tmp_path / "cache").exists()


def test_what_a_killed_process_left_is_removed(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "old.part").write_bytes(b"x")
    os.utime(folder / "old.part", (1, 1))
    (folder / "new.part").write_bytes(b"x")
    (folder / "notes.txt").write_text("not ours")
    cache = ClipCache(folder, capacity=MIB)
    cache.store(cache.entry(request(film), "pyav"), clip(request(film)))
    assert sorted(path.suffix for path in folder.iterdir()) == [".clip", ".part", ".txt"]
    assert (folder / "new.part").exists()


def test_a_disk_that_refuses_costs_no_clip(film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = ClipCache(tmp_path / "cache", capacity=MIB)
    with caplog.at_level(logging.WARNING):
        cache.store(cache.entry(request(film), "pyav"), clip(request(film)))
    assert "data.video.cache_dir: a clip cannot be kept" in caplog.text


def hammer(folder: str, film: str, seed: int) -> int:
    """Many stores and loads of few entries, in a cache that is always full; how many loads gave a wrong clip."""
    cache = ClipCache(folder, capacity=200_000)
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(150):
        wanted = request(Path(film), float(rng.integers(8)), size=(100, 100))
        expected = clip(wanted, int(wanted.times[0]))
        found = cache.load(cache.entry(wanted, "pyav"))
        if found is None:
            cache.store(cache.entry(wanted, "pyav"), expected)
        elif found.digest != expected.digest or not (found.frames == expected.frames).all():
            wrong += 1
    return wrong


def test_several_processes_share_a_folder(film: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.starmap(hammer, [(str(tmp_path / "cache"), str(film), seed) for seed in range(3)]) == [0, 0, 0]
    assert not list((tmp_path / "cache").glob("*.part"))


def test_the_pool_decodes_once(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")
    path = write_video(tmp_path / "v.mp4", 20)
    config = VideoConfig(cache_dir=str(tmp_path / "cache"), cache_gb=0.01)
    wanted = request(path, 0.0, 1.2, size=SIZE)
    first = DecodingPool(config)
    decoded = first.submit(wanted).result(timeout=60)
    first.close()
    # A decoder that cannot be loaded shows that none was asked.
    second = DecodingPool(config.model_copy(update={"memory_mb": 1}))
    cached = second.submit(wanted).result(timeout=60)
    assert not second._shared.processes
    second.close()
    assert cached.digest == decoded.digest
    assert [number_of(frame) for frame in cached.frames] == [0, 12]


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_video_that_changes_while_it_is_decoded_is_not_kept(
    film: Path, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ClipCache(tmp_path / "cache", capacity=MIB)
    before = cache.entry(request(film), "pyav")
    if change == "gone":
        film.unlink()
    else:
        (tmp_path / "new").write_bytes(b"another film")
        os.replace(tmp_path / "new", film)
    cache.store(before, clip(request(film)))
    assert "this clip is not kept" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_the_pool_keeps_no_clip_of_a_replaced_file(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")
    path = write_video(tmp_path / "v.mp4", 20)
    write_video(tmp_path / "n.mp4", 20, first=20).rename(f"{path}.new")
    config = VideoConfig(cache_dir=str(tmp_path / "cache"), decoder=f"{decoders_of_mine.__file__}:swapped")
    pool = DecodingPool(config)
    seen = [
        [number_of(frame) for frame in pool.submit(request(path, 0.0, 1.2, size=SIZE)).result(timeout=60).frames]
        for _ in range(3)
    ]
    pool.close()
    assert seen == [[0, 12], [20, 32], [20, 32]]
    assert len(list((tmp_path / "cache").iterdir())) == 1
