"""How alike two images of charts look: structural similarity of their colours where either shows something."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]

_SIDE = 256
_WINDOW = 8
_C1, _C2 = 0.01**2, 0.03**2


def structural(first: Pixels, second: Pixels) -> float:
    """SSIM (Wang et al. 2004) of two uint8 images [h, w, 3] by red, green and blue, in [0, 1].

    Plain margins are cut off and both are resized to 256 x 256. Of each colour part, every 8 x 8 window with equal
    weights has an SSIM; the mean goes over those windows of those parts in which either image shows something. Charts
    are mostly paper, which always agrees; and a red line and a blue one on white agree in green alone. A mean below 0
    counts 0; two blank images are alike.
    """
    a, b = _prepared(first), _prepared(second)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    var_a = np.maximum(0.0, _window_mean(a * a) - mean_a**2)
    var_b = np.maximum(0.0, _window_mean(b * b) - mean_b**2)
    together = _window_mean(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) * (2 * together + _C2)
    likeness /= (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
    shows = (var_a > 1e-5) | (var_b > 1e-5) | (np.abs(mean_a - mean_b) > 1e-3)
    if not shows.any():
        return 1.0
    return float(min(1.0, max(0.0, likeness[shows].mean())))


def _prepared(pixels: Pixels) -> Array:
    """[256, 256, 3], 0 to 1."""
    image = Image.fromarray(_trimmed(pixels)).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(image, dtype=float) / 255.0


def _trimmed(pixels: Pixels) -> Pixels:
    """Without the margin that has the colour of the upper left corner."""
    shown = (np.abs(pixels.astype(np.int16) - pixels[0, 0].astype(np.int16)) > 8).any(axis=-1)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    if not len(rows):
        return pixels
    return np.ascontiguousarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _window_mean(values: Array) -> Array:
    """Mean over every window of each colour part, by sums of sums."""
    total = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0), (0, 0)))
    n = _WINDOW
    made: Array = (total[n:, n:] - total[:-n, n:] - total[n:, :-n] + total[:-n, :-n]) / n**2
    return made
