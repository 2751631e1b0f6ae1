"""The decoders: one table, one contract, one rule for which frame is meant."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from vlrft.data.problems import DataError
from vlrft.data.video.index import FrameIndex
from vlrft.registry import UnknownNameError, resolve
from vlrft.types import MediaRef

if TYPE_CHECKING:
    import numpy as np

DECODERS: dict[str, str] = {
    "pyav": "vlrft.data.video.decode_pyav:decode",
    "decord": "vlrft.data.video.decode_decord:decode",
    "torchcodec": "vlrft.data.video.decode_torchcodec:decode",
}
"""Decoders by name (`data.video.decoder`)."""

_LIBRARIES = {"pyav": "av", "decord": "decord", "torchcodec": "torchcodec.decoders"}

_NEXT_STEP = {
    "torchcodec": "install torchcodec and the shared libraries of an FFmpeg that it supports (4 to 8)",
    "decord": "run: pip install 'vlrft[video]' (decord has no wheels for some platforms)",
    "pyav": "run: pip install 'vlrft[video]'",
}


class Decoder(Protocol):
    """Pictures of chosen frames."""

    def __call__(
        self, ref: MediaRef, index: FrameIndex, wanted: Sequence[int], *, threads: int
    ) -> Iterator[tuple[float, np.ndarray]]:
        """For each place in the index, of which `wanted` names at least one, rising and without repeats: the second at
        which the frame that was found begins, from the first frame on, and the frame (uint8 [H, W, 3], RGB, upright,
        stored size). `threads` is the number of decoding threads. Raises MediaError for what cannot be decoded, and
        MemoryError.
        """
        ...


def find_decoder(name: str) -> Decoder:
    """The decoder called `name` (in DECODERS, `module:attr` or `file.py:attr`), with its library loaded.

    Raises DataError that names the next step when it is unknown or its library does not load.
    """
    try:
        if library := _LIBRARIES.get(name):
            importlib.import_module(library)
        decoder: Decoder = resolve(name, DECODERS, kind="video decoder")
    except UnknownNameError as error:
        raise DataError(f"data.video.decoder: {error}") from error
    # TorchCodec reports FFmpeg libraries that do not load as a RuntimeError.
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        step = _NEXT_STEP.get(name, "correct the reference")
        alternative = "" if name == "pyav" else ", or use data.video.decoder=pyav"
        raise DataError(f"data.video.decoder={name} cannot be loaded ({reason}); {step}{alternative}") from error
    return decoder
