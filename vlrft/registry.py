"""Names to objects: an explicit table, `pkg.mod:attr`, or `path/to/file.py:attr`. Nothing registers itself."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

_LISTED = 20
"""A table with more names is not listed whole in a message."""


class UnknownNameError(ValueError):
    """A name that no table holds; the message lists the nearest and, of a short table, all valid ones."""


class LoadError(ImportError):
    """A reference that cannot be loaded; the message is one line: the reference, the place in its file, the error."""


class MissingModuleError(LoadError, ModuleNotFoundError):
    """A reference to a module that is nowhere on the path."""


class MissingAttributeError(AttributeError):
    """A reference to something that its module or file does not have."""


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean X?` for the closest known name, or an empty string."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def resolve(name: str, table: Mapping[str, Any], *, kind: str, listing: str | None = None) -> Any:
    """The object behind `name`. Table values that are `pkg.mod:attr` strings are imported on use.

    listing: the command that lists the table, for the message about an unknown name.
    Raises UnknownNameError for a name that is neither in `table` nor of the form `module:attr` / `file.py:attr`, and
    LoadError or MissingAttributeError when such a reference cannot be loaded.
    """
    if name in table:
        value = table[name]
        if not isinstance(value, str):
            return value
        module, _, attr = value.rpartition(":")
        return getattr(importlib.import_module(module), attr)
    if ":" in name:
        return load_reference(name)
    raise UnknownNameError(f"unknown {kind} {name!r}{_alternatives(name, sorted(table), listing)}")


def _alternatives(name: str, valid: list[str], listing: str | None) -> str:
    own = "or give your own as 'package.module:attr' or 'path/to/file.py:attr'"
    if name.endswith(".py"):
        return f": a file; name what is meant in it, as in '{name}:{_first_function(Path(name)) or 'attr'}'"
    if members := [known for known in valid if known.startswith(f"{name}.")]:
        return f", a family; it has: {', '.join(members)}"
    if len(valid) <= _LISTED:
        return f"{nearest(name, valid) or ';'} valid: {', '.join(valid)}; {own}"
    last = name.rpartition(".")[2]
    alike = [known for known in valid if known.rpartition(".")[2] == last]
    near = list(dict.fromkeys([*difflib.get_close_matches(name, valid, n=5, cutoff=0.4), *alike]))[:5]
    also = f" (near: {', '.join(near)})" if len(near) > 1 else ""
    every = f"; '{listing}' lists all" if listing else f"; valid: {', '.join(valid)}"
    return f"{nearest(name, valid)}{also}{every}; {own}"


def _first_function(path: Path) -> str | None:
    """Name of the first function or class of a Python file, to make an example of."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return next((node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")), None)


def load_reference(ref: str) -> Any:
    """Import `pkg.mod:attr` or `path/to/file.py:attr`; modules of the current folder are found too.

    Raises LoadError (an ImportError) and MissingAttributeError (an AttributeError), naming `ref` and what is wrong.
    """
    source, _, attr = ref.rpartition(":")
    if not source or not attr:
        raise LoadError(f"{ref!r} is not complete: write 'package.module:attr' or 'path/to/file.py:attr'")
    module = _of_file(ref, source) if source.endswith(".py") else _of_module(ref, source)
    if not hasattr(module, attr):
        known = sorted(key for key in vars(module) if not key.startswith("_"))
        raise MissingAttributeError(f"{ref!r}: {source} has no attribute {attr!r}{nearest(attr, known)}")
    return getattr(module, attr)


def _of_file(ref: str, source: str) -> ModuleType:
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise LoadError(f"{ref!r}: no file {path}")
    module_name = f"vlrft_user_{path.stem}_{abs(hash(str(path)))}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{ref!r}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises while it is imported
        del sys.modules[module_name]
        raise LoadError(f"{ref!r}: {_said(error, str(path))}") from error
    return module


def _of_module(ref: str, source: str) -> ModuleType:
    try:
        return _imported(source)
    except (Exception, SystemExit) as error:  # whatever the user's module raises while it is imported
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and f"{source}.".startswith(f"{absent}."):
            raise MissingModuleError(
                f"{ref!r}: no module named {absent!r} is installed or in the current folder; a file is written as "
                f"'path/to/file.py:attr'",
                name=absent,
            ) from error
        raise LoadError(f"{ref!r}: {_said(error, source.replace('.', '/') + '.py')}") from error


def _imported(source: str) -> ModuleType:
    """The module, sought in the current folder too, which is on the path of `python -m` but not of a command."""
    here, top = str(Path.cwd()), source.partition(".")[0]
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        there = Path(here, top).is_dir() or Path(here, f"{top}.py").is_file()
        if error.name != top or here in sys.path or not there:
            raise
    sys.path.append(here)
    importlib.invalidate_caches()
    return importlib.import_module(source)


def _said(error: BaseException, where: str) -> str:
    """An exception of an import in one line. where: path of the module, whose innermost line is named."""
    if isinstance(error, SyntaxError):
        name, line, text = error.filename or where, error.lineno, error.msg
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
        own = [f for f in frames if f.filename.endswith(where)]
        blamed = (own or frames)[-1]
        name, line, text = blamed.filename, blamed.lineno, str(error)
    return f"{Path(name).name}, line {line}: {type(error).__name__}: {text}"
