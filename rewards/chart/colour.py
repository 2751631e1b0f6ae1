"""How alike two colours look: CIEDE2000 (Sharma, Wu and Dalal 2005), over arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65


def similarity(first: list[str], second: list[str]) -> Array:
    """max(0, 1 - dE2000 / 100) of every pair of `#rrggbb`; shape [len(first), len(second)]."""
    a, b = lab(rgb(first)), lab(rgb(second))
    made: Array = np.maximum(0.0, 1.0 - ciede2000(a[:, None, :], b[None, :, :]) / 100.0)
    return made


def rgb(names: list[str]) -> Array:
    """`#rrggbb` to parts in 0 to 1; shape [n, 3]."""
    return np.array([[int(n[i : i + 2], 16) / 255.0 for i in (1, 3, 5)] for n in names]).reshape(-1, 3)


def lab(values: Array) -> Array:
    """sRGB in 0 to 1 to CIE L*a*b* under D65."""
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def ciede2000(first: Array, second: Array) -> Array:
    """Colour difference of L*a*b* values, broadcast over all but the last axis."""
    l1, a1, b1 = np.moveaxis(first, -1, 0)
    l2, a2, b2 = np.moveaxis(second, -1, 0)
    chroma = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    g = 0.5 * (1 - np.sqrt(chroma / (chroma + 25.0**7)))
    c1, c2 = np.hypot((1 + g) * a1, b1), np.hypot((1 + g) * a2, b2)
    h1 = np.degrees(np.arctan2(b1, (1 + g) * a1)) % 360
    h2 = np.degrees(np.arctan2(b2, (1 + g) * a2)) % 360
    grey = c1 * c2 == 0
    turn = np.where(grey, 0.0, (h2 - h1 + 180) % 360 - 180)
    # Opposite hues: the standard's difference is +180 where h2 is the greater one; only its square and sine count.
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    lm, cm = (l1 + l2) / 2, (c1 + c2) / 2
    far = np.abs(h1 - h2) > 180
    hm = np.where(grey, h1 + h2, np.where(far, np.where(h1 + h2 < 360, h1 + h2 + 360, h1 + h2 - 360), h1 + h2) / 2)
    cosine = [np.cos(np.radians(k * hm + o)) for k, o in ((1, -30), (2, 0), (3, 6), (4, -63))]
    t = 1 - 0.17 * cosine[0] + 0.24 * cosine[1] + 0.32 * cosine[2] - 0.20 * cosine[3]
    sl = 1 + 0.015 * (lm - 50) ** 2 / np.sqrt(20 + (lm - 50) ** 2)
    sc, sh = 1 + 0.045 * cm, 1 + 0.015 * cm * t
    around = 60 * np.exp(-(((hm - 275) / 25) ** 2))
    rt = -2 * np.sqrt(cm**7 / (cm**7 + 25.0**7)) * np.sin(np.radians(around))
    dl, dc, dh = (l2 - l1) / sl, (c2 - c1) / sc, dh / sh
    made: Array = np.sqrt(np.maximum(0.0, dl**2 + dc**2 + dh**2 + rt * dc * dh))
    return made
