"""Videos to frames: which frames, by which decoder, in which process, and where they are kept.

    shape = media_shape(ref, config)                            # size, number and times of the frames to be shown
    size = family.video_input_size(shape.size, shape.num_frames)
    future = submit_clip(ref, shape.timestamps, size, config)   # from the cache, or another process
    clip = future.result()

`frame_times`, `MediaShape.timestamps`, the `times` of `submit_clip` and `Clip.timestamps` are seconds from the start of
the clip (`MediaRef.start`); a video's own time starts with its first frame. Whatever cannot be read is a MediaError.
"""

from vlrft.data.video.ahead import ClipsAhead
from vlrft.data.video.cache import ClipCache
from vlrft.data.video.clips import ClipRequest, clip_digest
from vlrft.data.video.decoders import DECODERS
from vlrft.data.video.info import VideoInfo, clip_seconds
from vlrft.data.video.infos import forget_infos
from vlrft.data.video.pool import DecodingPool
from vlrft.data.video.prefetch import Prefetcher
from vlrft.data.video.reading import (
    close_pools,
    media_shape,
    probe,
    probe_many,
    shared_pool,
    submit_clip,
    video_limits,
)
from vlrft.data.video.times import even_times, frame_times

__all__ = [
    "DECODERS",
    "ClipCache",
    "ClipRequest",
    "ClipsAhead",
    "DecodingPool",
    "Prefetcher",
    "VideoInfo",
    "clip_digest",
    "clip_seconds",
    "close_pools",
    "even_times",
    "forget_infos",
    "frame_times",
    "media_shape",
    "probe",
    "probe_many",
    "shared_pool",
    "submit_clip",
    "video_limits",
]
