"""The commands about rewards: list, explain, document, and score completions without a trainer."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vlrft.rewards.call import Scorer
    from vlrft.rewards.rows import RowJudge

rewards_app = typer.Typer(help="List, explain and document the built-in rewards.", no_args_is_help=True)


@rewards_app.command("ls")
def rewards_ls(
    prefix: Annotated[str, typer.Argument(help="Only names that begin so, e.g. box or compat.vlm_r1.")] = "",
) -> None:
    """List the built-in rewards, and what each of them needs."""
    from vlrft.log import UserError
    from vlrft.registry import nearest
    from vlrft.rewards import names
    from vlrft.rewards.describe import describe

    listed = [name for name in names() if name.startswith(prefix)]
    if not listed:
        families = sorted({name.partition(".")[0] for name in names()})
        raise UserError(f"no reward begins with {prefix!r}{nearest(prefix, families)}; families: {', '.join(families)}")
    width = max(len(name) for name in listed)
    for name in listed:
        described = describe(name)
        needs = f"  [{', '.join(described.needs)}]" if described.needs else ""
        typer.echo(f"{name:{width}}  {described.summary}{needs}".rstrip())


@rewards_app.command("show")
def rewards_show(
    name: Annotated[
        str, typer.Argument(help="Reward name, e.g. box.iou, package.module:attr or path/to/file.py:attr.")
    ],
) -> None:
    """Explain one reward: formula, range, options, target form, example."""
    from vlrft.rewards.describe import as_text, describe

    typer.echo(as_text(describe(name)))


@rewards_app.command("docs")
def rewards_docs(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the pages; missing ones are made. In a checkout of vlrft: docs/rewards."),
    ] = None,
) -> None:
    """Write one Markdown page per family of rewards, from the docstrings."""
    from vlrft.log import UserError
    from vlrft.rewards.pages import INDEX, pages

    folder = out if out is not None else Path("docs/rewards")
    if out is None and not (folder / INDEX).is_file():
        raise UserError("say where to write the pages: --out FOLDER (only a checkout of vlrft has its docs/rewards)")
    written = pages()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    typer.echo(f"{len(written)} pages written to {folder}")


def reward(
    name: Annotated[
        str | None,
        typer.Argument(help="Reward name ('vlrft rewards ls'), package.module:function or path/to/file.py:function."),
    ] = None,
    completion: Annotated[str | None, typer.Option(help="The model's text, with its tags.")] = None,
    target: Annotated[str | None, typer.Option(metavar="JSON", help="What the reward judges against.")] = None,
    meta: Annotated[str | None, typer.Option(metavar="JSON", help='An object, e.g. \'{"labels": ["cat"]}\'.')] = None,
    options: Annotated[str | None, typer.Option(metavar="JSON", help="The reward's options, an object.")] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Lines with completion, target, meta and id, other fields being keys of meta; '-' reads stdin. Exit "
            "code 1: some lines could not be scored; they have an error in place of a value.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Judge by all rewards of this recipe instead, as its run combines them."),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Of --recipe: the stage, where their rewards differ.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error as well.")] = False,
) -> None:
    """Score completions: one line of JSON with value, parts and flags for each."""
    from vlrft.log import UserError

    what = f"recipe {recipe}" if recipe is not None else f"reward {name!r}"
    if (name is None) == (recipe is None):
        raise UserError("give the name of one reward ('vlrft rewards ls' lists them), or --recipe RECIPE")
    if recipe is not None and options is not None:
        raise UserError("--options are those of one reward; in a recipe each has its kwargs")
    with _tracebacks(debug):
        known = _object(what, "--meta", meta)
        if jsonl is not None and (completion is not None or target is not None):
            raise UserError("give --jsonl FILE, or --completion and --target, not both")
        if jsonl is None and completion is None:
            raise UserError(f"{what}: give --completion TEXT and --target JSON, or --jsonl FILE")
        wanted = None if target is None else _json(what, "--target", target)
        if recipe is not None:
            _by_recipe(recipe, stage, completion, wanted, jsonl, known, debug=debug)
        elif name is not None:
            call = _scorer(name, _object(what, "--options", options))
            _by_name(name, call, completion, wanted, jsonl, known, has_target=target is not None, debug=debug)


def _by_name(
    name: str,
    call: Scorer,
    completion: str | None,
    target: Any,
    jsonl: Path | None,
    meta: Mapping[str, Any],
    *,
    has_target: bool,
    debug: bool,
) -> None:
    from vlrft.cli_lines import Place, as_json, score_lines, scored

    if jsonl is not None:
        score_lines(name, call, jsonl, meta, debug=debug)
    elif completion is not None:
        place = Place(name, f"reward {name!r}", "--target", "--meta", has_target=has_target)
        typer.echo(json.dumps(as_json(scored(call, place, completion, target, meta)), ensure_ascii=False))


def _by_recipe(
    recipe: str,
    stage: str | None,
    completion: str | None,
    target: Any,
    jsonl: Path | None,
    meta: Mapping[str, Any],
    *,
    debug: bool,
) -> None:
    from vlrft.cli_lines import as_json, judged, score_lines_by_recipe
    from vlrft.rewards.grouping import Row

    judge, known = _recipe_judge(recipe, stage)
    known = {**known, **meta}
    if jsonl is not None:
        score_lines_by_recipe(recipe, judge, jsonl, known, debug=debug)
    elif completion is not None:
        row = Row(text=completion, target=target, meta=known, where="--completion")
        typer.echo(json.dumps(as_json(judged(judge, [row], f"recipe {recipe}")[0]), ensure_ascii=False))


def _recipe_judge(recipe: str, stage: str | None) -> tuple[RowJudge, dict[str, Any]]:
    """The judge of a recipe's rewards for rows from elsewhere, and what its run tells the rewards of every sample."""
    from vlrft.compose import compose, stage_configs
    from vlrft.log import UserError
    from vlrft.rewards.rows import RowJudge
    from vlrft.rewards.settings import settings_of

    stages = [s for s in stage_configs(compose(recipe).config) if s.kind == "grpo" and stage in (None, s.name)]
    if not stages:
        raise UserError(f"recipe {recipe}: no stage with rewards{f' is called {stage!r}' if stage else ''}")
    judging = {json.dumps([s.config.rewards.model_dump(), s.config.data.output_mode]) for s in stages}
    if len(judging) > 1:
        names = ", ".join(s.name for s in stages)
        raise UserError(f"recipe {recipe}: its stages have different rewards; choose one by --stage: {names}")
    config = stages[0].config
    with _one_line():
        settings = settings_of(
            config.rewards, {}, meta=None, target="target", json_target=False, name=recipe, correct=None, combine=None,
            lenient=None, num_generations=None, max_errors=0,
        )  # fmt: skip
        judge = RowJudge(settings)
    known = {"output_mode": config.data.output_mode, "max_tokens": config.engine.max_completion_length}
    return judge, {**known, "task": config.data.task} if isinstance(config.data.task, str) else known


@contextlib.contextmanager
def _tracebacks(wanted: bool) -> Iterator[None]:
    """With --debug, show where an error came from before it is said in one line."""
    from vlrft.log import UserError

    try:
        yield
    except UserError as error:
        if wanted and error.__cause__ is not None:
            traceback.print_exception(error.__cause__, file=sys.stderr)
        raise


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What is wrong with rewards as an error of the user's; what their files print goes to standard error."""
    from vlrft.log import UserError
    from vlrft.registry import UnknownNameError

    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for scores
            yield
    except (UnknownNameError, UserError):
        raise
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(str(error)) from error


def _scorer(name: str, options: Mapping[str, Any]) -> Scorer:
    from vlrft.rewards.call import scorer

    with _one_line():
        return scorer(name, options)


def _json(what: str, option: str, text: str) -> Any:
    from vlrft.log import UserError

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what}, {option}: not JSON: {error}; a text needs its quotes, as in '\"B\"'") from error


def _object(what: str, option: str, text: str | None) -> dict[str, Any]:
    from vlrft.log import UserError

    value = {} if text is None else _json(what, option, text)
    if not isinstance(value, dict):
        raise UserError(f"{what}, {option}: expected a JSON object, got {text!r:.80}")
    return value
