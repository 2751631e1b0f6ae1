"""Coordinates through the resize to what the vision tower sees, and back. (The sizes: test_families.py.)"""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vlrft.coords import SPACES, convert


def fit_size(width: int, height: int, *, factor: int) -> tuple[int, int]:
    """(width, height), as the Qwen-VL families resize an image."""
    resizing = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl")
    fitted = resizing.smart_resize(height, width, factor=factor, min_pixels=4 * factor**2, max_pixels=16384 * factor**2)
    return fitted[1], fitted[0]


@given(
    size=st.tuples(st.integers(20, 4000), st.integers(20, 4000)),
    patch=st.sampled_from([14, 16]),
    corners=st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
    space=st.sampled_from(SPACES),
)
def test_coordinates_survive_the_resize(size: tuple[int, int], patch: int, corners: list[float], space: str) -> None:
    """Stored pixels -> what the tower sees -> any space and back: to a rounding error, inside stays inside."""
    assume(max(size) <= 200 * min(size))
    fitted = fit_size(*size, factor=2 * patch)
    box = [corners[i] * size[i % 2] for i in range(4)]
    sizes = {"image_size": size, "input_size": fitted}
    seen = convert(box, "abs_original", "abs_input", **sizes)
    for i in range(4):
        assert seen[i] == pytest.approx(corners[i] * fitted[i % 2], rel=1e-9, abs=1e-9)
        assert -1e-9 <= seen[i] <= fitted[i % 2] * (1 + 1e-12)
    assert convert(seen, "abs_input", "abs_original", **sizes) == pytest.approx(box, rel=1e-9, abs=1e-9)
    there = convert(seen, "abs_input", space, **sizes)
    assert convert(there, space, "abs_input", **sizes) == pytest.approx(seen, rel=1e-9, abs=1e-9)
    assert convert(there, space, "abs_original", **sizes) == pytest.approx(box, rel=1e-9, abs=1e-9)


@given(size=st.tuples(st.integers(28, 3000), st.integers(28, 3000)), patch=st.sampled_from([14, 16]))
def test_whole_pixels_survive_rounding(size: tuple[int, int], patch: int) -> None:
    """A model writes whole numbers: what it may lose is half an input pixel, seen at the stored size."""
    assume(max(size) <= 200 * min(size))
    fitted = fit_size(*size, factor=2 * patch)
    sizes = {"image_size": size, "input_size": fitted}
    point = (size[0] * 3 // 7, size[1] * 5 // 11)
    written = [round(c) for c in convert(point, "abs_original", "abs_input", **sizes)]
    back = convert(written, "abs_input", "abs_original", **sizes)
    for axis in (0, 1):
        assert abs(back[axis] - point[axis]) <= 0.5 * size[axis] / fitted[axis] + 1e-9
