"""What a video is: its size, length and rate from headers and packets, and what is no video at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from videos import CLIPS, SIZE, shared_clip, write_video

from vlrft.data.images import MediaError
from vlrft.data.problems import DataError
from vlrft.data.video import close_pools, probe
from vlrft.data.video.index import FrameIndex, read_index
from vlrft.data.video.source import _video_stream, opened
from vlrft.types import MediaRef

av = pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")


def video(path: Path | str) -> MediaRef:
    return MediaRef(kind="video", path=str(path))


def index_of(path: Path) -> FrameIndex:
    with opened(video(path)) as (container, stream):
        return read_index(container, stream, str(path))


@pytest.mark.parametrize(
    ("name", "size", "frames", "duration"),
    [
        ("clip.avi", (320, 240), 270, 270 * 12 / 359),
        ("clip.mp4", (224, 224), 150, 5.0),
        ("flipping_a_pancake.mkv", (426, 240), 310, 10.333),
    ],
)
def test_real_clips(name: str, size: tuple[int, int], frames: int, duration: float) -> None:
    """Figures of ffprobe with -count_packets; the header of the MKV has neither frames nor a video duration."""
    info = probe(video(shared_clip(name)))
    assert (info.size, info.num_frames, info.rotation) == (size, frames, 0)
    assert info.duration == pytest.approx(duration, abs=1e-6)
    assert info.fps == pytest.approx(frames / duration)


@pytest.mark.parametrize("name", CLIPS)
def test_headers_agree_with_packets(name: str) -> None:
    path = shared_clip(name)
    info, index = probe(video(path)), index_of(path)
    assert info.num_frames == len(index.times)
    assert info.duration == pytest.approx(index.end, abs=1e-6)


def test_bytes_are_read_like_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 12)
    from_file, from_bytes = probe(video(path)), probe(MediaRef(kind="video", data=path.read_bytes()))
    assert (from_file.size, from_file.num_frames, from_file.duration) == (SIZE, 12, pytest.approx(1.2))
    assert from_bytes.name == f"<{path.stat().st_size} bytes of video>"
    for field in ("size", "num_frames", "fps", "duration", "rotation"):
        assert getattr(from_bytes, field) == getattr(from_file, field)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.webm", "v.avi", "v.ts", "v.mov"])
def test_containers(tmp_path: Path, name: str) -> None:
    codec = {"v.webm": "libvpx-vp9", "v.avi": "mpeg4"}.get(name, "libx264")
    info = probe(video(write_video(tmp_path / name, 24, codec=codec, options={"g": "6", "bf": "2"})))
    assert (info.size, info.num_frames) == (SIZE, 24)
    assert info.duration == pytest.approx(2.4, abs=0.005)


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_rotation_turns_the_size(tmp_path: Path, turned: int, suffix: str) -> None:
    info = probe(video(write_video(tmp_path / f"v{suffix}", 4, rotation=turned)))
    assert info.rotation == turned
    assert info.size == (SIZE if turned in (0, 180) else SIZE[::-1])


def test_variable_rate_is_an_average(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", 4, stamps=[0.0, 0.1, 1.0, 2.9])
    index = index_of(path)
    assert index.times == pytest.approx((0.0, 0.1, 1.0, 2.9))
    assert probe(video(path)).fps == pytest.approx(4 / index.end)
    assert [index.at(time) for time in (0.0, 0.05, 0.099, 0.5, 0.9985, 1.5, 99.0)] == [0, 0, 1, 1, 2, 2, 3]


def test_frames_cut_off_by_an_edit_list_do_not_count(tmp_path: Path) -> None:
    """As in clips cut without re-encoding: the file holds all packets since the last keyframe."""
    whole, cut = write_video(tmp_path / "whole.mp4", 40, options={"bf": "2", "g": "40"}), tmp_path / "cut.mp4"
    with (
        av.open(str(whole)) as source,
        av.open(str(cut), "w", container_options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        shift = int(0.55 / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                target.mux(packet)
    info = probe(video(cut))
    assert info.num_frames == 40 - 6
    assert info.duration == pytest.approx(3.4)


def test_hidden_frames_of_vp8_do_not_count(tmp_path: Path) -> None:
    shown, hidden = write_video(tmp_path / "shown.webm", 12, codec="libvpx"), tmp_path / "hidden.webm"
    with av.open(str(shown)) as source, av.open(str(hidden), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if packet.dts is None:
                continue
            if number == 5:
                content = bytearray(bytes(packet))
                content[0] &= ~0x10
                packet.update(bytes(content))
            packet.stream = copy
            target.mux(packet)
    assert probe(video(shown)).num_frames == 12
    assert probe(video(hidden)).num_frames == 11


def frame_files(folder: Path, number: int, size: tuple[int, int] = (20, 10)) -> list[str]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:08d}.jpg" for i in range(1, number + 1)]
    for path in paths:
        Image.new("RGB", size).save(path)
    return [str(path) for path in paths]


def test_frames_as_images(tmp_path: Path) -> None:
    files = frame_files(tmp_path / "frames", 6)
    info = probe(MediaRef(kind="video", frames=tuple(files), fps=10.0))
    assert (info.size, info.num_frames, info.fps, info.duration) == ((20, 10), 6, 10.0, 0.6)
    assert info.name == f"{files[0]} and 5 more frames"
    folder = probe(MediaRef(kind="video", path=str(tmp_path / "frames")))
    assert (folder.num_frames, folder.fps, folder.duration) == (6, 2.0, 3.0)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 320, 320, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        moving = container.add_stream("libx264", rate=10)
        moving.width, moving.height, moving.pix_fmt = 64, 48, "yuv420p"
        grey = av.VideoFrame.from_ndarray(np.full((320, 320, 3), 99, np.uint8), format="rgb24")
        container.mux(cover.encode(grey) + cover.encode())
        container.mux(moving.encode(grey.reformat(64, 48, "yuv420p")) + moving.encode())
    with av.open(str(path)) as container:
        # Which of the two comes first is up to the file.
        for streams in (container.streams.video, tuple(reversed(container.streams.video))):
            found = _video_stream(SimpleNamespace(streams=SimpleNamespace(video=streams)), "v.mp4")  # type: ignore[arg-type]
            assert (found.width, found.height) == (64, 48)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound) + stream.encode())
    with pytest.raises(MediaError, match=r"a\.wav: holds no moving picture"):
        probe(video(path))


def test_a_truncated_mp4_is_found_by_its_header(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "v.mp4", 40)
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w", options={"movflags": "faststart"}) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    content = cut.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    cut.write_bytes(content[: len(content) - 300])
    with pytest.raises(MediaError, match=r"cut\.mp4: is truncated: its header lists 40 frames up to byte \d+"):
        probe(video(cut))


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        (video("/nowhere/v.mp4"), r"/nowhere/v\.mp4: no such file; check data\.root"),
        (MediaRef(kind="video", data=b"no video at all"), "15 bytes of video.*damaged or no video"),
        (MediaRef(kind="video"), "either a path or encoded bytes"),
        (MediaRef(kind="video", path="/x", data=b"x"), "either a path or encoded bytes"),
        (MediaRef(kind="video", path="/x", frames=("/a.png",)), "both a path and frames"),
        (MediaRef(kind="video", frames=("/a.png",), fps=0.0), r"has 0\.0 frames per second"),
        (MediaRef(kind="video", frames=("/nowhere/a.png",)), r"/nowhere/a\.png: no such file"),
        (MediaRef(path="/x.png"), "is an image, and a video is needed"),
    ],
)
def test_no_video(ref: MediaRef, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        probe(ref)


def test_an_empty_folder_has_no_frames(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a folder without frames"):
        probe(video(tmp_path))


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", 4)
    (tmp_path / "av.py").write_text("raise ImportError('not installed')\n")
    close_pools()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"pip install 'vlrft\[video\]'"):
        probe(video(path))
    close_pools()
