"""Which frames are shown: the formula, against qwen-vl-utils, at clip ranges and at the edges."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image
from videos import write_video

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.video import VideoInfo, frame_times, media_shape
from vlrft.types import MediaRef, MediaShape


def info(frames: int, fps: float) -> VideoInfo:
    return VideoInfo(name="v.mp4", size=(64, 48), num_frames=frames, fps=fps, duration=frames / fps)


def numbers(times: tuple[float, ...], fps: float, start: float = 0.0) -> list[int]:
    return [round((time + start) * fps) for time in times]


def test_two_frames_a_second() -> None:
    """150 frames at 30 per second last 5 s: ten frames, the first and the last of the video among them."""
    times = frame_times(info(150, 30.0), VideoConfig(fps=2.0))
    assert numbers(times, 30.0) == [0, 17, 33, 50, 66, 83, 99, 116, 132, 149]
    assert times[1] == pytest.approx(17 / 30)


@pytest.mark.parametrize(
    ("frames", "fps", "options", "count"),
    [
        (150, 30.0, {"fps": 1.0}, 4),  # 5 frames, down to an even number
        (150, 30.0, {"fps": 0.1}, 4),  # min_frames
        (150, 30.0, {"fps": 0.1, "min_frames": 5}, 6),  # odd limits move inwards
        (3000, 30.0, {"fps": 2.0, "max_frames": 7}, 6),
        (3000, 30.0, {"fps": 2.0, "min_frames": 40, "max_frames": 8}, 8),  # max_frames goes first
        (150, 30.0, {"fps": 60.0}, 150),  # never more than there are
        (149, 30.0, {"fps": 60.0}, 148),
        (3, 30.0, {}, 2),
        (1, 30.0, {}, 2),
        (150, 30.0, {"num_frames": 8}, 8),
        (150, 30.0, {"num_frames": 5}, 6),
        (7, 30.0, {"num_frames": 32}, 6),
        (1, 30.0, {"num_frames": 1}, 2),
        (1798, 29.97, {"fps": 2.0}, 118),  # 119.98..., down
    ],
)
def test_how_many(frames: int, fps: float, options: dict[str, float], count: int) -> None:
    assert len(frame_times(info(frames, fps), VideoConfig(**options))) == count  # type: ignore[arg-type]


@given(
    frames=st.integers(4, 20_000),
    rate=st.sampled_from([1.0, 10.0, 15.0, 24.0, 24000 / 1001, 25.0, 30000 / 1001, 30.0, 50.0, 60.0]),
    fps=st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 12.5]),
    limits=st.sampled_from([(4, 768), (2, 16), (8, 64), (5, 31)]),
    num_frames=st.none() | st.integers(1, 128).map(lambda half: 2 * half),
)
def test_frames_are_those_of_qwen_vl_utils(
    frames: int, rate: float, fps: float, limits: tuple[int, int], num_frames: int | None
) -> None:
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("qwen_vl_utils.vision_process", reason="qwen-vl-utils is not installed")
    assume(num_frames is None or num_frames <= frames)
    # Ours forgives the rounding error of a product that stands for an even number, theirs rounds it down to the last.
    exact = frames / rate * fps
    assume(abs(exact / 2 - round(exact / 2)) > 1e-5 or exact / 2 == round(exact / 2))
    ele = (
        {"fps": fps, "min_frames": limits[0], "max_frames": limits[1]}
        if num_frames is None
        else {"nframes": num_frames}
    )
    count = theirs.smart_nframes(ele, total_frames=frames, video_fps=rate)
    positions = torch.linspace(0, frames - 1, count).round().long().tolist()
    config = VideoConfig(fps=fps, min_frames=limits[0], max_frames=limits[1], num_frames=num_frames)
    ours = numbers(frame_times(info(frames, rate), config), rate)
    assert len(ours) == count
    for i, (mine, other) in enumerate(zip(ours, positions, strict=True)):
        exact = i * (frames - 1) / (count - 1)
        # They compute the position in float32.
        assert mine == other or (abs(mine - other) == 1 and abs(exact % 1 - 0.5) < 2e-7 * frames)


@given(
    frames=st.integers(30, 3000),
    rate=st.sampled_from([10.0, 24.0, 25.0, 30.0]),
    ends=st.tuples(st.integers(0, 99), st.integers(0, 99)).map(sorted),
)
def test_clips_are_those_of_qwen_vl_utils(frames: int, rate: float, ends: list[int]) -> None:
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("qwen_vl_utils.vision_process", reason="qwen-vl-utils is not installed")
    # Off the frames, where no rounding error decides.
    start, end = ((round(part / 100 * frames) + 0.25) / rate for part in ends)
    assume(start * rate + 8 < end * rate)
    ele = {"video_start": start, "video_end": end}
    first, last, total = theirs.calculate_video_frame_range(ele, frames, rate)
    count = theirs.smart_nframes({"fps": 2.0}, total_frames=total, video_fps=rate)
    positions = torch.linspace(first, last, count).round().long().tolist()
    times = frame_times(info(frames, rate), VideoConfig(fps=2.0), start, end)
    ours = numbers(times, rate, start)
    assert all(0 <= time <= end - start for time in times)
    assert len(ours) == count
    assert max(abs(mine - other) for mine, other in zip(ours, positions, strict=True)) <= 1
    assert (ours[0], ours[-1]) == (first, last)


@example(frames=57, rate=7.0, num_frames=None, fps=1.0, part=(0.0, 1 / 3))
@given(
    frames=st.integers(1, 500),
    rate=st.floats(0.5, 120.0),
    num_frames=st.none() | st.integers(1, 64),
    fps=st.floats(0.01, 120.0),
    part=st.tuples(st.floats(0.0, 0.99), st.floats(0.01, 2.0)),
)
def test_times_rise_within_the_clip(
    frames: int, rate: float, num_frames: int | None, fps: float, part: tuple[float, float]
) -> None:
    video = info(frames, rate)
    start = part[0] * video.duration
    end = start + part[1] * video.duration
    times = frame_times(video, VideoConfig(fps=fps, num_frames=num_frames), start, end)
    assert len(times) % 2 == 0
    assert len(times) >= 2
    assert times[0] >= 0.0
    # Its last bit may be rounded: 19 frames at 7 per second are 2.7142857142857144 s, a third of 57 one bit less.
    assert times[-1] <= min(end, video.duration) - start + 1e-9
    assert all(a < b for a, b in itertools.pairwise(times)) or len(set(times)) == 1


def test_a_clip_between_two_frames_shows_the_one_on_screen() -> None:
    assert frame_times(info(100, 10.0), VideoConfig(), 1.01, 1.02) == (0.0, 0.0)


def test_a_clip_may_end_after_its_video() -> None:
    assert frame_times(info(100, 10.0), VideoConfig(), 8.0, 99.0) == frame_times(info(100, 10.0), VideoConfig(), 8.0)


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (10.0, None, r"v\.mp4: lasts 10\.00 s, and the clip from 10 s to 10 s does not start within it"),
        (-1.0, 3.0, "does not start within it"),
        (float("nan"), 3.0, "does not start within it"),
        (3.0, 3.0, "ends before it starts"),
        (3.0, 2.0, "the clip from 3 s to 2 s ends before it starts"),
        (None, 0.0, "ends before it starts"),
        (None, float("nan"), "ends before it starts"),
    ],
)
def test_clips_that_are_none(start: float | None, end: float | None, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        frame_times(info(100, 10.0), VideoConfig(), start, end)


def test_media_shape_of_videos_and_images(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = write_video(tmp_path / "v.mp4", 40)
    ref = MediaRef(kind="video", path=str(path), start=1.0, end=3.0)
    shape = media_shape(ref, VideoConfig(num_frames=4))
    assert (shape.size, shape.num_frames) == ((128, 64), 4)
    assert shape.timestamps == pytest.approx((0.0, 0.7, 1.3, 2.0))
    Image.new("RGB", (7, 5)).save(tmp_path / "i.png")
    assert media_shape(MediaRef(path=str(tmp_path / "i.png")), VideoConfig()) == MediaShape(size=(7, 5))
