"""Looking into videos: within limits, in other processes, once for each file, and with the length that a clip has."""

from __future__ import annotations

import fractions
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from videos import SIZE, picture, shared_clip, write_video

from vlrft.compose import compose
from vlrft.config import DataConfig, SourceConfig, VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.sources import load_samples
from vlrft.data.video import VideoInfo, close_pools, forget_infos, media_shape, probe, probe_many, reading, submit_clip
from vlrft.types import Clip, MediaRef
from vlrft.validate import validate

av = pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")


def video(path: Path | str, **changes: Any) -> MediaRef:
    return MediaRef(kind="video", path=str(path), **changes)


def clip_of(ref: MediaRef, config: VideoConfig) -> Clip:
    return submit_clip(ref, media_shape(ref, config).timestamps, SIZE, config).result()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that a decoding process looked into."""
    forget_infos()
    names: list[str] = []
    original = reading.shared_pool

    class Noting:
        def __init__(self, config: VideoConfig) -> None:
            self.pool = original(config)

        def inspect(self, ref: MediaRef) -> Any:
            names.append(Path(ref.name()).name)
            return self.pool.inspect(ref)

    monkeypatch.setattr(reading, "shared_pool", Noting)
    return names


def write_slides(path: Path, seconds: Sequence[float]) -> Path:
    """One frame for each of these durations, all keyframes, each packet with its own."""
    clock = fractions.Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.time_base = stream.codec_context.time_base = clock
        lasting = iter(seconds)
        for number in range(len(seconds)):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = round(sum(seconds[:number]) * 1000), clock
            for packet in stream.encode(frame):
                packet.duration = round(next(lasting) * 1000)
                container.mux(packet)
        for packet in stream.encode():
            packet.duration = round(next(lasting) * 1000)
            container.mux(packet)
    return path


BURSTS = [*(i / 10 for i in range(50)), *(30 + i / 10 for i in range(10)), 60.0]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    ("stamps", "options", "lasts"),
    [
        ([0.0, 0.1, 0.2, 0.3, 0.4, 20.0], {}, 20.1),  # B-frames: an even list of decoding times
        (BURSTS, {}, 60.1),
        (BURSTS, {"bf": "0"}, 60.1),
        ([i / 10 for i in range(30)], {}, 3.0),
    ],
)
def test_clip_and_probe_agree_on_a_variable_rate(
    tmp_path: Path, suffix: str, stamps: list[float], options: dict[str, str], lasts: float
) -> None:
    ref = video(write_video(tmp_path / f"v{suffix}", len(stamps), stamps=stamps, options=options))
    config = VideoConfig(num_frames=4)
    info, clip = probe(ref), clip_of(ref, config)
    assert info.duration == clip.duration == pytest.approx(lasts, abs=0.002)
    assert info.num_frames == len(stamps)
    assert clip.fps == pytest.approx(4 / lasts, rel=1e-3)


def test_the_last_frame_lasts_as_long_as_the_file_says(tmp_path: Path) -> None:
    ref = video(write_slides(tmp_path / "slides.mp4", [2, 2, 2, 2, 12]))
    clip = clip_of(ref, VideoConfig(num_frames=4))
    assert probe(ref).duration == clip.duration == pytest.approx(20.0)
    assert clip.fps == pytest.approx(4 / 20)


@pytest.mark.parametrize("options", [{}, {"bf": "0"}, {"bf": "3", "g": "12"}])
def test_a_constant_rate_is_read_from_the_header_alone(
    tmp_path: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlrft.data.video import info

    path = write_video(tmp_path / "v.mp4", 48, fps=25, options=options)
    monkeypatch.setattr(info, "read_index", lambda *_: pytest.fail("the packets were read"))
    found = info.read_info(video(path))
    assert (found.num_frames, found.duration) == (48, pytest.approx(1.92))


@pytest.mark.parametrize(("start", "end"), [(0.53, 2.21), (None, 1.0), (1.0, None), (0.0, 4.0)])
def test_the_rate_of_a_clip_is_that_of_qwen_vl_utils(
    tmp_path: Path, start: float | None, end: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real reader, on a file: its sample rate makes the positions that the models were trained with."""
    theirs = pytest.importorskip("qwen_vl_utils.vision_process", reason="qwen-vl-utils is not installed")
    pytest.importorskip("decord")
    path = write_video(tmp_path / "v.mp4", 40)
    ele = {"video": str(path), "fps": 4.0, "video_start": start, "video_end": end}
    frames, _, rate = theirs._read_video_decord({key: value for key, value in ele.items() if value is not None})
    clip = clip_of(video(path, start=start, end=end), VideoConfig(fps=4.0))
    assert len(clip.frames) == len(frames)
    assert clip.fps == pytest.approx(float(rate), rel=1e-6)
    assert clip.duration == pytest.approx((end or 4.0) - (start or 0.0))


