"""Media of samples: images (`data/images.py`) and videos (`data/video/`) behind the names that the rest uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from vlrft.config import VideoConfig
from vlrft.data.images import MediaError, image_ref, image_size, open_image
from vlrft.data.problems import SampleError, Skipped
from vlrft.data.video import ClipRequest, Prefetcher, media_shape, shared_pool
from vlrft.types import MediaRef, Sample

__all__ = [
    "MediaError",
    "check_media",
    "image_ref",
    "image_size",
    "left_out",
    "media_shape",
    "open_image",
]

_THUMBNAIL = (64, 64)
"""Size of decoded frames that nobody will look at: it changes nothing about what is decoded."""


def check_media(samples: Iterable[Sample], *, decode: bool, video: VideoConfig | None = None) -> list[Skipped]:
    """Every media item that cannot be read, by sample id, in the order of `samples`.

    `decode=False` reads headers. `decode=True` reads all pixels of images, and of videos the frames that `video` shows
    (None = its defaults), in its decoding processes: this finds truncation and damage.
    """
    config = video if video is not None else VideoConfig()
    pool = shared_pool(config)

    def requests_of(item: tuple[Sample, MediaRef]) -> list[ClipRequest]:
        _, ref = item
        if ref.kind == "image" and decode:
            open_image(ref)
            return []
        shape = media_shape(ref, config)
        if ref.kind == "image" or not decode:
            return []
        return [ClipRequest(ref=ref, times=shape.timestamps, size=_THUMBNAIL)]

    bad: list[Skipped] = []
    items = ((sample, ref) for sample in samples for ref in sample.media)
    for (sample, _), futures in Prefetcher(items, pool, requests_of, ahead=2 * config.workers):
        for future in futures:
            try:
                future.result()
            except MediaError as error:
                again = bad and bad[-1].where == f"sample {sample.id}"
                bad.append(dataclasses.replace(left_out(sample, error, config), whole=not again))
    return bad


def left_out(sample: Sample, error: Exception, video: VideoConfig) -> Skipped:
    """`sample` as an entry of the list of what is left out, because of `error`, which may be about one of its media."""
    medium = error.medium if isinstance(error, SampleError) else None
    images = {ref.name() for ref in sample.media if ref.kind == "image"}
    return Skipped(
        where=f"sample {sample.id}",
        reason=str(error),
        medium=medium,
        decoder=None if medium is None or medium in images else video.decoder,
    )
