"""The three decoders: the same frames at the same times, whatever the file, by one rule."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import CLIPS, DECODERS, SIZE, need_decoder, number_of, picture, shared_clip, write_video

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError
from vlrft.data.problems import DataError
from vlrft.data.video import media_shape
from vlrft.data.video.clips import ClipRequest, clip_digest, fill_clip, resized
from vlrft.data.video.decode_pyav import decode as decode_pyav
from vlrft.data.video.decoders import find_decoder
from vlrft.data.video.index import FrameIndex, read_index
from vlrft.data.video.source import opened
from vlrft.types import Clip, MediaRef

pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")


def video(path: Path | str, **options: object) -> MediaRef:
    return MediaRef(kind="video", path=str(path), **options)  # type: ignore[arg-type]


def clip_of(
    ref: MediaRef, times: Sequence[float], decoder: str = "pyav", size: tuple[int, int] = SIZE, threads: int = 1
) -> Clip:
    request = ClipRequest(ref=ref, times=tuple(times), size=size)
    return fill_clip(request, find_decoder(decoder), np.empty(request.shape, np.uint8), threads=threads)


def numbers(clip: Clip) -> list[int]:
    return [number_of(frame) for frame in clip.frames]


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("decoder", DECODERS[1:])
@pytest.mark.parametrize("options", [{}, {"num_frames": 4}, {"fps": 60.0}], ids=["usual", "sparse", "all"])
def test_real_clips_are_the_same_with_each_decoder(decoder: str, name: str, options: dict[str, float]) -> None:
    """As many frames, timestamps within half a source frame (they are equal), pixels within one level on average."""
    need_decoder(decoder)
    ref = video(shared_clip(name))
    shape = media_shape(ref, VideoConfig(**options))  # type: ignore[arg-type]
    ours, theirs = (clip_of(ref, shape.timestamps, which, (112, 84), 2) for which in ("pyav", decoder))
    assert len(ours.timestamps) == len(theirs.timestamps) == shape.num_frames
    assert np.abs(np.subtract(ours.timestamps, theirs.timestamps)).max() <= 0.5 / 30
    assert np.abs(np.subtract(ours.timestamps, shape.timestamps)).max() <= 0.5 / 30
    assert (ours.stored_size, ours.fps, ours.duration) == (theirs.stored_size, theirs.fps, theirs.duration)
    apart = np.abs(ours.frames.astype(int) - theirs.frames).mean(axis=(1, 2, 3))
    assert apart.max() <= 1.0


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_corrupted_clip_is_refused(decoder: str) -> None:
    need_decoder(decoder)
    ref = video(shared_clip("corrupted.mp4"))
    with pytest.raises(MediaError, match=r"corrupted\.mp4: is damaged or no video \(.+\); fetch it again") as caught:
        clip_of(ref, media_shape(ref, VideoConfig()).timestamps, decoder)
    assert "cpp" not in str(caught.value)


FILES = {
    "closed.mp4": {"options": {"bf": "2", "g": "12"}},
    "open_gop.mp4": {"options": {"bf": "2", "g": "24", "x264-params": "open-gop=1"}},
    "intra_refresh.mp4": {"options": {"g": "24", "intra-refresh": "1"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "20", "lag-in-frames": "16"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "20"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "h264.avi": {"options": {"bf": "2", "g": "12"}},
    "mjpeg.avi": {"codec": "mjpeg"},
    "stream.ts": {"options": {"bf": "2", "g": "12"}},
    "flash.flv": {"codec": "flv1"},
}
REFUSED = {
    ("decord", "stream.ts"): "is MPEG-TS",
    ("torchcodec", "stream.ts"): "the decoder gave the one at|damaged",
    ("torchcodec", "mpeg4.avi"): "has B-frames but no presentation times",
    ("torchcodec", "h264.avi"): "has B-frames but no presentation times",
    ("torchcodec", "intra_refresh.mp4"): "the decoder gave the one at|damaged",
}
"""Where a library gives wrong frames, there is an error and not a wrong frame."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 100 numbered frames, ten a second."""
    folder = tmp_path_factory.mktemp("videos")
    for name, how in FILES.items():
        write_video(folder / name, 100, **how)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "wanted",
    [range(100), range(0, 100, 5), (0, 50), (37,), (99,), (3, 4, 5, 60, 61, 95)],
    ids=["all", "dense", "two", "middle", "last", "mixed"],
)
def test_the_right_frame_or_none(files: Path, decoder: str, name: str, wanted: Sequence[int]) -> None:
    need_decoder(decoder)
    times = [number / 10 for number in wanted]
    try:
        clip = clip_of(video(files / name), times, decoder)
    except MediaError:
        if (decoder, name) not in REFUSED:
            raise
        with pytest.raises(MediaError, match=REFUSED[decoder, name]):
            clip_of(video(files / name), times, decoder)
        return
    assert numbers(clip) == list(wanted)
    assert clip.timestamps == pytest.approx([number / 10 for number in wanted], abs=0.002)
    assert clip.duration == pytest.approx(10.0, abs=0.002)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(files: Path, threads: int) -> None:
    wanted = (0, 7, 8, 45, 46, 99)
    assert numbers(clip_of(video(files / "closed.mp4"), [n / 10 for n in wanted], threads=threads)) == list(wanted)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_variable_rate_shows_what_is_on_screen(tmp_path: Path, decoder: str, suffix: str) -> None:
    """The last frame that begins by a time, or within 2 ms after it."""
    need_decoder(decoder)
    path = write_video(tmp_path / f"v{suffix}", 6, stamps=[0.0, 0.1, 1.0, 2.9, 3.0, 3.5])
    clip = clip_of(video(path), [0.0, 0.05, 0.0985, 0.5, 0.999, 2.0, 2.899, 3.2], decoder)
    assert numbers(clip) == [0, 0, 1, 1, 2, 2, 3, 4]
    assert clip.timestamps == pytest.approx((0.0, 0.0, 0.1, 0.1, 1.0, 1.0, 2.9, 3.0))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_clip_counts_from_its_start(files: Path, decoder: str) -> None:
    need_decoder(decoder)
    ref = video(files / "closed.mp4", start=4.03, end=6.0)
    shape = media_shape(ref, VideoConfig(fps=2.0))
    clip = clip_of(ref, shape.timestamps, decoder)
    assert numbers(clip) == [41, 47, 54, 60]
    assert clip.timestamps == pytest.approx((0.07, 0.67, 1.37, 1.97))
    assert clip.timestamps == pytest.approx(shape.timestamps)
    assert clip.duration == pytest.approx(1.97)
    assert clip.fps == pytest.approx(4 / 20 * 10), "as qwen-vl-utils: 4 of the 20 frames in the range, at 10 per second"


