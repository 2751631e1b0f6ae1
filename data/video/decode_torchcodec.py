"""Frames by TorchCodec, which needs torch and the shared libraries of an installed FFmpeg."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vlrft.data.images import MediaError
from vlrft.data.video.index import FrameIndex
from vlrft.data.video.source import damaged, encoded
from vlrft.types import MediaRef

CHUNK = 8
"""Frames decoded at once; more would fill the memory with frames of full size."""


def decode(
    ref: MediaRef, index: FrameIndex, wanted: Sequence[int], *, threads: int
) -> Iterator[tuple[float, np.ndarray]]:
    """See `Decoder`. TorchCodec turns frames upright by itself.

    Its seeks go wrong as those of others do, but it says which frame it found, and `fill_clip` compares. AVI carries no
    times to compare: it is read where the stored order is the shown one, and refused otherwise.
    """
    if index.pts is None and index.reordered:
        raise MediaError(
            ref.name(),
            "has B-frames but no presentation times, from which TorchCodec makes wrong frames; use "
            "data.video.decoder=pyav",
        )
    decoders: Any = importlib.import_module("torchcodec.decoders")
    try:
        decoder = decoders.VideoDecoder(
            encoded(ref), dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact"
        )
        if len(decoder) != len(index.times):
            raise MediaError(
                ref.name(),
                f"has {len(index.times)} frames, but TorchCodec finds {len(decoder)}; use data.video.decoder=pyav",
            )
        begin = decoder.metadata.begin_stream_seconds or 0.0
        for at in range(0, len(wanted), CHUNK):
            chunk = list(wanted[at : at + CHUNK])
            batch = decoder.get_frames_at(chunk)
            for place, moment, frame in zip(chunk, batch.pts_seconds.tolist(), batch.data.numpy(), strict=True):
                yield moment - begin if index.pts is not None else index.times[place], frame
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, MediaError):
            raise
        raise damaged(ref.name(), error) from error
