"""The commands about data files: convert them, list the known forms, look into one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vlrft.log import UserError

data_app = typer.Typer(help="Convert data files, list known forms and layouts, look into a file.", no_args_is_help=True)

_SHOWN = 5
"""Kinds of reasons that a conversion prints."""
_WIDTH = 100
"""Characters of one printed value."""
_REASON = 400
"""Characters of one printed reason: what to do stands at its end."""

Source = Annotated[str, typer.Argument(metavar="IN", help="File, folder, or hf://org/name.")]
Split = Annotated[str | None, typer.Option(help="Name of the split.")]


@data_app.command("ls")
def data_ls(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show the options of this one.")] = None,
) -> None:
    """List the forms of published files, the row layouts that are read and the generators; of NAME the options."""
    from vlrft.data.layouts import LAYOUTS
    from vlrft.data.prep import FORMS
    from vlrft.data.synthetic import GENERATORS

    if name is not None:
        from vlrft.data.option_pages import entry

        typer.echo("\n".join(entry(name)))
        return
    width = max(len(name) for name in (*FORMS, *LAYOUTS, "native"))
    typer.echo("forms of published files (seen: tested on published rows; documented: written from documentation)")
    for name, form in sorted(FORMS.items()):
        typer.echo(f"  {name:{width}}  {'seen' if form.seen else 'documented':10}  {form.about}")
    typer.echo("layouts of rows, told by their columns")
    typer.echo(f"  {'native':{width}}  id, prompt, images, videos, answer, task, meta, boxes, width, height")
    for name, layout in LAYOUTS.items():
        typer.echo(f"  {name:{width}}  {layout.ABOUT}")
    typer.echo(f"generated scenes: shapes; with format: synthetic and options.generator: {', '.join(GENERATORS)}")
    typer.echo("options of one of them: vlrft data ls NAME")


@data_app.command("convert")
def data_convert(
    form: Annotated[str, typer.Argument(metavar="FORM", help="Form or layout ('vlrft data ls'), or auto.")],
    source: Source,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the rows go: .jsonl or .parquet.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the media; paths are written relative to it.")
    ] = None,
    split: Split = None,
    to: Annotated[str | None, typer.Option(metavar="LAYOUT", help="Write this layout in place of native rows.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of rows that state none; answers take its form.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the form; of layouts: space.")
    ] = None,
    extract: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write embedded media as files into this folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write native rows (or another layout) from published files or rows of another framework."""
    from vlrft.data.convert import Request, convert, grouped

    report = convert(
        Request(
            form=form, source=source, out=out, images=images, split=split, to=to, task=task,
            options=_options(option or []), extract=extract, force=force,
        )
    )  # fmt: skip
    left = len(report.rows_left_out)
    told = f", told by {report.sign}" if report.sign else ""
    typer.echo(f"{source}: {report.form}{told}")
    typer.echo(f"read {report.written + left}, written {report.written}, left out {left}: {out}")
    _print_kinds(grouped(report.rows_left_out))
    if report.parts_left_out:
        typer.echo(f"left out of rows that were written: {len(report.parts_left_out)}")
        _print_kinds(grouped(report.parts_left_out))
    if report.flagged:
        typer.echo(f"of those written, kept as published and flagged in meta.flags: {len(report.flagged)}")
        _print_kinds(grouped(report.flagged))
    if report.listing is not None:
        typer.echo(f"all that was left out, with reasons: {report.listing}")
    if report.aside:
        kept = ", ".join(f"{name} ({count} rows)" for name, count in sorted(report.aside.items()))
        typer.echo(f"kept under _vlrft, for {to} has no place for it: {kept}")
    typer.echo(f"media paths are relative to {report.folder}; a recipe says so with the source's images")


