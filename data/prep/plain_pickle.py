"""Pickles of plain values. A pickle may call anything when it is loaded; this reader refuses all but plain data."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from vlrft.data.problems import DataError


class _Refused(pickle.UnpicklingError):
    pass


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise _Refused(f"it asks for {module}.{name}")


_DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError)


def load_plain(file: Path) -> Any:
    """Lists, dicts, texts and numbers, of Python 2 too.

    Raises DataError when the file holds anything that would be looked up or called, or is no pickle.
    """
    try:
        with file.open("rb") as stream:
            return _Plain(stream, encoding="utf-8").load()
    except _Refused as error:
        raise DataError(f"{file} is not a pickle of plain lists and dicts, {error}: nothing of it was run") from error
    except _DAMAGE as error:
        raise DataError(f"{file} is not a readable pickle ({error}); fetch the file again") from error
