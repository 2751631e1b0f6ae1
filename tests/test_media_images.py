"""Images in every form that rows hold, and the checks of a sample's media."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from videos import write_video

from vlrft.config import VideoConfig
from vlrft.data.media import MediaError, check_media, image_ref, image_size, open_image
from vlrft.data.problems import SampleError
from vlrft.data.video import close_pools
from vlrft.types import MediaPart, MediaRef, Sample


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def noise(width: int = 12, height: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8))


def test_all_forms_give_the_same_picture(tmp_path: Path) -> None:
    image = noise()
    png = encoded(image, "PNG")
    path = tmp_path / "i.png"
    path.write_bytes(png)
    text = base64.b64encode(png).decode()
    for value in (
        str(path),
        png,
        bytearray(png),
        {"path": str(path)},
        {"bytes": png, "path": "somewhere/else.png"},
        {"bytes": None, "path": str(path)},
        {"bytes": f"data:image/png;base64,{text}"},
        f"data:image/png;base64,{text}",
        f"data:image/png;base64,{text[:40]}\n{text[40:]}",
        image,
        Image.open(path),
    ):
        ref = image_ref(value, where="rows.jsonl:3")
        assert (ref.path is None) != (ref.data is None)
        assert image_size(ref) == (12, 8)
        assert (np.asarray(open_image(ref)) == np.asarray(image)).all()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "image None is neither a path"),
        ("", "image '' is neither a path"),
        (7, "image 7 is neither a path"),
        ({}, "image {} is neither a path"),
        ({"bytes": 3}, "is neither a path"),
        ("https://example.org/i.png", "is an address; download it"),
        ("data:image/png,abc", "is not of the form data:image/...;base64"),
        ("data:video/mp4;base64,AAAA", "is not of the form data:image/...;base64"),
        ("data:image/png;base64,A!!=", "is not valid base64"),
        ("data:image/png;base64,AAA", "is not valid base64"),
        ({"x": "y" * 500}, r"y\.\.\. is neither"),
    ],
)
def test_what_is_no_image_says_where_it_stands(value: object, says: str) -> None:
    with pytest.raises(SampleError, match=r"rows\.jsonl:3: .*" + says):
        image_ref(value, where="rows.jsonl:3")


def test_pil_images_are_turned_upright_once() -> None:
    stored = Image.new("RGB", (48, 32))
    stored.paste((255, 255, 255), (0, 16, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded(stored, "JPEG", exif=exif, quality=95)
    from_bytes = open_image(image_ref(jpeg, where="x"))
    from_pil = open_image(image_ref(Image.open(io.BytesIO(jpeg)), where="x"))
    assert from_pil.size == from_bytes.size == (32, 48)
    assert (np.asarray(from_pil) == np.asarray(from_bytes)).all()
    assert np.asarray(from_pil)[:12, :12].mean() > 240


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I;16"])
def test_pil_images_of_any_mode(mode: str) -> None:
    image = Image.new("I;16", (6, 4), 40000) if mode == "I;16" else Image.new("RGB", (6, 4), (200, 40, 40))
    if mode == "LAB":
        from PIL import ImageCms

        rgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(rgb, lab, "RGB", "LAB"))  # type: ignore[assignment]
    elif mode != "I;16":
        image = image.convert(mode)
    opened = open_image(image_ref(image, where="x"))
    assert (opened.mode, opened.size) == ("RGB", (6, 4))
    if mode in ("RGBA", "CMYK", "YCbCr", "HSV"):
        assert np.abs(np.asarray(opened).astype(int) - (200, 40, 40)).max() <= 4


def test_a_damaged_pil_image_is_a_media_error() -> None:
    jpeg = encoded(noise(96, 64), "JPEG")
    with pytest.raises(MediaError, match=r"row 3: a PIL image: is truncated"):
        image_ref(Image.open(io.BytesIO(jpeg[:-400])), where="row 3")


def test_cmyk_of_adobe_is_stored_inverted() -> None:
    """Pillow writes it as Adobe does: full ink as 0, with an APP14 mark."""
    jpeg = encoded(Image.new("RGB", (16, 16), (200, 40, 40)).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in jpeg[:40]
    assert Image.open(io.BytesIO(jpeg)).mode == "CMYK"
    assert np.abs(np.asarray(open_image(MediaRef(data=jpeg)))[8, 8].astype(int) - (200, 40, 40)).max() <= 4


def test_sixteen_bits_per_colour_keep_the_upper_eight() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + struct.pack(">6H", 0x80FF, 0, 0xFFFF, 0x1200, 0x34FF, 0x5600)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    opened = open_image(MediaRef(data=png))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(0x80, 0, 0xFF), (0x12, 0x34, 0x56)]


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame(fmt: str) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue", "lime")]
    lossless = {"lossless": True} if fmt == "WEBP" else {}
    data = encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **lossless)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert open_image(MediaRef(data=data)).getpixel((3, 2)) == (255, 0, 0)


@pytest.mark.parametrize("colours", [2, 4, 16, 256])
def test_palettes(colours: int) -> None:
    image = noise(32, 32).quantize(colours)
    assert (np.asarray(open_image(MediaRef(data=encoded(image, "PNG")))) == np.asarray(image.convert("RGB"))).all()


def test_huge_images_are_refused_by_their_header(tmp_path: Path) -> None:
    """30000 x 30000 pixels, of which the file holds only the announcement."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    for read in (image_size, open_image):
        with pytest.raises(MediaError, match=r"bomb\.png: has too many pixels"):
            read(MediaRef(path=str(tmp_path / "bomb.png")))


def test_checks_cover_images_and_videos(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed (it comes with the extra `video`)")
    noise(96, 64).save(tmp_path / "good.png")
    noise(96, 64).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1200])
    write_video(tmp_path / "good.mp4", 20)
    media = [
        (MediaRef(path=str(tmp_path / "good.png")), MediaRef(path=str(tmp_path / "cut.jpg"))),
        (MediaRef(kind="video", path=str(tmp_path / "good.mp4")),),
        (MediaRef(kind="video", path=str(tmp_path / "good.mp4"), start=3.0),),
        (MediaRef(kind="video", path=str(tmp_path / "gone.mp4")), MediaRef(path=str(tmp_path / "good.png"))),
        (MediaRef(path=str(tmp_path / "good.mp4")),),
    ]
    samples = [
        Sample(id=f"s{i}", task="open_qa", parts=(MediaPart(index=0),), media=refs) for i, refs in enumerate(media)
    ]
    config = VideoConfig(fps=4.0)
    by_header = check_media(samples, decode=False, video=config)
    assert [skipped.where for skipped in by_header] == ["sample s2", "sample s3", "sample s4"]
    by_pixels = check_media(samples, decode=True, video=config)
    close_pools()
    assert [skipped.where for skipped in by_pixels] == ["sample s0", "sample s2", "sample s3", "sample s4"]
    assert [(Path(item.medium or "").name, item.decoder) for item in by_pixels] == [
        ("cut.jpg", None),
        ("good.mp4", "pyav"),
        ("gone.mp4", "pyav"),
        ("good.mp4", None),
    ]


def test_media_load_no_heavy_library() -> None:
    code = "import sys, vlrft.data.media; print(*(m for m in ('torch', 'av', 'PIL') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
