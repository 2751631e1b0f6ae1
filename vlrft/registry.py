"""Names to objects: an explicit table, `pkg.mod:attr`, or `path/to/file.py:attr`. Nothing registers itself."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class UnknownNameError(ValueError):
    """A name that no table holds; the message lists the nearest and all valid ones."""


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean X?` for the closest known name, or an empty string."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def resolve(name: str, table: Mapping[str, Any], *, kind: str) -> Any:
    """The object behind `name`. Table values that are `pkg.mod:attr` strings are imported on use.

    Raises UnknownNameError for a name that is neither in `table` nor of the form `module:attr` / `file.py:attr`,
    and ImportError / AttributeError with the reference named when such a reference cannot be loaded.
    """
    if name in table:
        value = table[name]
        return load_reference(value) if isinstance(value, str) else value
    if ":" in name:
        return load_reference(name)
    valid = sorted(table)
    raise UnknownNameError(
        f"unknown {kind} {name!r}{nearest(name, valid) or ';'} valid: {', '.join(valid)}; "
        f"or give your own as 'package.module:attr' or 'path/to/file.py:attr'"
    )


def load_reference(ref: str) -> Any:
    """Import `pkg.mod:attr` or `path/to/file.py:attr`."""
    source, _, attr = ref.rpartition(":")
    if source.endswith(".py"):
        path = Path(source).expanduser().resolve()
        if not path.is_file():
            raise ImportError(f"{ref!r}: no file {path}")
        module_name = f"vlrft_user_{path.stem}_{abs(hash(str(path)))}"
        module = sys.modules.get(module_name)
        if module is None:
            spec = importlib.util.spec_from_file_location(module_name, path)
            if spec is None or spec.loader is None:
                raise ImportError(f"{ref!r}: {path} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    if not hasattr(module, attr):
        raise AttributeError(f"{ref!r}: {source} has no attribute {attr!r}")
    return getattr(module, attr)
