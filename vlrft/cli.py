"""The `vlrft` command. It only calls the Python API; heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vlrft import __version__
from vlrft.cli_data import data_app
from vlrft.cli_machine import doctor, plan
from vlrft.cli_rewards import reward, rewards_app

USER_ERRORS = frozenset(
    {
        "vlrft.data.problems.DataError",
        "vlrft.engines.canary.StaleWeightsError",
        "vlrft.log.UserError",
        "vlrft.models.base.PromptError",
        "vlrft.registry.LoadError",
        "vlrft.registry.MissingAttributeError",
        "vlrft.registry.UnknownNameError",
        "vlrft.report.ReportError",
        "vlrft.rewards.base.RewardError",
        "vlrft.rewards.base.TargetError",
        "vlrft.rewards.chart.sandbox.SandboxUnavailable",
        "vlrft.state.NonFiniteError",
    }
)
"""Exceptions (and their subclasses) shown as one message without a traceback; named, so that none is imported here."""

app = typer.Typer(
    help="Reinforcement fine-tuning of vision-language models with verifiable rewards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help takes 0.1 s; loading rich for boxes around it, three times as long
)
recipes_app = typer.Typer(help="List, show and copy the packaged recipes.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(rewards_app, name="rewards")
app.add_typer(data_app, name="data")
app.command()(reward)
app.command()(doctor)
app.command()(plan)

Changes = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides, e.g. train.steps=200.")]


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C or SIGTERM: one line that says how to go on, and the exit code of a process that the signal ended."""
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(str(stop) or "interrupted before the run began", err=True)
        raise typer.Exit(getattr(stop, "exit_status", 130)) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vlrft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="Name ('vlrft recipes ls') or file (./my.yaml).")
    ] = None,
    changes: Changes = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Go on with an interrupted run; give no recipe then.")
    ] = None,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Go on with this recipe's run in train.output_dir, if there is one.")
    ] = False,
    nproc: Annotated[int, typer.Option(min=1, help="Processes on this machine that train together, one per GPU.")] = 1,
    nnodes: Annotated[
        int | None, typer.Option(min=1, help="Machines that train together; start this command on each of them.")
    ] = None,
    node_rank: Annotated[
        int | None, typer.Option(min=0, help="With --nnodes: which of them this one is, from 0.")
    ] = None,
    master: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="With --nnodes: the machine of --node-rank 0.")
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="Start so many times again when a process dies of no error of yours.")
    ] = 0,
    grace: Annotated[
        float, typer.Option(min=0.0, help="With several processes: seconds that they get to save after a SIGTERM.")
    ] = 600.0,
) -> None:
    """Train as a recipe says."""
    import vlrft
    from vlrft.log import UserError, configure_logging

    if resume is not None and auto_resume:
        raise UserError("give --resume RUN_DIR or --auto-resume, not both")
    if nproc > 1 or (nnodes or 1) > 1 or max_restarts:
        from vlrft.launch import nodes_of, run_ranks

        given = ["train", *([recipe] if recipe else []), *(changes or [])]
        how = ["--resume", str(resume)] if resume is not None else ["--auto-resume"]
        first = [*given, *(how if resume is not None or auto_resume else [])]
        status = run_ranks(
            first, nproc, nodes=nodes_of(nnodes, node_rank, master, nproc=nproc), grace=grace,
            max_restarts=max_restarts, restart_arguments=[*given, *how],
        )  # fmt: skip
        raise typer.Exit(status)

    overrides = list(changes or [])
    if recipe is not None and "=" in recipe:
        overrides.insert(0, recipe)
        recipe = None
    configure_logging()
    with _interruptible():
        run = vlrft.train(recipe, *overrides, resume="auto" if auto_resume else resume)
    for key, value in run.summary.items():
        if "/eval/" in key and isinstance(value, float):
            typer.echo(f"{key.replace('/eval/', ': '):40} {value:.3f}")
    typer.echo(f"run folder: {run.path}")
    if (run.path / "report.html").is_file():
        typer.echo(f"report:     {run.path / 'report.html'}")


