"""Published forms by name: their readers with the options that each takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlrft.data.native import Rows
from vlrft.data.prep import FORMS
from vlrft.data.problems import DataError, Quarantine
from vlrft.registry import load_reference, nearest

_FIXED = ("path", "split", "images", "quarantine")


def form_options(name: str) -> list[str]:
    """Names of the options that the form's reader takes."""
    return [key for key in inspect.signature(_reader(name)).parameters if key not in _FIXED]


def read_form(
    name: str,
    path: Path,
    *,
    split: str | None,
    images: Path | None,
    quarantine: Quarantine,
    options: Mapping[str, Any],
    what: str,
) -> Rows:
    """(where, native row) of the published file or folder `path`.

    `what` names the setting that holds `options`. Raises DataError for an option that the form has not, and whatever
    its reader says of the file.
    """
    known = form_options(name)
    for key in options:
        if key not in known:
            offer = f"it takes: {', '.join(known)}" if known else "it takes none"
            raise DataError(f"{what}: the form {name} has no option {key!r}{nearest(key, known)}; {offer}")
    rows: Rows = _reader(name)(path, split=split, images=images, quarantine=quarantine, **options)
    return rows


def _reader(name: str) -> Callable[..., Rows]:
    reader: Callable[..., Rows] = load_reference(FORMS[name].reader)
    return reader
