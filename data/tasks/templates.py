"""Prompt templates: the jinja files of data/templates, found by name and made whole.

`<task>/<name>.jinja` and `any/<name>.jinja` are templates; `<task>/pieces/<variable>.jinja` and `any/pieces/` hold the
pieces that templates are put together from (`instruction`, `answer_format`, `mode_hint`, `units`, ...). A template that
uses such a variable without setting it gets the piece in front, as a set block, so that a whole template says all of
its wording by itself and can be kept with a run. A first comment `{#- modes: think, adaptive. About. -#}` says for
which output modes a template is written (none: for all), and what it is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vlrft.config import DataConfig
from vlrft.data.problems import DataError
from vlrft.registry import UnknownNameError, nearest

FOLDER = Path(__file__).resolve().parent.parent / "templates"
SHARED = "any"
DEFAULT = "default"
SUFFIXES = (".jinja", ".j2")

ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)

_HEADER = re.compile(r"\{#-?\s*(?:modes:\s*(?P<modes>\w+(?:\s*,\s*\w+)*)\.\s*)?(?P<about>.*?)\s*-?#\}", re.DOTALL)


def template_names(task: str) -> list[str]:
    """Names of the shipped templates that `task` can use, sorted."""
    return sorted({path.stem for folder in (task, SHARED) for path in (FOLDER / folder).glob("*.jinja")})


def whole_template(given: str | None, task: str, *, root: Path = Path()) -> str:
    """The jinja text that `given` stands for, with all the pieces that it uses. A whole template stays as it is.

    given: None (the task's own), jinja text, the path of a .jinja file relative to `root`, or the name of a shipped
    template. Raises UnknownNameError for an unknown name, DataError for a file that cannot be read.
    """
    return _with_pieces(_text(given, task, root), task)


def chosen_template(data: DataConfig, task: str) -> str | None:
    """What `data.prompt_template` says for `task`."""
    setting = data.prompt_template
    return setting.get(task) if isinstance(setting, Mapping) else setting


def whole_templates(data: DataConfig, tasks: Iterable[str]) -> dict[str, str]:
    """The whole template of each task, as the data block chooses it. Raises as `whole_template`.

    A task of one's own, for which nothing is chosen, words its prompts itself and is left out.
    """
    root = Path(data.root).expanduser().resolve()
    chosen = {task: chosen_template(data, task) for task in sorted(set(tasks))}
    return {
        task: whole_template(given, task, root=root)
        for task, given in chosen.items()
        if given is not None or (FOLDER / task).is_dir()
    }


def modes_of(text: str) -> tuple[str, ...]:
    """The output modes that a template says it is written for; () = all."""
    header = next((match for match in _HEADER.finditer(text) if match["modes"]), None)
    return tuple(mode.strip() for mode in header["modes"].split(",")) if header else ()


def about(task: str, name: str) -> str:
    """What the header of a shipped template says it is for."""
    header = _HEADER.match(_text(name, task, Path()))
    return " ".join(header["about"].split()) if header else ""


def check_mode(text: str, output_mode: str) -> None:
    """Raise DataError when the template is written for other output modes: it would ask for other tags."""
    modes = modes_of(text)
    if modes and output_mode not in modes:
        raise DataError(
            f"data.prompt_template is written for output mode {' or '.join(modes)}, and data.output_mode is "
            f"{output_mode!r}; set one of them to fit the other"
        )


def check_question(text: str, task: str) -> None:
    """Raise DataError when the whole template `text` does not compile, or leaves out the question of `task`.

    Every shipped task has a question; one of the user's own counts as having one too, for this is its template.
    """
    try:
        used = find_undeclared_variables(ENVIRONMENT.parse(text))
    except TemplateSyntaxError as error:
        raise DataError(
            f"data.prompt_template for {task} does not compile ({error}); correct it: {text!r:.200}"
        ) from error
    if "question" not in used:
        holders = [f"{{{{ {name} }}}}" for name in _pieces_with_question(task)]
        through = f", or a piece that holds it ({', '.join(holders)})" if holders else ""
        raise DataError(
            f"data.prompt_template for {task} leaves out the question: put {{{{ question }}}} into it{through}; it may "
            f"also use {{{{ format_hint }}}}, {{{{ space }}}} and what docs/tasks.md lists, and is: {text!r:.200}"
        )


def _pieces_with_question(task: str) -> list[str]:
    """Names of the pieces of `task` that bring the question, directly or through another piece."""
    names = {path.stem for folder in (task, SHARED) for path in (FOLDER / folder / "pieces").glob("*.jinja")}
    texts = {name: _with_pieces(f"{{{{ {name} }}}}", task) for name in sorted(names)}
    return [name for name, text in texts.items() if "question" in find_undeclared_variables(ENVIRONMENT.parse(text))]


def _text(given: str | None, task: str, root: Path) -> str:
    given = DEFAULT if given is None else given
    if any(mark in given for mark in ("{{", "{%")) or len(given.split()) != 1:
        return given
    if given.endswith(SUFFIXES):
        path = root / Path(given).expanduser()
        try:
            return path.read_text(encoding="utf-8").removesuffix("\n")
        except OSError as error:
            raise DataError(f"data.prompt_template: {path} cannot be read ({error.strerror or error})") from error
        except UnicodeDecodeError as error:
            raise DataError(f"data.prompt_template: {path} is not UTF-8 text ({error})") from error
    names = template_names(task)
    if given not in names:
        raise UnknownNameError(
            f"data.prompt_template: unknown template {given!r}{nearest(given, names) or ';'} shipped for {task}: "
            f"{', '.join(names)}; or give jinja text, or the path of a .jinja file"
        )
    own = FOLDER / task / f"{given}.jinja"
    return _read(own if own.is_file() else FOLDER / SHARED / f"{given}.jinja")


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").removesuffix("\n")


@lru_cache(maxsize=256)
def _with_pieces(text: str, task: str) -> str:
    pieces: dict[str, str] = {}
    _collect(text, task, pieces)
    return "".join(f"{{% set {name} %}}{piece}{{% endset %}}" for name, piece in pieces.items()) + text


def _collect(text: str, task: str, pieces: dict[str, str]) -> None:
    """Add the pieces that `text` uses to `pieces`, each after those that it uses itself."""
    try:
        wanted = find_undeclared_variables(ENVIRONMENT.parse(text))
    except TemplateSyntaxError:
        return  # said with the sample's id when the template is rendered
    for name in sorted(wanted - pieces.keys()):
        path = next(
            (p for p in (FOLDER / folder / "pieces" / f"{name}.jinja" for folder in (task, SHARED)) if p.is_file()),
            None,
        )
        if path is not None:
            piece = _read(path)
            _collect(piece, task, pieces)
            pieces[name] = piece
