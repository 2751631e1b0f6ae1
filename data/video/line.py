"""Messages between a process and its decoding process: pickled, with a file descriptor where one is lent."""

from __future__ import annotations

import os
import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct(">Q")


def send(line: socket.socket, message: Any, lent: int | None = None) -> None:
    """`lent`: an open file descriptor; the receiver gets one of its own. Raises OSError when the other side is gone."""
    payload = pickle.dumps(message)
    header = _LENGTH.pack(len(payload))
    # A socket of this kind takes eight bytes whole or not at all.
    socket.send_fds(line, [header], [] if lent is None else [lent])
    line.sendall(payload)


def receive(line: socket.socket) -> tuple[Any, int | None]:
    """The next message and the descriptor that came with it, which the caller closes.

    Raises EOFError when the other side is gone, and TimeoutError by the socket's time-out (for each part of a message).
    """
    header, descriptors, _, _ = socket.recv_fds(line, _LENGTH.size, 1)
    try:
        header += _read(line, _LENGTH.size - len(header))
        message = pickle.loads(_read(line, _LENGTH.unpack(header)[0]))
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return message, descriptors[0] if descriptors else None


def _read(line: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        part = line.recv(min(length - len(received), 2**20))
        if not part:
            raise EOFError("the line is closed")
        received += part
    return bytes(received)
