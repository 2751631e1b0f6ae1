"""Videos for tests: every frame shows its own number, so that a decoded one can be told from its neighbours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHARED = Path(os.environ.get("VLRFT_SHARED_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))
CLIPS = ("clip.avi", "clip.mp4", "flipping_a_pancake.mkv")
DECODERS = ("pyav", "decord", "torchcodec")

BITS = 8
SIZE = (128, 64)
"""(width, height): eight stripes of 16 pixels, black or white."""


def shared_clip(name: str) -> Path:
    """A real clip; skips the test where it is not at hand."""
    path = SHARED / "video" / name
    if not path.is_file():
        pytest.skip(f"no {path.name} in {path.parent} (VLRFT_SHARED_DATA names the folder of real data)")
    return path


def need_decoder(name: str) -> str:
    """`name`; skips the test where its library is missing or, as TorchCodec's may, does not load."""
    from vlrft.data.problems import DataError
    from vlrft.data.video.decoders import find_decoder

    try:
        find_decoder(name)
    except DataError as error:
        pytest.skip(str(error))
    return name


def picture(number: int) -> np.ndarray:
    """uint8 [64, 128, 3] with `number` in binary, the lowest bit on the left; the lower half is grey on the left side
    only, so that a turned picture shows."""
    stripes = np.repeat([(number >> bit) & 1 for bit in range(BITS)], SIZE[0] // BITS) * 255
    frame = np.repeat(stripes[None, :, None], SIZE[1], axis=0).repeat(3, axis=2).astype(np.uint8)
    frame[SIZE[1] // 2 :] = 0
    frame[SIZE[1] // 2 :, : SIZE[0] // 2] = 128
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that a frame shows, at whatever size."""
    height, width = frame.shape[:2]
    middles = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return sum(int(frame[height // 4, x].mean() > 128) << bit for bit, x in enumerate(middles))


def write_video(
    path: Path,
    number: int,
    *,
    fps: int = 10,
    codec: str = "libx264",
    stamps: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    first: int = 0,
) -> Path:
    """`number` frames (first, first + 1, ...) at `fps`, or at the seconds `stamps`; rotation: degrees that players are
    told to turn it counter-clockwise."""
    import av

    clock = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = options or {}
        stream.codec_context.time_base = clock if stamps is not None else Fraction(1, fps)
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(number):
            frame = av.VideoFrame.from_ndarray(picture(first + i), format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = i if stamps is None else round(stamps[i] / clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
