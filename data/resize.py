"""Sizes that the vision towers see: pixel budgets, and edges that are whole numbers of merged patches.

The rules are those of qwen-vl-utils 0.0.14 (`smart_resize`, `fetch_image`, `fetch_video`), which loads torch and
torchvision and is therefore not called: a recipe must validate without them. The tests hold both against each other.

`factor` is patch size x spatial merge, in pixels: 28 for Qwen2-VL and Qwen2.5-VL (patch 14), 32 for Qwen3-VL (patch
16). One token is factor x factor pixels.
"""

from __future__ import annotations

import math

MAX_RATIO = 200
"""Longest permitted edge, in shortest edges."""
IMAGE_TOKENS = (4, 16384)
"""Least and most tokens of an image."""
VIDEO_TOKENS = (128, 768)
"""VIDEO_MIN_PIXELS and VIDEO_MAX_PIXELS of one frame, in tokens (of a frame, not of a pair)."""
VIDEO_TOTAL_TOKENS = 128_000 * 0.9
"""VIDEO_TOTAL_PIXELS of all pairs of frames, in tokens: nine tenths of the context."""
FRAME_PAIR = 2
"""Frames that become one temporal patch."""


def fit_size(
    width: float, height: float, *, factor: int, min_pixels: float | None = None, max_pixels: float | None = None
) -> tuple[int, int]:
    """(width, height) near the given one: multiples of `factor`, area within the budget, proportions nearly kept.

    min_pixels, max_pixels: pixels of the result; None = 4 and 16384 tokens. Equals `smart_resize`, except that no edge
    becomes 0 (a strip under a small `max_pixels` then exceeds it). Raises ValueError for empty images, proportions
    beyond 1:200 and budgets that exclude each other.
    """
    least = IMAGE_TOKENS[0] * factor**2 if min_pixels is None else min_pixels
    most = IMAGE_TOKENS[1] * factor**2 if max_pixels is None else max_pixels
    if most < least:
        raise ValueError(f"max_pixels={most:g} is below min_pixels={least:g}; raise one or lower the other")
    if not (width > 0 and height > 0):
        raise ValueError(f"an image of {width:g}x{height:g} pixels cannot be resized; drop it")
    if max(width, height) / min(width, height) > MAX_RATIO:
        raise ValueError(f"{width:g}x{height:g} is longer than {MAX_RATIO} times its width; crop it or drop it")
    fitted = max(factor, _round(width, factor)), max(factor, _round(height, factor))
    area = fitted[0] * fitted[1]
    if area > most:
        scale = math.sqrt((height * width) / most)
        return max(factor, _floor(width / scale, factor)), max(factor, _floor(height / scale, factor))
    if area < least:
        scale = math.sqrt(least / (height * width))
        return _ceil(width * scale, factor), _ceil(height * scale, factor)
    return fitted


def video_size(
    width: float,
    height: float,
    num_frames: int,
    *,
    factor: int,
    min_pixels: float | None = None,
    max_pixels: float | None = None,
    total_pixels: float | None = None,
) -> tuple[int, int]:
    """(width, height) of each of `num_frames` frames of a video; equals the rule of `fetch_video`.

    min_pixels, max_pixels: of one frame; None = 128 and 768 tokens. total_pixels: of all pairs of frames together,
    None = 115200 tokens. The more frames, the smaller they are, though not below `min_pixels` (times 1.05, so that a
    multiple of `factor` fits between). A `max_pixels` above what the others leave has no effect. Raises ValueError like
    `fit_size`.
    """
    if num_frames < 1:
        raise ValueError(f"a video of {num_frames} frames has no size; drop it")
    tokens = factor**2
    least = VIDEO_TOKENS[0] * tokens if min_pixels is None else min_pixels
    total = VIDEO_TOTAL_TOKENS * tokens if total_pixels is None else total_pixels
    most = max(min(VIDEO_TOKENS[1] * tokens, total / num_frames * FRAME_PAIR), int(least * 1.05))
    most = most if max_pixels is None else min(max_pixels, most)
    return fit_size(width, height, factor=factor, min_pixels=least, max_pixels=most)


def _round(length: float, factor: int) -> int:
    return round(length / factor) * factor


def _floor(length: float, factor: int) -> int:
    return math.floor(length / factor) * factor


def _ceil(length: float, factor: int) -> int:
    return math.ceil(length / factor) * factor