@data_app.command("head")
def data_head(
    source: Source,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="Rows to show.")] = 3,
    split: Split = None,
    form: Annotated[str, typer.Option(metavar="FORM", help="Form or layout ('vlrft data ls'), or auto.")] = "auto",
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the form.")] = None,
) -> None:
    """Say in which format a file is, and show its columns and first rows, or those that its form makes of it."""
    from vlrft.data.detect import check_format, detect_format
    from vlrft.data.layouts import LAYOUTS

    check_format(form, "--form")
    name, sign = detect_format(source, split) if form == "auto" else (form, "--form")
    typer.echo(f"{source}: {name}, by {sign}")
    if name == "native" or name in LAYOUTS:
        if option:
            raise UserError(f"--option: {name} rows are shown as they are; take --option out")
        _head_of_table(source, split, name, rows)
    elif form == "auto":
        typer.echo(f"see its rows with: vlrft data convert {name} {source} --out rows.jsonl, or with --form {name}")
    else:
        _head_of_form(source, split, name, rows, _options(option or []))


def _head_of_form(source: str, split: str | None, name: str, rows: int, options: Mapping[str, Any]) -> None:
    from vlrft.data.forms import read_form
    from vlrft.data.prep import FORMS
    from vlrft.data.problems import Quarantine

    if name not in FORMS or not Path(source).exists():
        raise UserError(f"the form {name} is read from published files, and {source} is none; check both")
    quarantine = Quarantine(policy="skip")
    found = read_form(
        name, Path(source).expanduser(), split=split, images=None, quarantine=quarantine, options=options,
        what="--option",
    )  # fmt: skip
    shown = 0
    for where, row in itertools.islice(found, rows):
        typer.echo(f"{where}, as a native row:")
        _print_row(row)
        shown += 1
    if not shown:
        typer.echo("no row of it can be used")
    for item in quarantine.skipped[:_SHOWN]:
        typer.echo(f"left out: {item.where}: {_short(item.reason, _REASON)}")


def _head_of_table(source: str, split: str | None, name: str, rows: int) -> None:
    from vlrft.data.layouts import LAYOUTS, to_native
    from vlrft.data.problems import SampleError
    from vlrft.data.tables import RowStream

    found = list(itertools.islice(RowStream(source, split=split), rows))
    columns: dict[str, set[str]] = {}
    for raw in found:
        if not isinstance(raw.columns, SampleError):
            for key, value in raw.columns.items():
                columns.setdefault(key, set()).add(type(value).__name__)
    typer.echo("columns: " + ", ".join(f"{key} ({' or '.join(sorted(kinds))})" for key, kinds in columns.items()))
    for raw in found:
        if isinstance(raw.columns, SampleError):
            typer.echo(f"{raw.columns}")
            continue
        typer.echo(f"{raw.where}")
        _print_row(raw.columns)
        if name in LAYOUTS:
            typer.echo("  as a native row:")
            try:
                _print_row(to_native(name, raw.columns, where=raw.where), indent="    ")
            except SampleError as error:
                typer.echo(f"    cannot be read: {error.reason}")


def _print_kinds(kinds: Sequence[tuple[int, Any]]) -> None:
    for count, first in kinds[:_SHOWN]:
        typer.echo(f"  {count:>6} x {_short(first.reason, _REASON)}  (first: {first.where})")
    if len(kinds) > _SHOWN:
        typer.echo(f"  and {len(kinds) - _SHOWN} more kinds of reasons")


def _print_row(row: Mapping[str, Any], indent: str = "  ") -> None:
    for key, value in row.items():
        typer.echo(f"{indent}{key}: {_short(_shown(value))}")


def _shown(value: Any) -> str:
    def other(item: Any) -> str:
        return f"<{len(item)} bytes>" if isinstance(item, bytes) else repr(item)

    return json.dumps(value, ensure_ascii=False, default=other)


def _short(text: str, width: int = _WIDTH) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _options(given: list[str]) -> dict[str, Any]:
    """`key=value` texts, values as YAML."""
    import yaml

    options: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--option {text!r} is not KEY=VALUE; write for example --option space=norm_1000")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--option {text!r}: the value is not valid YAML; quote it") from error
    return options
