"""Lines of a file of completions: read, scored by one reward or by a recipe's, and printed as lines of JSON.

What is wrong with one line costs that line only.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from vlrft.log import UserError

if TYPE_CHECKING:
    from vlrft.rewards.call import Scorer
    from vlrft.rewards.grouping import Row
    from vlrft.rewards.rows import RowJudge
    from vlrft.types import Score

FIELDS = ("completion", "target", "meta", "id")
"""Of a line; every other field is read as a key of meta."""
_USUAL_NAMES = {
    "completion": ("completions", "response", "prediction", "output", "text", "generated_text", "solution_str"),
    "target": ("targets", "answer", "solution", "ground_truth", "gt", "label", "reference"),
}
"""What other tools call the fields, for messages."""
_LIBRARIES = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
_NAMED = 5
"""So many bad lines are named at the end."""


class UnscoredError(UserError):
    """One completion that could not be scored. what: why, without where it stands."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.what = what


@dataclass(frozen=True, slots=True)
class Place:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a file that is not blank."""

    number: int
    where: str
    row: Mapping[str, Any]
    """{} where it could not be read."""
    unread: UnscoredError | None = None
    """Why it could not be read."""

    @property
    def id(self) -> Any:
        return self.row.get("id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The fields of a line, told apart."""

    place: Place
    completion: str
    target: Any
    meta: Mapping[str, Any]
    """The fields besides FIELDS, and those of its `meta`."""


class Output:
    """Prints one line of JSON for each line of a file, and counts those without a score."""

    def __init__(self, what: str, path: Path, debug: bool) -> None:
        self.what, self.path, self.debug = what, path, debug
        self.bad: list[int] = []
        self.count = 0

    def put(self, line: Line, result: Score | UnscoredError) -> None:
        """An error is printed on standard output only; with `debug` its traceback goes to standard error."""
        self.count += 1
        known = {"line": line.number, **({"id": line.id} if line.id is not None else {})}
        if isinstance(result, UnscoredError):
            self.bad.append(line.number)
            if self.debug:
                traceback.print_exception(result.__cause__ or result, file=sys.stderr)
            typer.echo(json.dumps({**known, "error": result.what}, ensure_ascii=False))
        else:
            typer.echo(json.dumps({**known, **as_json(result)}, ensure_ascii=False))

    def end(self) -> None:
        """Raises UserError for a file without lines, and Exit(1) after a message where lines have no score."""
        if not self.count:
            raise UserError(f"--jsonl {self.path} has no lines; each one is an object with completion, target and meta")
        if not self.bad:
            return
        named = ", ".join(map(str, self.bad[:_NAMED])) + (", ..." if len(self.bad) > _NAMED else "")
        typer.secho(
            f"error: {self.what}: {len(self.bad)} of {self.count} lines of {self.path} could not be scored ({named}); "
            "their lines of the output say why",
            fg=typer.colors.RED,
            err=True,
        )
        raise typer.Exit(1)


def score_lines(name: str, call: Scorer, path: Path, meta: Mapping[str, Any], *, debug: bool) -> None:
    """Print the score of every line by one reward, each as soon as it is known. Ends as `Output.end`."""
    output = Output(f"reward {name!r}", path, debug)
    for line in read_lines(f"reward {name!r}", path):
        try:
            fields = fields_of(line, name, call.options)
            output.put(line, scored(call, fields.place, fields.completion, fields.target, {**meta, **fields.meta}))
        except UnscoredError as error:
            output.put(line, error)
    output.end()


def score_lines_by_recipe(recipe: str, judge: RowJudge, path: Path, meta: Mapping[str, Any], *, debug: bool) -> None:
    """Print the score of every line by the rewards of a recipe, together. Ends as `Output.end`.

    Neighbouring lines that are equal but for their completion, and lines with the same `sample_id`, are one group.
    """
    from vlrft.rewards.grouping import Row, groups_of

    output = Output(f"recipe {recipe}", path, debug)
    lines = list(read_lines(f"recipe {recipe}", path))
    rows: dict[int, Row] = {}
    results: dict[int, Score | UnscoredError] = {}
    for i, line in enumerate(lines):
        try:
            fields = fields_of(line, "", frozenset())
            known = {**meta, **{key: value for key, value in fields.meta.items() if value is not None}}
            rows[i] = Row(text=fields.completion, target=fields.target, meta=known, where=f"line {line.number}")
        except UnscoredError as error:
            results[i] = error
    places = list(rows)
    for group in groups_of(list(rows.values())):
        members = [places[k] for k in group]
        try:
            scores = judged(judge, [rows[i] for i in members], lines[members[0]].where)
            results.update(zip(members, scores, strict=True))
        except UnscoredError as error:
            results.update(dict.fromkeys(members, error))
    for i, line in enumerate(lines):
        output.put(line, results[i])
    output.end()


