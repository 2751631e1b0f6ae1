"""The row layouts of other frameworks, to native rows and back.

What a layout cannot hold goes under the key `_vlrft` of its row, so that the way back gives the native row exactly:
`{"fields": {...}, "absent": [...]}`, fields that the layout's own columns do not give, and fields that they give but
the native row lacks. Where a row has that key, it wins over the columns; take it out of rows that are edited.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from vlrft.data.layouts import easyr1, openrlhf, r1v, sharegpt, swift, trl, verl
from vlrft.data.layouts.columns import REST
from vlrft.data.problems import SampleError
from vlrft.data.tasks.base import NATIVE_FIELDS

__all__ = ["LAYOUTS", "REST", "Layout", "from_native", "in_order", "matches_native", "same", "to_native"]


class Layout(Protocol):
    """What a module of this package offers."""

    ABOUT: str
    """Whose layout it is and its columns, in a line."""

    def matches(self, row: Mapping[str, Any]) -> str:
        """The sign by which `row` is taken for this layout, such as `problem and solution`; empty when it is not."""
        ...

    def to_native(self, row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """The row as a native one. Raises SampleError that starts with `where`."""
        ...

    def from_native(self, row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """The native row in this layout, as far as its columns go. None stands for a column that is left out."""
        ...


LAYOUTS: dict[str, Layout] = {
    "trl": trl,
    "r1v": r1v,
    "easyr1": easyr1,
    "verl": verl,
    "sharegpt": sharegpt,
    "ms-swift": swift,
    "openrlhf": openrlhf,
}
"""Layouts by name: modules, one file each."""

_WITH_RANGES = ("verl",)
"""Layouts whose videos may be a part of a file."""


_FOREIGN_MEDIA = ("image", "video")
_FOREIGN_TRUTH = ("solution", "ground_truth", "gt", "label", "reward_model", "messages", "conversations")


def matches_native(row: Mapping[str, Any]) -> str:
    """The sign of a native row: `prompt` with a native answer, and no column of another layout's media or truth.

    A prompt of messages counts where it is one user message, as the tasks read it. `boxes` with a space is ours alone,
    whatever other columns there are.
    """
    prompt, boxes = row.get("prompt"), row.get("boxes")
    foreign = _FOREIGN_MEDIA if isinstance(boxes, Mapping) and "space" in boxes else _FOREIGN_MEDIA + _FOREIGN_TRUTH
    if prompt is None or any(row.get(name) is not None for name in foreign):
        return ""
    if isinstance(prompt, list) and [isinstance(m, Mapping) and m.get("role") for m in prompt] != ["user"]:
        return ""
    found = [name for name in ("prompt", "answer", "boxes", "task") if row.get(name) is not None]
    return "columns " + ", ".join(found) if len(found) > 1 else ""


def to_native(name: str, row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """A row of the layout `name` as a native row, with what `_vlrft` holds.

    Raises SampleError, for a truth without content too, unless the row was written from a native one.
    """
    rest = _read_rest(row.get(REST), where)
    bare = {key: value for key, value in row.items() if value is not None and key != REST}
    made = LAYOUTS[name].to_native({**bare, REST: rest}, where=where)
    if not rest and _is_blank(made.get("answer")):
        raise SampleError(where, "states an empty answer; write the answer or drop the row")
    made |= rest.get("fields", {})
    for key in rest.get("absent", ()):
        made.pop(key, None)
    return in_order(made)


def from_native(name: str, row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """A native row in the layout `name`; what its columns cannot hold is under `_vlrft`. Raises SampleError."""
    native = {key: value for key, value in row.items() if value is not None}
    if REST in native:
        raise SampleError(where, f"has the column {REST!r}: it is a row of another layout; convert it to native first")
    layout = LAYOUTS[name]
    plain = native if name in _WITH_RANGES else _without_ranges(native)
    made = {key: value for key, value in layout.from_native(plain, where=where).items() if value is not None}
    back = layout.to_native({**made, REST: {"fields": native}}, where=where)
    lost = {key for key in native if key not in back or not same(back[key], native[key])}
    # An empty answer is one of a native row only: without its key here the way back would refuse it.
    lost |= {"answer"} if _is_blank(native.get("answer")) else set()
    fields = {key: value for key, value in native.items() if key in lost}
    absent = [key for key in back if key not in native]
    if fields or absent:
        made[REST] = {key: held for key, held in (("fields", fields), ("absent", absent)) if held}
    return made


def _without_ranges(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the paths alone of clips that are a part of a file: its columns take no more."""
    if not isinstance(row.get("videos"), list | tuple):
        return row
    return {**row, "videos": [_path_alone(item) for item in row["videos"]]}


def _path_alone(item: Any) -> Any:
    ours = isinstance(item, Mapping) and isinstance(item.get("path"), str) and item.keys() <= {"path", "start", "end"}
    return item["path"] if ours else item


def in_order(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its native fields in their usual order, other columns after them."""
    return {**{name: row[name] for name in NATIVE_FIELDS if name in row}, **row}


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, all the way down: 1, 1.0 and True are three values."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _is_blank(answer: Any) -> bool:
    return isinstance(answer, str) and not answer.strip()


def _read_rest(rest: Any, where: str) -> dict[str, Any]:
    if isinstance(rest, str):
        try:
            rest = json.loads(rest)
        except (ValueError, RecursionError) as error:
            raise SampleError(where, f"`{REST}` is not valid JSON ({error}); take the column out") from error
    if rest is None:
        return {}
    if not isinstance(rest, Mapping):
        raise SampleError(where, f"`{REST}` is {rest!r:.80} and not an object; take the column out")
    return {key: value for key, value in rest.items() if value is not None}