def test_a_frame_on_screen_since_before_the_start_stands_at_0(files: Path) -> None:
    clip = clip_of(video(files / "closed.mp4", start=1.01, end=1.02), (0.0, 0.0))
    assert (numbers(clip), clip.timestamps, clip.duration) == ([10, 10], (0.0, 0.0), pytest.approx(0.01))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_frames_stand_upright(tmp_path: Path, decoder: str, turned: int) -> None:
    need_decoder(decoder)
    path = write_video(tmp_path / "v.mp4", 4, rotation=turned, first=6, options={"crf": "4"})
    upright = SIZE if turned in (0, 180) else SIZE[::-1]
    clip = clip_of(video(path), [0.2], decoder, upright)
    assert clip.stored_size == upright
    assert np.abs(clip.frames[0].astype(int) - np.rot90(picture(8), turned // 90)).mean() < 6.0


def test_bytes_give_the_frames_of_the_file(files: Path) -> None:
    for decoder in DECODERS:
        need_decoder(decoder)
        data = (files / "closed.mp4").read_bytes()
        clip = clip_of(MediaRef(kind="video", data=data), [1.0, 7.7], decoder)
        assert numbers(clip) == [10, 77]


def test_frames_published_as_images(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for i, path in enumerate(paths):
        Image.fromarray(picture(i)).save(path)
    ref = MediaRef(kind="video", frames=tuple(map(str, paths)), fps=5.0)
    clip = clip_of(ref, [0.0, 0.39, 0.4, 1.8])
    assert numbers(clip) == [0, 1, 2, 9]
    assert (clip.timestamps, clip.duration) == (pytest.approx((0.0, 0.2, 0.4, 1.8)), 2.0)
    assert (clip.frames[3] == picture(9)).all()
    Image.fromarray(picture(2)[:40]).save(paths[2])
    with pytest.raises(MediaError, match=r"2\.png: is 128x40, but 0\.png is 128x64"):
        clip_of(ref, [0.0, 0.4])


def test_resizing_is_that_of_torchvision() -> None:
    """Bicubic, smoothed when shrinking, on 8 bits, as in qwen-vl-utils: within two levels on a picture. Noise, which
    overshoots, shows that intermediate values are rounded otherwise."""
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchvision.transforms.functional")
    y, x, channel = np.mgrid[0:60, 0:90, 0:3]
    smooth = (127 + 120 * np.sin(x / 9 + channel) * np.cos(y / 7)).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, size=(60, 90, 3), dtype=np.uint8)
    for size in ((28, 28), (84, 56), (196, 140)):
        for frame, most, mean in ((smooth, 2, 0.3), (noise, 32, 0.4)):
            ours = resized(frame, size)
            theirs = functional.resize(
                torch.from_numpy(frame).permute(2, 0, 1),
                [size[1], size[0]],
                interpolation=functional.InterpolationMode.BICUBIC,
                antialias=True,
            )
            apart = np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy())
            assert ours.shape == (size[1], size[0], 3)
            assert apart.max() <= most
            assert apart.mean() <= mean
    assert resized(noise, (90, 60)) is noise


def index_of(path: Path) -> FrameIndex:
    with opened(video(path)) as (container, stream):
        return read_index(container, stream, path.name)


def test_sparse_frames_are_sought_and_dense_ones_not(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decoded at all: with a keyframe every 12 frames, two far frames cost two GOPs."""
    from vlrft.data.video import decode_pyav as module

    sought: list[int] = []
    seek = module._Frames._seek
    monkeypatch.setattr(module._Frames, "_seek", lambda self, at: (sought.append(at), seek(self, at))[1])
    path = files / "closed.mp4"
    index = index_of(path)
    assert index.keyframes == tuple(range(0, 100, 12))
    for wanted, expected in (((2, 50, 99), [48, 96]), (range(0, 100, 4), []), ((5, 15, 27), [])):
        sought.clear()
        list(decode_pyav(video(path), index, wanted, threads=1))
        assert sought == expected


def test_a_keyframe_that_is_none_costs_time_only(files: Path) -> None:
    index = index_of(files / "closed.mp4")
    lying = replace(index, keyframes=tuple(range(0, 100, 5)))
    wanted = (6, 33, 71, 72, 98)
    found = list(decode_pyav(video(files / "closed.mp4"), lying, wanted, threads=1))
    assert [number_of(frame) for _, frame in found] == list(wanted)


def late(
    ref: MediaRef, index: FrameIndex, wanted: Sequence[int], *, threads: int
) -> Iterator[tuple[float, np.ndarray]]:
    """A decoder that gives the next frame."""
    yield from ((index.times[place] + 0.1, picture(place + 1)) for place in wanted)


def short(
    ref: MediaRef, index: FrameIndex, wanted: Sequence[int], *, threads: int
) -> Iterator[tuple[float, np.ndarray]]:
    """A decoder that loses the last frame."""
    yield from ((index.times[place], picture(place)) for place in wanted[:-1])


@pytest.mark.parametrize(("name", "got"), [("late", r"the one at 1\.100 s"), ("short", "nothing")])
def test_a_decoder_that_misses_is_found_out(files: Path, name: str, got: str) -> None:
    with pytest.raises(MediaError, match=rf"should have a frame at 1\.000 s, and the decoder gave {got}"):
        clip_of(video(files / "closed.mp4"), [1.0], f"{__file__}:{name}")


def test_times_after_the_end_are_an_error(files: Path) -> None:
    with pytest.raises(MediaError, match=r"ends at 10\.00 s, but a frame at 12\.00 s was expected; it is truncated"):
        clip_of(video(files / "closed.mp4"), [1.0, 12.0])


def test_the_digest_tells_frames_and_times(files: Path) -> None:
    one, same, other = (clip_of(video(files / "closed.mp4"), times) for times in ([1.0, 2.0], [1.0, 2.0], [1.0, 3.0]))
    assert one.digest == same.digest == clip_digest(one.frames, one.timestamps)
    assert (
        len({one.digest, other.digest, clip_digest(one.frames, (1.0, 2.1)), clip_digest(one.frames[:1], (1.0,))}) == 4
    )
    assert len({clip_digest(np.zeros(shape, np.uint8), ()) for shape in ((2, 4, 6, 3), (2, 6, 4, 3))}) == 2


@pytest.mark.parametrize(("times", "size"), [((), (8, 8)), ((1.0, 0.5), (8, 8)), ((-1.0,), (8, 8)), ((1.0,), (0, 8))])
def test_requests_that_are_none(times: tuple[float, ...], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="a clip needs times that rise from 0 or later and a positive size"):
        ClipRequest(ref=video("/v.mp4"), times=times, size=size)


def test_unknown_decoders_are_named() -> None:
    with pytest.raises(DataError, match=r"data\.video\.decoder: unknown video decoder 'pyaw'; did you mean 'pyav'\?"):
        find_decoder("pyaw")


@pytest.mark.parametrize(("name", "module"), [("torchcodec", "torchcodec.decoders"), ("decord", "decord")])
def test_a_library_that_does_not_load_names_the_next_step(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchCodec raises RuntimeError when it finds no FFmpeg libraries."""
    package = tmp_path / module.partition(".")[0]
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('Could not load libtorchcodec:\\n libavutil.so.59')")
    for loaded in [key for key in sys.modules if key.partition(".")[0] == package.name]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        DataError, match=rf"decoder={name} cannot be loaded \(Could not load .*data\.video\.decoder=pyav"
    ):
        find_decoder(name)


def test_no_torch_unless_the_decoder_needs_it() -> None:
    code = (
        "import sys, vlrft.data.video, vlrft.data.media, vlrft.data.video.worker;"
        "from vlrft.data.video.decoders import find_decoder; find_decoder('pyav');"
        "print('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
