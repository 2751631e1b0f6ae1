"""What all generators share: options, the side that a scene belongs to, and a folder that appears whole or not at all.

A generator plans a scene (what is in it, the question, the answer) and draws it. The plan decides by its own content
whether it is a training or a held-out scene, whatever the seeds, so that no held-out scene is ever trained on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import Field, PositiveInt, ValidationError

from vlrft.config import Block
from vlrft.data.problems import DataError
from vlrft.registry import nearest

if TYPE_CHECKING:
    import numpy as np

HELD_OUT_SHARE = 0.25
"""Share of all plans that only held-out scenes show."""
_TRIES = 2000
"""Plans made for one scene until one is on the right side and new."""

Role = Literal["train", "eval"]


class SyntheticOptions(Block):
    """What every generator takes."""

    n: int = Field(1024, gt=0)
    """Number of scenes."""
    seed: int = Field(0, ge=0)
    size: tuple[PositiveInt, PositiveInt] = (84, 84)
    """Canvas (width, height) in pixels."""
    role: Role = "train"
    """Set by the split that asks, never in a recipe: which side of all plans the scenes come from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One planned question."""

    content: str
    """What decides the answer, as text: equal content, equal scene."""
    row: dict[str, Any]
    """The native row but for its id and media."""
    draw: Callable[[Path, np.random.Generator], dict[str, Any]]
    """Writes files whose path starts with the given stem; returns the media fields of the row, with file names only."""


class SyntheticTask(Protocol):
    """One generator."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Part of the cache key: raised when the same options would give other files."""
    options: ClassVar[type[SyntheticOptions]]

    def plan(self, generator: np.random.Generator, options: Any) -> Scene:
        """A scene drawn from `generator` alone. Raises DataError for options that no scene can satisfy."""
        ...


Options = TypeVar("Options", bound=Block)


def parse_options(model: type[Options], raw: dict[str, Any], role: Role) -> Options:
    """The options of a source of generated scenes in a recipe, as `model`. Raises DataError that names the key."""
    known = [field for field in model.model_fields if field != "role"]
    for key in raw:
        if key not in known:
            raise DataError(f"data.{role}.options: unknown {key!r}{nearest(key, known)}; known: {', '.join(known)}")
    try:
        return model(**{"seed": 0 if role == "train" else 1, **raw, "role": role})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise DataError(f"data.{role}.options{'.' + place if place else ''}: {reason}") from error


def write_scenes(task: SyntheticTask, options: SyntheticOptions, parent: Path) -> Path:
    """The folder with `rows.jsonl` and `media/` for `options`, below `parent`; made if it is not there yet."""
    key = json.dumps({"version": task.version, **options.model_dump()}, sort_keys=True)
    folder = parent / f"{task.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    return whole_folder(folder, lambda scratch: _write_into(scratch, task, options))


def whole_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, filled by `write` unless it is there already.

    Two processes may ask for it at once, and a killed one leaves no half of it behind under the final name.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(scratch)
        scratch.chmod(0o755)
        try:
            os.rename(scratch, folder)
        except OSError:
            # Another process finished the same folder first; only then is it there.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def is_held_out(content: str) -> bool:
    """The side of a plan, from its content alone."""
    digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < HELD_OUT_SHARE * 2**64


def _write_into(folder: Path, task: SyntheticTask, options: SyntheticOptions) -> None:
    import numpy as np

    (folder / "media").mkdir()
    seen: set[str] = set()
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as rows:
        for index in range(options.n):
            # One stream per purpose: how a scene is drawn cannot change what is planned.
            plan, ground = (
                np.random.Generator(np.random.PCG64(np.random.SeedSequence([options.seed, index, stream])))
                for stream in range(2)
            )
            scene = _wanted(task, options, plan, seen)
            media = scene.draw(folder / "media" / f"{index:06d}", ground)
            row = {"id": f"{task.name}-{options.seed}-{index:06d}", **scene.row, **media}
            rows.write(json.dumps(row) + "\n")


def _wanted(task: SyntheticTask, options: SyntheticOptions, generator: np.random.Generator, seen: set[str]) -> Scene:
    """A scene on the side that `options.role` asks for; held out, none that is in `seen` (added to)."""
    for _ in range(_TRIES):
        scene = task.plan(generator, options)
        if is_held_out(scene.content) != (options.role == "eval") or scene.content in seen:
            continue
        if options.role == "eval":
            seen.add(scene.content)
        return scene
    raise DataError(
        f"data.{options.role}.options: {task.name} has too few different scenes for {options.n} of them with these "
        f"options (found {len(seen)} in {_TRIES} tries); lower n or allow more variety"
    )
