"""What published forms and generators take as options, from their readers' signatures and their option blocks.

`vlrft data ls NAME` prints one entry; `python -m vlrft.data.option_pages docs/options.md` writes them all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import copy
from pathlib import Path

from pydantic.fields import FieldInfo

from vlrft.config import Block
from vlrft.data.forms import form_notes, form_options, kind_name, plain_value
from vlrft.data.layouts import LAYOUTS
from vlrft.data.prep import FORMS
from vlrft.data.problems import DataError
from vlrft.data.shapes import ShapesOptions
from vlrft.data.synthetic import GENERATORS, build_generator
from vlrft.registry import nearest

_SET_BY_THE_SPLIT = "role"
_HEAD = """# Options

What goes into the `options` of a source, or behind `--option KEY=VALUE` of `vlrft data convert`. `vlrft data ls NAME`
prints one entry. A value of another type, and an option that is not listed, are errors.

This page is written by `python -m vlrft.data.option_pages docs/options.md`.
"""


def names() -> list[str]:
    """Everything that `entry` knows."""
    return list(dict.fromkeys([*FORMS, *LAYOUTS, "native", *_blocks()]))


def entry(name: str) -> list[str]:
    """Lines about a form, layout or generator: what it is, then one line per option. Raises DataError."""
    if name in LAYOUTS:
        space = "space: text, the coordinate space of the answers, where they have coordinates"
        return [f"{name}: layout of rows; {LAYOUTS[name].ABOUT}", f"  {space}"]
    if name == "native":
        return ["native: our own rows; they state everything themselves and take no options"]
    if name in FORMS:
        options = [f"  {option.name}: {option.about()}" for option in form_options(name).values()]
        notes = [f"  | {line}".rstrip() for line in form_notes(name).splitlines()]
        return [f"{name}: {FORMS[name].about}", *(options or ["  takes no options"]), *notes]
    if name in _blocks():
        use = "format: shapes" if name == "shapes" else f"format: synthetic, options: {{generator: {name}}}"
        return [f"{name}: generated scenes ({use})", *(f"  {line}" for line in _block_lines(_blocks()[name]))]
    known = names()
    raise DataError(
        f"unknown form, layout or generator {name!r}{nearest(name, known) or ';'} known: {', '.join(known)}"
    )


def page() -> str:
    """docs/options.md."""
    return "\n".join([_HEAD, "## Published forms\n", *_form_parts(), "## Generated scenes\n", *_generator_parts()])


def main(path: str) -> None:
    """Write the page."""
    Path(path).write_text(page(), encoding="utf-8")


def _form_parts() -> Iterator[str]:
    for name in sorted(FORMS):
        yield f"### {name}\n\n{FORMS[name].about}.\n\n{form_notes(name)}\n"
        rows = [
            f"| `{option.name}` | {kind_name(option.kind)} | `{plain_value(option.default)}` |"
            for option in form_options(name).values()
        ]
        yield (
            "\n".join(["| option | value | default |", "| --- | --- | --- |", *rows]) + "\n"
            if rows
            else "No options.\n"
        )


def _generator_parts() -> Iterator[str]:
    for name, block in _blocks().items():
        use = "`format: shapes`" if name == "shapes" else f"`format: synthetic`, `options: {{generator: {name}, ...}}`"
        rows = [
            f"| `{key}` | `{_default(field)}` | {_limits(field)} | {' '.join((field.description or '').split())} |"
            for key, field in _fields(block)
        ]
        head = ["| option | default | limits | what it says |", "| --- | --- | --- | --- |"]
        yield "\n".join([f"### {name}\n\n{use}\n", *head, *rows]) + "\n"


def _blocks() -> dict[str, type[Block]]:
    """The option block of every generator by name."""
    return {"shapes": ShapesOptions, **{name: build_generator(name).options for name in GENERATORS}}


def _fields(block: type[Block]) -> list[tuple[str, FieldInfo]]:
    """Its options; one that only changes a default is described where it was made."""
    bases = [base for base in block.__mro__ if issubclass(base, Block)]

    def described(key: str) -> FieldInfo:
        told = next(
            (b.model_fields[key] for b in bases if key in b.model_fields and b.model_fields[key].description), None
        )
        field = copy(block.model_fields[key])
        field.description = told.description if told is not None else None
        return field

    return [(key, described(key)) for key in block.model_fields if key != _SET_BY_THE_SPLIT]


def _block_lines(block: type[Block]) -> list[str]:
    lines = []
    for key, field in _fields(block):
        said = "; ".join(part for part in (_limits(field), " ".join((field.description or "").split())) if part)
        lines.append(f"{key}: default {_default(field)}{f'; {said}' if said else ''}")
    return lines


def _default(field: FieldInfo) -> str:
    return plain_value(field.get_default(call_default_factory=True))


def _limits(field: FieldInfo) -> str:
    """Such as `above 0` or `one of mp4, frames`."""
    words = {
        "gt": "above {}",
        "ge": "{} or more",
        "lt": "below {}",
        "le": "{} or less",
        "min_length": "at least {} of them",
    }
    said = [
        text.format(getattr(limit, name))
        for limit in field.metadata
        for name, text in words.items()
        if getattr(limit, name, None) is not None
    ]
    choices = field.annotation if "Literal" in str(field.annotation) else None
    if choices is not None:
        said.append(kind_name(choices))
    return ", ".join(said)


if __name__ == "__main__":
    main(sys.argv[1])
