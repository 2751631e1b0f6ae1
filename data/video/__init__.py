"""Videos to frames: which frames, by which decoder, in which process, and where they are kept.

    shape = media_shape(ref, config)                          # size, number and times of the frames to be shown
    size = video_size(*shape.size, shape.num_frames, factor=28)
    clip = read_clip(ref, shape.timestamps, size, config)     # from the cache, or another process

`frame_times`, `MediaShape.timestamps`, the `times` of `read_clip` and `Clip.timestamps` are seconds from the start of
the clip (`MediaRef.start`); a video's own time starts with its first frame. Whatever cannot be read is a MediaError.
"""

from vlrft.data.resize import fit_size, video_size
from vlrft.data.video.cache import ClipCache
from vlrft.data.video.clips import ClipRequest, clip_digest
from vlrft.data.video.decoders import DECODERS
from vlrft.data.video.info import VideoInfo, probe
from vlrft.data.video.pool import DecodingPool
from vlrft.data.video.prefetch import Prefetcher
from vlrft.data.video.reading import close_pools, read_clip, shared_pool, submit_clip
from vlrft.data.video.times import frame_times, media_shape

__all__ = [
    "DECODERS",
    "ClipCache",
    "ClipRequest",
    "DecodingPool",
    "Prefetcher",
    "VideoInfo",
    "clip_digest",
    "close_pools",
    "fit_size",
    "frame_times",
    "media_shape",
    "probe",
    "read_clip",
    "shared_pool",
    "submit_clip",
    "video_size",
]
