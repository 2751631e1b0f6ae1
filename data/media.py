"""Images from references: the only place where files become pixels, and where unreadable ones are found out."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vlrft.data.problems import SampleError, Skipped
from vlrft.types import MediaRef, Sample

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION_TAG = 0x0112
_ROTATED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


class MediaError(SampleError):
    """An image that cannot be read: names the file, the reason and the next step."""


def image_size(ref: MediaRef) -> tuple[int, int]:
    """(width, height) in pixels as `open_image` would give them, from the file's header alone.

    Raises MediaError when the file is missing or its header is not an image's.
    """
    with _opened(ref) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _ROTATED else (width, height)


def open_image(ref: MediaRef) -> Image.Image:
    """The image in RGB, 8 bits, upright.

    EXIF orientation is applied; transparency is laid over white; 16-bit grey keeps its upper 8 bits; of an animation
    the first frame is taken. Raises MediaError when the file is missing, truncated or not an image.
    """
    from PIL import Image

    # PIL's numbering of the EXIF orientations 2..8.
    transposes = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    with _opened(ref) as image:
        method = transposes.get(_orientation(image))
        image.load()
        rgb = _to_rgb(image, ref)
        # Detached from the file: the caller may keep it after the handle is closed.
        return rgb.transpose(method) if method is not None else rgb.copy()


def check_media(samples: Iterable[Sample], *, decode: bool) -> list[Skipped]:
    """Every media item that cannot be read, by sample id. `decode=True` reads all pixels and so finds truncation."""
    read = open_image if decode else image_size
    bad = []
    for sample in samples:
        for ref in sample.media:
            try:
                read(ref)
            except MediaError as error:
                bad.append(Skipped(where=f"sample {sample.id}", reason=str(error)))
    return bad


@contextmanager
def _opened(ref: MediaRef) -> Iterator[Image.Image]:
    """The lazily opened file; whatever PIL raises inside the block becomes a MediaError."""
    from PIL import Image, UnidentifiedImageError

    name = ref.name()
    if ref.kind != "image":
        raise MediaError(name, f"is a {ref.kind}, and an image is needed here; correct the row")
    if (ref.path is None) == (ref.data is None):
        raise MediaError(name, "has to have either a path or encoded bytes; correct the row")
    source = io.BytesIO(ref.data) if ref.data is not None else ref.path
    assert source is not None
    try:
        with Image.open(source) as image:
            yield image
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(name, "no such file; check data.root, the source's `images` folder and the row") from error
    except (IsADirectoryError, PermissionError) as error:
        raise MediaError(name, f"cannot be opened ({error.strerror}); check the path and its permissions") from error
    except Image.DecompressionBombError as error:
        raise MediaError(
            name,
            f"has too many pixels to be decoded safely ({error}); downscale it, or raise PIL.Image.MAX_IMAGE_PIXELS",
        ) from error
    except UnidentifiedImageError as error:
        raise MediaError(
            name,
            "is not an image that Pillow can read (empty, damaged header or another format); replace or convert it",
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise MediaError(name, f"is truncated or damaged ({error}); fetch it again or drop the row") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 as far as the header tells.

    Pillow's PNG reader would decode every pixel to look for a late eXIf chunk, so the base class is asked; its TIFF
    reader turns the image by itself.
    """
    from PIL import Image

    if image.format == "TIFF":
        return 1
    value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, ref: MediaRef) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        return _sixteen_bit_grey(image, ref)
    if image.mode == "F":
        raise MediaError(
            ref.name(), "holds floating-point pixels, whose range is unknown; convert it to 8 bits per channel"
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _sixteen_bit_grey(image: Image.Image, ref: MediaRef) -> Image.Image:
    """Modes `I;16*` and `I` (what Pillow makes of 16-bit greyscale files) -> RGB."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise MediaError(ref.name(), "holds 32-bit pixels, whose range is unknown; convert it to 8 bits per channel")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
