"""How far a stored video has to be turned to stand upright."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, BinaryIO

from vlrft.data.video.source import encoded
from vlrft.types import MediaRef

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_CONTAINERS = (b"moov", b"trak")
_MATRIX = {(b"mvhd", 0): 36, (b"mvhd", 1): 48, (b"tkhd", 0): 40, (b"tkhd", 1): 52}
"""Offset of the 3x3 matrix in a box, by type and version (ISO/IEC 14496-12, 8.2.2 and 8.3.2)."""
_UPRIGHT = (0x10000, 0, 0x10000, 0)
"""a, b, d, c of a matrix that neither turns nor scales, in 16.16 fixed point."""


def rotation(ref: MediaRef, container: InputContainer, stream: VideoStream) -> int:
    """Degrees, counter-clockwise, in steps of 90 (0..270). Mirroring is not read. Moves `container`.

    MP4 and MOV say in their headers that nothing is turned, which is the usual case; otherwise FFmpeg is asked, which
    knows with the first decoded frame. Lets its errors through when there is none.
    """
    source = encoded(ref)
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        if _stands_upright(file):
            return 0
    container.seek(stream.start_time or 0, stream=stream)
    for frame in container.decode(stream):
        return round(frame.rotation / 90) % 4 * 90
    return 0


def _stands_upright(file: BinaryIO) -> bool:
    """Whether all matrices of an MP4 or MOV file are known to leave the picture as it is."""
    length = file.seek(0, io.SEEK_END)
    matrices = _matrices(file, 0, length)
    return bool(matrices) and all(matrix == _UPRIGHT for matrix in matrices)


def _matrices(file: BinaryIO, begin: int, end: int) -> list[tuple[int, ...]]:
    """Of the boxes between two offsets; [] as well for what is not made of such boxes."""
    found: list[tuple[int, ...]] = []
    while begin + 8 <= end:
        file.seek(begin)
        size, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == 1:
            wide = file.read(8)
            size, header = (struct.unpack(">Q", wide)[0], 16) if len(wide) == 8 else (0, 16)
        elif size == 0:
            size = end - begin
        if size < header or begin + size > end:
            return []
        if kind in _CONTAINERS:
            found += _matrices(file, begin + header, begin + size)
        elif (matrix := _matrix(file, kind, size - header)) is not None:
            found.append(matrix)
        begin += size
    return found


def _matrix(file: BinaryIO, kind: bytes, size: int) -> tuple[int, ...] | None:
    """a, b, d, c of the header box whose payload starts here; None for boxes without a matrix."""
    if kind not in (b"mvhd", b"tkhd"):
        return None
    payload = file.read(min(size, 128))
    offset = _MATRIX.get((kind, payload[0])) if payload else None
    if offset is None or len(payload) < offset + 36:
        return (0, 0, 0, 0)
    a, b, _, c, d = struct.unpack_from(">5i", payload, offset)
    return a, b, d, c
