"""The commands about rewards: list, explain, document, and score completions without a trainer."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

if TYPE_CHECKING:
    from vlrft.rewards.call import Scorer
    from vlrft.types import Score

rewards_app = typer.Typer(help="List, explain and document the built-in rewards.", no_args_is_help=True)

FIELDS = ("completion", "target", "meta", "id")
"""Of a line of --jsonl; every other field is read as a key of meta."""
_USUAL_NAMES = {
    "completion": ("completions", "response", "prediction", "output", "text", "generated_text", "solution_str"),
    "target": ("targets", "answer", "solution", "ground_truth", "gt", "label", "reference"),
}
"""What other tools call the fields, for messages."""
_LIBRARIES = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}


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
        str,
        typer.Argument(help="Reward name ('vlrft rewards ls'), package.module:function or path/to/file.py:function."),
    ],
    completion: Annotated[str | None, typer.Option(help="The model's text, with its tags.")] = None,
    target: Annotated[str | None, typer.Option(metavar="JSON", help="What the reward judges against.")] = None,
    meta: Annotated[str | None, typer.Option(metavar="JSON", help='An object, e.g. \'{"labels": ["cat"]}\'.')] = None,
    options: Annotated[str | None, typer.Option(metavar="JSON", help="The reward's options, an object.")] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Lines with completion, target, meta and id, other fields being keys of meta; '-' reads stdin. It "
            "stops at the first line that cannot be scored.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error as well.")] = False,
) -> None:
    """Score completions: one line of JSON with value, parts and flags for each."""
    from vlrft.log import UserError

    with _tracebacks(debug):
        call = _scorer(name, _object(name, "--options", options))
        known = _object(name, "--meta", meta)
        if jsonl is not None:
            if completion is not None or target is not None:
                raise UserError("give --jsonl FILE, or --completion and --target, not both")
            _score_file(name, call, jsonl, known)
            return
        if completion is None:
            raise UserError(f"reward {name!r}: give --completion TEXT and --target JSON, or --jsonl FILE")
        wanted = None if target is None else _json(name, "--target", target)
        place = _Place(name, f"reward {name!r}", "--target", "--meta", has_target=target is not None)
        typer.echo(_line(_score(call, place, completion, wanted, known)))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a completion comes from, for messages."""

    reward: str
    where: str
    target: str
    meta: str
    row: Mapping[str, Any] | None = None
    """The line of a file; None for what stands on the command line."""
    has_target: bool = True

    def blamed(self, message: str, meta: Mapping[str, Any]) -> str:
        """Which of target and meta an error is about, going by the keys and texts of meta that it names."""
        from vlrft.rewards.keys import documented

        if any(isinstance(value, str) and repr(value) in message for value in meta.values()):
            return self.meta
        words = set(re.findall(r"\w+", message))
        of_meta = bool(words & {"meta", *documented(self.reward)})
        if of_meta and "target" not in words:
            return self.meta
        if not self.has_target:
            present = f" ({_present(self.row, 'target')})" if self.row is not None else ""
            return f"{self.target} is missing{present}"
        return f"{self.target} or {self.meta}" if of_meta else self.target


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


def _scorer(name: str, options: Mapping[str, Any]) -> Scorer:
    from vlrft.log import UserError
    from vlrft.registry import UnknownNameError
    from vlrft.rewards.call import scorer

    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for scores
            return scorer(name, options)
    except UnknownNameError:
        raise
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(str(error)) from error


def _score_file(name: str, call: Scorer, path: Path, meta: Mapping[str, Any]) -> None:
    """Score every line. Raises UserError, naming line, id and field, at the first that cannot be scored.

    The scores of the lines before it have been printed by then, each as soon as it was known.
    """
    from vlrft.log import UserError

    scored = 0
    for number, row in _rows(name, path):
        where = _where(name, path, number, row.get("id"))
        place = _Place(name, where, "field 'target'", "field 'meta'", row, has_target="target" in row)
        completion = _completion(place, row)
        own = row.get("meta")
        if own is not None and not isinstance(own, dict):
            raise UserError(f"{place.where}: field 'meta' must be an object, got {own!r:.80}")
        columns = {key: value for key, value in row.items() if key not in FIELDS and key not in call.options}
        result = _score(call, place, completion, row.get("target"), {**meta, **columns, **(own or {})})
        typer.echo(_line(result))
        scored += 1
    if not scored:
        raise UserError(f"--jsonl {path} has no lines; each one is an object with completion, target and meta")