def test_a_video_is_looked_into_once(tmp_path: Path, asked: list[str]) -> None:
    path = write_video(tmp_path / "v.mkv", 12)
    first = probe(video(path))
    assert probe(video(path, start=0.2)) == first
    assert media_shape(video(path), VideoConfig(num_frames=2)).size == first.size
    assert asked == ["v.mkv"]
    shutil.copy(path, tmp_path / "w.mkv")
    assert probe(video(tmp_path / "w.mkv")).name.endswith("w.mkv")
    assert asked == ["v.mkv", "w.mkv"]
    write_video(path, 20)
    assert probe(video(path)).num_frames == 20
    assert asked == ["v.mkv", "w.mkv", "v.mkv"], "a changed file is another one"
    content = MediaRef(kind="video", data=path.read_bytes())
    assert probe(content) == probe(MediaRef(kind="video", data=path.read_bytes()))
    assert len(asked) == 4


def test_what_failed_is_not_tried_again_within_the_same_limits(tmp_path: Path, asked: list[str]) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"no video at all")
    for _ in range(3):
        with pytest.raises(MediaError, match=r"v\.mp4: is damaged or no video"):
            probe(video(path), VideoConfig())
    assert asked == ["v.mp4"]
    with pytest.raises(MediaError):
        probe(video(path), VideoConfig(timeout_s=90.0))
    assert asked == ["v.mp4"] * 2


def test_what_is_known_stays_on_disk(tmp_path: Path, asked: list[str], caplog: pytest.LogCaptureFixture) -> None:
    path, config = write_video(tmp_path / "v.mkv", 12, rotation=0), VideoConfig(cache_dir=str(tmp_path / "cache"))
    first = probe(video(path), config)
    for content, times in ((None, 1), (b"{}", 2), (b"\xff", 3)):
        (held,) = (tmp_path / "cache").glob("*.info")
        if content is not None:
            held.write_bytes(content)
        forget_infos()
        with caplog.at_level(logging.WARNING):
            assert probe(video(path), config) == first
        assert len(asked) == times
        assert ("looked into anew" in caplog.text) == (content is not None)


def test_many_at_once_in_order(tmp_path: Path, asked: list[str]) -> None:
    good = [write_video(tmp_path / f"{n}.mkv", n) for n in (4, 6)]
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(b"no video")
    found = probe_many(
        [video(good[0]), video(bad), video(good[1]), video(good[0]), video(tmp_path / "gone.mkv")],
        VideoConfig(workers=2),
    )
    assert [getattr(item, "num_frames", type(item)) for item in found] == [4, MediaError, 6, 4, MediaError]
    assert sorted(asked) == ["4.mkv", "6.mkv", "bad.mkv"]
    assert isinstance(found[0], VideoInfo)
    close_pools()


def endless(path: Path) -> Path:
    """A WebM-like file whose packets end in gigabytes of nothing: to count them takes long."""
    write_video(path, 12)
    os.truncate(path, 64 * 2**30)
    return path


def test_a_video_that_takes_too_long_costs_its_limit_once(tmp_path: Path) -> None:
    forget_infos()
    endless(tmp_path / "v.mkv")
    rows = [{"id": f"r{i}", "prompt": f"q {i}", "videos": ["v.mkv"], "answer": "x"} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(root=str(tmp_path), task="open_qa", video=VideoConfig(timeout_s=1.0), on_bad_sample="skip")
    # A process is up before the clock starts.
    probe(video(write_video(tmp_path / "good.mkv", 4)), data.video)
    write_video(tmp_path / "good.mp4", 4)
    rows.append({"id": "good", "prompt": "q", "videos": ["good.mp4"], "answer": "x"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    began = time.monotonic()
    loaded = load_samples(data, SourceConfig(path="rows.jsonl"), role="train")
    assert time.monotonic() - began < 3 * data.video.timeout_s + 20
    assert [sample.id for sample in loaded.samples] == ["good"]
    assert len(loaded.skipped) == 3
    assert all("took longer than data.video.timeout_s=1" in item.reason for item in loaded.skipped)
    close_pools()


def test_a_thousand_rows_over_a_matroska_file(tmp_path: Path, asked: list[str]) -> None:
    """Every stop of validation asks, and the file is read to its end once. (28 s when it was read for each.)"""
    shutil.copy(shared_clip("flipping_a_pancake.mkv"), tmp_path / "v.mkv")
    rows = [
        {"id": str(i), "prompt": f"question {i}", "videos": ["v.mkv"], "answer": [i % 4, i % 4 + 1],
         "task": "temporal_grounding", "meta": {"duration": 10.333}}
        for i in range(1000)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{tiny: {{family: qwen2_5_vl}}}}\n"
        f"data: {{root: {tmp_path}, task: temporal_grounding, train: {{path: rows.jsonl}}}}\n"
        "rewards: {funcs: [{func: tg.iou}]}\nstages: [{kind: grpo}]\n"
    )
    report = validate(compose(str(recipe)))
    assert report.ok
    assert asked == ["v.mkv"]
    assert report.seconds < 5


def test_a_turned_picture_is_remembered_turned(tmp_path: Path) -> None:
    path, config = write_video(tmp_path / "v.mp4", 4, rotation=90), VideoConfig()
    for _ in range(2):
        info = probe(video(path), config)
        assert (info.size, info.rotation) == (SIZE[::-1], 90)
    assert np.prod(info.size) == np.prod(SIZE)
