"""Arrays, tensors and their scalars as Python lists and numbers, which is what rewards read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PIXELS = 3
"""Arrays with as many axes, or more, are pictures and clips: they stay what they are."""


def plain(value: Any) -> Any:
    """`value` with every array, tensor and scalar of numpy or torch inside it as lists and numbers.

    Rows of a parquet file hold numpy arrays where JSON has lists. Lists, tuples and mappings are looked into; anything
    else (a PIL image, a media reference) is handed back as it is.
    """
    if isinstance(value, str | int | float | bytes):
        return value.item() if hasattr(value, "item") else value  # numpy's float64 and str_ are float and str as well
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    if hasattr(value, "tolist") and getattr(value, "ndim", 1) < PIXELS:
        found = value.tolist()
        # An array of objects holds arrays in its turn.
        return plain(found) if str(getattr(value, "dtype", "")) == "object" else found
    return value
