"""The commands about rewards: list, explain, document, and score completions without a trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vlrft.rewards.call import Scorer
    from vlrft.types import Score

rewards_app = typer.Typer(help="List, explain and document the built-in rewards.", no_args_is_help=True)


@rewards_app.command("ls")
def rewards_ls() -> None:
    """List the built-in rewards."""
    from vlrft.rewards import names
    from vlrft.rewards.describe import describe

    listed = names()
    width = max(len(name) for name in listed)
    for name in listed:
        typer.echo(f"{name:{width}}  {describe(name).summary}".rstrip())


@rewards_app.command("show")
def rewards_show(name: Annotated[str, typer.Argument(help="Reward name, e.g. box.iou.")]) -> None:
    """Explain one reward: formula, range, target form, example."""
    from vlrft.rewards.describe import as_text, describe

    typer.echo(as_text(describe(name)))


@rewards_app.command("docs")
def rewards_docs(
    out: Annotated[Path, typer.Option(help="Folder of the pages; missing ones are made.")] = Path("docs/rewards"),
) -> None:
    """Write one Markdown page per family of rewards, from the docstrings."""
    from vlrft.rewards.pages import pages

    written = pages()
    out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (out / name).write_text(text, encoding="utf-8")
    typer.echo(f"{len(written)} pages written to {out}")


def reward(
    name: Annotated[str, typer.Argument(help="Reward name ('vlrft rewards ls'), or package.module:function.")],
    completion: Annotated[str | None, typer.Option(help="The model's text, with its tags.")] = None,
    target: Annotated[str | None, typer.Option(metavar="JSON", help="What the reward judges against.")] = None,
    meta: Annotated[str | None, typer.Option(metavar="JSON", help='An object, e.g. \'{"labels": ["cat"]}\'.')] = None,
    options: Annotated[str | None, typer.Option(metavar="JSON", help="The reward's options, an object.")] = None,
    jsonl: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Lines with completion, target and meta; '-' reads stdin.")
    ] = None,
) -> None:
    """Score completions: one line of JSON with value, parts and flags for each."""
    from vlrft.log import UserError

    call = _scorer(name, _object(name, "--options", options))
    if jsonl is not None:
        if completion is not None or target is not None:
            raise UserError("give --jsonl FILE, or --completion and --target, not both")
        _score_file(name, call, jsonl, _object(name, "--meta", meta))
        return
    if completion is None:
        raise UserError(f"reward {name!r}: give --completion TEXT and --target JSON, or --jsonl FILE")
    wanted = None if target is None else _json(name, "--target", target)
    result = _score(call, f"reward {name!r}", completion, wanted, _object(name, "--meta", meta))
    typer.echo(_line(result))


def _scorer(name: str, options: Mapping[str, Any]) -> Scorer:
    from vlrft.log import UserError
    from vlrft.registry import UnknownNameError
    from vlrft.rewards.call import scorer

    try:
        return scorer(name, options)
    except UnknownNameError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def _score_file(name: str, call: Scorer, path: Path, meta: Mapping[str, Any]) -> None:
    """Score every line. Raises UserError, naming line and field, at the first that cannot be scored."""
    from vlrft.log import UserError

    try:
        source = typer.get_text_stream("stdin") if str(path) == "-" else path.open(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--jsonl {path}: {error.strerror}; give a file of JSON lines") from error
    with source as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"reward {name!r}, line {number} of {path}"
            row = _json_at(where, line)
            if not isinstance(row, dict):
                raise UserError(
                    f"{where}: expected an object with completion, target and meta, got {line.strip()!r:.80}"
                )
            completion, own = row.get("completion"), row.get("meta")
            if not isinstance(completion, str):
                raise UserError(f"{where}: field 'completion' must be a text, got {completion!r:.80}")
            if own is not None and not isinstance(own, dict):
                raise UserError(f"{where}: field 'meta' must be an object, got {own!r:.80}")
            result = _score(call, where, completion, row.get("target"), {**meta, **(own or {})})
            typer.echo(_line(result))


def _score(call: Scorer, where: str, completion: str, target: Any, meta: Mapping[str, Any]) -> Score:
    from vlrft.log import UserError
    from vlrft.rewards.base import TargetError

    try:
        return call(completion, target, meta)
    except TargetError as error:
        raise UserError(f"{where}: field 'target' or 'meta': {error}") from error
    except (ValueError, ImportError) as error:
        raise UserError(f"{where}: {error}") from error


def _line(result: Score) -> str:
    said = {"value": result.value, "parts": dict(result.parts), "flags": list(result.flags)}
    return json.dumps(said, ensure_ascii=False)


def _json(name: str, option: str, text: str) -> Any:
    return _json_at(f"reward {name!r}, {option}", text)


def _json_at(where: str, text: str) -> Any:
    from vlrft.log import UserError

    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}; a text needs its quotes, as in '\"B\"'") from error


def _object(name: str, option: str, text: str | None) -> dict[str, Any]:
    from vlrft.log import UserError

    value = {} if text is None else _json(name, option, text)
    if not isinstance(value, dict):
        raise UserError(f"reward {name!r}, {option}: expected a JSON object, got {text!r:.80}")
    return value