@app.command()
def validate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name ('vlrft recipes ls') or file (./my.yaml).")],
    changes: Changes = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Read so many samples of each source; all by default.")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Read all pixels too, not just headers.")] = False,
    render: Annotated[
        bool, typer.Option("--render", help="Load the processor: show three prompts, measure all against the limits.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the findings as JSON.")
    ] = None,
) -> None:
    """Check rows, media, coordinates and rewards of a recipe before it costs anything. Exit code 1: problems."""
    import json

    from vlrft.compose import ConfigError, compose
    from vlrft.log import configure_logging
    from vlrft.validate import validate as check
    from vlrft.validate.unread import with_other_problems

    configure_logging()
    try:
        composed = compose(recipe, list(changes or []))
    except ConfigError as error:
        raise with_other_problems(recipe, error) from error
    report = check(composed, rows=rows, decode=decode, render=render)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report.as_json(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    typer.echo(report.as_text())
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def demo(
    changes: Changes = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
) -> None:
    """Teach a tiny model to see, offline, on a CPU, in minutes."""
    from vlrft import demo as demo_module
    from vlrft.log import configure_logging

    configure_logging()
    with _interruptible():
        demo_module.run(out, list(changes or []))


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that 'vlrft train' wrote to.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the model.")],
    merge: Annotated[bool, typer.Option("--merge", help="Of a run with adapters the whole model.")] = False,
    push: Annotated[str | None, typer.Option(metavar="REPO", help="Upload to this repository of the hub.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Export this one of RUN/checkpoints, not the trained model.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; as trained when left out.")] = None,
    vllm: Annotated[
        bool, typer.Option("--vllm/--no-vllm", help="Compare with vLLM too, where it is installed.")
    ] = True,
) -> None:
    """Write a run's model as a folder for transformers and vLLM, compared with the run's own."""
    from vlrft.export import export_run
    from vlrft.log import configure_logging

    configure_logging()
    done = export_run(run_dir, to, merge=merge, checkpoint=checkpoint, dtype=dtype, push_to=push, with_vllm=vllm)
    for line in done.checks:
        typer.echo(line)
    typer.echo(f"exported to {done.path}" + (f", uploaded: {done.url}" if done.url else ""))


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="Folder that 'vlrft train' wrote to.")]) -> None:
    """Write report.html from what a run left on disk."""
    from vlrft.report import write_report

    typer.echo(str(write_report(run_dir)))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"vlrft {__version__}")


@recipes_app.command("ls")
def recipes_ls() -> None:
    """List the packaged recipes."""
    from vlrft.recipe import recipe_names, recipe_summary

    names = recipe_names()
    width = max((len(name) for name in names), default=0)
    for name in names:
        typer.echo(f"{name:{width}}  {recipe_summary(name)}".rstrip())


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="Recipe name.")]) -> None:
    """Print a recipe."""
    from vlrft.recipe import recipe_path

    typer.echo(recipe_path(name).read_text(encoding="utf-8"), nl=False)


@recipes_app.command("cp")
def recipes_cp(
    name: Annotated[str, typer.Argument(help="Recipe name.")],
    dest: Annotated[Path, typer.Argument(help="New file, or an existing folder.")],
) -> None:
    """Copy a recipe, to make it your own."""
    from vlrft.log import UserError
    from vlrft.recipe import recipe_path

    source = recipe_path(name)
    target = dest / source.name if dest.is_dir() else dest
    if target.exists():
        raise UserError(f"{target} exists already; choose another name or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    typer.echo(f"{target} written; run it with: vlrft train {target if target.is_absolute() else f'./{target}'}")


def is_user_error(error: BaseException) -> bool:
    """True for an exception whose message says all that the user needs."""
    return any(f"{kind.__module__}.{kind.__qualname__}" in USER_ERRORS for kind in type(error).__mro__)


def main() -> None:
    """Entry point: exit code 2 and one message for the user's errors, a traceback for ours."""
    from vlrft.memory import prefer_large_pages

    prefer_large_pages()
    try:
        app()
    except Exception as error:
        if not is_user_error(error):
            raise
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)
