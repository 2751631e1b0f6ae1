"""The boxes of an MP4 or MOV header (ISO/IEC 14496-12) that FFmpeg does not hand on."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    import numpy as np

_INSIDE = {b"": b"moov", b"moov": b"trak", b"trak": b"mdia", b"mdia": b"minf", b"minf": b"stbl"}
"""The box that is looked into, by the box around it."""


class Box(NamedTuple):
    """A box by its place in the file."""

    kind: bytes
    begin: int
    """Offset of its payload, behind its header."""
    size: int
    """Bytes of its payload."""
    track: int
    """Number of the track that it belongs to, from 0; -1 = the whole file's."""


def boxes(file: BinaryIO) -> list[Box]:
    """The boxes of the file's header in their order; [] for what is not made of boxes."""
    found: list[Box] = []
    return found if _collect(file, (0, file.seek(0, io.SEEK_END)), b"", -1, found) else []


def _collect(file: BinaryIO, place: tuple[int, int], parent: bytes, track: int, found: list[Box]) -> bool:
    """Add the boxes between two offsets; False where one of them is longer than its place."""
    begin, end = place
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
            return False
        if parent == b"moov":
            track = sum(box.kind == b"trak" for box in found) if kind == b"trak" else -1
        found.append(Box(kind, begin + header, size - header, track))
        inside = (begin + header, begin + size)
        if kind == _INSIDE.get(parent) and not _collect(file, inside, kind, track, found):
            return False
        begin += size
    return True


def composition_offsets(file: BinaryIO, number: int) -> np.ndarray | None:
    """How much later than it is decoded each of the `number` frames of the file's one moving picture is shown, in ticks
    of its clock (int64 [number], by box `ctts`); None where the header does not say it of just these frames."""
    import numpy as np

    held = boxes(file)
    moving = {box.track for box in held if box.kind == b"hdlr" and _read(file, box)[8:12] == b"vide"}
    if len(moving) != 1:
        return None
    tables = [box for box in held if box.kind == b"ctts" and box.track in moving]
    if not tables:
        return np.zeros(number, np.int64)
    payload = _read(file, tables[0])
    if len(tables) > 1 or len(payload) < 8:
        return None
    count = int.from_bytes(payload[4:8])
    if len(payload) < 8 + 8 * count:
        return None
    runs = np.frombuffer(payload, ">u4", 2 * count, 8).reshape(count, 2)
    # Version 1 has signed offsets; writers of version 0 put negative ones there as well.
    lengths, offsets = runs[:, 0].astype(np.int64), runs[:, 1].astype(np.uint32).view(np.int32).astype(np.int64)
    return np.repeat(offsets, lengths) if int(lengths.sum()) == number else None


def _read(file: BinaryIO, box: Box) -> bytes:
    file.seek(box.begin)
    return file.read(box.size)


def matrix_boxes(file: BinaryIO) -> list[tuple[bytes, bytes]]:
    """(kind, beginning of the payload) of the boxes with a matrix that may turn the picture: `mvhd` and `tkhd`."""
    held = [box for box in boxes(file) if box.kind in (b"mvhd", b"tkhd")]
    return [(box.kind, _read(file, box._replace(size=min(box.size, 128)))) for box in held]
