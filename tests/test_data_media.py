"""Images from files and bytes: modes, EXIF rotation, damage."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlrft.data.media import MediaError, check_media, image_size, open_image
from vlrft.types import MediaPart, MediaRef, Sample


def _encoded(image: Image.Image, fmt: str, **kwargs: object) -> MediaRef:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **kwargs)
    return MediaRef(data=buffer.getvalue())


def _noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_modes_become_rgb(mode: str) -> None:
    image = Image.new("I;16", (12, 8), 40000) if mode == "I;16" else _noise(12, 8).convert(mode)
    opened = open_image(_encoded(image, "PNG"))
    assert (opened.mode, opened.size) == ("RGB", (12, 8))


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_jpeg_modes_become_rgb(mode: str) -> None:
    opened = open_image(_encoded(Image.new("RGB", (16, 16), (200, 40, 40)).convert(mode), "JPEG"))
    assert opened.mode == "RGB"
    red, _, blue = np.asarray(opened)[8, 8]
    assert (red > 150) == (mode == "CMYK")
    assert blue < 120


def test_sixteen_bit_grey_keeps_its_range() -> None:
    values = np.array([[0, 0x80FF, 0xFFFF]], dtype=np.uint16)
    opened = open_image(_encoded(Image.fromarray(values), "PNG"))
    assert [opened.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (0x80,) * 3, (0xFF,) * 3]


def test_float_pixels_are_refused() -> None:
    with pytest.raises(MediaError, match="8 bits"):
        open_image(_encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


def test_transparency_is_laid_over_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    opened = open_image(_encoded(rgba, "PNG"))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), (255, 255, 255)]


def test_transparent_palette_colour_becomes_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    opened = open_image(_encoded(palette, "PNG", transparency=bytes([255, 0])))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), (255, 255, 255)]


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    opened = open_image(_encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.asarray(opened)[2, 3, 0] > 200


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_in_size_and_pixels(fmt: str, orientation: int) -> None:
    """A white corner is stored where the orientation tag will turn it to the top left."""
    stored = np.zeros((32, 48, 3), dtype=np.uint8)
    rows, columns = {
        1: (slice(0, 16), slice(0, 16)),
        2: (slice(0, 16), slice(32, 48)),
        3: (slice(16, 32), slice(32, 48)),
        4: (slice(16, 32), slice(0, 16)),
        5: (slice(0, 16), slice(0, 16)),
        6: (slice(16, 32), slice(0, 16)),
        7: (slice(16, 32), slice(32, 48)),
        8: (slice(0, 16), slice(32, 48)),
    }[orientation]
    stored[rows, columns] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    ref = _encoded(Image.fromarray(stored), fmt, exif=exif)
    opened = open_image(ref)
    assert image_size(ref) == opened.size == ((32, 48) if orientation >= 5 else (48, 32))
    pixels = np.asarray(opened)
    assert pixels[:12, :12].mean() > 240
    assert pixels[20:, 20:].mean() < 15


def test_jpeg_cut_anywhere_is_found(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    _noise(96, 64).save(buffer, "JPEG")
    whole = buffer.getvalue()
    path = tmp_path / "cut.jpg"
    for kept in (0, 1, 20, len(whole) // 2, len(whole) - 200, len(whole) - 20):
        path.write_bytes(whole[:kept])
        with pytest.raises(MediaError, match=r"cut\.jpg.*(truncated|not an image)"):
            open_image(MediaRef(path=str(path)))


def test_header_size_needs_no_pixels(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    _noise(96, 64).save(path)
    path.write_bytes(path.read_bytes()[:1200])
    ref = MediaRef(path=str(path))
    assert image_size(ref) == (96, 64)
    sample = Sample(id="s1", task="grounding", parts=(MediaPart(index=0),), media=(ref,))
    assert check_media([sample], decode=False) == []
    (skipped,) = check_media([sample], decode=True)
    assert skipped.where == "sample s1"
    assert str(path) in skipped.reason


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        (MediaRef(path="/nowhere/x.png"), r"/nowhere/x\.png: no such file; check data\.root"),
        (MediaRef(data=b"no image at all"), "15 bytes of image.*not an image"),
        (MediaRef(path="/"), "cannot be opened"),
        (MediaRef(kind="video", path="/x.mp4"), "is a video"),
        (MediaRef(), "either a path or encoded bytes"),
    ],
)
def test_unreadable_media_say_why(ref: MediaRef, says: str) -> None:
    for read in (image_size, open_image):
        with pytest.raises(MediaError, match=says):
            read(ref)


def test_decompression_bomb_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = _encoded(_noise(40, 40), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(MediaError, match="too many pixels"):
        image_size(ref)


def test_image_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (3, 3), "red").save(path)
    opened = open_image(MediaRef(path=str(path)))
    path.unlink()
    assert opened.getpixel((1, 1)) == (255, 0, 0)
