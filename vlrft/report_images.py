"""Pictures for the report: each once, small, as data URIs, within a budget. Pillow is loaded on first use."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlrft.report_series import Notes

MAX_EDGE = 480
IMAGE_BUDGET = 4_000_000
"""Characters of all data URIs together."""
SMALL_EDGE = 128
"""Pictures up to this edge stay lossless: JPEG would blur generated scenes."""


@dataclass(slots=True, kw_only=True)
class ImageStore:
    """Embedded pictures by file; `uris[key]` is what the page's script puts into an image's `src`."""

    notes: Notes
    uris: list[str] = field(default_factory=list)
    keys: dict[Path, int | None] = field(default_factory=dict)
    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)
    spent: int = 0

    def add(self, name: object, run_dir: Path, size: tuple[int, int] | None) -> int | None:
        """Key of a picture, or None (counted) when it is missing, unreadable or over the budget.

        `name` is a path, absolute or relative to the run folder; `size` its stored (width, height) when known.
        """
        if not isinstance(name, str):
            self.notes["pictures that have no file to show"] += 1
            return None
        path = run_dir / name
        if path not in self.keys:
            self.keys[path] = self._embed(path, size)
        return self.keys[path]

    def size_of(self, name: object, run_dir: Path) -> tuple[int, int] | None:
        """Stored (width, height) in pixels of a picture that was embedded."""
        return self.sizes.get(run_dir / name) if isinstance(name, str) else None

    def _embed(self, path: Path, size: tuple[int, int] | None) -> int | None:
        from PIL import Image

        try:
            with Image.open(path) as image:
                self.sizes[path] = size or image.size
                uri = _data_uri(image)
        except (OSError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
            self.notes[f"pictures missing or unreadable ({type(error).__name__})"] += 1
            return None
        if self.spent + len(uri) > IMAGE_BUDGET:
            self.notes["pictures left out to keep this page small"] += 1
            return None
        self.spent += len(uri)
        self.uris.append(uri)
        return len(self.uris) - 1


def _data_uri(image: Image) -> str:
    """The picture at most MAX_EDGE wide and high, re-encoded (which also drops whatever metadata it carried)."""
    lossless = max(image.size) <= SMALL_EDGE
    small = image.convert("RGB")
    small.thumbnail((MAX_EDGE, MAX_EDGE))
    buffer = io.BytesIO()
    if lossless:
        small.save(buffer, "PNG", optimize=True)
    else:
        small.save(buffer, "JPEG", quality=82, optimize=True)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