def _where(name: str, path: Path, number: int, sample: Any = None) -> str:
    return f"reward {name!r}, line {number} of {path}{f' (id {sample!r})' if sample is not None else ''}"


def _rows(name: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of every line that is not blank. Raises UserError for one that is no object."""
    from vlrft.log import UserError

    with _opened(path) as lines:
        for number, raw in enumerate(lines, 1):
            where = _where(name, path, number)
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{where}: not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start}); give a file of "
                    "JSON lines in UTF-8"
                ) from error
            if not line:
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: expected an object with completion, target and meta, got {line!r:.80}")
            yield number, row


def _opened(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    from vlrft.log import UserError

    try:
        return contextlib.nullcontext(typer.get_binary_stream("stdin")) if str(path) == "-" else path.open("rb")
    except OSError as error:
        raise UserError(f"--jsonl {path}: {error.strerror}; give a file of JSON lines") from error


def _completion(place: _Place, row: Mapping[str, Any]) -> str:
    """The text under `completion`, or under its chat messages."""
    from vlrft.log import UserError
    from vlrft.rewards.messages import text_of

    if "completion" not in row:
        raise UserError(f"{place.where}: field 'completion' must be a text, got None: {_present(row, 'completion')}")
    try:
        return text_of(row["completion"])
    except TypeError as error:
        raise UserError(f"{place.where}: field 'completion' must be a text or chat messages: {error}") from error


def _present(row: Mapping[str, Any], wanted: str) -> str:
    """The fields that a line has, and which of them is perhaps the wanted one."""
    usual = next((key for key in _USUAL_NAMES[wanted] if key in row), None)
    hint = f"; rename {usual!r} to {wanted!r}?" if usual is not None else ""
    return f"the line has {', '.join(map(repr, row)) or 'no field at all'}{hint}"


def _score(call: Scorer, place: _Place, completion: str, target: Any, meta: Mapping[str, Any]) -> Score:
    from vlrft.log import UserError
    from vlrft.rewards.base import RewardError, TargetError
    from vlrft.rewards.finding import is_builtin

    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a reward of the user's own prints is no score
            return call(completion, target, meta)
    except TargetError as error:
        raise UserError(f"{place.where}: {place.blamed(str(error), meta)}: {error}") from error
    except RewardError as error:
        raise UserError(f"{place.where}: {error}") from error
    except (Exception, SystemExit) as error:
        raised = _outside_of_us(error)
        if raised and not is_builtin(place.reward):
            said = f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else _kind_of(error)
            raise UserError(f"{place.where}: {said} ({raised}); --debug shows the whole traceback") from error
        # What a built-in reward says of its options, its extra or its sandbox; anything else is a bug of ours.
        if isinstance(error, ValueError | ImportError) or type(error).__name__ == "SandboxUnavailable":
            raise UserError(f"{place.where}: {error}") from error
        raise


def _kind_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _outside_of_us(error: BaseException) -> str | None:
    """File, line and function of the innermost call outside of this package and of libraries, if there is one."""
    here = Path(__file__).resolve().parent
    known = [here, *(entry.resolve() for entry in here.iterdir() if entry.is_symlink()), *map(Path, _LIBRARIES)]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        if file.is_file() and not any(file.is_relative_to(folder) for folder in known):
            return f"{file.name}, line {frame.lineno}, in {frame.name}"
    return None


def _line(result: Score) -> str:
    said = {"value": result.value, "parts": dict(result.parts), "flags": list(result.flags)}
    return json.dumps(said, ensure_ascii=False)


def _json(name: str, option: str, text: str) -> Any:
    from vlrft.log import UserError

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"reward {name!r}, {option}: not JSON: {error}; a text needs its quotes, as in '\"B\"'"
        ) from error


def _object(name: str, option: str, text: str | None) -> dict[str, Any]:
    from vlrft.log import UserError

    value = {} if text is None else _json(name, option, text)
    if not isinstance(value, dict):
        raise UserError(f"reward {name!r}, {option}: expected a JSON object, got {text!r:.80}")
    return value
