"""Frames by decord."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np

from vlrft.data.images import MediaError
from vlrft.data.video.index import FrameIndex
from vlrft.data.video.source import damaged, encoded
from vlrft.types import MediaRef


def decode(
    ref: MediaRef, index: FrameIndex, wanted: Sequence[int], *, threads: int
) -> Iterator[tuple[float, np.ndarray]]:
    """See `Decoder`. decord turns frames upright by itself.

    It is read in order, whatever is wanted: where GOPs are open, keyframes are recovery points, or packets have no
    presentation times, its seeks (and `skip_frames`) give wrong frames without saying so. MPEG-TS is refused, since its
    first frames get lost.
    """
    import decord

    if "mpegts" in index.container:
        raise MediaError(ref.name(), "is MPEG-TS, of which decord loses the first frames; use data.video.decoder=pyav")
    source = encoded(ref)
    try:
        reader = decord.VideoReader(io.BytesIO(source) if isinstance(source, bytes) else source, num_threads=threads)
        if len(reader) != len(index.times):
            raise MediaError(
                ref.name(),
                f"has {len(index.times)} frames, but decord finds {len(reader)}; use data.video.decoder=pyav",
            )
        places = iter(wanted)
        place = next(places)
        for position in range(wanted[-1] + 1):
            frame = reader.next()
            if position == place:
                yield index.times[position], frame.asnumpy()
                place = next(places, -1)
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, StopIteration) as error:
        raise damaged(ref.name(), error) from error
