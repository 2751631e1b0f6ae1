"""`vlrft doctor` and `vlrft plan`: what this machine can do, and whether a recipe fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

JSON = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was found as JSON.")]


def doctor(json_file: JSON = None) -> None:
    """Compare this machine with what vlrft is tested on. Exit code 1: something that is installed is broken."""
    from vlrft.doctor import examine

    diagnosis = examine()
    _write(json_file, diagnosis.as_json())
    typer.echo(diagnosis.as_text())
    raise typer.Exit(1 if diagnosis.broken else 0)


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name ('vlrft recipes ls') or file (./my.yaml).")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs that train together; 0 = one process on the CPU.")] = 1,
    gpu_mem: Annotated[
        float | None, typer.Option(min=0.1, metavar="GB", help="GiB of one GPU (with --gpus 0: of the machine).")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Measure the prompts of so many rows, evenly spread.")] = 1000,
    json_file: JSON = None,
) -> None:
    """Say how much memory a recipe needs, what binds, and what to change. Exit code 1: it does not fit."""
    from vlrft.compose import compose
    from vlrft.log import configure_logging
    from vlrft.plan import plan as make_plan

    configure_logging()
    memory = None if gpu_mem is None else int(gpu_mem * 2**30)
    made = make_plan(compose(recipe, list(changes or [])), gpus=gpus, memory=memory, rows=rows)
    _write(json_file, made.as_json())
    typer.echo(made.as_text())
    raise typer.Exit(1 if made.fits is False else 0)


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
