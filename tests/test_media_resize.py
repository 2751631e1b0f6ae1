"""Sizes for the vision towers: against qwen-vl-utils, and coordinates through the resize and back."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vlrft.coords import SPACES, convert
from vlrft.data.resize import fit_size, video_size

edges = st.integers(1, 5000)
factors = st.sampled_from([28, 32])
"""Patch 14 and patch 16, merged two by two."""


@pytest.fixture(scope="module")
def theirs() -> object:
    return pytest.importorskip("qwen_vl_utils.vision_process", reason="qwen-vl-utils is not installed")


@pytest.mark.parametrize(
    ("size", "options", "fitted"),
    [
        ((640, 480), {}, (644, 476)),
        ((640, 480), {"factor": 32}, (640, 480)),
        ((5, 5), {}, (56, 56)),  # 4 tokens at least
        ((640, 480), {"max_pixels": 100 * 28 * 28}, (308, 224)),
        ((640, 480), {"min_pixels": 1000 * 28 * 28}, (1036, 784)),
        ((10_000, 50), {"max_pixels": 28 * 28 * 4}, (784, 28)),  # 0 high by smart_resize
    ],
)
def test_sizes_by_hand(size: tuple[int, int], options: dict[str, int], fitted: tuple[int, int]) -> None:
    assert fit_size(*size, **{"factor": 28, **options}) == fitted  # type: ignore[arg-type]


@given(
    width=edges, height=edges, factor=factors, budget=st.tuples(st.integers(1, 400), st.integers(0, 2000)) | st.none()
)
def test_images_as_in_qwen_vl_utils(
    theirs: object, width: int, height: int, factor: int, budget: tuple[int, int] | None
) -> None:
    assume(max(width, height) <= 200 * min(width, height))
    least, most = (None, None) if budget is None else (budget[0] * factor**2, (budget[0] + budget[1]) * factor**2)
    expected = theirs.smart_resize(height, width, factor, least, most)  # type: ignore[attr-defined]
    assume(0 not in expected)
    assert fit_size(width, height, factor=factor, min_pixels=least, max_pixels=most) == expected[::-1]


@given(
    width=st.integers(8, 400),
    height=st.integers(8, 400),
    frames=st.integers(1, 12).map(lambda half: 2 * half),
    patch=st.sampled_from([14, 16]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "min_pixels": st.integers(1, 60).map(lambda tokens: tokens * 28 * 28),
            "max_pixels": st.integers(61, 900).map(lambda tokens: tokens * 28 * 28),
            "total_pixels": st.integers(200, 4000).map(lambda tokens: tokens * 28 * 28),
        },
    ),
)
def test_videos_as_in_qwen_vl_utils(
    theirs: object, width: int, height: int, frames: int, patch: int, options: dict[str, int]
) -> None:
    """The rule lies in the midst of `fetch_video`, which is therefore run on frames; their resize itself is spared."""
    from unittest.mock import patch as replaced

    import torch
    from PIL import Image

    factor = 2 * patch
    if options.get("min_pixels", 0) > options.get("max_pixels", 1e9):
        return
    image = Image.new("RGB", (width, height))
    with (
        replaced.object(theirs, "fetch_image", lambda *_: image),
        replaced.object(
            theirs.transforms.functional,  # type: ignore[attr-defined]
            "resize",
            lambda video, size, **_: torch.zeros(len(video), 3, 1, 1).expand(len(video), 3, *size),
        ),
    ):
        try:
            video = theirs.fetch_video({"video": [image] * frames, **options}, image_patch_size=patch)  # type: ignore[attr-defined]
        except AssertionError:
            with pytest.raises(ValueError, match="is below min_pixels"):
                video_size(width, height, frames, factor=factor, **options)
            return
    assert len(video) == frames
    assert video_size(width, height, frames, factor=factor, **options) == (video.shape[3], video.shape[2])


def test_the_budget_of_a_video_is_shared_by_its_frames() -> None:
    """115,200 tokens for all pairs: 768 of each of 300 frames, and 300 of each of 768."""
    few, many = video_size(1920, 1080, 8, factor=28), video_size(1920, 1080, 768, factor=28)
    tokens = [size[0] * size[1] / 28**2 for size in (few, many)]
    assert 700 < tokens[0] <= 768
    assert 250 < tokens[1] <= 300
    tiny = video_size(1920, 1080, 768, factor=28, total_pixels=28 * 28)
    assert 100 < tiny[0] * tiny[1] / 28**2 <= 134


@given(width=edges, height=edges, factor=factors, most=st.integers(40, 20_000))
def test_a_fitted_size_keeps_its_promises(width: int, height: int, factor: int, most: int) -> None:
    assume(max(width, height) <= 200 * min(width, height))
    fitted = fit_size(width, height, factor=factor, max_pixels=most * factor**2)
    assert fitted[0] % factor == fitted[1] % factor == 0
    assert min(fitted) >= factor
    assert fitted[0] * fitted[1] <= most * factor**2 or min(fitted) == factor
    assert fitted[0] * fitted[1] >= 4 * factor**2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fit_size(2010, 10, factor=28), "2010x10 is longer than 200 times its width"),
        (lambda: fit_size(0, 10, factor=28), "0x10 pixels cannot be resized"),
        (lambda: fit_size(9, 9, factor=28, min_pixels=99, max_pixels=9), "max_pixels=9 is below min_pixels=99"),
        (lambda: video_size(9, 9, 0, factor=28), "a video of 0 frames"),
    ],
)
def test_sizes_that_cannot_be(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()  # type: ignore[operator]


@given(
    size=st.tuples(st.integers(20, 4000), st.integers(20, 4000)),
    patch=st.sampled_from([14, 16]),
    frames=st.integers(0, 64),
    corners=st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
    space=st.sampled_from(SPACES),
)
def test_coordinates_survive_the_resize(
    size: tuple[int, int], patch: int, frames: int, corners: list[float], space: str
) -> None:
    """Stored pixels -> what the tower sees -> any space and back: to a rounding error, inside stays inside."""
    assume(max(size) <= 200 * min(size))
    fitted = video_size(*size, frames, factor=2 * patch) if frames else fit_size(*size, factor=2 * patch)
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
