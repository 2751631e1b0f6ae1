"""Images from references: files, bytes and PIL objects become upright RGB pixels, or a MediaError."""

from __future__ import annotations

import base64
import io
import logging
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from vlrft.data.problems import SampleError
from vlrft.types import MediaRef

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION_TAG = 0x0112
_ROTATED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_LONGEST_NAME = 255
"""Bytes of a file name that file systems take."""
_URI = "data:image/png;base64,..."
_LEAST_BITS = 12
"""Grey values of fewer bits count as dark ones of this depth, the least of CT and other scanners: noise stays dark."""
_SHOWN_RANGES = 20
"""Files whose range of 16-bit grey is logged; behind a whole study of them nothing else would be seen."""
_ranges: dict[str, int] = {}
"""Files that were logged -> bits."""

log = logging.getLogger(__name__)


class MediaError(SampleError):
    """An image or a video that cannot be read: names the file, the reason and the next step."""

    def __init__(self, where: str, reason: str, *, medium: str | None = None) -> None:
        """medium: the file, where `where` says more than its name."""
        super().__init__(where, reason)
        self.medium = medium if medium is not None else where


def image_size(ref: MediaRef) -> tuple[int, int]:
    """(width, height) in pixels as `open_image` would give them, from the file's header alone.

    Raises MediaError when the file is missing or its header is not an image's.
    """
    with _opened(ref) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _ROTATED else (width, height)


def stored_size(ref: MediaRef, upright: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the medium before its EXIF rotation; `upright` is its size after it."""
    if ref.kind != "image":
        return upright
    with _opened(ref) as image:
        return image.size


def open_image(ref: MediaRef) -> Image.Image:
    """The image in RGB, 8 bits, upright.

    EXIF orientation is applied; transparency is laid over white; of 16 bits per colour the upper 8 are kept, and 16-bit
    grey is scaled from the 12 to 16 bits that its values take; of an animation the first frame is taken. Raises
    MediaError when the file is missing, truncated or not an image.
    """
    with _opened(ref) as image:
        return _upright_rgb(image, ref.name())


def image_ref(value: Any, *, where: str) -> MediaRef:
    """A reference to an image in any of the forms in which rows hold one.

    A path; `data:image/png;base64,...`; encoded bytes; `{"bytes": ...}` or `{"path": ...}` (parquet, `datasets`; bytes
    come first, and as JSON has none they may be base64 text); or a PIL image, of which upright RGB pixels are kept.

    Raises SampleError that starts with `where` for everything else, addresses included, and MediaError for a PIL image
    that cannot be read. Whether the file exists is not looked at.
    """
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), str):
            return MediaRef(data=_from_text(value["bytes"], where))
        held = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        return image_ref(held, where=where) if isinstance(held, str | bytes) else _no_image(value, where)
    if isinstance(value, bytes | bytearray):
        return MediaRef(data=bytes(value))
    if isinstance(value, str) and value.startswith("data:"):
        return MediaRef(data=_from_data_uri(value, where))
    if isinstance(value, str) and "://" in value:
        raise SampleError(where, f"image {value!r:.200} is an address; download it and give the path")
    if isinstance(value, str) and any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in value.split("/")):
        raise SampleError(
            where,
            f"image is a text of {len(value)} characters, too long for a path; write an encoded picture as {_URI}",
        )
    if isinstance(value, str) and value:
        return MediaRef(path=value)
    # A PIL image in hand means that Pillow has been imported: nobody else pays for it.
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(value, pil.Image):
        return MediaRef(data=_as_png(value, where))
    return _no_image(value, where)


def _no_image(value: Any, where: str) -> NoReturn:
    shown = repr(value)
    shown = shown if len(shown) <= 120 else shown[:120] + "..."
    raise SampleError(
        where,
        f'image {shown} is neither a path, {{"path": ...}}, {{"bytes": ...}}, "data:image/...;base64,...", bytes nor a '
        "PIL image; correct the row",
    )


def _from_text(text: str, where: str) -> bytes:
    """The bytes that a JSON file states as text: base64, or a data URI."""
    if text.startswith("data:"):
        return _from_data_uri(text, where)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise SampleError(
            where,
            f"`bytes` of an image is a text of {len(text)} characters that is not base64 ({error}); in JSON write "
            f"{_URI}, or the path of a file",
        ) from error


def _from_data_uri(uri: str, where: str) -> bytes:
    """The bytes behind `data:image/png;base64,....`."""
    head, comma, body = uri.partition(",")
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        raise SampleError(where, f"the image {uri[:40]!r}... is not of the form data:image/...;base64,...; correct it")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:
        raise SampleError(where, f"the image {uri[:40]!r}... is not valid base64 ({error}); write it again") from error


def _as_png(image: Image.Image, where: str) -> bytes:
    buffer = io.BytesIO()
    with _reading(f"{where}: a PIL image"):
        # Little compression: it is read again soon, and seldom by anyone else.
        _upright_rgb(image, f"{where}: a PIL image").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@contextmanager
def _opened(ref: MediaRef) -> Iterator[Image.Image]:
    """The lazily opened file; whatever Pillow raises inside the block becomes a MediaError."""
    from PIL import Image

    name = ref.name()
    if ref.kind != "image":
        raise MediaError(name, f"is a {ref.kind}, and an image is needed here; correct the row")
    if (ref.path is None) == (ref.data is None):
        raise MediaError(name, "has to have either a path or encoded bytes; correct the row")
    source = io.BytesIO(ref.data) if ref.data is not None else ref.path
    assert source is not None
    with _reading(name), Image.open(source) as image:
        yield image


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Whatever Pillow raises inside becomes a MediaError."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(name, "no such file; check data.root, the source's `images` folder and the row") from error
    except (IsADirectoryError, PermissionError) as error:
        raise MediaError(name, f"cannot be opened ({error.strerror}); check the path and its permissions") from error
    except Image.DecompressionBombError as error:
        raise MediaError(
            name,
            f"has too many pixels; shrink it, and its boxes with it, to {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels or "
            f"fewer ({error})",
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


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """A new image: the caller may keep it after the handle of `image` is closed."""
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
    # Asked before the pixels are there, which may bring more tags: `image_size` sees the header only.
    method = transposes.get(_orientation(image))
    image.load()
    rgb = _to_rgb(image, name)
    return rgb.transpose(method) if method is not None else rgb.copy()


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        return _sixteen_bit_grey(image, name)
    if image.mode == "F":
        raise MediaError(name, "holds floating-point pixels, whose range is unknown; convert it to 8 bits per channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _sixteen_bit_grey(image: Image.Image, name: str) -> Image.Image:
    """Modes `I;16*` and `I` (what Pillow makes of 16-bit greyscale files) -> RGB."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise MediaError(name, "holds 32-bit pixels, whose range is unknown; convert it to 8 bits per channel")
    top = int(values.max()) if values.size else 0
    bits = max(_LEAST_BITS, top.bit_length())
    if bits < 16:
        _log_range(name, top, bits)
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8)).convert("RGB")


def _log_range(name: str, top: int, bits: int) -> None:
    """Once per file, and no more than so many files."""
    if name in _ranges or len(_ranges) >= _SHOWN_RANGES:
        return
    _ranges[name] = bits
    last = "; further files like it are not named" if len(_ranges) == _SHOWN_RANGES else ""
    log.warning(
        "%.200s: 16-bit grey with values up to %d, shown as %d-bit (see Images in docs/data.md)%s",
        name,
        top,
        bits,
        last,
    )
