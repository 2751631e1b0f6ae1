"""Published forms by name: their readers with the options that each takes, typed by the readers' own signatures."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vlrft.data.native import Rows
from vlrft.data.prep import FORMS
from vlrft.data.problems import DataError, Quarantine
from vlrft.registry import load_reference, nearest

_FIXED = ("path", "split", "images", "quarantine")
_ONE_SPLIT = (
    *("activitynet", "androidcontrol", "charades-sta", "chart-code", "clevr-math", "coco", "geo-qa", "geo170k"),
    *("geometry3k", "gui-r1", "lvis", "next-gqa", "odinw", "omni-med-vqa", "slake", "superclevr", "trance"),
    *("screenspot", "screenspot-pro", "screenspot-v2", "video-r1", "videorft", "vlm-r1-gui"),
)
"""Forms of which one file is one split: beside a file, the name of a split would do nothing."""
_PICTURES_BY_SPLIT = ("coco", "lvis")
"""Of these, the forms of which a split names the folder of the pictures too."""
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FormOption:
    """One option of a form."""

    name: str
    kind: Any
    """The type that its values have to have."""
    default: Any

    def about(self) -> str:
        """Such as `a number, or null; default null`."""
        return f"{kind_name(self.kind)}; default {plain_value(self.default)}"

    def checked(self, value: Any, what: str) -> Any:
        """`value` as the type says. `what` names the setting. Raises DataError."""
        reason = f"write {kind_name(self.kind)}"
        if isinstance(value, bool) and bool not in _members(self.kind):
            raise DataError(f"{what}: {self.name} is {value!r}; {reason}")
        try:
            return TypeAdapter(self.kind).validate_python(value)
        except ValidationError as error:
            raise DataError(f"{what}: {self.name} is {value!r:.80}; {reason}") from error


def form_options(name: str) -> dict[str, FormOption]:
    """The options that the form's reader takes, by name."""
    reader = _reader(name)
    kinds = typing.get_type_hints(reader, include_extras=True)
    return {
        key: FormOption(name=key, kind=kinds[key], default=parameter.default)
        for key, parameter in inspect.signature(reader).parameters.items()
        if key not in _FIXED
    }


def form_notes(name: str) -> str:
    """What the form's reader says of its rows and options."""
    return inspect.getdoc(_reader(name)) or ""


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

    `what` names the setting that holds `options`. Raises DataError for an option that the form has not or whose value
    is of another type, for a split where one file is given that holds no splits, and whatever its reader says of the
    file.
    """
    known = form_options(name)
    for key in options:
        if key not in known:
            offer = f"it takes: {', '.join(known)}" if known else "it takes none"
            raise DataError(f"{what}: the form {name} has no option {key!r}{nearest(key, list(known))}; {offer}")
    given = {key: known[key].checked(value, what) for key, value in options.items()}
    _check_split(name, path, split)
    rows: Rows = _reader(name)(path, split=split, images=images, quarantine=quarantine, **given)
    return rows


def kind_name(kind: Any) -> str:
    """A type in words, such as `a number, or null`."""
    members = _members(kind)
    names = [_kind_word(member) for member in members if member is not types.NoneType]
    return " or ".join(names) + (", or null" if types.NoneType in members else "")


def _kind_word(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        plain, *limits = typing.get_args(kind)
        bounds = [bound.ge for limit in limits for bound in getattr(limit, "metadata", ()) if hasattr(bound, "ge")]
        return _kind_word(plain) + "".join(f" of {bound:g} or more" for bound in bounds)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping such as {name: text}"
    if origin is list and typing.get_origin(typing.get_args(kind)[0]) is typing.Literal:
        return f"a list, each {_kind_word(typing.get_args(kind)[0])}"
    return "a list such as [a, b]" if origin is not None else _NAMES[kind]


def _members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def plain_value(value: Any) -> str:
    """A default as a recipe writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(plain_value, value))}]"
    return str(value)


def _check_split(name: str, path: Path, split: str | None) -> None:
    """Raise DataError for a split that would do nothing."""
    if split is None or not path.is_file() or name not in _ONE_SPLIT or split in path.name:
        return
    if name in _PICTURES_BY_SPLIT and any((base / split).is_dir() for base in (path.parent, path.parent.parent)):
        return
    raise DataError(f"{path} is one file, in which the form {name} has no split {split!r}; take the split out")


def _reader(name: str) -> Callable[..., Rows]:
    reader: Callable[..., Rows] = load_reference(FORMS[name].reader)
    return reader
