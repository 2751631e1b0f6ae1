"""How far a stored video has to be turned to stand upright."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

from vlrft.data.video.mp4 import matrix_boxes
from vlrft.data.video.source import readable
from vlrft.types import MediaRef

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_MATRIX = {(b"mvhd", 0): 36, (b"mvhd", 1): 48, (b"tkhd", 0): 40, (b"tkhd", 1): 52}
"""Offset of the 3x3 matrix in a box, by type and version (ISO/IEC 14496-12, 8.2.2 and 8.3.2)."""
_UPRIGHT = (0x10000, 0, 0x10000, 0)
"""a, b, d, c of a matrix that neither turns nor scales, in 16.16 fixed point."""


def rotation(ref: MediaRef, container: InputContainer, stream: VideoStream) -> int:
    """Degrees, counter-clockwise, in steps of 90 (0..270). Mirroring is not read. Moves `container`.

    MP4 and MOV say in their headers that nothing is turned, which is the usual case; otherwise FFmpeg is asked, which
    knows with the first decoded frame. Lets its errors through when there is none.
    """
    with readable(ref) as file:
        if _stands_upright(file):
            return 0
    container.seek(stream.start_time or 0, stream=stream)
    # Threads would each take frames before the first comes out.
    stream.thread_type = "NONE"
    for frame in container.decode(stream):
        return round(frame.rotation / 90) % 4 * 90
    return 0


def _stands_upright(file: BinaryIO) -> bool:
    """Whether all matrices of an MP4 or MOV file are known to leave the picture as it is."""
    found = [_matrix(payload, kind) for kind, payload in matrix_boxes(file)]
    return bool(found) and all(matrix == _UPRIGHT for matrix in found)


def _matrix(payload: bytes, kind: bytes) -> tuple[int, ...]:
    """a, b, d, c of a header box."""
    offset = _MATRIX.get((kind, payload[0])) if payload else None
    if offset is None or len(payload) < offset + 36:
        return (0, 0, 0, 0)
    a, b, _, c, d = struct.unpack_from(">5i", payload, offset)
    return a, b, d, c