def read_lines(what: str, path: Path) -> Iterator[Line]:
    """Every line that is not blank. Raises UserError for a file that cannot be opened."""
    with _opened(path) as lines:
        for number, raw in enumerate(lines, 1):
            where = f"{what}, line {number} of {path}"
            row: Any = {}
            unread = None
            try:
                if not (text := raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()):
                    continue
                row = json.loads(text)
                if not isinstance(row, dict):
                    expected = "expected an object with completion, target and meta"
                    row, unread = {}, UnscoredError(where, f"{expected}, got {text!r:.80}")
            except UnicodeDecodeError as error:
                byte = f"byte {error.object[error.start]:#04x} at {error.start}"
                unread = UnscoredError(where, f"not UTF-8 text ({byte}); give a file of JSON lines in UTF-8")
            except json.JSONDecodeError as error:
                unread = UnscoredError(where, f"not JSON: {error.msg} at column {error.colno}")
            except (ValueError, RecursionError) as error:
                unread = UnscoredError(where, f"not JSON: {error}")
            sample = row.get("id")
            where = f"{where} (id {sample!r})" if sample is not None else where
            yield Line(number=number, where=where, row=row, unread=unread)


def _opened(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    try:
        return contextlib.nullcontext(typer.get_binary_stream("stdin")) if str(path) == "-" else path.open("rb")
    except OSError as error:
        raise UserError(f"--jsonl {path}: {error.strerror}; give a file of JSON lines") from error


def fields_of(line: Line, reward: str, options: frozenset[str]) -> Fields:
    """reward: the one that judges, for messages. options: fields of these names are not read. Raises UnscoredError."""
    if line.unread is not None:
        raise line.unread
    row = line.row
    place = Place(reward, line.where, "field 'target'", "field 'meta'", row, has_target="target" in row)
    completion = _completion(place, row)
    own = {} if row.get("meta") is None else row["meta"]
    if not isinstance(own, dict):
        raise UnscoredError(line.where, f"field 'meta' must be an object, got {own!r:.80}")
    columns = {key: value for key, value in row.items() if key not in FIELDS and key not in options}
    for key in columns.keys() & own.keys():
        if columns[key] != own[key]:
            raise UnscoredError(
                line.where,
                f"{key!r} is {columns[key]!r:.40} as a field and {own[key]!r:.40} in 'meta'; leave one of them out",
            )
    return Fields(place=place, completion=completion, target=row.get("target"), meta={**columns, **own})


def _completion(place: Place, row: Mapping[str, Any]) -> str:
    """The text under `completion`, or under its chat messages."""
    from vlrft.rewards.messages import text_of

    if "completion" not in row:
        missing = "field 'completion' must be a text, got None"
        raise UnscoredError(place.where, f"{missing}: {_present(row, 'completion')}")
    try:
        return text_of(row["completion"])
    except TypeError as error:
        raise UnscoredError(place.where, f"field 'completion' must be a text or chat messages: {error}") from error


def _present(row: Mapping[str, Any], wanted: str) -> str:
    """The fields that a line has, and which of them is perhaps the wanted one."""
    usual = next((key for key in _USUAL_NAMES[wanted] if key in row), None)
    hint = f"; rename {usual!r} to {wanted!r}?" if usual is not None else ""
    return f"the line has {', '.join(map(repr, row)) or 'no field at all'}{hint}"


def scored(call: Scorer, place: Place, completion: str, target: Any, meta: Mapping[str, Any]) -> Score:
    """Raises UnscoredError for what is wrong with the completion's target, meta or reward, UserError for what would be
    wrong with every other one too."""
    from vlrft.rewards.base import TargetError

    with _complaints(place.where, place.reward):
        try:
            return call(completion, target, meta)
        except TargetError as error:
            raise UnscoredError(place.where, f"{place.blamed(str(error), meta)}: {error}") from error


def judged(judge: RowJudge, rows: Sequence[Row], where: str) -> list[Score]:
    """The scores of one group by a recipe's rewards. Raises as `scored`."""
    from vlrft.rewards.base import TargetError

    with _complaints(where, ""):
        try:
            return judge.score(rows)
        except TargetError as error:
            raise UnscoredError(where, str(error)) from error


@contextlib.contextmanager
def _complaints(where: str, reward: str) -> Iterator[None]:
    """What a reward raises, as an error of the user's. reward: "" for several."""
    from vlrft.rewards.base import RewardError
    from vlrft.rewards.finding import is_builtin

    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a reward of the user's own prints is no score
            yield
    except UserError:
        raise
    except RewardError as error:
        raise UnscoredError(where, str(error)) from error
    except (Exception, SystemExit) as error:
        raised = _outside_of_us(error)
        if raised and not is_builtin(reward):
            said = f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else _kind_of(error)
            raise UnscoredError(where, f"{said} ({raised}); --debug shows the whole traceback") from error
        if isinstance(error, ImportError) or type(error).__name__ == "SandboxUnavailable":
            raise UserError(f"{where}: {error}") from error
        # What a built-in reward says of its options; anything else is a bug of ours.
        if isinstance(error, ValueError):
            raise UnscoredError(where, str(error)) from error
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


def as_json(result: Score) -> dict[str, Any]:
    """A Score as the command prints it."""
    return {"value": result.value, "parts": dict(result.parts), "flags": list(result.flags)}
